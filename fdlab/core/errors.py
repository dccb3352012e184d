"""The one error that a user can cause: a line that says what was wrong and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in input, environment or files; the command line prints it in one line, exit 2."""


def name_unknown(kind: str, name: object, choices: Iterable[str]) -> UserError:
    """Error for a `name` that is not among `choices`, with the nearest choices first.

    >>> str(name_unknown("method", "fdckmd", ["kd", "fdcmkd"]))
    "unknown method 'fdckmd': did you mean 'fdcmkd'? Choices: kd, fdcmkd"
    """
    choices = [str(choice) for choice in choices]
    near = difflib.get_close_matches(str(name), choices, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {kind} {name!r}: {hint}Choices: {', '.join(choices) or 'none'}")
