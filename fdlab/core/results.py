"""Study results as JSON: dataclasses of plain arrays, written and read back without a pickle."""

from __future__ import annotations

import base64
import dataclasses
import importlib
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fdlab.core.errors import UserError
from fdlab.core.files import read_json, write_json

PICTURES = ("uint8", "uint16", "float16")  # compressed, as nobody reads them number by number


def write_result(path: Path, result: Any) -> None:
    """Write a dataclass of numbers, strings, arrays, lists, dicts and dataclasses."""
    write_json(path, _encode(result))


def read_result(path: Path) -> Any:
    """Read what `write_result` wrote; only dataclasses of this package are made."""
    return _decode(read_json(path), path)


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"__type__": f"{kind.__module__}:{kind.__qualname__}"} | fields
    if isinstance(value, np.ndarray) and str(value.dtype) in PICTURES:
        content = value.astype(value.dtype.newbyteorder("<")).tobytes()
        packed = base64.b64encode(zlib.compress(content, 9)).decode("ascii")
        return {"__array__": str(value.dtype), "shape": list(value.shape), "packed": packed}
    if isinstance(value, np.ndarray):
        items = value.ravel().tolist()
        if value.dtype == np.float32:
            items = [float(str(item)) for item in value.ravel()]  # the shortest that reads back
        return {
            "__array__": str(value.dtype),
            "shape": list(value.shape),
            "values": [_encode(item) for item in items],
        }
    if isinstance(value, np.generic):
        return _encode(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else {"__float__": repr(value)}
    if isinstance(value, dict):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if value is None or isinstance(value, (str, int, bool)):
        return value
    raise TypeError(f"a result cannot hold a {type(value).__name__}")


def _decode(value: Any, path: Path) -> Any:
    if isinstance(value, list):
        return [_decode(item, path) for item in value]
    if not isinstance(value, dict):
        return value
    if "__float__" in value:
        return float(value["__float__"])
    if "packed" in value:
        content = zlib.decompress(base64.b64decode(value["packed"]))
        kind = np.dtype(value["__array__"])
        found = np.frombuffer(content, kind.newbyteorder("<")).astype(kind)
        return found.reshape(value["shape"])
    if "__array__" in value:
        items = np.array(_decode(value["values"], path), dtype=value["__array__"])
        return items.reshape(value["shape"])
    fields = {key: _decode(item, path) for key, item in value.items() if key != "__type__"}
    if "__type__" not in value:
        return fields
    module, _, name = value["__type__"].partition(":")
    if not module.startswith("fdlab."):
        raise UserError(f"{path} asks for {value['__type__']}, which is no part of fdlab")
    kind = getattr(importlib.import_module(module), name, None)
    if not dataclasses.is_dataclass(kind):
        raise UserError(f"{path} asks for {value['__type__']}, which is no result of this version")
    try:
        return kind(**fields)
    except TypeError as error:
        raise UserError(f"{path} was written by another version: {error}") from None
