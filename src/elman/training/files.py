"""Files that are whole or absent: written beside, flushed to disk, renamed into place."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from elman.errors import InputError


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file, or leave the old one as it was. InputError if the disk refuses."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # the new name, too, is on the disk
        finally:
            os.close(directory)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise InputError(
            f"cannot write {path} ({len(content):,} bytes): {error.strerror or error}; what was there before is intact; make room or choose another place"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. InputError if it is missing, damaged or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; is {path.parent} the directory of a run?"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; restore it or train again") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} is damaged: it holds a {type(content).__name__} instead of an object; restore it or train again"
        )
    return content


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
