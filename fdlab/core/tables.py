"""Tables of lazily imported things: a name, a line about it, and where it lives."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from fdlab.core.errors import name_unknown


class Table(Mapping[str, Any]):
    """name → object, imported from "module:attribute" when it is asked for.

    An unknown name is a `UserError` with the names that there are.
    """

    def __init__(self, kind: str, places: dict[str, str]):
        self.kind, self.places = kind, places

    def __getitem__(self, name: str) -> Any:
        module, attribute = self.find_place(name).split(":")
        return getattr(importlib.import_module(module), attribute)

    def find_place(self, name: str) -> str:
        """'module:attribute' of an entry, without importing it."""
        if name not in self.places:
            raise name_unknown(self.kind, name, self.places)
        return self.places[name]

    def find_module(self, name: str) -> str:
        return self.find_place(name).split(":")[0]

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
