"""Translation: a text for a sequence, of any length and in any order, such as another spelling or another language.

An encoder reads the whole sequence in both directions. A decoder then writes the text, symbol by symbol: each step reads the
symbol before, and looks back at the steps of the sequence.

    q_t = first(y_{t-1}, q_{t-1})                    a recurrent layer, which begins with what the encoder ends with
    a_ts = softmax over s of (q_t + P_t) . (K e_s + P'_s) / sqrt(H)   how much step t looks at step s of the sequence
    c_t = sum over s of a_ts V e_s                   what it sees
    g_t = second([q_t, c_t], g_{t-1})                recurrent layers, which know what was seen before
    p(y_t | y_1 ... y_{t-1}, sequence) = softmax(W [g_t, c_t] + b)

P_t and P'_s are waves that say where a step is: P_t . P'_s is large where t is as far from the beginning of what is written as s is
from the beginning, or from the end, of what is read. So a model that has learned nothing yet looks at what is likely to matter.

No step waits for what the decoder has seen before, so that in training each layer reads a whole text at one go.

Source: D. Bahdanau, K. Cho & Y. Bengio, Neural machine translation by jointly learning to align and translate (2015);
M.-T. Luong, H. Pham & C. D. Manning, Effective approaches to attention-based neural machine translation (2015); the waves:
A. Vaswani et al., Attention is all you need (2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from elman import cells
from elman.datasets import examples
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled
from elman.layout import Hidden
from elman.recurrent import Recurrent
from elman.tasks import texts
from elman.tasks.encoded import Inputs
from elman.tasks.gathered import STEPS, Gathered
from elman.tasks.options import TranslationOptions as Options
from elman.tasks.parts import Parts, divided, gathered, left_out
from elman.tasks.pieces import Pieces
from elman.tasks.separate import many, padded
from elman.tasks.sequence_model import Reader, last
from elman.tasks.tallies import Tally
from elman.tasks.texts import NOTHING, OTHER, Marks, Said, Texts, Writer, Writing, check_texts, counted, spell
from elman.tasks.whole import CHUNK
from elman.training.record import DATA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG = DATA
END = NOTHING  # the output after a text, and what the decoder reads before it
OPEN = -1  # in a text that is given: the likeliest output is to be written there
OUTPUTS = 1 << 24  # of all steps that are judged at once
LONGER, SPARE = 2, 10  # times the longest training label of what is no longer, and more: where a text is cut off
SLOWEST = 1000.0  # of the waves, times the fastest one
LARGEST = 1 << 30  # limit
PLACED = 2.0  # how much places count at first


class Memory(NamedTuple):
    """What a decoder knows of sequences."""

    keys: Tensor  # (B, S, H)
    values: Tensor  # (B, S, H)
    past: Tensor  # (B, 1, S): which steps are past the end of a sequence
    limit: Tensor  # (B,): outputs after which a text is cut off that does not end
    state: tuple[Tensor, ...]  # with which the first layer begins, each (1, B, H)


class TranslationModel(Reader):
    """Recurrent layers that read a sequence, and those that write a text while they look back at it.

    forward(x, lengths, said) takes numbers (S, B, channels), or tokens (S, B), their lengths (B,), and the outputs that are
    written, (N, B), END behind the last one. It returns logits of each of them after those before it, (N, B, 1 + symbols).
    """

    starts: Tensor  # buffers
    rises: Tensor
    waves: Tensor

    def __init__(self, inputs: Inputs, symbols: int, limits: Sequence[Sequence[int]], options: Options):
        """limits: pairs of a length, from which on, and the number of outputs after which a text is cut off that does not end."""
        super().__init__(inputs, options)
        starts, most = zip(*limits, strict=True)
        self.most = max(most)
        self.register_buffer("starts", torch.tensor(starts), persistent=False)
        self.register_buffer("rises", torch.tensor(np.diff(most, prepend=0)), persistent=False)
        count = options.hidden_size // 4
        self.register_buffer("waves", SLOWEST ** (-torch.arange(count) / max(1, count)), persistent=False)
        self.placed = nn.Parameter(torch.full((2,), PLACED))
        o, cell, H = options, cells.by_name(options.cell), options.hidden_size
        self.written = nn.Embedding(1 + symbols, o.embedding_size)
        self.first = Recurrent(cell, o.embedding_size, H, weight_dropout=o.weight_dropout)
        self.begin = nn.ModuleList(nn.Linear(2 * H, H) for _ in cell.states)
        self.keys, self.values = nn.Linear(2 * H, H, bias=False), nn.Linear(2 * H, H)
        between = o.dropout if o.num_layers > 1 else 0.0
        self.second = Recurrent(cell, 2 * H, H, o.num_layers, dropout=between, weight_dropout=o.weight_dropout)
        self.output = nn.Linear(2 * H, 1 + symbols)

    def forward(self, x: Tensor, lengths: Tensor, said: Tensor) -> Tensor:
        before = torch.cat([torch.full_like(said[:1], END), said[:-1]])
        return self.decode(before, self.encode(x, lengths))[0]

    def encode(self, x: Tensor, lengths: Tensor) -> Memory:
        """Reads sequences."""
        h, state = self.run(x, lengths)
        begin = tuple(torch.tanh(layer(last(state)))[None] for layer in self.begin)
        h = self.dropout(h).transpose(0, 1)  # (B, S, 2 H)
        steps = torch.arange(h.shape[1], device=h.device).expand(lengths.shape[0], -1)
        keys = self.keys(h) + self.places(steps, lengths[:, None] - 1 - steps)
        limit = ((lengths[:, None] >= self.starts) * self.rises).sum(1)
        return Memory(keys, self.values(h), (steps >= lengths[:, None])[:, None], limit, begin)

    def places(self, begin: Tensor, end: Tensor) -> Tensor:
        """Returns waves that say how far steps (...) are from the beginning and from the end, (..., H)."""
        turns = (each[..., None] * self.waves for each in (begin, end))
        found = [
            scale * wave for scale, turn in zip(self.placed, turns, strict=True) for wave in (turn.sin(), turn.cos())
        ]
        return pad(torch.cat(found, -1), (0, self.keys.out_features - 4 * len(self.waves)))

    def decode(
        self, before: Tensor, memory: Memory, state: tuple[Hidden, Hidden | None] | None = None, done: Tensor | int = 0
    ) -> tuple[Tensor, tuple[Hidden, Hidden], Tensor]:
        """Writes on. before: (N, B), the outputs before those that are asked for. state: where it stopped; None at the beginning.

        done: how many outputs there were.

        Returns logits (N, B, outputs), the new state, and how much each step looks at those of the sequence, (B, N, S).
        """
        begin: Hidden = memory.state[0] if len(memory.state) == 1 else memory.state
        first, second = state or (begin, None)
        q, first = self.first(self.dropout(self.written(before)), first)
        steps = done + torch.arange(len(before), device=before.device)
        asked = q.transpose(0, 1) + self.places(steps, steps)  # (B, N, H)
        weight = asked @ memory.keys.transpose(1, 2) / math.sqrt(q.shape[-1])  # (B, N, S)
        look = weight.masked_fill(memory.past, -torch.inf).softmax(-1).to(q)
        seen = (look @ memory.values).transpose(0, 1)
        g, second = self.second(self.dropout(torch.cat([q, seen], -1)), second)
        return self.output(self.dropout(torch.cat([g, seen], -1))), (first, second), look

    def write(self, x: Tensor, lengths: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Writes texts. given: (N, B), the outputs to write, or OPEN where the likeliest one is; all of these if left out.

        A text ends with END, or where it is as long as the limit and the likeliest output is written. Returns the logits of each
        output (N, B, outputs), and the outputs (N, B), END behind a text that has ended. There are fewer if all have ended.
        """
        if given is None:
            given = lengths.new_full((self.most, len(lengths)), OPEN)
        memory, state = self.encode(x, lengths), None
        before, found, said = torch.full_like(given[0], END), [], []
        ended = torch.zeros_like(before, dtype=torch.bool)
        for n, own in enumerate(given):
            logits, state, _ = self.decode(before[None], memory, state, n)
            before = torch.where(own < 0, logits[0].argmax(-1), own).masked_fill(ended, END)
            ended = ended | (before == END) | ((own < 0) & (n + 1 >= memory.limit))
            found.append(logits)
            said.append(before)
            if ended.all():
                break
        return torch.cat(found), torch.stack(said)

    def looks(self, x: Tensor, lengths: Tensor, said: Tensor) -> Tensor:
        """Returns how much each output looks at the steps of a sequence, (B, N, S). said: the outputs, (N, B)."""
        before = torch.cat([torch.full_like(said[:1], END), said[:-1]])
        return self.decode(before, self.encode(x, lengths))[2]


def nats_of(logits: Tensor, said: Tensor, sizes: Tensor) -> Tensor:
    """Returns -log p(text | sequence) of each text, with its end, (B,).

    logits: (N, B, outputs). said: (N, B). sizes: (B,), how many outputs a text has with its end.
    """
    lost = cross_entropy(logits.float().flatten(0, 1), said.flatten(), reduction="none").view_as(said)
    there = torch.arange(len(said), device=said.device)[:, None] < sizes
    return lost.masked_fill(~there, 0).sum(0)


def rows_of(labels: Sequence[NDArray[np.int64]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Returns labels as what `TranslationModel` writes, (N, B), and how many outputs each has with its end, (B,)."""
    said, sizes = padded([np.append(label, END) for label in labels])
    return said.to(device), sizes.to(device)


@dataclass(frozen=True, kw_only=True)
class Reading(texts.Reading):
    """What was learned of the data besides weights."""

    # Pairs of a length, from which on, and the number of outputs after which a text is cut off that does not end. Both rise.
    limits: Sequence[Sequence[int]]

    @classmethod
    def learn(cls, sequences: Gathered, own: NDArray[np.int64], options: Options) -> Reading:
        """own: the places of the sequences to learn from."""
        symbols = sorted(counted(sequences, own, options.label_unit))
        known: Any = vars(Inputs.of(sequences, own))
        limits = cls.limits_of(sequences, own, options)
        return cls(symbols=symbols, unit=options.label_unit, limits=limits, **known)

    @staticmethod
    def limits_of(sequences: Gathered, own: NDArray[np.int64], options: Options) -> list[list[int]]:
        """Returns the limits of the sequences at these places."""
        sizes = np.array([len(spell(name, options.label_unit)) for name in sequences.different])
        lengths, written = sequences.rows.lengths[own], sizes[sequences.given(own)]
        order = np.argsort(lengths, kind="stable")
        lengths, longest = lengths[order], np.maximum.accumulate(written[order]).clip(min=1)
        last = np.append(np.diff(lengths) > 0, True)  # of its length
        lengths, longest = lengths[last], longest[last]
        rises = np.diff(longest, prepend=0) > 0
        return np.stack([np.where(longest == longest[0], 0, lengths), LONGER * longest + SPARE], 1)[rises].tolist()

    def grown(self, sequences: Gathered, own: NDArray[np.int64], options: Options) -> Reading:
        """Returns the same with limits that are large enough for the sequences at these places, too."""
        limits, rows = list[list[int]](), [*self.limits, *self.limits_of(sequences, own, options)]
        for start, most in sorted(map(list, rows)):
            if not limits or most > limits[-1][1]:
                limits = [pair for pair in limits if pair[0] < start] + [[start, most]]
        return replace(self, limits=limits)

    def limit(self, lengths: NDArray[Any]) -> NDArray[np.int64]:
        """Returns after how many outputs the texts of sequences of these lengths are cut off, (n,)."""
        starts, most = np.array(self.limits).T
        return most[np.searchsorted(starts, lengths, "right") - 1]

    def check(self) -> None:
        super().check()
        pairs = all(isinstance(pair, list) and [type(n) for n in pair] == [int, int] for pair in self.limits)
        rising = pairs and all(a < c and b < d for (a, b), (c, d) in pairwise([[-1, 0], *self.limits]))
        if not self.limits or not rising or self.limits[0][0] != 0 or self.limits[-1][1] > LARGEST:
            raise ValueError(f"the limits of texts are {self.limits}")


def read(path: Path | None, options: Options, bad: BadRows, reading: Reading | None = None) -> Parts:
    """Returns the sequences and the indices of the training and validation sets.

    reading: what was learned of the data before, whose channels they must have.
    """
    drawn = (Labelled(str(k), text, day) for k, (text, day) in enumerate(examples.dates(), 1))
    found, count = gathered(path, options, bad, drawn, reading)
    own, test = left_out(found, options, count, np.zeros(len(found)), path)
    train, validation = divided(found, options, count, own)
    parts = Parts(found, train, validation, test)
    check_texts(parts, options, path or Path(examples.DATES), bad)
    return parts


class Translator(Writer[Reading, Options]):
    """A model that translates sequences: what a run holds when it is trained."""

    encoded, learned, made_for, built_in = Texts, Reading, Options, examples.DATES
    parts_of = staticmethod(read)

    @staticmethod
    def model_of(reading: Reading, options: Options) -> TranslationModel:
        return TranslationModel(reading, len(reading.symbols), reading.limits, options)

    @property
    def remarks(self) -> list[str]:
        return [*super().remarks, *(f"{name}    {what}" for name, what in self._unended())]

    def _unended(self) -> Iterator[tuple[str, str]]:
        if self.cut_off:
            told = "which did not end: they were over twice as long as any training label of what is as long"
            yield "cut off", f"{many(self.cut_off, 'text')}, {told}"

    @torch.inference_mode()
    def says(self, encoded: Texts, own: NDArray[np.int64] | None = None, labels: bool = True) -> list[Said]:
        own = np.arange(len(encoded.rows)) if own is None else own
        lengths, training = encoded.rows.lengths[own].astype(np.int64), self.model.training
        order, begin, found = np.argsort(-lengths, kind="stable"), 0, dict[int, Said]()
        limits = self.reading.limit(lengths)
        longest = max(int(limits.max(initial=0)), int(encoded.length(own).max(initial=0)) if labels else 0)
        fit = min(CHUNK, OUTPUTS // (self.width * (1 + longest)))
        self.model.eval()
        while begin < len(order):  # the longest first, of which there are fewer side by side
            most = int(lengths[order[begin]])
            chunk = order[begin : begin + max(1, min(fit, 2 * STEPS // most, OUTPUTS // (most * (1 + longest))))]
            x, steps = self._input(encoded, own, Pieces.whole(chunk, lengths))
            logits, outputs = self.model.write(x, steps)
            sizes = (outputs != END).sum(0)
            cut = sizes == torch.from_numpy(limits[chunk]).to(sizes)
            nats = nats_of(logits, outputs, sizes + ~cut)
            if labels:
                nats = self._nats(x, steps, [encoded.spelled(k) for k in own[chunk].tolist()])
            every = outputs.T.cpu().numpy(), sizes.tolist(), nats.tolist(), cut.tolist()
            for k, row, size, lost, long in zip(chunk.tolist(), *every, strict=True):
                found[k] = Said(row[:size], lost, cut=long)
            begin += len(chunk)
        self.model.train(training)
        return [found[k] for k in range(len(own))]

    def _nats(self, x: Tensor, lengths: Tensor, labels: Sequence[NDArray[np.int64]]) -> Tensor:
        """Returns -log p(label | sequence) of each sequence, (B,): infinite if a symbol is unknown."""
        said, sizes = rows_of(labels, x.device)
        strange = (said == OTHER).any(0)
        said = said.masked_fill(said == OTHER, 1)  # any symbol that does not end the text
        return nats_of(self.model(x, lengths, said), said, sizes).masked_fill(strange, torch.inf)

    @torch.inference_mode()
    def looks(self, encoded: Texts, k: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Returns the outputs that are written for a sequence (n,), and how much each, and the end, looks at its steps, (1 + n, S)."""
        training, own = self.model.training, np.array([k])
        self.model.eval()
        x, lengths = self._input(encoded, own, Pieces.whole(np.arange(1), encoded.rows.lengths[own]))
        _, said = self.model.write(x, lengths)
        look = self.model.looks(x, lengths, said)[0]
        self.model.train(training)
        outputs = said[:, 0].cpu().numpy()
        return outputs[outputs != END], look.cpu().numpy()

    def figures(
        self, encoded: Any, own: NDArray[np.int64], tallies: dict[str, Tally], differ: Marks
    ) -> Iterator[tuple[str, str]]:
        yield from self._unended()
        yield from super().figures(encoded, own, tallies, differ)


class Translation(Writing):
    """The task, as `elman.training.task.Task` has it."""

    made_of = Translator
    name = "translate"

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        pieces = self.pieces.take(own)
        x, lengths = self.noisy(pieces)
        said, sizes = rows_of([self.encoded.spelled(k) for k in pieces.of.tolist()], x.device)
        return nats_of(self.model(x, lengths, said), said, sizes).sum() / self.size(own)

    def pictures(self, k: int, symbols: Sequence[str]) -> dict[str, Figure]:
        from elman import charts

        text, look = self.trained.looks(self.encoded, k)
        sequences = self.encoded.sequences
        known = [texts.SPACE if token == " " else token for token in sequences.tokens]
        tokens = None if sequences.unit is None else [known[n] for n in sequences.rows[k]]
        values = sequences.values(k)[0] if self.encoded.inputs.width else None
        written = [*(symbols[n - 1] for n in text.tolist()), *["end"] * (len(look) - len(text))]
        label, seconds = self.encoded.label(k), self.options.seconds
        return {"attention.png": charts.attention(values, tokens, look, written, label, seconds)}


begin, resume, load = Translation.begin, Translation.resume, Translator.load
