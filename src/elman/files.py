"""Files that are either complete or absent: written under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from elman import stopping
from elman.errors import InputError

WINDOWS = os.name == "nt"  # which opens no directory


def write_atomically(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Replaces a file, or leaves the old one as it was. For a symbolic link, the file that it points to is replaced.

    The new file has the permissions of the old one.

    content: all of it, or one piece after the other, if they are made while they are written.

    Raises InputError if writing fails, or if the path is in use by something that is not a regular file.
    """
    check_writable(path)
    given, path = path, Path(os.path.realpath(path))
    temporary = str(path.with_name(f".{path.name}.{secrets.token_hex(4)}"))
    size = f" ({len(content):,} bytes)" if isinstance(content, bytes) else ""
    stopping.unfinished.add(temporary)
    try:
        with told(f"{given}{size}"):
            mode = _permissions(path)
            with open(temporary, "xb", opener=partial(os.open, mode=0o666 if mode is None else mode)) as file:
                if mode is not None:
                    os.chmod(temporary, mode)  # the umask has taken some of them
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            if not WINDOWS:
                _flush_names(path.parent)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
        stopping.unfinished.discard(temporary)


@contextmanager
def told(path: str | Path) -> Iterator[None]:
    """Says errors of the disk, when something is written to a path, in one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; what was there before is intact; make room or choose another place"
        ) from error


def _flush_names(directory: Path) -> None:
    """Brings the names of new files to disk, too."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _permissions(path: Path) -> int | None:
    """Returns the permissions of a file, None if there is none."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return None


def check_writable(path: Path) -> None:
    """Raises InputError if a file could not be written there: worth knowing before the work that the file is to hold."""
    given, path = path, Path(os.path.realpath(path))
    what = _not_a_file(path)
    if what:
        raise InputError(f"cannot write {given}: it is {what}, which no file may replace; choose another name")
    if problem := _unusable(path.parent):
        missing = f"make the directory {given.parent}, or choose" if problem == errno.ENOENT else "choose"
        raise InputError(f"cannot write {given}: {os.strerror(problem)}; {missing} another place")


def check_directory(path: Path) -> None:
    """Raises InputError if no directory can be made there, or files cannot be written into the one that is there."""
    place = path.absolute()
    while (problem := _unusable(place)) == errno.ENOENT and place != place.parent:
        place = place.parent
    if problem:
        raise InputError(f"cannot write into {path}: {os.strerror(problem)}; choose another directory")


def _unusable(directory: Path) -> int | None:
    """Returns the number of the error that keeps files from being made in a directory, or None."""
    try:
        kind = os.stat(directory).st_mode
    except OSError as error:
        return error.errno
    if not stat.S_ISDIR(kind):
        return errno.ENOTDIR
    return None if os.access(directory, os.W_OK | os.X_OK) else errno.EACCES


def _not_a_file(path: Path) -> str | None:
    """What is at the path, in words, if it is not a regular file; None for a regular file or a free path."""
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


class Kept(ABC):
    """JSON objects with names such as "vocabulary.json": files of a directory, or what stands in the file of a model."""

    @abstractmethod
    def place(self, name: str) -> str:
        """Returns where an object is, for messages."""

    @abstractmethod
    def has(self, name: str) -> bool: ...

    @abstractmethod
    def json(self, name: str) -> dict[str, Any]:
        """Returns an object. Raises InputError if it is missing or damaged."""


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a file. Raises InputError if the file is missing or damaged, or holds no object."""
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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, which `read_json` reads."""
    write_atomically(path, json.dumps(content, ensure_ascii=False, indent=1).encode())
