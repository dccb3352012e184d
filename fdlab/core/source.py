"""Reading Python source, from any thread."""

from __future__ import annotations

import ast
import threading

_PARSER = threading.Lock()


def parse(source: str) -> ast.Module:
    """The syntax tree of `source`, one thread at a time.

    CPython 3.11 counts the depth of a tree that it builds in one place for all threads, and the
    garbage collector can switch threads in the midst: two at once end in a SystemError.
    """
    with _PARSER:
        return ast.parse(source)
