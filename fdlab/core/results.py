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
HOLDERS = ("fdlab.studies.", "fdlab.core.estimate")  # modules of what a result may hold
KINDS = "biuf"  # of arrays: truth values and numbers
MOST = 1 << 30  # bytes of one array


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
    try:
        return _make(value, path)
    except (
        *(ArithmeticError, AttributeError, ImportError, LookupError, MemoryError, RecursionError),
        *(TypeError, ValueError, zlib.error),
    ) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{path} is damaged, or of another version: {reason}") from None


def _make(value: Any, path: Path) -> Any:
    if isinstance(value, list):
        return [_make(item, path) for item in value]
    if not isinstance(value, dict):
        return value
    if "__float__" in value:
        return float(value["__float__"])
    if "__array__" in value:
        return _make_array(value, path)
    fields = {key: _make(item, path) for key, item in value.items() if key != "__type__"}
    return _find_kind(value["__type__"], path)(**fields) if "__type__" in value else fields


def _make_array(value: dict[str, Any], path: Path) -> np.ndarray:
    """No more is unpacked than the declared shape takes, which is bounded itself."""
    kind, shape = np.dtype(value["__array__"]), value["shape"]
    if kind.kind not in KINDS or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"an array of {kind} and shape {shape}")
    size = math.prod(shape) * kind.itemsize
    if size > MOST:
        raise ValueError(f"an array of {size} bytes, and {MOST} are the most")
    if "packed" not in value:
        return np.array(_make(value["values"], path), dtype=kind).reshape(shape)
    packed = base64.b64decode(value["packed"], validate=True)
    content = zlib.decompressobj().decompress(packed, size + 1)
    if len(content) != size:
        raise ValueError(f"an array of shape {shape} takes {size} bytes, other than is packed")
    return np.frombuffer(content, kind.newbyteorder("<")).astype(kind).reshape(shape)


def _find_kind(name: str, path: Path) -> type:
    """A dataclass by "module:name", of a module that holds results; no other is imported."""
    module, _, name = name.partition(":")
    if not module.startswith(HOLDERS):
        raise UserError(f"{path} asks for {module}:{name}, which is no part of fdlab's results")
    kind = vars(importlib.import_module(module)).get(name)
    if not dataclasses.is_dataclass(kind) or kind.__module__ != module:
        raise UserError(f"{path} asks for {module}:{name}, which is no result of this version")
    return kind
