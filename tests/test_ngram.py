"""The n-gram baseline against its formula, worked out with dictionaries."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from elman.datasets.text import read
from elman.tasks import ngram


def witten_bell(train: NDArray[np.integer], test: NDArray[np.integer], size: int, order: int) -> list[float]:
    """The means over all tokens."""
    sums = sum((each.sum(1) for each in ngram.witten_bell(train, test, size, order)), np.zeros(order))
    return (sums / len(test)).tolist()


def by_the_formula(train: list[int], test: list[int], size: int, order: int) -> list[float]:
    """P_n(w | h) = (c(h w) + t(h) P_{n-1}(w | h')) / (c(h) + t(h)), with P_0 = 1 / size."""
    c: Counter[tuple[int, ...]] = Counter()  # of h w, of every length
    following: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)  # what was seen after h
    for n in range(1, order + 1):
        for end in range(n, len(train) + 1):
            *h, w = train[end - n : end]
            c[(*h, w)] += 1
            following[tuple(h)][w] += 1

    def P(n: int, w: int, past: list[int]) -> float:
        if n == 0:
            return 1 / size
        if len(past) < n - 1:
            return P(n - 1, w, past)
        h = tuple(past[len(past) - (n - 1) :])
        seen, t = following[h].total(), len(following[h])
        if not seen:
            return P(n - 1, w, past)
        return (c[(*h, w)] + t * P(n - 1, w, past)) / (seen + t)

    return [
        -sum(math.log(P(n, w, test[:place])) for place, w in enumerate(test)) / len(test) for n in range(1, order + 1)
    ]


@given(
    size=st.integers(1, 5),
    order=st.integers(1, 5),
    train=st.lists(st.integers(0, 4), max_size=40),
    test=st.lists(st.integers(0, 4), min_size=1, max_size=20),
)
def test_equals_the_formula(size: int, order: int, train: list[int], test: list[int]):
    train, test = [w % size for w in train], [w % size for w in test]
    found = witten_bell(np.array(train, dtype=np.uint8), np.array(test, dtype=np.uint8), size, order)
    assert found == pytest.approx(by_the_formula(train, test, size, order), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_equals_the_formula_on_longer_sequences(dtype: type[np.integer]):
    random = np.random.default_rng(0)
    train = (random.integers(0, 30, 3000) * random.random(3000)).astype(dtype)
    test = (random.integers(0, 31, 400) * random.random(400)).astype(dtype)
    found = witten_bell(train, test, 200, 5)
    assert found == pytest.approx(by_the_formula(train.tolist(), test.tolist(), 200, 5), rel=1e-12)


@pytest.mark.parametrize("context", [[], [1], [0, 1, 2], [2, 2, 2, 2, 2], [3, 0, 1], [4, 4]])
def test_probabilities_sum_to_one(context: list[int]):
    size, order = 6, 5  # 4 was seen once, 5 never
    train = np.array([0, 1, 2, 2, 0, 1, 3, 0, 1, 2, 4, 0, 2, 2, 2, 0, 1, 2])
    totals = np.zeros(order)
    before = np.array(witten_bell(train, np.array(context), size, order)) * len(context) if context else np.zeros(order)
    for w in range(size):
        after = np.array(witten_bell(train, np.array([*context, w]), size, order)) * (len(context) + 1)
        totals += np.exp(before - after)
    assert totals == pytest.approx(np.ones(order), abs=1e-12)


def test_the_last_tokens_are_counted(monkeypatch: pytest.MonkeyPatch):
    train, test = np.arange(100) % 7, np.array([1, 2, 3])
    short = witten_bell(train[-20:], test, 7, 3)
    assert witten_bell(train, test, 7, 3) != pytest.approx(short)
    monkeypatch.setattr(ngram, "LIMIT", 20)
    assert witten_bell(train, test, 7, 3) == short


def test_the_test_text_in_pieces(monkeypatch: pytest.MonkeyPatch):
    train, test = np.arange(100) % 7, np.random.default_rng(0).integers(0, 7, 50)
    whole = witten_bell(train, test, 7, 4)
    for piece in (1, 2, 7, 49):
        monkeypatch.setattr(ngram, "PIECE", piece)
        assert witten_bell(train, test, 7, 4) == pytest.approx(whole, rel=1e-12)


def test_default_text():
    """Its 5-gram is no straw man. The text differs a little from one Python to the next."""
    corpus = read(None, "characters", 0.1)
    found = witten_bell(corpus.train.numpy(), corpus.validation.numpy()[1:], corpus.vocabulary.size, 5)
    assert found == sorted(found, reverse=True)
    assert 1.25 < found[4] < 1.40
    assert found[0] > 3
