"""The library `transformers`, an optional extra that takes seconds to import: here alone."""

from __future__ import annotations

from types import ModuleType

from fdlab.core.errors import UserError


def import_transformers(what: str) -> ModuleType:
    """The library; what: that which needs it, for the message where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise UserError(f'{what} needs transformers: `pip install "fdlab[spatial]"`') from None
    return transformers


def rename(names: tuple[tuple[str, str], ...], name: str) -> str:
    """A parameter's name in a published file, or in the library's own, as it is here."""
    for theirs, ours in names:
        name = name.replace(theirs, ours)
    return name
