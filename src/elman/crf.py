"""A linear-chain conditional random field, whose forward-backward algorithm is a recurrent cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from elman import cells
from elman.checks import check_dtype, check_rows, check_size
from elman.layout import Call, Direction, Weights, has_values
from elman.names import register
from elman.recurrence import recur
from elman.viterbi import viterbi

UNKNOWN = -1  # in the place of a tag


class CRF(nn.Module):
    """A linear-chain conditional random field: the probability of all tags of a sequence together.

        log p(y | x) = sum_t x[t, y_t] + sum_t A[y_{t-1}, y_t] + first[y_0] + last[y_{T-1}] - log Z(x)

    x are the scores (T, B, K) of K tags, such as the output of a linear layer behind an LSTM: T steps, B sequences. Z sums over
    all K^T sequences of tags. The parameters A = `transitions` (K, K), `first` (K,) and `last` (K,) begin at zero, where the
    tags of a sequence do not depend on each other. One of -inf forbids what it scores. Messages between steps are a cell, so they
    run as kernels in both directions, on the engine that `elman.use_engine` chooses; `decode` is a loop over steps. Half types are
    computed in float32.

        h, _ = lstm(x, lengths=lengths)
        scores = linear(h)
        loss = -crf.log_likelihood(scores, tags, lengths).sum() / lengths.sum()
        tags = crf.decode(scores, lengths)

    Source: J. Lafferty, A. McCallum & F. Pereira, Conditional random fields (2001); behind an LSTM: Z. Huang, W. Xu & K. Yu,
    Bidirectional LSTM-CRF models for sequence tagging (2015).
    """

    def __init__(
        self, num_tags: int, *, batch_first: bool = False, device: Any = None, dtype: torch.dtype | None = None
    ):
        """num_tags: K. batch_first: whether scores and tags are laid out as (B, T, ...), as for a layer.

        Raises TypeError or ValueError for arguments of the wrong kind.
        """
        super().__init__()
        check_size("num_tags", num_tags)
        check_dtype(dtype)
        if isinstance(dtype, torch.dtype) and dtype.is_complex:
            raise TypeError(f"CRF: dtype must be real, got {dtype}")
        if not isinstance(batch_first, bool):
            raise TypeError(f"batch_first should be of type bool, got: {type(batch_first).__name__}")
        register(cells.forward_backward)
        self.num_tags, self.batch_first = num_tags, batch_first
        self.transitions = nn.Parameter(torch.zeros(num_tags, num_tags, device=device, dtype=dtype))
        self.first = nn.Parameter(torch.zeros(num_tags, device=device, dtype=dtype))
        self.last = nn.Parameter(torch.zeros(num_tags, device=device, dtype=dtype))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        register(cells.forward_backward)  # in the process that loads it

    def extra_repr(self) -> str:
        return f"{self.num_tags}{', batch_first=True' if self.batch_first else ''}"

    def forward(self, scores: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """Returns log p(y_t = k | x), (T, B, K): of each tag of each step, whatever the others are. It is zero past the ends.

        scores: (T, B, K), or (B, T, K) with batch_first, as the result is then. lengths: the number of steps of each sequence,
        (B,), from 0 to T; the default is T. Scores past the end have no effect.

        Raises TypeError, ValueError or RuntimeError, as a layer does, if shapes, dtypes or lengths do not fit.
        """
        scores, lengths, past = self._ready(scores, lengths)
        before, after = self._messages(scores, lengths, (False, True)).chunk(2, -1)
        return self._laid_out((before + scores + after).log_softmax(-1).masked_fill(past, 0))

    def messages(self, scores: Tensor, lengths: Tensor | Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Returns what the steps before say of the tags of each step, and what those after say, each (T, B, K).

        With the score they add up to what `forward` returns, but for a number that all tags of a step have in common. The rest
        is as in `forward`.
        """
        scores, lengths, past = self._ready(scores, lengths)
        before, after = self._messages(scores, lengths, (False, True)).chunk(2, -1)
        return self._laid_out(before.masked_fill(past, 0)), self._laid_out(after.masked_fill(past, 0))

    def log_likelihood(self, scores: Tensor, tags: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """Returns log p(y | x) of each sequence, (B,).

        tags: (T, B) in the layout of the scores, whole numbers from 0 to K - 1, or -1 for one that is not known: the
        probability is then that of the known ones. What stands past the end has no effect. The rest is as in `forward`.
        """
        scores, lengths, past = self._ready(scores, lengths)
        tags = self._tags(tags, scores, past)[..., None]  # (T, B, 1)
        known, some = tags >= 0, tags.clamp(min=0)
        transitions, first, _ = self._parameters_in(scores.dtype)
        # log p(y) is the sum of log p(y_t | the tags before it). What a known tag says of the next one is a row of A.
        before = transitions[some[:-1, :, 0]]
        if not has_values(tags) or not bool((known | past).all()):
            only = torch.arange(self.num_tags, device=scores.device) == tags
            given = torch.where(known, torch.where(only, 0, scores.new_tensor(-torch.inf)), scores)
            before = torch.where(known[:-1], before, self._messages(given, lengths, (False,))[1:])
        before = torch.cat([first.expand(1, scores.shape[1], -1), before])
        log_p = (before + scores + self._messages(scores, lengths, (True,))).log_softmax(-1).gather(-1, some)
        return log_p.where(known, 0).sum(0)[:, 0]

    def decode(self, scores: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """Returns the likeliest sequence of tags, (T, B), by Viterbi's algorithm; -1 past the ends. The rest is as in `forward`."""
        scores, lengths, past = self._ready(scores, lengths)
        tags = viterbi(scores.detach(), *(each.detach() for each in self._parameters_in(scores.dtype)), lengths)
        return self._laid_out(tags.masked_fill(past[..., 0], UNKNOWN))

    def _laid_out(self, result: Tensor) -> Tensor:
        return result.transpose(0, 1) if self.batch_first else result

    def _parameters_in(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        return self.transitions.to(dtype), self.first.to(dtype), self.last.to(dtype)

    def _ready(self, scores: Tensor, lengths: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Returns scores (T, B, K), zero past the ends; lengths (B,); and what is past the ends, (T, B, 1)."""
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else None
        if shape is None or len(shape) != 3 or shape[2] != self.num_tags:
            form = f"({'B, T' if self.batch_first else 'T, B'}, {self.num_tags})"
            raise ValueError(f"CRF: scores must be a tensor {form}, got {shape or type(scores).__name__}")
        if not scores.is_floating_point():
            raise TypeError(f"CRF: scores are of {scores.dtype} but must be floating point; give scores.float()")
        if scores.device != self.transitions.device:
            raise RuntimeError(
                f"CRF: scores are on {scores.device} but the parameters on {self.transitions.device}; move either"
            )
        scores = self._laid_out(scores)
        T, B, _ = scores.shape
        if T == 0:
            raise ValueError(f"CRF: scores must have at least one step, got {shape}")
        rows, _ = check_rows(self, lengths, None, scores, True)
        rows = torch.full((B,), T, device=scores.device) if rows is None else rows
        past = torch.arange(T, device=scores.device)[:, None, None] >= rows[:, None]
        dtype = torch.promote_types(torch.promote_types(scores.dtype, self.transitions.dtype), torch.float32)
        return scores.to(dtype).masked_fill(past, 0), rows, past

    def _tags(self, tags: Any, scores: Tensor, past: Tensor) -> Tensor:
        """Returns tags (T, B), unknown past the ends."""
        if not isinstance(tags, Tensor) or tags.is_floating_point() or tags.is_complex() or tags.dtype == torch.bool:
            got = f"of {tags.dtype}" if isinstance(tags, Tensor) else f"a {type(tags).__name__}"
            raise TypeError(f"CRF: tags are {got} but must be whole numbers in a tensor")
        steps = self._laid_out(scores).shape[:2]
        if tags.shape != steps:
            raise ValueError(f"CRF: tags are {tuple(tags.shape)} but must be {tuple(steps)}, as the scores are")
        tags = self._laid_out(tags).to(scores.device, torch.int64).masked_fill(past[..., 0], UNKNOWN)
        if tags.numel() and has_values(tags):
            low, high = (int(edge) for edge in tags.aminmax())
            if low < UNKNOWN or high >= self.num_tags:
                wrong = low if low < UNKNOWN else high
                raise ValueError(
                    f"CRF: tags hold {wrong}, but must be from 0 to {self.num_tags - 1}, or {UNKNOWN} for one that is not known"
                )
        return tags

    def _messages(self, scores: Tensor, lengths: Tensor, directions: Sequence[bool]) -> Tensor:
        """Returns the messages that enter each step, (T, B, D*K): for False from the step before, for True from the next one."""
        transitions, first, last = self._parameters_in(scores.dtype)
        least = math.log(torch.finfo(scores.dtype).tiny) + 7  # of which no sum of probabilities makes zero
        weights = []
        for reverse in directions:
            rows = transitions if reverse else transitions.T  # (to, from), as messages go
            largest = rows.detach().amax(1, keepdim=True).clamp(min=-1e30)  # which is finite if all are -inf
            factors = (rows - largest).clamp(min=least).exp()
            weights.append(Direction(Weights(None, factors, None, None, ch=largest.T), reverse))
        begin = torch.stack([last if reverse else first for reverse in directions])[:, None]
        begin = begin.expand(-1, scores.shape[1], -1)
        x = scores[..., :1].detach()  # which no weight reads
        call = Call(
            cells.forward_backward, x, tuple(weights), (torch.zeros_like(begin), begin), (scores,), lengths=lengths
        )
        kind = scores.device.type
        with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
            return recur(call)[0]
