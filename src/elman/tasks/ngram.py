"""An interpolated n-gram model with Witten-Bell smoothing: the baseline a language model has to beat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

LIMIT = 5_000_000  # n-grams are counted in the last tokens of the training text, at most this number
PIECE = 5_000_000  # tokens of the test text that are judged at a time, so that memory holds no more of them


def witten_bell(
    train: NDArray[np.integer], test: NDArray[np.integer], size: int, order: int
) -> Iterator[NDArray[np.float64]]:
    """Yields the negative log-probabilities of `test`, in nats, for n-grams of order 1, 2, ..., `order`.

    They are (order, n), of some tokens at a time.

        P_n(w | h) = (c(h w) + t(h) P_{n-1}(w | h')) / (c(h) + t(h)),    P_0 = 1 / size

    h is the n-1 tokens before w, and h' the n-2 tokens before w. c counts occurrences in `train`, and t(h) is the
    number of different tokens seen after h. Where h was never seen, or the test text has fewer than n-1 tokens
    before w, P_n is P_{n-1}. `size` is the number of tokens in the vocabulary. c and t are those of the last
    `LIMIT` tokens of `train`.

    Source: I. H. Witten & T. C. Bell, The zero-frequency problem, IEEE Trans. Information Theory 37
    (1991), method C, interpolated.
    """
    train = train[-LIMIT:]
    for begin in range(0, len(test), PIECE):
        before = min(begin, order - 1)  # tokens that the piece is read after
        yield _losses(train, test[begin - before : begin + PIECE], size, order)[:, before:]


def _losses(train: NDArray[np.integer], test: NDArray[np.integer], size: int, order: int) -> NDArray[np.float64]:
    """Returns the negative log-probabilities (order, tokens of `test`)."""
    tokens = np.concatenate([train, test]).astype(np.int64)
    learned = len(tokens) - len(test)
    probability = np.full(len(test), 1.0 / size)
    history = np.zeros(len(tokens), dtype=np.int64)  # a number for each different h; order 1 has one h, which is empty
    losses = []
    for n in range(1, order + 1):
        # The first n-1 tokens of the training text have no h and do not count. `seen` excludes those of the test text.
        counted = slice(n - 1, learned)
        continued = history * size + tokens  # a number for each different pair of h and w
        _, continued = np.unique(continued, return_inverse=True)
        histories, pairs = int(history.max()) + 1, int(continued.max()) + 1

        count_h = np.bincount(history[counted], minlength=histories)
        count_hw = np.bincount(continued[counted], minlength=pairs)
        first = np.zeros(pairs, dtype=np.int64)
        first[continued] = history  # the h of each pair
        types = np.bincount(first[count_hw > 0], minlength=histories)

        h, hw = history[learned:], continued[learned:]
        seen = count_h[h] > 0
        seen[: n - 1] = False
        mixed = (count_hw[hw] + types[h] * probability) / np.maximum(count_h[h] + types[h], 1)
        probability = np.where(seen, mixed, probability)
        losses.append(-np.log(probability))

        history = np.concatenate([[0], continued[:-1]])  # the pair before a token is its h in the next order
    return np.stack(losses)
