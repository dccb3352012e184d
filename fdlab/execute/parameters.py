"""A notebook's parameters, read from its source without running it, and values checked by them.

papermill only warns of an unknown name and takes any type; a misspelt parameter then runs, on the
defaults, for hours. Here both are errors before anything runs.
"""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from fdlab.core.config import name_type, same_type
from fdlab.core.errors import UserError, name_unknown
from fdlab.core.source import parse


@dataclass(frozen=True)
class Parameter:
    name: str
    default: Any
    help: str


def read_notebook(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise UserError(f"{path}: no such notebook") from None
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise UserError(f"{path} is no notebook: {str(error).splitlines()[0]}") from None


def read_parameters(path: Path) -> dict[str, Parameter]:
    """name → parameter, from the cell tagged `parameters`: plain literals with a comment each."""
    cells = [
        cell.source
        for cell in read_notebook(path).cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    if len(cells) != 1:
        raise UserError(f"{path} has {len(cells)} cells tagged parameters: expected one")
    comments = _read_comments(cells[0])
    found = {}
    for node in parse(cells[0]).body:
        plain = isinstance(node, ast.Assign) and len(node.targets) == 1
        if not plain or not isinstance(node.targets[0], ast.Name):
            raise UserError(f"{path}: the parameters cell holds more than plain assignments")
        name = node.targets[0].id
        try:
            default = ast.literal_eval(node.value)
        except ValueError:
            raise UserError(f"{path}: parameter {name} is no plain literal") from None
        found[name] = Parameter(name, default, comments.get(node.end_lineno, ""))
    return found


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`name=value` texts to a dict; values are JSON or YAML, so they have types."""
    values = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"{text!r}: expected name=value")
        values[name] = _read_value(text, value)
    return values


def _read_value(text: str, value: str) -> Any:
    try:
        return json.loads(value)  # YAML would take 1e-3 for a text
    except json.JSONDecodeError:
        pass
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"{text!r}: the value is no number, text or list") from None


def check_values(values: dict[str, Any], notebooks: dict[str, dict[str, Parameter]]) -> None:
    """Every name must be a parameter of some notebook, and fit its type in all that have it."""
    known = {name for parameters in notebooks.values() for name in parameters}
    for name, value in values.items():
        if name not in known:
            raise name_unknown("parameter", name, sorted(known))
        for notebook, parameters in notebooks.items():
            if name in parameters and not same_type(value, parameters[name].default):
                default = parameters[name].default
                raise UserError(
                    f"parameter {name} of {notebook} is {value!r}: expected "
                    f"{name_type(value, default)}, such as {default!r}"
                )


def _read_comments(source: str) -> dict[int, str]:
    """Line number → the comment that ends it."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }
