"""The baseline that matters: a linear function of a few features, which knows nothing of the order of steps far apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.tasks.encoded import Encoded, Inputs
from elman.tasks.options import SequenceOptions

LINEAR = "linear"  # what the baseline is called
LEARNED = 20_000  # labels that it learns from; of more, as many are taken at equal distances
FREQUENT = 1000  # tokens that it counts in a text, and words in all categories together
AROUND = 8  # steps before a step whose numbers it reads as well, and after it, at most
WIDE = 1024  # numbers that it reads of a step and of those around it; of more channels, only those of the step


class Linear:
    """Ridge regression on standardised features, w = (X' X + 1)^-1 X' y.

    Source: A. E. Hoerl & R. W. Kennard, Ridge regression, Technometrics 12 (1970).
    """

    def __init__(
        self,
        learned: Encoded,
        places: NDArray[np.int64],
        targets: Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]],
        causal: bool,
    ):
        """places: of the labels to learn from. targets: these as numbers, (n, outputs). causal: reads no later step."""
        self.causal = causal
        own = places[:: -(-len(places) // LEARNED)]
        self.targets = y = targets(own)  # (n, outputs)
        self.counted = frequent(learned, own)
        x = self._features(learned, own)
        self.mean, deviation = x.mean(0), x.std(0)
        self.deviation, self.intercept = np.where(deviation > 0, deviation, 1.0), y.mean(0)
        x, y = (x - self.mean) / self.deviation, y - self.intercept
        if len(x) < x.shape[1]:  # the same weights, by the smaller of two systems
            self.weights = x.T @ np.linalg.solve(x @ x.T + np.eye(len(x)), y)
        else:
            self.weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
        self.left = y - x @ self.weights  # what it leaves of them

    def __call__(self, judged: Encoded, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns what it says of the labels at these places, (N, outputs)."""
        found = np.empty((len(places), len(self.intercept)))
        for begin in range(0, len(places), LEARNED):
            part = slice(begin, begin + LEARNED)
            x = (self._features(judged, places[part]) - self.mean) / self.deviation
            found[part] = x @ self.weights + self.intercept
        return found

    def _features(self, of: Encoded, places: NDArray[np.int64]) -> NDArray[np.float64]:
        return of_steps(of, places, self.causal) if of.each_step else of_sequences(of, places, self.counted)


def fitted(
    learned: Encoded,
    places: NDArray[np.int64],
    values: Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]],
    causal: bool,
) -> Iterator[tuple[NDArray[np.int64], Linear]]:
    """Yields the numbers of values that are there at the same places, and the linear function of these.

    values: returns those at some places, (n, V); NaN where there is none.
    """
    there = ~np.isnan(values(places))
    different, which = np.unique(there, axis=1, return_inverse=True)
    for n, some in enumerate(different.T):
        if some.any():
            own = np.flatnonzero(which.ravel() == n)
            yield own, Linear(learned, places[some], lambda k, own=own: values(k)[:, own], causal)


def around(width: int, causal: bool) -> int:
    """Returns how many steps before a step it reads as well, and after it: fewer of many numbers, or it would take long."""
    return min(AROUND, max(0, WIDE // width - 1) // (1 if causal else 2))


def in_words(options: SequenceOptions, inputs: Inputs) -> str:
    """Returns what the baseline does. inputs: what was learned of the data."""
    if options.label_each_step:
        numbers, words = _kinds(inputs)
        steps, after = around(width(inputs), options.forward_only), "" if options.forward_only else ", and after it"
        also = f" and of the {steps} step{'s' * (steps > 1)} before it{after}" if steps else ""
        read = " and ".join(["the numbers"] * numbers + ["the words"] * words)
        return f"a linear function of {read} of a step{also}"
    return f"a linear function of {features_in_words(inputs)}"


def features_in_words(inputs: Inputs, unit: str | None = None) -> str:
    """Returns what `of_sequences` says of a sequence. unit: what a text is read in."""
    numbers, words = _kinds(inputs)
    read = ["means, extremes and ends"] * numbers + [f"how often {unit or 'words'} occur"] * words
    return ", and of ".join(read)


def _kinds(inputs: Inputs) -> tuple[bool, bool]:
    """Returns whether there are numbers, and whether there are words."""
    return inputs.width > len(inputs.categories), bool(inputs.size or inputs.categories)


def of_sequences(of: Encoded, own: NDArray[np.int64], counted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns features of these sequences, (N, features).

    Of each channel the mean, the deviation, the least, the largest, the first and the last value; of a text the
    logarithms of 1 and how often it has each token in `counted`, and of a category likewise. And the length.
    """
    found = []
    for k in own:
        row = of.rows[k]
        if of.inputs.width:
            x, codes = _split(of, of.scaled(row))
            ends = [x.mean(0), x.std(0), x.min(0), x.max(0), x[0], x[-1]]
            most = zip(codes.T.astype(np.int64), _most(of.inputs), strict=True)
            words = [np.bincount(own, minlength=count + 1)[1 : count + 1] for own, count in most]
            told = np.concatenate([*ends, *map(np.log1p, words)])
        else:
            told = np.log1p(np.bincount(of.numbers[row], minlength=counted.max(initial=0) + 1)[counted])
        found.append(np.append(told, len(row)))
    return np.array(found)


def of_steps(of: Encoded, places: NDArray[np.int64], causal: bool) -> NDArray[np.float64]:
    """Returns features of the steps at these places, (N, features): the numbers of the step and of those around it.

    Past the ends of a sequence, its first or last step stands in.
    """
    sequence, at = of.step_at(places)
    most = around(width(of.inputs), causal)
    steps = at[:, None] + np.arange(-most, 1 if causal else most + 1)
    last = of.rows.lengths[sequence].astype(np.int64) - 1
    rows = of.rows.bounds[sequence][:, None] + steps.clip(0, last[:, None])
    return np.concatenate(told_apart(of, of.scaled(of.rows.steps[rows])), -1).reshape(len(places), -1)


def told_apart(of: Encoded, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the numbers of steps, (..., n), and which frequent word each category has, 1 for this one and 0 for others.

    x: (..., n + categories), as `Encoded.scaled` has it.
    """
    numbers, codes = _split(of, x)
    words = [codes[..., k : k + 1] == np.arange(1, count + 1) for k, count in enumerate(_most(of.inputs))]
    return numbers, np.concatenate([codes[..., :0], *words], -1)


def _split(of: Encoded, x: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Returns the numbers of steps, and the codes of their words."""
    return np.split(x, [x.shape[-1] - len(of.inputs.categories)], -1)


def _most(inputs: Inputs) -> list[int]:
    """Returns how many words of each category it tells apart: of several, each has the same share."""
    share = FREQUENT // max(1, len(inputs.categories))
    return [min(len(words), share) for words in inputs.categories.values()]


def width(inputs: Inputs) -> int:
    """Returns how many numbers it reads of a step: one for each frequent word of a category."""
    return inputs.width + sum(count - 1 for count in _most(inputs))


def frequent(of: Encoded, own: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the tokens that most of these texts have; none of numbers."""
    counts = np.zeros(int(of.numbers.max(initial=0)) + 1, np.int64)
    for k in own if not of.inputs.width else ():
        counts[np.unique(of.numbers[of.rows[k]])] += 1
    order = np.argsort(-counts, kind="stable")[:FREQUENT]
    return order[counts[order] > 0]
