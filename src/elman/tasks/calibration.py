"""Probabilities that are right as often as they say: one number, the temperature, divides what a classifier says."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST = 1 << 22  # logits that a temperature is found with; of more, those of labels at equal distances
COLDEST, HOTTEST = 1e-3, 1e3
ROUNDS = 60  # each halves what is left between the two, or does better
LEAST = 20  # labels that say something of probabilities
BINS = 15  # at most so many, of at least so many labels


def temperature(logits: Tensor, labels: NDArray[np.int64]) -> float:
    """Returns the T for which softmax(logits / T) costs the fewest nats; 1 if there are fewer labels than say something of that.

    logits: (n, C); labels: (n,), numbers of classes. It is found as if there were one more label, which is each class by
    1 / C. So what is right of n labels has a probability of about 1 - 1 / n, and not 1.
    Source: C. Guo, G. Pleiss, Y. Sun & K. Q. Weinberger, On calibration of modern neural networks (2017). One more label is
    the idea of J. Platt, Probabilistic outputs for support vector machines (1999).
    """
    n, stride = len(labels), -(-logits.numel() // MOST)
    if n < LEAST:
        return 1.0
    z, own = logits[::stride].double(), torch.from_numpy(labels[::stride])
    # The nats are convex in 1 / T. Their derivative is the mean of z under softmax(z / T), less that under the labels.
    true = (n * z.gather(1, own[:, None])[:, 0] + z.mean(1)) / (n + 1)
    low, high = 1 / HOTTEST, 1 / COLDEST
    scale = 1.0
    for _ in range(ROUNDS):
        p = (z * scale).softmax(1)
        mean = (p * z).sum(1)
        slope, curve = float((mean - true).mean()), float((p * (z - mean[:, None]).square()).sum(1).mean())
        low, high = (scale, high) if slope < 0 else (low, scale)
        following = scale - slope / curve if curve > 0 else high  # Newton's step
        if not low < following < high:
            following = (low * high) ** 0.5
        if abs(following - scale) <= 1e-9 * scale:
            break
        scale = following
    return 1 / scale


class Reliability(NamedTuple):
    """How often what is likeliest is right, in bins of equal numbers of labels, from the least to the most sure."""

    sure: NDArray[np.float64]  # (bins,): the mean probability of the likeliest class
    right: NDArray[np.float64]  # (bins,): the share of labels that are this class
    labels: NDArray[np.int64]  # (bins,): how many

    @classmethod
    def of(cls, logits: Tensor, labels: NDArray[np.int64]) -> Reliability:
        """logits: (n, C). labels: (n,); a negative number is that of no class, and is never right."""
        sure, likeliest = logits.double().softmax(-1).max(-1)
        order = np.argsort(sure.numpy(), kind="stable")
        sure, right = sure.numpy()[order], (likeliest.numpy() == labels)[order]
        bins = max(1, min(BINS, len(order) // LEAST))
        parts = [*zip(np.array_split(sure, bins), np.array_split(right, bins), strict=True)]
        means = np.array([(a.mean(), b.mean()) for a, b in parts])
        return cls(means[:, 0], means[:, 1], np.array([len(a) for a, _ in parts]))

    @property
    def error(self) -> float:
        """The expected calibration error: the mean, over labels, of how far both are apart in their bin."""
        return float(np.average(np.abs(self.sure - self.right), weights=self.labels))

    @property
    def means(self) -> tuple[float, float]:
        """Of all labels: the mean probability of the likeliest class, and the share that are this class."""
        return float(np.average(self.sure, weights=self.labels)), float(np.average(self.right, weights=self.labels))
