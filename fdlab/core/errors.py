"""The one error that a user can cause: a line that says what was wrong and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = 30


def put_on_one_line(text: str) -> str:
    """The text with whatever is not printed as itself (line ends, escape codes, halves of
    surrogate pairs) written as Python writes it, so that no name in it can break a line or steer
    a terminal.

    >>> put_on_one_line("a\\nb")
    'a\\\\nb'
    """
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


class UserError(Exception):
    """A mistake in input, environment or files; the command line prints it in one line, exit 2."""

    def __str__(self) -> str:
        return put_on_one_line(super().__str__())


def name_unknown(kind: str, name: object, choices: Iterable[str]) -> UserError:
    """Error for a `name` that is not among `choices`: the nearest of them, then all there are.

    A long list, such as a network's modules, is cut to its first `LISTED`.

    >>> str(name_unknown("method", "fdckmd", ["kd", "fdcmkd"]))
    "unknown method 'fdckmd': did you mean 'fdcmkd'? Choices: kd, fdcmkd"
    """
    choices = [str(choice) for choice in choices]
    near = difflib.get_close_matches(str(name), choices, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    listed = ", ".join(choices[:LISTED]) or "none"
    rest = f" and {len(choices) - LISTED} more" if len(choices) > LISTED else ""
    return UserError(f"unknown {kind} {name!r}: {hint}Choices: {listed}{rest}")
