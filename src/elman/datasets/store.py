"""Arrays that may be larger than memory: they grow in memory, and in a temporary file once they are large."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from elman.errors import InputError

LIMIT = 1 << 30  # bytes of an array that are kept in memory
BUFFER = 1 << 20  # bytes that are gathered for a write to the file
USUAL = Path("/var/tmp")  # on a disk, where /tmp is often in memory


class Store:
    """An array that grows: append all of it, then read it. The file of a large one has no name, and ends with it."""

    def __init__(self, dtype: DTypeLike):
        self._dtype = np.dtype(dtype)
        self._held = bytearray()  # grows in place, by an eighth at a time
        self._file: Any = None

    def append(self, values: ArrayLike) -> None:
        """Raises InputError if the file has no room."""
        own = np.ascontiguousarray(values, self._dtype).reshape(-1).view(np.uint8).data
        if len(self._held) + len(own) > (LIMIT if self._file is None else BUFFER):
            self._flush()
        if self._file is not None and len(own) > BUFFER:
            self._write(own)
        else:
            self._held += own

    def array(self) -> NDArray[Any]:
        """Returns all values, (N,). It is called once, after the last `append`."""
        if self._file is None:
            return np.frombuffer(self._held, self._dtype)
        self._flush()
        with self._file:  # what is mapped stays when the file is closed
            return np.frombuffer(mmap.mmap(self._file.fileno(), 0), self._dtype)

    def _flush(self) -> None:
        self._write(memoryview(self._held))
        self._held = bytearray()

    def _write(self, rest: memoryview) -> None:
        where: Path | None = None
        try:
            where = directory()
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=where, buffering=0)  # noqa: SIM115 - closed by array, or below
            while rest:  # a system may write less than it is given
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise _no_room(where, error) from error

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()


def directory() -> Path:
    """Returns where the files lie: in TMPDIR if it is set, else in /var/tmp, else where Python puts such files."""
    if given := os.environ.get("TMPDIR"):
        return Path(given)
    return USUAL if USUAL.is_dir() and os.access(USUAL, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


@contextlib.contextmanager
def written(parts: Iterable[bytes], ending: str) -> Iterator[Path]:
    """Yields a temporary file with this content, whose name has this ending. Raises InputError if it has no room."""
    where, path = directory(), None
    try:
        try:
            handle, name = tempfile.mkstemp(ending, dir=where)
            path = Path(name)
            with open(handle, "wb") as file:
                file.writelines(parts)
        except OSError as error:
            raise _no_room(where, error) from error
        yield path
    finally:
        if path is not None:
            path.unlink(missing_ok=True)


def _no_room(where: Path | None, error: OSError) -> InputError:
    return InputError(
        f"cannot keep the data in {where or 'a temporary file'}: {error.strerror or error}; "
        "set TMPDIR to a directory with enough space"
    )


class Rows:
    """Arrays of unequal lengths, (length, ...), behind each other: append all of them, then read `rows[k]`, a view."""

    def __init__(self, dtype: DTypeLike):
        self._store, self._ends = Store(dtype), array("q", [0])
        self.step: tuple[int, ...] = ()  # the shape of a step, the same in all rows

    def append(self, row: NDArray[Any]) -> None:
        self.join((row,))

    def join(self, parts: Iterable[NDArray[Any]]) -> None:
        """Appends a row that consists of these parts."""
        end = self._ends[-1]
        for part in parts:
            self.step = part.shape[1:]
            self._store.append(part)
            end += len(part)
        self._ends.append(end)

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        return np.diff(self.bounds).astype(np.int32)

    @cached_property
    def steps(self) -> NDArray[Any]:
        """Those of all rows, (N, ...)."""
        return self._store.array().reshape(-1, *self.step)

    @cached_property
    def bounds(self) -> NDArray[np.int64]:
        """(rows + 1,): row k consists of the steps from bounds[k] to bounds[k + 1]."""
        return np.frombuffer(self._ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, k: int) -> NDArray[Any]:
        return self.steps[self.bounds[k] : self.bounds[k + 1]]
