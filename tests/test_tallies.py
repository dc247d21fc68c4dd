"""How sure a score is, against exact probabilities, other ways to reckon it, and data that are drawn again and again."""

import math
import re
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
    # Nothing exact is known where units hold several steps that are alike.
    assert shares(np.full(20, 3), 3).interval is None
    units = Units(np.arange(20), 20)
    assert scores.macro_f1(np.arange(20) % 2, np.arange(20) % 2, 2, 0, units).interval is None


def test_error_rates_around_one():
    """A text may have more errors than its label has symbols, so that 1 is a number like others."""
    for rate in (0.9, 0.97, 1.0, 1.03):
        errors = np.array([0, 20, 5, 15, 2, 18, 9, 11, 1, 19]) * rate
        low, high = Tally.of(Units(np.arange(10), 10), (errors, 10)).interval or (0, 0)
        assert (low, high) == pytest.approx((0.575 * rate, 1.74 * rate), rel=0.01)


def test_few_units_that_hold_nearly_everything():
    draw = np.random.default_rng(0)
    sizes = np.array([2] * 15 + [3000])
    assert shares((sizes * draw.random(16)).round().astype(int), sizes).interval is None
    uneven, x = np.array([60] * 3 + [11] * 13), draw.random(16) + 1
    found = Tally.of(Units(np.arange(16), 16), (x * uneven, uneven))
    left = [np.delete(x, k) @ np.delete(uneven, k) / np.delete(uneven, k).sum() for k in range(16)]
    n = uneven.sum() ** 2 / (uneven**2).sum()  # as many units of the same size are as unsure
    assert 5 < n < 9
    half = student(n - 1) * np.sqrt(15**2 / 16) * np.std(left, ddof=1)
    low, high = found.interval or (0, 0)
    assert math.log(high / low) / 2 == pytest.approx(half / found.value)


def test_few_of_many_sequences_with_labels_are_units_of_their_own():
    of = np.arange(0, 12 * 500, 500)
    found = Tally.of(Units(of, 12 * 500), (np.arange(12) % 3, 1))
    assert int(found.own.sum()) == 12
    assert found.interval is not None


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
    for value in (2.0, 0.1):  # the second of which has rounding errors
        same = Tally.of(Units(np.arange(13), 13), (value, 1))
        assert same.interval is None
        assert scores.figure(same) == f"{value:.4f}"
        assert same.minus(same) == (0.0, None)
        assert scores.compared(same, same) == "; the model is as good"
    infinite = Tally.of(Units(np.arange(12), 12), (np.inf, 1))
    assert infinite.interval is None
    assert scores.compared(infinite, infinite._replace(sums=np.ones((12, 2)))) == ""


def test_better_and_worse_in_words():
    a = Tally.of(Units(np.arange(20), 20), (1.0 + 0.01 * np.arange(20), 1))
    b = Tally.of(Units(np.arange(20), 20), (1.5 + 0.02 * np.arange(20), 1))
    assert scores.compared(a, b).startswith("; the model is better by 0.5950 (0.5")
    assert scores.compared(a._replace(share=True), b).startswith("; the model is worse by 0.5950 (0.5")
    assert "chance" not in scores.compared(a._replace(share=True), b) + scores.compared(a, b)
    noise = np.where(np.arange(20) % 2, 0.3, -0.29)
    c = Tally.of(Units(np.arange(20), 20), (1.0 + 0.01 * np.arange(20) + noise, 1))
    told = scores.compared(a, c)
    assert told.startswith("; the model is better by 0.0050 (-0.1")
    assert told.endswith("), perhaps by chance")
    tiny = b._replace(sums=b.sums + np.array([1e-6, 0]) * (np.arange(20) == 3)[:, None])
    assert "-0.0000" not in scores.compared(b, tiny) + scores.compared(b._replace(share=True), tiny)


@pytest.mark.parametrize("differing", [0, 1, 5, 6, 12])
def test_a_difference_in_few_units_may_be_chance(differing: int):
    """Of a fair coin, five sides in a row are the same more often than once in twenty throws, and six are not."""
    assert 2 * 0.5**5 > 0.05 > 2 * 0.5**6
    right, base = np.ones(40, int), np.ones(40, int)
    base[:differing] = 0
    told = scores.compared(shares(right), shares(base))
    amount = f"; the model is better by {differing / 40:.4f}"
    if differing == 0:
        assert told == "; the model is as good"
    elif differing < 6:
        assert told == f"{amount}, perhaps by chance"
    else:
        assert re.fullmatch(rf"{amount} \(0\.\d+ to 0\.\d+\)", told)
    everywhere = scores.compared(shares(right), shares(0 * right))
    assert everywhere == "; the model is better by 1.0000"  # and no unit says anything else
    almost = shares(np.eye(40, dtype=int)[0])
    (_, interval) = shares(right).minus(almost)
    assert interval is not None
    assert interval[1] == 1.0  # no share is larger


def drawn(draw: np.random.Generator, units: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of units that differ: of each some, which have something in common."""
    sizes = draw.integers(1, 12, units)
    level = draw.normal(size=units)
    of = np.repeat(np.arange(units), sizes)
    return level[of] + draw.normal(size=len(of)), of, sizes


SCORES = {
    "share": lambda x: (x > -1.0, 1),
    "rare": lambda x: (x > 2.0, 1),
    "errors": lambda x: (np.floor(np.abs(x)), 1),
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
    assert 0.90 <= held / cases <= 0.995
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


def test_macro_f1_without_each_unit():
    draw = np.random.default_rng(0)

    def by_definition(truth: NDArray[np.int64], guess: NDArray[np.int64]) -> float:
        every = [k for k in range(6) if k in truth or k in guess]
        f1 = [2 * ((truth == k) & (guess == k)).sum() / ((truth == k).sum() + (guess == k).sum()) for k in every]
        return sum(f1) / (len(every) + unknown)

    for unknown in (0, 2):
        truth, guess, of = (
            draw.integers(-1 if unknown else 0, 5, 300),
            draw.integers(0, 4, 300),
            draw.integers(0, 40, 300),
        )
        found = scores.macro_f1(truth, guess, 6, unknown, Units(of, 40))
        assert found.value == pytest.approx(by_definition(truth, guess), rel=1e-12)
        for k, value in enumerate(found.without(found.own)):
            left = of != k
            assert value == pytest.approx(by_definition(truth[left], guess[left]), rel=1e-12)
