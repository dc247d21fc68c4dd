"""The engine's memory: results are new tensors; a workspace has all other arrays, and is reused by the next call."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_CPU = torch.device("cpu")
KEPT_BYTES = 1 << 28  # a call that needs a larger buffer than this frees all buffers at its end


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Returns a new uninitialised tensor, 64-byte aligned, on the CPU whatever the default device is."""
    return torch.empty(shape, dtype=dtype, device=_CPU)


def empty_like(tensor: Tensor) -> Tensor:
    """Returns a new uninitialised tensor with the shape and dtype of a contiguous one on the CPU."""
    return torch.empty_like(tensor)


class Buffer(NamedTuple):
    memory: Tensor
    size: int  # bytes
    address: int


class Workspace:
    """Buffers that calls reuse, in order of falling size. One that is too small for a call is replaced."""

    def __init__(self) -> None:
        self.busy = False  # whether a call is using the buffers
        self.clear()

    def clear(self) -> None:
        """Frees the memory of all buffers."""
        self.buffers = object()  # identifies the present buffers: replaced before any of them is
        self._buffers: list[Buffer] = []
        self._words = array("q"), 0  # and its address
        self.large = False  # whether a buffer is larger than KEPT_BYTES

    def addresses(self, sizes: Sequence[int]) -> list[int]:
        """Returns the addresses of buffers with these sizes in bytes, which hold whatever the last call left in them.

        The largest size gets the first buffer, and so on, so that calls with other sizes reuse most of the memory.
        """
        have, order = self._buffers, sorted(range(len(sizes)), key=lambda which: -sizes[which])
        places = [0] * len(sizes)
        for number, which in enumerate(order):
            size = sizes[which]
            if number == len(have) or have[number].size < size:
                # Scripts look addresses up again after this, also if memory runs out or a signal interrupts below.
                self.buffers = object()
                del have[number:]  # before the new one is made, to need less memory; the later ones are no larger
                with torch.inference_mode(False):  # a tensor made in that mode cannot be written to outside it
                    room = empty((size,), torch.uint8)
                have.append(Buffer(room, size, room.data_ptr()))
                self.large |= size > KEPT_BYTES
            places[which] = have[number].address
        return places

    def words(self, count: int) -> tuple[array[int], int]:
        """Returns an array with space for at least `count` whole numbers, and its address."""
        if len(self._words[0]) < count:
            words = array("q", bytes(8 * count))
            self._words = words, words.buffer_info()[0]
        return self._words


class _OfThread(threading.local):
    """A workspace for each Python thread."""

    def __init__(self) -> None:
        self.workspace = Workspace()


of_thread = _OfThread()
