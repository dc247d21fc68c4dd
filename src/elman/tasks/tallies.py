"""Scores, and how sure they are: how much they would change with other data of the same kind."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST = 10  # units without which nothing is said of how sure a score is
MOST = 1000  # units that are left out in turn; of more, some are left out together
PARTS = 20  # of what is a single sequence
LEVEL = 0.95  # how often an interval should hold what it is an interval of
ALIKE = 1e-9  # of a score, below which a difference is one of rounding

Array = NDArray[np.float64]


def ratio(sums: Array) -> Array:
    """Returns the first sum over the second one, (...) of (..., 2); 0 where there is nothing."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] > 0)


def mean(sums: Array) -> Array:
    """Returns the mean of K ratios, (...) of (..., 2 K): of the first K sums over the others, where these are not 0."""
    parts = np.stack(np.split(sums, 2, -1), -1)  # (..., K, 2)
    return ratio(np.stack([ratio(parts).sum(-1), (parts[..., 1] > 0).sum(-1)], -1))


def root(sums: Array) -> Array:
    """Returns the square root of `mean`."""
    return np.sqrt(np.maximum(mean(sums), 0))


class Units(NamedTuple):
    """To which units values belong."""

    of: NDArray[np.int64]  # (n,), below total
    total: int
    parts: bool = False  # whether they are parts of a single sequence

    @property
    def grouped(self) -> tuple[NDArray[np.int64], int]:
        """Returns this and how many there are, where of very many units some that are drawn at random are one."""
        if self.total <= MOST:
            return self.of, self.total
        there = np.bincount(self.of, minlength=self.total) > 0
        count = int(there.sum())
        number = np.arange(count) if count <= MOST else np.random.default_rng(0).permutation(count) % MOST
        own = np.zeros(self.total, np.int64)
        own[there] = number
        return own[self.of], min(count, MOST)


class Tally(NamedTuple):
    """A score that is made of sums over units, such as sequences, which know nothing of each other."""

    sums: Array  # (units, m), of which the first half is divided by the second one
    score: Callable[[Array], Array] = ratio  # of sums (..., m), (...)
    share: bool = False  # whether it lies between 0 and 1, and more is better; of others, less is
    counted: str = ""  # says what is counted, where numbers do not tell it, such as which labels are known
    apart: bool = False  # whether each of its ratios has to be sure, of whatever units there are few

    @classmethod
    def of(cls, units: Units, columns: Any, score: Callable[[Array], Array] = ratio, share: bool = False) -> Tally:
        """Returns the score of values that units have. columns: m of them, (n,) each, or one number for all."""
        own, count = units.grouped
        found = [np.bincount(own, np.broadcast_to(column, own.shape), count) for column in columns]
        return cls(np.stack(found, -1).astype(np.float64), score, share)

    @property
    def value(self) -> float:
        return float(self.score(self.sums.sum(0)))

    @property
    def own(self) -> NDArray[np.bool_]:
        """Which units have something to be judged by."""
        return np.any(self.sums, axis=-1)

    @property
    def weights(self) -> Array:
        """How much each unit counts, (units,)."""
        return self.sums[:, self.sums.shape[1] // 2 :].sum(-1)

    def counts(self, own: NDArray[np.bool_]) -> Array:
        """Returns how much each of these units counts, (n, 1), or in each ratio, (n, K)."""
        return self.sums[own, self.sums.shape[1] // 2 :] if self.apart else self.weights[own, None]

    def without(self, own: NDArray[np.bool_]) -> Array:
        """Returns the scores without each of these units, (n,)."""
        return self.score(self.sums.sum(0) - self.sums[own])

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the score of other data is likely to lie; None if units are too few to say it, or all alike.

        It is the score -+ t s, with the standard error s of the delete-one jackknife and Student's t; shares are
        taken as log(p / (1 - p)) and others by their logarithm, so that it ends where they do. A share of 0 or 1 has no
        error to be seen. If each of n units counts once, its interval ends where all would be so in one case of forty:
        p^n = 1/40.

        Source: B. Efron & C. Stein, The jackknife estimate of variance, Annals of Statistics 9 (1981).
        """
        value, own = self.value, self.own
        n, tail = int(own.sum()), (1 - LEVEL) / 2
        if n < LEAST or not math.isfinite(value):
            return None
        if self.share and value in (0.0, 1.0):
            far = tail ** (1 / n)
            once = bool((self.sums[own, 1:] == 1).all())
            return None if not once else (far, 1.0) if value else (0.0, 1 - far)
        width = _half(self.without(own), self.counts(own))
        if not width > ALIKE * value > 0:
            return None
        if self.share:
            center, width = math.log(value / (1 - value)), width / (value * (1 - value))
            low, high = (1 / (1 + math.exp(-min(700.0, max(-700.0, x)))) for x in (center - width, center + width))
            return low, high
        factor = math.exp(min(700.0, width / value))
        return value / factor, value * factor

    def minus(self, other: Tally) -> tuple[float, tuple[float, float] | None]:
        """Returns the difference of two scores of the same units, and its interval; None as for `interval`."""
        difference, own = self.value - other.value, self.own | other.own
        if own.sum() < LEAST or not math.isfinite(difference):
            return difference, None
        width, most = _half(self.without(own) - other.without(own), self.counts(own)), 1.0 if self.share else math.inf
        if not width > ALIKE * abs(self.value):
            return difference, None
        return difference, (max(-most, difference - width), min(most, difference + width))

    def scarce(self, other: Tally) -> bool:
        """Returns whether few units hold nearly everything of two scores, or of one of their ratios."""
        return _effective(self.counts(self.own | other.own)) < LEAST / 2

    def counts_as(self, other: Tally) -> bool:
        """Returns whether another score is one of the same things; a share may be of what each model says."""
        if len(self.sums) != len(other.sums) or self.counted != other.counted:
            return False
        half = self.sums.shape[1] // 2
        return self.share or np.array_equal(self.sums[:, half:], other.sums[:, half:])

    def differing(self, other: Tally) -> int:
        """Returns in how many units two scores differ."""
        a, b = self.sums, other.sums
        if a.shape != b.shape:  # F1 of labels that not both models know
            a, b = (each.reshape(len(each), 2, -1).sum(-1) for each in (a, b))
        return int((a != b).any(-1).sum())


def which(there: NDArray[np.bool_]) -> str:
    """Returns a digest of what counts, (n,)."""
    return hashlib.sha256(np.packbits(there).data).hexdigest()


def values(tallies: Mapping[str, Tally]) -> dict[str, float]:
    return {name: each.value for name, each in tallies.items()}


def stretches(count: int, least: int) -> int:
    """Returns in how many parts a single sequence is cut, which are its units: 1 if there would be few, or short ones.

    count: the steps of the sequence. least: those of a part.
    """
    parts = min(PARTS, count // least)
    return parts if parts >= LEAST else 1


def along(pieces: Iterable[Array], count: int, least: int) -> list[Tally]:
    """Returns the means of m rows of values, of which pieces (m, n) come one after the other, over `stretches`.

    count: how many values a row has. least: those of a part.
    """
    parts, begin, found = stretches(count, least), 0, list[Array]()
    for piece in pieces:
        of = np.arange(begin, begin := begin + piece.shape[1]) * parts // count
        sums = np.stack([np.bincount(of, row, parts) for row in (*piece, np.ones(len(of)))])
        found = [sums if not found else found[0] + sums]
    *rows, counts = found[0]
    return [Tally(np.stack([row, counts], -1)) for row in rows]


def student(n: float) -> float:
    """Returns t of n degrees of freedom, which is exceeded in one case of forty.

    Source: M. Abramowitz & I. A. Stegun, Handbook of mathematical functions (1964), equation 26.7.5.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def _effective(weights: Array) -> float:
    """Returns how many units that count alike would say as much as these, (n, K), say of that of K ratios of which they say least."""
    squares = (weights**2).sum(0)
    return float(min(weights.sum(0)[squares > 0] ** 2 / squares[squares > 0], default=0.0))


def _half(without: Array, weights: Array) -> float:
    """Returns t s of a score, given those without each unit, (n,), and how much each of these counts, (n, K), in each of K ratios.

    If few of them hold nearly everything of one, there are as many degrees of freedom as if there were few; NaN if it is too few.
    """
    n, effective = len(without), _effective(weights)
    if effective < LEAST / 2:
        return math.nan
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    return student(effective - 1) * error
