"""MATLAB's files of version 7 and below."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import io

from fdlab.core.errors import UserError


def load_mat(path: Path, keys: tuple[str, ...], whole: str) -> dict[str, np.ndarray]:
    """The arrays of a file, with all of `keys` among them. whole: what the root should hold, as an
    error has it. Raises `UserError` for a file that is missing, damaged, or without a key."""
    if not path.is_file():
        raise UserError(f"{path} is missing: expected {whole}")
    try:
        content = io.loadmat(path)
    except Exception as error:  # SciPy raises many kinds for a damaged file
        raise UserError(f"{path} cannot be read ({error}): expected a MATLAB file") from None
    if missing := [key for key in keys if key not in content]:
        found = ", ".join(sorted(key for key in content if not key.startswith("_"))) or "nothing"
        raise UserError(f"{path} has no {', '.join(missing)}: expected it; it holds {found}")
    return content
