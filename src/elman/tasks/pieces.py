"""Pieces of sequences: which steps are read at once, and where they are among all."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Pieces(NamedTuple):
    """Pieces of sequences: of which sequence, and the steps from begin to end, each (N,)."""

    of: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]

    @classmethod
    def whole(cls, own: NDArray[np.int64], lengths: NDArray[Any]) -> Pieces:
        """Returns the sequences at these places as they are. lengths: those of all sequences."""
        return cls(own, np.zeros_like(own), lengths[own].astype(np.int64))

    @classmethod
    def cut(cls, own: NDArray[np.int64], lengths: NDArray[Any], most: NDArray[np.int64] | int) -> Pieces:
        """Returns these sequences, each cut into the fewest pieces of about the same size that have at most `most` steps."""
        long = lengths[own].astype(np.int64)
        count = -(-long // most)
        k, place = ranges(np.zeros_like(count), count), np.repeat(np.arange(len(own)), count)
        long, count = long[place], count[place]
        return cls(own[place], long * k // count, long * (k + 1) // count)

    def widened(self, lengths: NDArray[Any], by: int) -> Pieces:
        """Returns the pieces with so many steps more on both sides, as far as there are some. lengths: those of all sequences."""
        end = np.minimum(self.end + by, lengths[self.of])
        return self._replace(begin=np.maximum(self.begin - by, 0), end=end)

    def moved(self, lengths: NDArray[Any], draw: np.random.Generator) -> Pieces:
        """Returns the pieces at random places, at most half of their own length away, as far as there are steps.

        lengths: those of all sequences.
        """
        long, half = self.lengths, self.lengths // 2
        begin = (self.begin + draw.integers(-half, half + 1)).clip(0, lengths[self.of] - long)
        return self._replace(begin=begin, end=begin + long)

    def take(self, chosen: NDArray[Any]) -> Pieces:
        """Returns some of the pieces."""
        return Pieces(*(each[chosen] for each in self))

    @property
    def first(self) -> Pieces:
        """The first step of each piece."""
        return self._replace(end=self.begin + 1)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.end - self.begin


def ranges(begin: NDArray[np.int64], count: NDArray[Any]) -> NDArray[np.int64]:
    """Returns `count` numbers from `begin` on, for each of these one after the other."""
    before = np.cumsum(count, dtype=np.int64) - count
    return np.repeat(begin - before, count) + np.arange(int(count.sum()))


def steps_of(y: Tensor, begin: NDArray[np.int64], end: NDArray[np.int64]) -> Tensor:
    """Returns the steps from begin to end, each (B,), of y (T, B, ...), one column after the other: (N, ...)."""
    t = torch.arange(len(y))
    inside = (t >= torch.from_numpy(begin)[:, None]) & (t < torch.from_numpy(end)[:, None])  # (B, T)
    return y.transpose(0, 1)[inside.to(y.device)]
