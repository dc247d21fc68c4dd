"""Where the engine's memory comes from: results are new tensors, everything else is kept for the next call."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

KEPT_BYTES = 1 << 28  # a larger buffer does not outlive the call


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """A new tensor, not filled, 64-byte aligned."""
    return torch.empty(shape, dtype=dtype)


class Workspace(threading.local):
    """Buffers by name, one set for each thread of Python, as large as they were ever needed."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], tuple[Tensor, int, int]] = {}  # and its size and address

    def _buffer(self, name: str, size: int, dtype: torch.dtype) -> tuple[Tensor, int, int]:
        found = self._buffers.get((name, dtype))
        if found is None or found[1] < size:
            with torch.inference_mode(False):  # a tensor made in that mode could not be written outside of it
                buffer = empty(size, dtype=dtype)
            found = self._buffers[name, dtype] = (buffer, size, buffer.data_ptr())
        return found

    def address(self, name: str, size: int, dtype: torch.dtype) -> int:
        """The address of that buffer with room for so many numbers; whatever the last call left in it."""
        return self._buffer(name, size, dtype)[2]

    def tensor(self, name: str, *shape: int, dtype: torch.dtype) -> Tensor:
        """A tensor on the buffer of that name."""
        size = math.prod(shape)
        buffer, room, _ = self._buffer(name, size, dtype)
        return (buffer if room == size else buffer[:size]).view(shape)

    def trim(self) -> None:
        """Give large buffers back, when what is on them is no longer needed."""
        for key, (_, size, _) in list(self._buffers.items()):
            if size * key[1].itemsize > KEPT_BYTES:
                del self._buffers[key]

    def clear(self) -> None:
        """Give the memory of this thread's buffers back."""
        self._buffers.clear()


workspace = Workspace()
