"""Predicted numbers: their losses, their quantiles, and how many true values are below these."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss, l1_loss, mse_loss

LEAST = 20  # true values that say something of quantiles


def pinball(predicted: Tensor, truth: Tensor, quantiles: Sequence[float]) -> Tensor:
    """Returns max(q e, (q - 1) e) of predictions (..., Q), where e = truth - prediction.

    Source: R. Koenker & G. Bassett, Regression quantiles, Econometrica 46 (1978).
    """
    q = torch.tensor(quantiles, device=predicted.device)
    e = truth[..., None] - predicted
    return torch.maximum(q * e, (q - 1) * e)


class Criterion(NamedTuple):
    """What numbers a network gives for each true value, and its loss: these quantiles, or one number without any."""

    loss: str  # without quantiles: mae, mse or huber
    quantiles: Sequence[float] = ()

    @property
    def measure(self) -> str:
        """What the loss is called."""
        return "pinball" if self.quantiles else self.loss

    @property
    def squared(self) -> bool:
        """Whether large errors count by their squares, so that the mean is the best guess and not the median."""
        return self.measure == "mse"

    @property
    def outputs(self) -> int:
        return max(1, len(self.quantiles))

    @property
    def endings(self) -> list[str]:
        """What is added to the name of a value to name each output."""
        return [f"_q{q:g}" for q in self.quantiles] or [""]

    def mean(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Returns the mean loss of predictions (..., outputs), given the true values (...)."""
        if self.quantiles:
            return pinball(predicted, truth, self.quantiles).mean()
        return {"mae": l1_loss, "mse": mse_loss, "huber": huber_loss}[self.loss](predicted[..., 0], truth)

    def each(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Returns the losses of which `mean` returns the mean, (...)."""
        if self.quantiles:
            return pinball(predicted, truth, self.quantiles).mean(-1)
        of = {"mae": l1_loss, "mse": mse_loss, "huber": huber_loss}[self.loss]
        return of(predicted[..., 0], truth, reduction="none")

    def middle(self, predicted: Tensor) -> Tensor:
        """Returns one prediction (...) of (..., outputs): that of the quantile nearest to the median."""
        quantiles = self.quantiles or [0.5]
        return predicted[..., min(range(len(quantiles)), key=lambda k: abs(quantiles[k] - 0.5))]

    def in_order(self, predicted: Tensor) -> Tensor:
        """Returns predictions whose quantiles rise: a network may swap neighbouring ones."""
        return predicted.sort(-1).values if len(self.quantiles) > 1 else predicted

    def shift(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Returns what to add to each quantile (Q,), so that it holds as many other true values as it says; 0 after few.

        predicted: (n, Q). truth: (n,), NaN where there is none. Of n + 1 values that are alike, the last one is below a
        prediction, to which the k-th least of the other n errors was added, with the probability k / (n + 1). A quantile that
        is farther out than the outermost error is moved out to this error, if it is nearer, and never in.
        Source: Y. Romano, E. Patterson & E. Candes, Conformalized quantile regression (2019), with each end by itself.
        """
        errors = (truth[:, None] - predicted)[~truth.isnan()].double().numpy()
        found, n = np.zeros(len(self.quantiles)), len(errors)
        if n < LEAST or not np.isfinite(errors).all():
            return torch.from_numpy(found)
        for k, (q, own) in enumerate(zip(self.quantiles, errors.T, strict=True)):
            if q * (n + 1) < 1:
                found[k] = min(own.min(), 0.0)
            elif q * (n + 1) > n:
                found[k] = max(own.max(), 0.0)
            else:
                found[k] = np.quantile(own, q, method="weibull")
        return torch.from_numpy(found)

    def below(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Returns how many of the true values are not above each output, (outputs,). NaN is no value."""
        return (truth[..., None] <= predicted).flatten(0, -2).sum(0)

    def covered(self, below: Tensor, count: int) -> Iterator[tuple[str, str]]:
        """Yields lines that compare each quantile with the share of `count` true values that are not above it."""
        shares = (below / max(1, count)).tolist()
        if self.quantiles:
            told = ", ".join(f"{share:.1%} for {q:g}" for q, share in zip(self.quantiles, shares, strict=True))
            yield "quantiles", f"{told} of {count:,} true values"
        if len(self.quantiles) > 1:
            inside, wanted = shares[-1] - shares[0], self.quantiles[-1] - self.quantiles[0]
            yield "band", f"{inside:.1%} between the outer quantiles, {wanted:.1%} if these were exact"


def rounded(value: float, deviation: float) -> float:
    """Returns a value to a millionth of its column's deviation: the digits that a prediction in float32 has."""
    return round(value, 6 - math.floor(math.log10(deviation))) + 0.0  # no negative zero
