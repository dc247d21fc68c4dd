"""How sure a score is, against exact probabilities, other ways to reckon it, and data that are drawn again and again."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from elman.tasks import scores
from elman.tasks.separate import many
from elman.tasks.tallies import LEAST, MOST, PARTS, Tally, Units, along, ratio, root, stretches, student, values

T_TABLE = {9: 2.2622, 14: 2.1448, 19: 2.0930, 29: 2.0452, 99: 1.9842, 999: 1.9623}  # of the 97.5th percentile


def shares(right: NDArray[np.int64], count: NDArray[np.int64] | int = 1) -> Tally:
    return Tally.of(Units(np.arange(len(right)), len(right)), (right, count), share=True)


def width(found: Tally) -> float:
    low, high = found.interval or (0, math.inf)
    return high - low


def test_student():
    for n, t in T_TABLE.items():
        assert student(n) == pytest.approx(t, abs=1e-3)
    assert student(10**9) == pytest.approx(NormalDist().inv_cdf(0.975))


def test_sums_of_units():
    units = Units(np.array([2, 0, 2, 1]), 4)
    found = Tally.of(units, (np.array([1.0, 2.0, 4.0, 8.0]), 1))
    assert found.sums.tolist() == [[2, 1], [8, 1], [5, 2], [0, 0]]
    assert found.value == 15 / 4
    assert found.own.tolist() == [True, True, True, False]
    assert found.without(found.own).tolist() == [13 / 3, 7 / 3, 10 / 2]
    assert found._replace(score=root).value == math.sqrt(15 / 4)
    assert ratio(np.array([[0.0, 0.0], [3.0, 2.0]])).tolist() == [0, 1.5]
    assert values({"a": found}) == {"a": 15 / 4}


def test_very_many_units_are_left_out_together():
    """Of each group as many, and of no order that the data may have; the score is the same."""
    draw = np.random.default_rng(1)
    count = 10 * MOST
    right = np.sort(draw.random(count) < 0.8).astype(np.int64)  # all that are wrong come first
    found = shares(right)
    assert found.sums.shape == (MOST, 2)
    assert set(found.sums[:, 1]) == {10}
    assert found.value == right.mean()
    assert found.interval == pytest.approx(shares(draw.permutation(right)).interval, abs=2e-3)
    assert width(found) == pytest.approx(2 * 1.96 * math.sqrt(0.8 * 0.2 / count), rel=0.1)


def test_the_error_of_a_mean_is_that_of_the_textbook():
    x = np.random.default_rng(0).gamma(2.0, size=40)
    low, high = Tally.of(Units(np.arange(40), 40), (x, 1)).interval or (0, 0)
    half = student(39) * x.std(ddof=1) / math.sqrt(40)
    assert (low * high) ** 0.5 == pytest.approx(x.mean())
    assert math.log(high / low) / 2 == pytest.approx(half / x.mean())
    y = 0.5 * x + 0.1
    of_y = Tally.of(Units(np.arange(40), 40), (y, 1))
    difference, (low, high) = Tally.of(Units(np.arange(40), 40), (x, 1)).minus(of_y)  # pyright: ignore[reportGeneralTypeIssues]
    assert difference == pytest.approx((x - y).mean())
    assert (high - low) / 2 == pytest.approx(student(39) * (x - y).std(ddof=1) / math.sqrt(40))


def test_ends_of_shares():
    """Where none is wrong, or none right, the interval is the exact one of Clopper and Pearson."""
    assert shares(np.ones(20, int)).interval == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert shares(np.zeros(20, int)).interval == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    low, high = shares(np.array([0] + [1] * 19)).interval or (0, 0)
    assert 0.6 < low < 0.7512 < 0.99 < high < 1  # the exact one begins at 0.7513


def test_an_error_rate_above_one():
    """A text may have more errors than its label has symbols."""
    errors = np.array([3, 4, 2, 6, 5, 3, 4, 2, 6, 5])
    low, high = shares(errors, 2).interval or (0, 0)
    assert 1 < low < errors.mean() / 2 < high < 4


@pytest.mark.parametrize("count", [1, LEAST - 1])
def test_too_few_units_say_nothing(count: int):
    few = shares(np.arange(count) % 2)
    assert few.interval is None
    assert few.minus(shares(np.ones(count, int)))[1] is None
    # Units without anything to be judged by do not count.
    padded = Tally.of(Units(np.arange(count), 50), (np.arange(count) % 2, 1), share=True)
    assert padded.interval is None
    assert scores.how_sure(count, many(count, "sequence"))[1].startswith(f"none: {count} sequence")


def test_what_is_the_same_in_all_units():
    """It has no interval, and a model that says what a baseline says is as good."""
    same = Tally.of(Units(np.arange(12), 12), (2.0, 1))
    assert same.interval is None
    assert scores.figure(same) == "2.0000"
    assert same.minus(same) == (0.0, (0.0, 0.0))
    assert scores.compared(same, same, True) == "; the model is better by 0.0000 (0.0000 to 0.0000), perhaps by chance"
    infinite = Tally.of(Units(np.arange(12), 12), (np.inf, 1))
    assert infinite.interval is None


def test_better_and_worse_in_words():
    a = Tally.of(Units(np.arange(20), 20), (1.0 + 0.01 * np.arange(20), 1))
    b = Tally.of(Units(np.arange(20), 20), (1.5 + 0.02 * np.arange(20), 1))
    assert scores.compared(a, b, higher_is_better=False).startswith("; the model is better by 0.5950 (0.5")
    assert scores.compared(a, b, higher_is_better=True).startswith("; the model is worse by 0.5950 (0.5")
    assert "chance" not in scores.compared(a, b, True) + scores.compared(a, b, False)
    noise = np.where(np.arange(20) % 2, 0.3, -0.29)
    c = Tally.of(Units(np.arange(20), 20), (1.0 + 0.01 * np.arange(20) + noise, 1))
    told = scores.compared(a, c, higher_is_better=False)
    assert told.startswith("; the model is better by 0.0050 (-0.1")
    assert told.endswith("), perhaps by chance")


def drawn(draw: np.random.Generator, units: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of units that differ: of each some, which have something in common."""
    sizes = draw.integers(1, 12, units)
    level = draw.normal(size=units)
    of = np.repeat(np.arange(units), sizes)
    return level[of] + draw.normal(size=len(of)), of, sizes


SCORES = {
    "share": lambda x: (x > -1.0, 1),
    "rare": lambda x: (x > 2.0, 1),
    "root": lambda x: (x**2, 1),
    "mean": lambda x: (np.abs(x), 1),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("units", [15, 60])
def test_intervals_hold_the_score_of_all_data(name: str, units: int):
    """In about 95 of 100 cases, although the values of a unit are alike: without units it would be in far fewer."""
    draw = np.random.default_rng(0)
    x, of, _ = drawn(draw, 100_000)
    more: Any = {"score": root} if name == "root" else {"share": name in ("share", "rare")}
    truth = Tally.of(Units(of, 100_000), SCORES[name](x), **more).value
    held, alone, cases = 0, 0, 600
    for _ in range(cases):
        x, of, _ = drawn(draw, units)
        columns = SCORES[name](x)
        low, high = Tally.of(Units(of, units), columns, **more).interval or (-math.inf, math.inf)
        held += low <= truth <= high
        low, high = Tally.of(Units(np.arange(len(x)), len(x)), columns, **more).interval or (-math.inf, math.inf)
        alone += low <= truth <= high
    assert 0.90 <= held / cases <= 0.99
    assert alone < held


def test_differences_hold_that_of_all_data():
    """That of scores of the same units is surer than the scores are."""
    draw = np.random.default_rng(0)
    held, narrower = 0, 0
    for _ in range(500):
        level, own = draw.normal(size=(2, 40))
        units = Units(np.arange(40), 40)
        a = Tally.of(units, (5 + 0.9 * level, 1))
        b = Tally.of(units, (5.2 + level + 0.2 * own, 1))
        _, (low, high) = b.minus(a)  # pyright: ignore[reportGeneralTypeIssues]
        held += low <= 0.2 <= high
        narrower += high - low < width(b)
    assert 0.92 <= held / 500 <= 0.98
    assert narrower == 500


def test_parts_of_one_sequence():
    assert (stretches(10_000, 100), stretches(1500, 100), stretches(999, 100), stretches(0, 100)) == (PARTS, 15, 1, 1)
    pieces = [np.arange(12.0).reshape(2, 6)[:, :k] for k in (6, 1, 5)]
    first, second = along(pieces, 12, 1)
    rows = np.concatenate(pieces, 1)
    assert first.sums.tolist() == [[v, 1] for v in rows[0]]
    assert (first.value, second.value) == pytest.approx(tuple(rows.mean(1)))
    (whole,) = along([rows[:1]], 12, 2)
    assert whole.sums.tolist() == [[rows[0].sum(), 12]]
    (many,) = along([np.ones((1, 30)), np.zeros((1, 20))], 50, 1)
    assert many.sums[:, 1].tolist() == [3, 2, 3, 2] * 5
    assert many.sums[:, 0].sum() == 30
    assert many.sums[:12, 0].tolist() == many.sums[:12, 1].tolist()


def test_macro_f1_is_that_of_the_table():
    draw = np.random.default_rng(0)
    for unknown in (0, 2):
        truth, guess, of = (
            draw.integers(-1 if unknown else 0, 5, 300),
            draw.integers(0, 4, 300),
            draw.integers(0, 40, 300),
        )
        found = scores.macro_f1(truth, guess, 6, unknown, Units(of, 40))
        assert found.value == pytest.approx(scores.counted(truth, guess, 6, unknown).macro_f1, rel=1e-12)
        for k, value in enumerate(found.without(found.own)):
            left = of != k
            assert value == pytest.approx(scores.counted(truth[left], guess[left], 6, unknown).macro_f1, rel=1e-12)
