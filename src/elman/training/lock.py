"""A lock on a directory. It ends with the process that holds it, however that ends, `kill -9` included."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing keeps two processes apart there
    fcntl = None


_held: dict[str, list[int]] = {}  # the locks of this process: an open file, and how often it was taken


class Lock:
    """A file that one process at a time has locked, and that holds this process's number meanwhile."""

    def __init__(self, path: Path):
        self.path = path
        self._key = os.path.realpath(path)  # now, since a link may lead elsewhere later

    def take(self) -> str | None:
        """Takes the lock, perhaps once more. If another process has it, returns that one's number instead."""
        if fcntl is None:
            return None
        key = self._key
        while key not in _held:
            file = os.open(key, os.O_RDWR | os.O_CREAT, 0o666)
            if other := _locked_by_another(file, shared=False):
                os.close(file)
                return other
            if not _is_at(file, key):  # whoever had the lock has removed the file since it was opened
                os.close(file)
                continue
            try:
                os.ftruncate(file, 0)
                os.write(file, str(os.getpid()).encode())
            except OSError:  # the disk is full
                os.close(file)
                raise
            _held[key] = [file, 0]
        _held[key][1] += 1
        return None

    def give_back(self) -> None:
        """Undoes one `take`."""
        if fcntl is None:
            return
        key = self._key
        _held[key][1] -= 1
        if not _held[key][1]:
            file, _ = _held.pop(key)
            if _is_at(file, key):
                os.unlink(key)
            os.close(file)

    def holder(self) -> str | None:
        """Returns the number of another process that has the lock, or None. Writes nothing."""
        if fcntl is None or self._key in _held:
            return None
        try:
            file = os.open(self.path, os.O_RDONLY)
        except OSError:
            return None
        try:
            return _locked_by_another(file, shared=True)
        finally:
            os.close(file)


def _is_at(file: int, path: str) -> bool:
    """Whether an open file is the one that is at the path, and not one that was removed."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _locked_by_another(file: int, shared: bool) -> str | None:
    """Locks an open file. If another process has it locked, returns that one's number."""
    assert fcntl is not None
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(file, 20).decode(errors="replace") or "unknown"
    except OSError:  # a file system that knows no locks
        return None
    return None
