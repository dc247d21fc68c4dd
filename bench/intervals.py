"""How often the intervals that `elman evaluate` prints hold the score of all data, where 95 of 100 would be right.

    python bench/intervals.py

Data are drawn whose score is known: of many sets of sequences (the values of one have something in common), and of one
long sequence (each value has to do with those before). The intervals are those of elman.tasks.tallies. Beside them is how
often an interval holds it that takes each value for one that knows nothing of the others, as accuracies are often given.
It takes about half a minute.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.tasks.scores import macro_f1
from elman.tasks.tallies import Tally, Units, along, root, stretches

CASES = 2000
Values = NDArray[np.float64]
Drawn = tuple[Values, NDArray[np.int64]]  # values, and of which sequence each is


def sequences(draw: np.random.Generator, count: int) -> Drawn:
    """One to eleven values of each sequence, of which half of the variance is the sequence's own."""
    of = np.repeat(np.arange(count), draw.integers(1, 12, count))
    return draw.normal(size=count)[of] + draw.normal(size=len(of)), of


def classes(x: Values, units: Units) -> Tally:
    """Four classes, of which the last is rare; more is right of the first ones."""
    spread = np.searchsorted([-1.0, 0.5, 2.0], x)
    return macro_f1(spread, np.where(np.sin(37 * x) > 0.1 * spread - 0.6, spread, (spread + 1) % 4), 4, 0, units)


SCORES: dict[str, Callable[[Values, Units], Tally]] = {
    "accuracy, about 0.76": lambda x, units: Tally.of(units, (x > -1.0, 1), share=True),
    "accuracy, about 0.98": lambda x, units: Tally.of(units, (x > -2.9, 1), share=True),
    "error rate, about 0.25": lambda x, units: Tally.of(units, (np.floor(np.abs(x)), 3)),
    "error rate, about 1": lambda x, units: Tally.of(units, (np.floor(2 * np.exp(0.5 * x)), 3)),
    "root mean squared error": lambda x, units: Tally.of(units, (x**2, 1), root),
    "nats": lambda x, units: Tally.of(units, (np.log1p(np.exp(x)), 1)),
    "macro F1": classes,
}


def holds(found: Tally, truth: float) -> bool:
    low, high = found.interval or (-math.inf, math.inf)
    return low <= truth <= high


def main() -> None:
    counts, draw = (10, 20, 50, 200), np.random.default_rng(0)
    print("| sequences | " + " | ".join(map(str, counts)) + " | each value alone, of 200 |")
    print("|---|" + "---|" * (len(counts) + 1))
    x, of = sequences(draw, 300_000)
    for name, score in SCORES.items():
        truth, told, alone = score(x, Units(of, 300_000)).value, list[str](), 0
        for count in counts:
            held = 0
            for _ in range(CASES):
                some, whose = sequences(draw, count)
                held += holds(score(some, Units(whose, count)), truth)
                alone += count == counts[-1] and holds(score(some, Units(np.arange(len(some)), len(some))), truth)
            told.append(f"{held / CASES:.1%}")
        print(f"| {name} | {' | '.join(told)} | {alone / CASES:.1%} |", flush=True)
    print("\n| one sequence: steps until two values have little in common | 1 | 5 | 25 | 100 |\n|---|---|---|---|---|")
    told = [f"{_of_one_sequence(draw, reach):.1%}" for reach in (1, 5, 25, 100)]
    print(f"| a mean over 4,000 steps, in 20 parts of 200 | {' | '.join(told)} |")
    print("\n| one sequence with errors in runs of 30: steps | 200 | 1,000 | 10,000 |\n|---|---|---|---|")
    for name, least in (("parts of 10 steps or more", 10), ("parts of five runs or more", 5 * 30)):
        told = [_of_runs(draw, steps, least) for steps in (200, 1000, 10_000)]
        print(f"| {name} | {' | '.join(told)} |", flush=True)


def _of_runs(draw: np.random.Generator, steps: int, least: int) -> str:
    """Returns how often the interval holds the accuracy 3/4; "none" if there would be too few parts to have one."""
    parts, held = stretches(steps, least), 0
    if parts == 1:
        return "none"
    units = Units(np.arange(steps) * parts // steps, parts)
    for _ in range(CASES):
        # What is right lasts for 90 steps on average, and errors for 30; it begins anywhere.
        many = 2 * steps // 60 + 20
        lengths = draw.geometric(np.where(np.arange(many) % 2, 1 / 30, 1 / 90))
        right = np.repeat(np.arange(many) % 2 == 0, lengths)
        begin = draw.integers(0, max(1, len(right) - steps))
        held += holds(Tally.of(units, (right[begin : begin + steps], 1), share=True), 0.75)
    return f"{held / CASES:.1%}"


def _of_one_sequence(draw: np.random.Generator, reach: int) -> float:
    """Returns how often the interval holds the mean of a sequence whose values are alike for about so many steps."""
    kept, held, steps = math.exp(-1 / reach), 0, 4000
    x: Any = draw.normal(size=CASES)
    noise = math.sqrt(1 - kept**2)
    every = np.empty((CASES, steps))
    for t in range(steps):
        x = kept * x + noise * draw.normal(size=CASES)
        every[:, t] = 3 + x
    for row in every:
        (found,) = along([row[None]], steps, 100)
        held += holds(found, 3.0)
    return held / CASES


if __name__ == "__main__":
    main()
