"""Where the engine's memory comes from: results are new tensors, everything else is kept for the next call."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_CPU = torch.device("cpu")
KEPT_BYTES = 1 << 28  # a larger buffer does not outlive the call


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A new tensor, not filled, 64-byte aligned; on the CPU, whatever the default device is."""
    return torch.empty(shape, dtype=dtype, device=_CPU)


def empty_like(tensor: Tensor) -> Tensor:
    """The same, of a contiguous tensor's shape and type."""
    return torch.empty_like(tensor)


class Buffer(NamedTuple):
    memory: Tensor
    size: int  # bytes
    address: int


class Workspace:
    """Buffers in order, as large as they were ever needed."""

    def __init__(self) -> None:
        self.busy = False  # whether a call is using it
        self.clear()

    def clear(self) -> None:
        """Give the memory of this thread's buffers back."""
        self.buffers = object()  # another one whenever they are others, and before they are
        self._buffers: list[Buffer] = []
        self._words = array("q"), 0
        self.large = False  # whether `clear` gives much back

    def addresses(self, sizes: Sequence[int]) -> list[int]:
        """Of buffers of so many bytes; whatever the last call left in them. Large ones come first, and so are shared well."""
        have, order = self._buffers, sorted(range(len(sizes)), key=lambda which: -sizes[which])
        places = [0] * len(sizes)
        for number, which in enumerate(order):
            size = sizes[which]
            if number == len(have) or have[number].size < size:
                self.buffers = object()  # if there is no memory, or an interrupt, addresses are looked up again
                del have[number:]  # those after it are no larger; and never two at once
                with torch.inference_mode(False):  # a tensor made in that mode could not be written outside of it
                    room = empty((size,), torch.uint8)
                have.append(Buffer(room, size, room.data_ptr()))
                self.large |= size > KEPT_BYTES
            places[which] = have[number].address
        return places

    def words(self, count: int) -> tuple[array[int], int]:
        """Room for so many whole numbers, and its address."""
        if len(self._words[0]) < count:
            words = array("q", bytes(8 * count))
            self._words = words, words.buffer_info()[0]
        return self._words


class _OfThread(threading.local):
    """One set of buffers for each thread of Python."""

    def __init__(self) -> None:
        self.workspace = Workspace()


of_thread = _OfThread()
