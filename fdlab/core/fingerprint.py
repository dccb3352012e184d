"""Names for results: a digest of everything that made them."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fdlab.core.source import parse


def digest(value: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of `value` as canonical JSON, dataclasses by field."""
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def code_digest(modules: Iterable[str], inside: Iterable[str]) -> str:
    """Digest of the code that `modules` reach by their imports, within the packages `inside`.

    Comments, docstrings and layout do not count, so that a better explanation retrains nothing.
    Imports are read from the source. A package's own file (`__init__`) does not count, and a module
    that it names by a string is not followed: these files hold the tables, and adding a method must
    not touch the results of the others.
    """
    inside = tuple(inside)
    waiting, seen = sorted(set(modules)), {}
    while waiting:
        name = waiting.pop()
        if name in seen or not name.startswith(inside):
            continue
        code, imported = _read_module(name)
        waiting.extend(imported)
        seen[name] = code
    return digest({name: code for name, code in seen.items() if code})


@functools.cache
def _read_module(name: str) -> tuple[str, tuple[str, ...]]:
    """Digest of one module's code ("" for a package's own file), and the modules it imports."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    tree = parse(Path(spec.origin).read_text(encoding="utf-8"))
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.append(node.module)
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    package = name.split(".")[0] + "."
    found = tuple(m for m in imported if m.startswith(package) and _is_module(m))
    if spec.submodule_search_locations is not None:
        return "", found
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16], found


@functools.cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, AttributeError):
        return False
