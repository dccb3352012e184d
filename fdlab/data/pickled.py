"""Pickles that hold plain values, read without running them.

A pickle is a program: loading it imports what it names and calls it. Here its opcodes are taken as
a notation for values, and of those only the ones that Python 2 wrote (protocol 2) for a dictionary
of lists, texts, whole numbers and arrays of bytes. An array is spelt in it as three names of NumPy
(`_reconstruct`, `ndarray`, `dtype`) and what belongs to them; the names are compared as text, and
the array is made here. Nothing is ever imported or called that a file names.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdlab.core.errors import UserError

MOST_STEPS = 1 << 20  # opcodes of a file, so that a small one cannot fill the memory
MOST_SIDES = 4  # of an array
LONGEST_NAME = 100  # letters of a module's or a class's name
RECONSTRUCT, NDARRAY, DTYPE = "numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"


class _Refused(Exception):
    """What a pickle holds that is not read here."""


@dataclass(frozen=True)
class _Name:
    """One of the three names, which stands for itself."""

    text: str


class _Bytes:
    """The type of an array's elements, unsigned bytes."""


@dataclass(eq=False)
class _Array:
    """An array that the file has named; values: (…) uint8 once it has given them."""

    values: np.ndarray | None = None


def read_pickle(content: bytes, name: str) -> dict[str, Any]:
    """The dictionary that a pickle of protocol 2 holds; name: of the file, as an error has it.

    Its keys become texts; what lies below them is `list`, `tuple`, `dict`, `bytes`, `int`, `bool`,
    None, or, directly below a key, a read-only uint8 array. Raises `UserError` for anything else in
    the file, and where it is cut off or announces more than it holds.
    """
    try:
        found = _Reader(content).read()
        if type(found) is not dict:
            raise _Refused(f"holds a {type(found).__name__.strip('_').lower()}")
        return {key.decode("latin-1"): _settle(value) for key, value in found.items()}
    except _Refused as bad:
        raise UserError(
            f"{name}: {bad}; expected a dictionary of lists, texts, whole numbers and byte arrays "
            "as pickled by Python 2, and nothing in it was run"
        ) from None


def _settle(value: Any) -> Any:
    if not isinstance(value, _Array):
        return value
    if value.values is None:
        raise _Refused("names an array and does not give it")
    return value.values


class _Reader:
    """A stack machine over the opcodes that build plain values."""

    def __init__(self, content: bytes):
        self.content, self.place = content, 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under the marks
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        for _ in range(MOST_STEPS):
            place, code = self.place, self.take(1)[0]
            if code == ord("."):
                return self.pop()
            if code not in _STEPS:
                raise _Refused(f"has the opcode {_name_opcode(code)} at byte {place}")
            _STEPS[code](self)
        raise _Refused(f"has more than {MOST_STEPS:,} opcodes")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        left = len(self.content) - self.place
        if not 0 <= count <= left:
            raise _Refused(f"announces {count:,} bytes at byte {self.place} and has {left:,}")
        self.place += count
        return self.content[self.place - count : self.place]

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, kind: type = object) -> Any:
        """The topmost value, of a type."""
        if not self.stack:
            raise _Refused(f"takes a value that is not there, before byte {self.place}")
        if not isinstance(self.stack[-1], kind):
            raise _Refused(f"has a value of another type than its use, before byte {self.place}")
        return self.stack.pop()

    def pop_many(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def pop_mark(self) -> list[Any]:
        """The values above the last mark, which goes too."""
        if not self.below:
            raise _Refused(f"takes a mark that is not there, before byte {self.place}")
        values, self.stack = self.stack, self.below.pop()
        return values

    def require_protocol(self) -> None:
        if (protocol := self.number(1)) != 2:
            raise _Refused(f"is of protocol {protocol}, and 2 is read here")

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def recall(self, size: int) -> None:
        if (number := self.number(size)) not in self.memo:
            raise _Refused(f"recalls value {number}, which it has not given")
        self.push(self.memo[number])

    def remember(self, size: int) -> None:
        value = self.pop()
        self.memo[self.number(size)] = value
        self.push(value)

    def extend(self, values: list[Any]) -> None:
        owner = self.pop(list)
        owner.extend(values)
        self.push(owner)

    def update(self, values: list[Any]) -> None:
        owner = self.pop(dict)
        if len(values) % 2 or any(type(key) is not bytes for key in values[::2]):
            raise _Refused(f"has a key that is no text, before byte {self.place}")
        owner.update(zip(values[::2], values[1::2], strict=True))
        self.push(owner)

    def name(self) -> None:
        parts = []
        for _ in range(2):
            end = self.content.find(b"\n", self.place, self.place + LONGEST_NAME)
            if end < 0:
                raise _Refused(f"has a name without an end at byte {self.place}")
            parts.append(self.take(end - self.place).decode("latin-1"))
            self.take(1)
        name = ".".join(parts)
        if name not in (RECONSTRUCT, NDARRAY, DTYPE):
            raise _Refused(f"names {name}")
        self.push(_Name(name))

    def call(self) -> None:
        """NumPy's two calls, an array to be filled and the type of its elements; no other."""
        given, owner = self.pop(tuple), self.pop(_Name)
        if owner.text == RECONSTRUCT and _is_plain(given, (_Name(NDARRAY), (0,), b"b")):
            self.push(_Array())
        elif owner.text == DTYPE and _is_plain(given, (b"u1", 0, 1)):
            self.push(_Bytes())
        else:
            raise _Refused(f"calls {owner.text} otherwise than for an array of unsigned bytes")

    def build(self) -> None:
        """Give an array, or the type of its elements, what belongs to it."""
        state, owner = self.pop(tuple), self.pop((_Array, _Bytes))
        if isinstance(owner, _Bytes):
            # Version, byte order, fields and sizes: bytes have no order, and nothing else is there.
            if len(state) < 2 or state[1] != b"|" or not _is_idle(state[:1] + state[2:]):
                raise _Refused("has an array of other elements than unsigned bytes")
        else:
            owner.values = _make_array(owner, state)
        self.push(owner)


def _make_array(owner: _Array, state: tuple[Any, ...]) -> np.ndarray:
    """state: version, shape, type of the elements, whether columns go first, and the bytes."""
    kinds = (int, tuple, _Bytes, bool, bytes)
    if owner.values is not None or [type(part) for part in state] != list(kinds):
        raise _Refused("has an array in another notation than NumPy's")
    _, shape, _, columns_first, data = state
    if len(shape) > MOST_SIDES or not all(type(size) is int and size >= 0 for size in shape):
        raise _Refused(f"has an array whose shape is not up to {MOST_SIDES} sizes")
    if math.prod(shape) != len(data):
        sizes = " × ".join(f"{size:,}" for size in shape)
        raise _Refused(f"has an array of {sizes} in {len(data):,} bytes")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if columns_first else "C")


def _is_plain(given: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    """Whether two tuples are alike, in their parts' types too."""
    return [type(part) for part in given] == [type(part) for part in wanted] and given == wanted


def _is_idle(values: tuple[Any, ...]) -> bool:
    return all(value is None or type(value) is int for value in values)


def _name_opcode(code: int) -> str:
    known = pickletools.code2op.get(chr(code))
    return f"{known.name} (0x{code:02x})" if known else f"0x{code:02x}"


_STEPS: dict[int, Callable[[_Reader], None]] = {
    0x80: _Reader.require_protocol,
    ord("("): _Reader.mark,
    ord("}"): lambda it: it.push({}),
    ord("]"): lambda it: it.push([]),
    ord(")"): lambda it: it.push(()),
    ord("t"): lambda it: it.push(tuple(it.pop_mark())),
    0x85: lambda it: it.push(it.pop_many(1)),
    0x86: lambda it: it.push(it.pop_many(2)),
    0x87: lambda it: it.push(it.pop_many(3)),
    ord("N"): lambda it: it.push(None),
    0x88: lambda it: it.push(True),
    0x89: lambda it: it.push(False),
    ord("K"): lambda it: it.push(it.number(1)),
    ord("M"): lambda it: it.push(it.number(2)),
    ord("J"): lambda it: it.push(it.number(4, signed=True)),
    ord("U"): lambda it: it.push(it.take(it.number(1))),
    ord("T"): lambda it: it.push(it.take(it.number(4, signed=True))),
    ord("a"): lambda it: it.extend([it.pop()]),
    ord("e"): lambda it: it.extend(it.pop_mark()),
    ord("s"): lambda it: it.update(list(it.pop_many(2))),
    ord("u"): lambda it: it.update(it.pop_mark()),
    ord("q"): lambda it: it.remember(1),
    ord("r"): lambda it: it.remember(4),
    ord("h"): lambda it: it.recall(1),
    ord("j"): lambda it: it.recall(4),
    ord("c"): _Reader.name,
    ord("R"): _Reader.call,
    ord("b"): _Reader.build,
}
