"""How long a unit remembers, and how far back a prediction looks. Each is defined here, once."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import cross_entropy

from elman.datasets.vocabulary import Vocabulary
from elman.errors import InputError
from elman.recurrence import use_engine
from elman.tasks.language_model import LanguageModel, check_text

FADED = 1 / 1000  # of the largest gradient: less than this counts as nothing


def reach(norms: ArrayLike) -> int:
    """Returns how far back a prediction looks, in tokens: to the first whose gradient is at least FADED of the largest.

    norms (T,): the norm of the gradient of the prediction's loss by what each token gave the network, its embedding.
    The token read last is 1 back. Returns 0 if no gradient is positive.
    """
    values = torch.as_tensor(norms)
    largest = float(values.max())
    return len(values) - int((values >= FADED * largest).int().argmax()) if largest > 0 else 0


def looks_back(far: int, count: int, per: str) -> str:
    """Says how far back the last prediction of a text looks. far: its `reach` over so many tokens before it."""
    tokens = f"{far} {per}{'' if far == 1 else 's'}"
    least = "a thousandth of what counts most"
    if far == 0:
        return "the last prediction depends on nothing that was read"
    if far == count:
        return f"the last prediction looks back over the whole text, {tokens}: even the first counts at least {least}"
    return f"the last prediction looks back over {tokens}: each one before them counts less than {least}"


def encoded(vocabulary: Vocabulary, text: str) -> Tensor:
    """Returns the token ids of a text to look into. Raises InputError if it is no text, or too short."""
    check_text(text, "the text")
    ids = torch.from_numpy(vocabulary.encode(text).copy()).long()
    if len(ids) < 3:
        raise InputError(f"the text has {len(ids)} tokens; give at least 3, so that there is a past to look back on")
    return ids


def gradients_by_token(model: LanguageModel, ids: Tensor) -> Tensor:
    """Returns norms (T,) for T + 1 tokens: of the gradient of the last one's loss by the embedding of each one before it."""
    model.eval()
    with torch.enable_grad(), use_engine("reference"):  # which has nothing to compile for one text
        x = model.embedding(ids[:-1, None]).detach().requires_grad_()  # (T, 1, E)
        h, _ = model.recurrent(x)
        (d_x,) = torch.autograd.grad(cross_entropy(model.logits(h[-1]), ids[-1:]), x)
    return d_x[:, 0].norm(dim=1)


def remembering(state: Tensor) -> Tensor:
    """Returns how much each unit of a state (T, H) remembers, (H,): how long it stays where it went, and that it comes back.

    It is s (τ - 1). τ is the autocorrelation time of the unit without its mean and its linear trend: the sum of the
    autocorrelation from lag 0 to the last one before it is no longer positive. s is the share of the unit's mean square
    that is left without mean and trend. A unit that flickers has τ near 1; one that is constant or drifts has s near 0.
    A unit has 0 if it changes by less than a tenth of what is usual, so that slow changes of next to nothing do not count.
    """
    x = state.double()  # (T, H)
    power = x.square().mean(0)
    x = x - x.mean(0)
    time = torch.arange(len(x), dtype=torch.float64)[:, None] - (len(x) - 1) / 2
    x = x - time * (time * x).sum(0) / time.square().sum()
    covariance = torch.stack([(x[: len(x) - lag] * x[lag:]).sum(0) for lag in range(1, len(x))]) / len(x)  # (T - 1, H)
    positive = (covariance > 0).cumprod(0)
    changes = x.square().mean(0)
    # Its sum over lags is τ - 1 times the variance that is left. Over the mean square this is s (τ - 1).
    return torch.where(changes > 0.01 * changes.mean(), (covariance * positive).sum(0) / power, 0.0)


def by_memory(state: Tensor) -> Tensor:
    """Returns the numbers of the units of a state (T, H), (H,): those that remember most first."""
    units = state.std(0).argsort(descending=True)  # decides where none remembers, as in a text of three tokens
    return units[remembering(state)[units].argsort(descending=True, stable=True)]
