"""Translation: a text for a sequence, of any length and in any order, such as another spelling or another language.

An encoder reads the whole sequence in both directions. A decoder then writes the text, symbol by symbol: each step reads the
symbol before, and looks back at the steps of the sequence.

    q_t = first(y_{t-1}, q_{t-1})                    a recurrent layer, which begins with what the encoder ends with
    a_ts = softmax over s of (q_t . K e_s) / sqrt(H) how much step t looks at step s of the sequence
    c_t = sum over s of a_ts V e_s                   what it sees
    g_t = second([q_t, c_t], g_{t-1})                recurrent layers, which know what was seen before
    p(y_t | y_1 ... y_{t-1}, sequence) = softmax(W g_t + b)

No step waits for what the decoder has seen before, so that in training each layer reads a whole text at one go.

Source: D. Bahdanau, K. Cho & Y. Bengio, Neural machine translation by jointly learning to align and translate (2015);
M.-T. Luong, H. Pham & C. D. Manning, Effective approaches to attention-based neural machine translation (2015).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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
from elman.tasks.parts import Parts, gathered, left_out, parted
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
LONGER = 2  # times the longest training label: where a text is cut off that does not end


class Memory(NamedTuple):
    """What a decoder knows of sequences."""

    keys: Tensor  # (B, S, H)
    values: Tensor  # (B, S, H)
    past: Tensor  # (B, 1, S): which steps are past the end of a sequence
    state: tuple[Tensor, ...]  # with which the first layer begins, each (1, B, H)


class TranslationModel(Reader):
    """Recurrent layers that read a sequence, and those that write a text while they look back at it.

    forward(x, lengths, said) takes numbers (S, B, channels), or tokens (S, B), their lengths (B,), and the outputs that are
    written, (N, B), END behind the last one. It returns logits of each of them after those before it, (N, B, 1 + symbols).
    """

    def __init__(self, inputs: Inputs, symbols: int, most: int, options: Options):
        """most: outputs after which a text is cut off that does not end."""
        super().__init__(inputs, options)
        self.most = most
        o, cell, H = options, cells.by_name(options.cell), options.hidden_size
        self.written = nn.Embedding(1 + symbols, o.embedding_size)
        self.first = Recurrent(cell, o.embedding_size, H, weight_dropout=o.weight_dropout)
        self.begin = nn.ModuleList(nn.Linear(2 * H, H) for _ in cell.states)
        self.keys, self.values = nn.Linear(2 * H, H, bias=False), nn.Linear(2 * H, H)
        between = o.dropout if o.num_layers > 1 else 0.0
        self.second = Recurrent(cell, 2 * H, H, o.num_layers, dropout=between, weight_dropout=o.weight_dropout)
        self.output = nn.Linear(H, 1 + symbols)

    def forward(self, x: Tensor, lengths: Tensor, said: Tensor) -> Tensor:
        before = torch.cat([torch.full_like(said[:1], END), said[:-1]])
        return self.decode(before, self.encode(x, lengths))[0]

    def encode(self, x: Tensor, lengths: Tensor) -> Memory:
        """Reads sequences."""
        h, state = self.run(x, lengths)
        begin = tuple(torch.tanh(layer(last(state)))[None] for layer in self.begin)
        h = self.dropout(h).transpose(0, 1)  # (B, S, 2 H)
        past = torch.arange(h.shape[1], device=h.device) >= lengths[:, None]
        return Memory(self.keys(h), self.values(h), past[:, None], begin)

    def decode(
        self, before: Tensor, memory: Memory, state: tuple[Hidden, Hidden | None] | None = None
    ) -> tuple[Tensor, tuple[Hidden, Hidden], Tensor]:
        """Writes on. before: (N, B), the outputs before those that are asked for. state: where it stopped; None at the beginning.

        Returns logits (N, B, outputs), the new state, and how much each step looks at those of the sequence, (B, N, S).
        """
        begin: Hidden = memory.state[0] if len(memory.state) == 1 else memory.state
        first, second = state or (begin, None)
        q, first = self.first(self.dropout(self.written(before)), first)
        weight = q.transpose(0, 1) @ memory.keys.transpose(1, 2) / math.sqrt(q.shape[-1])  # (B, N, S)
        look = weight.masked_fill(memory.past, -torch.inf).softmax(-1).to(q)
        seen = (look @ memory.values).transpose(0, 1)
        g, second = self.second(self.dropout(torch.cat([q, seen], -1)), second)
        return self.output(self.dropout(g)), (first, second), look

    def write(self, x: Tensor, lengths: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Writes texts. given: (N, B), the outputs to write, or OPEN where the likeliest one is; all of these if left out.

        Returns the logits of each output (N, B, outputs), and the outputs (N, B), END behind a text that has ended. There
        are fewer if all have ended.
        """
        if given is None:
            given = lengths.new_full((self.most, len(lengths)), OPEN)
        memory, state = self.encode(x, lengths), None
        before, found, said = torch.full_like(given[0], END), [], []
        ended = torch.zeros_like(before, dtype=torch.bool)
        for own in given:
            logits, state, _ = self.decode(before[None], memory, state)
            before = torch.where(own < 0, logits[0].argmax(-1), own).masked_fill(ended, END)
            ended = ended | (before == END)
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

    most: int  # outputs after which a text is cut off that does not end

    @classmethod
    def learn(cls, sequences: Gathered, own: NDArray[np.int64], options: Options) -> Reading:
        """own: the places of the sequences to learn from."""
        symbols = sorted(counted(sequences, own, options.label_unit))
        names = list(sequences.different)
        longest = max(len(spell(names[k], options.label_unit)) for k in np.unique(sequences.given(own)))
        known: Any = vars(Inputs.of(sequences, own))
        return cls(symbols=symbols, unit=options.label_unit, most=LONGER * longest, **known)

    def check(self) -> None:
        super().check()
        if self.most < 1:
            raise ValueError(f"a text has at most {self.most} symbols")


def read(path: Path | None, options: Options, bad: BadRows, reading: Reading | None = None) -> Parts:
    """Returns the sequences and the indices of the training and validation sets.

    reading: what was learned of the data before, whose channels they must have.
    """
    drawn = (Labelled(str(k), text, day) for k, (text, day) in enumerate(examples.dates(), 1))
    found, count = gathered(path, options, bad, drawn, reading)
    own, test = left_out(found, options, count, np.zeros(len(found)), path)
    if options.validation is not None:
        train, validation = own, np.arange(count, len(found))
    else:
        train, validation = parted(found, options, own)
    parts = Parts(found, train, validation, test)
    check_texts(parts, options, path or Path(examples.DATES), bad)
    return parts


class Translator(Writer[Reading, Options]):
    """A model that translates sequences: what a run holds when it is trained."""

    encoded, learned, made_for, built_in = Texts, Reading, Options, examples.DATES
    parts_of = staticmethod(read)
    cut_off = 0  # texts that did not end, of those that were written last

    @staticmethod
    def model_of(reading: Reading, options: Options) -> TranslationModel:
        return TranslationModel(reading, len(reading.symbols), reading.most, options)

    @property
    def remarks(self) -> list[str]:
        return [*super().remarks, *(f"{name}    {what}" for name, what in self._unended())]

    def _unended(self) -> Iterator[tuple[str, str]]:
        if self.cut_off:
            most = many(self.reading.most, self.unit)
            yield "cut off", f"{many(self.cut_off, 'text')} after {most}, twice as many as a training label has at most"

    @torch.inference_mode()
    def says(self, encoded: Texts, own: NDArray[np.int64] | None = None, labels: bool = True) -> list[Said]:
        own = np.arange(len(encoded.rows)) if own is None else own
        lengths, training = encoded.rows.lengths[own].astype(np.int64), self.model.training
        order, begin, found, self.cut_off = np.argsort(-lengths, kind="stable"), 0, dict[int, Said](), 0
        longest = max(self.reading.most, int(encoded.length(own).max(initial=0)) if labels else 0)
        fit = min(CHUNK, OUTPUTS // (self.width * (1 + longest)))
        self.model.eval()
        while begin < len(order):  # the longest first, of which there are fewer side by side
            chunk = order[begin : begin + max(1, min(fit, 2 * STEPS // int(lengths[order[begin]])))]
            x, steps = self._input(encoded, own, Pieces.whole(chunk, lengths))
            logits, outputs = self.model.write(x, steps)
            sizes = (outputs != END).sum(0)
            nats = nats_of(logits, outputs, sizes + 1)
            if labels:
                nats = self._nats(x, steps, [encoded.spelled(k) for k in own[chunk].tolist()])
            self.cut_off += int((sizes == self.reading.most).sum())
            for k, row, size, lost in zip(chunk, outputs.T.cpu().numpy(), sizes.tolist(), nats.tolist(), strict=True):
                found[int(k)] = Said(row[:size], lost)
            begin += len(chunk)
        self.model.train(training)
        return [found[k] for k in range(len(own))]

    def _nats(self, x: Tensor, lengths: Tensor, labels: Sequence[NDArray[np.int64]]) -> Tensor:
        """Returns -log p(label | sequence) of each sequence, (B,): infinite if a symbol is unknown."""
        said, sizes = rows_of(labels, x.device)
        strange = (said == OTHER).any(0)
        said = said.clamp(min=END)
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
        tokens = None if sequences.unit is None else [list(sequences.tokens)[n] for n in sequences.rows[k]]
        values = sequences.values(k)[0] if self.encoded.inputs.width else None
        written = [*(symbols[n - 1] for n in text.tolist()), *["end"] * (len(look) - len(text))]
        return {"attention.png": charts.attention(values, tokens, look, written, self.encoded.label(k))}


begin, resume, load = Translation.begin, Translation.resume, Translator.load
