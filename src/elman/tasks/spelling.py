"""Spelling: of all texts that a sequence may say, one that a language model finds likely as well.

The score of a text y is

    log p(y | sequence) + weight * sum over its symbols of log(p(symbol | symbols before it) / p(symbol))

where the language model says p(symbol | symbols before it), among all symbols of labels, and p(symbol) is the share of the symbol
in training labels: the model of sequences has learned that already, so it must not count twice. A symbol that is no likelier
after those before it than anywhere adds nothing, and so does one that the language model does not know. A large weight prefers
long texts, in which each symbol is likely after those before it.

`Speller` reads a sequence once, step by step, and keeps the beginnings of texts that have the highest scores (beam search).

Source: A. Graves & N. Jaitly, Towards end-to-end speech recognition with recurrent neural networks (2014); E. McDermott, H. Sak &
E. Variani, A density ratio approach to language model fusion in end-to-end automatic speech recognition (2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from elman.errors import InputError
from elman.tasks.language_model import TrainedLanguageModel
from elman.training.record import device_of

BLANK = 0  # the output that says nothing
NEGLIGIBLE = math.log(1e-3)  # below the likeliest output of a step: no text goes on with such a one there
IMPOSSIBLE = -1e6  # in place of log 0
STARTS = ("\n", "\r\n", "\n\n", "\r\n\r\n", " ")  # tokens after which a text may begin
NAMES = {"bpe": "byte pairs"}  # of units
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
        start: int | None,
        tokens: Sequence[Sequence[int | None]],
        shares: Sequence[float],
        weight: float,
        width: int = WIDTH,
        unknown: int = 0,
    ):
        """model: tokens (T, B) and a state to logits (T, B, size) and the new state. start: the token before a text, if any.

        tokens: of outputs 1, 2, ..., those of the symbol at the start of a text, and then those after other symbols, if they are
        others; None for one that the model does not know, and reads as the token `unknown`. shares: p(symbol) of outputs 1, 2, ...
        width: how many beginnings are kept.
        """
        self.model, self.start, self.weight, self.width = model.eval(), start, weight, width
        self.tokens = torch.tensor([[unknown if token is None else token for token in form] for form in tokens])
        self.known = torch.tensor([[token is not None for token in form] for form in tokens])  # (forms, symbols)
        usual = torch.tensor(shares).double() * self.known.any(0)
        self.usual = (usual / usual.sum()).log()

    @classmethod
    def of(
        cls,
        known: TrainedLanguageModel,
        symbols: Sequence[str],
        shares: Sequence[float],
        units: str,
        weight: float,
        name: str,
    ) -> Speller:
        """Returns one for these symbols, which are units: "characters" or "words". name: what the language model is called.

        Raises InputError if it reads other units, or knows no symbol.
        """
        vocabulary = known.vocabulary
        if vocabulary.unit != units:
            raise InputError(
                f"{name} reads {NAMES.get(vocabulary.unit, vocabulary.unit)}, but labels are rows of {units}; train one with elman train lm --unit {units}"
            )

        def token(text: str) -> int | None:
            row = vocabulary.encode(text).tolist()
            return row[0] if len(row) == 1 and row[0] != vocabulary.unknown else None

        before = ("",) if units == "characters" else ("", " ")  # in a text, a word has the space before it
        tokens = [[token(space + symbol) for symbol in symbols] for space in before]
        if not any(each is not None for form in tokens for each in form):
            raise InputError(
                f"{name} knows none of the {units} that labels have, such as {symbols[0]!r}; train it on texts that are written as the labels are"
            )
        start = next((found for each in STARTS if (found := token(each)) is not None), None)
        return cls(known.model, start, tokens, shares, weight, unknown=vocabulary.unknown or 0)

    def read(self, log_p: NDArray[np.float32], lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Returns the outputs of the text of each sequence. log_p: (T, B, outputs), what steps say; lengths: (B,)."""
        log_p = np.maximum(log_p, IMPOSSIBLE)
        following, state = self._begin()
        every = [[Beginning((), 0.0, -math.inf, 0.0, following, state)] for _ in lengths]
        steps = [_eventful(log_p[:length, b]) for b, length in enumerate(lengths)]
        for n in range(max(map(len, steps), default=0)):
            grown = list[Grown]()
            for b, own in enumerate(steps):
                if n < len(own):
                    every[b], new = _step(every[b], *own[n], self.width)
                    grown += new
            if grown:
                tokens = torch.stack([self._token(each.output, not each.before.outputs) for each in grown])
                following, state = self._go_on(tokens, [each.before.state for each in grown])
                for each, after, states in zip(grown, following, state, strict=True):
                    each.beginning.following, each.beginning.state = after, states
        return [np.array(beginnings[0].outputs, np.int64) for beginnings in every]  # the best one comes first

    def _token(self, output: int, first: bool) -> Tensor:
        """Returns what the language model reads for an output. first: whether it is the first of a text."""
        form = 0 if first and self.known[0, output - 1] else -1
        return self.tokens[form if self.known[form, output - 1] else 0, output - 1]

    def _begin(self) -> tuple[list[float], tuple[Tensor, ...]]:
        """Returns what the language model adds for the first output of a text, (outputs,), and its states before that."""
        following, state = self._go_on(torch.tensor([0 if self.start is None else self.start]), None)
        if self.start is None:  # it knows nothing of where a text begins
            return [0.0] * len(following[0]), tuple(torch.zeros_like(part) for part in state[0])
        return following[0], state[0]

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
        own = logits[0].double().cpu()[:, self.tokens].masked_fill(~self.known, -math.inf).logsumexp(1)  # (N, symbols)
        more = (own.log_softmax(-1) - self.usual).masked_fill(~self.known.any(0), 0.0)
        following = nn.functional.pad(self.weight * more, (1, 0))
        parts = (after,) if isinstance(after, Tensor) else tuple(after)
        return following.tolist(), list(zip(*(part.unbind(1) for part in parts), strict=True))


def _eventful(log_p: NDArray[np.float32]) -> list[tuple[float | None, float, list[tuple[int, float]]]]:
    """Returns the steps at which something may be said besides a blank. log_p: (T, outputs).

    Of each: log p of the blanks since the last one, None if there are none; that of a blank here; and the outputs that may be
    said here, each with its log p.
    """
    likely = log_p > log_p.max(1, keepdims=True, initial=-math.inf) + NEGLIGIBLE
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
    """Lets beginnings go on to a step of `_eventful`, which changes them.

    Returns the best after it, from the best one on, and those among them that are new.
    """
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
    order = sorted(((each.score, n) for n, each in enumerate(found.values())), reverse=True)[:width]
    every, least = list(found.values()), order[0][0] - MARGIN
    best = [every[n] for score, n in order if score >= least]
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
