"""Spelling: of all texts that a sequence may say, one that a language model finds likely as well.

The score of a text y is

    log p(y | sequence) + weight * sum over its symbols of log(p(symbol | symbols before it) / p(symbol))

where the language model says p(symbol | symbols before it), and p(symbol) is the share of the symbol in training labels: the model
of sequences has learned that already, so it must not count twice. A symbol that is no likelier after those before it than
anywhere adds nothing. So long texts have no disadvantage.

`Speller` reads a sequence once, step by step, and keeps the beginnings of texts that have the highest scores (beam search).

Source: A. Graves & N. Jaitly, Towards end-to-end speech recognition with recurrent neural networks (2014); E. McDermott, H. Sak &
E. Variani, A density ratio approach to language model fusion in end-to-end automatic speech recognition (2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from elman.training.record import device_of

BLANK = 0  # the output that says nothing
NEGLIGIBLE = math.log(1e-3)  # of an output at a step: no text goes on with it there
WIDTH = 16  # beginnings that are kept at most
MARGIN = 8.0  # below the best score, from which a beginning is not kept


@dataclass(eq=False, slots=True)
class Beginning:
    """The first symbols of a text, by all ways in which the steps so far may say them."""

    outputs: tuple[int, ...]
    blank: float  # log p of the ways that end in a blank
    symbol: float  # log p of the ways that end in the last symbol
    fluency: float  # what the language model adds to the score
    following: Sequence[float] = ()  # (outputs,), what it adds for an output that comes next
    state: Sequence[Tensor] = ()  # of the language model after these symbols, each (layers, H)

    @property
    def chance(self) -> float:
        return _added(self.blank, self.symbol)

    @property
    def score(self) -> float:
        return self.chance + self.fluency


class Grown(NamedTuple):
    """A beginning that one more symbol has made, which the language model has not read yet."""

    beginning: Beginning
    before: Beginning
    output: int


class Speller:
    """A language model that helps to read off texts."""

    def __init__(
        self,
        model: nn.Module,
        start: int,
        tokens: Sequence[int],
        shares: Sequence[float],
        weight: float,
        width: int = WIDTH,
    ):
        """model: tokens (T, B) and a state to logits (T, B, size) and the new state. start: the token before a text.

        tokens: of outputs 1, 2, ... shares: p(symbol) of these. width: how many beginnings are kept.
        """
        self.model, self.start, self.weight, self.width = model.eval(), start, weight, width
        self.tokens = torch.tensor(tokens)
        self.usual = torch.tensor(shares).double().log()

    def read(self, log_p: NDArray[np.float32], lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Returns the outputs of the text of each sequence. log_p: (T, B, outputs), what steps say; lengths: (B,)."""
        following, state = self._go_on(torch.tensor([self.start]), None)
        every = [[Beginning((), 0.0, -math.inf, 0.0, following[0], state[0])] for _ in lengths]
        steps = [_eventful(log_p[:length, b]) for b, length in enumerate(lengths)]
        for n in range(max(map(len, steps), default=0)):
            grown = list[Grown]()
            for b, own in enumerate(steps):
                if n < len(own):
                    every[b], new = _step(every[b], *own[n], self.width)
                    grown += new
            if grown:
                tokens = self.tokens[[each.output - 1 for each in grown]]
                following, state = self._go_on(tokens, [each.before.state for each in grown])
                for each, after, states in zip(grown, following, state, strict=True):
                    each.beginning.following, each.beginning.state = after, states
        best = (max(beginnings, key=attrgetter("score")) for beginnings in every)
        return [np.array(each.outputs, np.int64) for each in best]

    @torch.inference_mode()
    def _go_on(
        self, tokens: Tensor, before: Sequence[Sequence[Tensor]] | None
    ) -> tuple[list[list[float]], list[tuple[Tensor, ...]]]:
        """Lets the language model read tokens (N,). before: the states before each of them; None for those of a new text.

        Returns what it adds for each output that comes next, (N, outputs), and the states after each token.
        """
        states = None if before is None else tuple(torch.stack(parts, 1) for parts in zip(*before, strict=True))
        given = states[0] if states is not None and len(states) == 1 else states
        logits, after = self.model(tokens[None].to(device_of(self.model)), given)
        own = logits[0].cpu()[:, self.tokens].double().log_softmax(-1)  # only symbols can follow
        following = nn.functional.pad(self.weight * (own - self.usual), (1, 0))
        parts = (after,) if isinstance(after, Tensor) else tuple(after)
        return following.tolist(), list(zip(*(part.unbind(1) for part in parts), strict=True))


def _eventful(log_p: NDArray[np.float32]) -> list[tuple[float | None, float, list[tuple[int, float]]]]:
    """Returns the steps at which something may be said besides a blank. log_p: (T, outputs).

    Of each: log p of the blanks since the last one, None if there are none; that of a blank here; and the outputs that may be
    said here, each with its log p.
    """
    likely = log_p > NEGLIGIBLE
    likely[:, BLANK] = False
    blanks = log_p[:, BLANK].astype(np.float64)
    sums, found, last = np.concatenate([[0.0], blanks.cumsum()]), [], -1
    for t in np.flatnonzero(likely.any(1)).tolist():
        outputs = np.flatnonzero(likely[t])
        between = None if t == last + 1 else float(sums[t] - sums[last + 1])
        found.append((between, float(blanks[t]), list(zip(outputs.tolist(), log_p[t, outputs].tolist(), strict=True))))
        last = t
    return found


def _step(
    beginnings: list[Beginning], between: float | None, blank: float, symbols: list[tuple[int, float]], width: int
) -> tuple[list[Beginning], list[Grown]]:
    """Lets beginnings go on to a step of `_eventful`. Returns the best after it, and those among them that are new."""
    if between is not None:
        for each in beginnings:
            each.blank, each.symbol = each.chance + between, -math.inf
    found = {e.outputs: Beginning(e.outputs, -math.inf, -math.inf, e.fluency, e.following, e.state) for e in beginnings}
    new = dict[tuple[int, ...], Grown]()
    for each in beginnings:
        chance, last, stays = each.chance, each.outputs[-1] if each.outputs else BLANK, found[each.outputs]
        stays.blank = _added(stays.blank, chance + blank)
        for k, log in symbols:
            if k == last:  # said once more, it is the same symbol, unless a blank was between them
                stays.symbol = _added(stays.symbol, each.symbol + log)
            outputs = (*each.outputs, k)
            if outputs not in found:
                found[outputs] = Beginning(outputs, -math.inf, -math.inf, each.fluency + each.following[k])
                new[outputs] = Grown(found[outputs], each, k)
            longer = found[outputs]
            longer.symbol = _added(longer.symbol, (each.blank if k == last else chance) + log)
    order = sorted(found.values(), key=attrgetter("score"), reverse=True)[:width]
    least = order[0].score - MARGIN
    best = [each for each in order if each.score > least]
    return best, [new[each.outputs] for each in best if each.outputs in new]


def _added(a: float, b: float) -> float:
    """Returns log(exp(a) + exp(b))."""
    high, low = (b, a) if a < b else (a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def begins(log_p: NDArray[np.float32], outputs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the step, from 0, where each output of a text begins on the likeliest of the ways to say it, (n,).

    log_p: (T, all outputs), what the steps of a sequence say. It needs as many steps as the text takes.
    Source: A. Viterbi, Error bounds for convolutional codes (1967).
    """
    places = np.full(2 * len(outputs) + 1, BLANK)  # where a way may be: at a symbol, and at a blank before or after one
    places[1::2] = outputs
    own = log_p[:, places].astype(np.float64)  # (T, places)
    skips = 2 * np.flatnonzero(outputs[1:] != outputs[:-1]) + 3  # where a way may come from the symbol before
    options = np.full((3, len(places)), -np.inf)  # the best ways to each place, from 0, 1 or 2 places before it
    options[0, :2] = 0.0
    came = np.zeros(own.shape, np.int64)  # of how many places before
    for t, row in enumerate(own):
        came[t] = options.argmax(0)
        score = options.max(0) + row
        options[0], options[1, 1:] = score, score[:-1]
        options[2, skips] = score[skips - 2]
    score = options[0]
    place = len(places) - 1 - int(score[::-1][:2].argmax())
    found = np.zeros(len(outputs), np.int64)
    for t in range(len(own) - 1, -1, -1):
        if place % 2:
            found[place // 2] = t
        place -= came[t, place]
    return found
