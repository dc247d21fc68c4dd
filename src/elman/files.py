"""Files that are whole or absent: written beside, flushed to disk, renamed into place."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from elman.errors import InputError


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file, or leave the old one as it was. A link is followed: what it points to is written.

    InputError if the disk refuses, or if there is something that is no regular file.
    """
    given, path = path, Path(os.path.realpath(path))
    what = _not_a_file(path)
    if what:
        raise InputError(f"cannot write {given}: it is {what}, which no file may replace; choose another name")
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
            f"cannot write {given} ({len(content):,} bytes): {error.strerror or error}; what was there before is intact; make room or choose another place"
        ) from error


def _not_a_file(path: Path) -> str | None:
    """What there is in place of a regular file; None if there is one, or nothing."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return None
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFLNK: "a link that leads back to itself",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode))


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
