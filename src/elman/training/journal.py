"""The journal of a search: a file to which processes add records, a line each. A line that was cut off harms no other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from elman.files import told


class Journal(JournalFileBackend):
    """Optuna's journal, which cannot read any line behind one that a crash, or a full disk, has cut off.

    Here such a line is taken away before others are added, as if it had never been begun.
    """

    def __init__(self, path: Path):
        self.path, self.lock = path, JournalFileSymlinkLock(str(path))
        with told(self.path):
            path.parent.mkdir(parents=True, exist_ok=True)
            super().__init__(str(path), self.lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        added = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with told(self.path), self._locked(), open(self.path, "r+b", buffering=0) as file:
            end = _whole(file)
            file.truncate(end)
            file.seek(end)
            try:
                written = 0
                while written < len(added):
                    written += file.write(added[written:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.lock.acquire()
        try:
            yield
        finally:
            self.lock.release()


def _whole(file: BinaryIO) -> int:
    """Returns the size of a file without the line that was cut off at its end, if there is one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read(1) in (b"", b"\n"):
        return size
    file.seek(0)
    return file.read().rfind(b"\n") + 1
