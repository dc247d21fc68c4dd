"""Transcription: what a sequence says, a row of characters or words, where nobody wrote down which step says what.

The network gives each step logits of all symbols, and of one more, the blank, which says nothing. What the steps say
becomes a text by two rules: of equal symbols in a row one is kept, and then blanks are left out. The probability of a text
is the sum over all ways in which the steps may say it (connectionist temporal classification, CTC).

Source: A. Graves, S. Fernández, F. Gomez & J. Schmidhuber, Connectionist temporal classification (2006).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import ctc_loss

from elman.datasets import examples
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled
from elman.tasks import scores, texts
from elman.tasks.encoded import Encoded, Inputs
from elman.tasks.gathered import STEPS, Gathered
from elman.tasks.language_model import TrainedLanguageModel
from elman.tasks.options import TranscriptionOptions as Options
from elman.tasks.parts import Parts, divided, gathered, left_out
from elman.tasks.pieces import Pieces
from elman.tasks.separate import many
from elman.tasks.sequence_model import SequenceModel
from elman.tasks.spelling import BLANK, Speller, begins
from elman.tasks.tallies import Tally
from elman.tasks.texts import OTHER, Marks, Said, Texts, Writer, Writing, check_texts, counted, spell
from elman.tasks.whole import CHUNK
from elman.training.record import DATA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG = DATA
WEIGHT = 0.5  # of a language model
MOST = 0.9  # symbols of a step that a model says at first
OUTPUTS = 1 << 24  # of all steps that are judged at once


class TranscriptionModel(SequenceModel):
    """A model whose outputs are logits of a blank and of all symbols at each step, (T, B, 1 + symbols).

    rate: how many symbols a step says on average. At first the model says as many, and otherwise blanks: it would have to
    learn that before anything else.
    """

    def __init__(self, inputs: Inputs, symbols: int, rate: float, options: Options):
        super().__init__(inputs, 1 + symbols, options)
        with torch.no_grad():
            self.output.bias.zero_()
            self.output.bias[BLANK] = np.log((1 - rate) / (rate / symbols))


@dataclass(frozen=True, kw_only=True)
class Reading(texts.Reading):
    """What was learned of the data besides weights."""

    shares: Sequence[float]  # of each symbol among those of all training labels
    rate: float  # how many symbols a step says on average, less than 1

    @classmethod
    def learn(cls, sequences: Gathered, own: NDArray[np.int64], options: Options) -> Reading:
        """own: the places of the sequences to learn from."""
        count = counted(sequences, own, options.label_unit)
        symbols, rate = sorted(count), count.total() / int(sequences.rows.lengths[own].sum())
        shares = [count[symbol] / count.total() for symbol in symbols]
        known: Any = vars(Inputs.of(sequences, own))
        return cls(symbols=symbols, unit=options.label_unit, shares=shares, rate=min(rate, MOST), **known)

    def check(self) -> None:
        super().check()
        if len(self.shares) != len(self.symbols) or not all(0 < share <= 1 for share in self.shares):
            raise ValueError("a symbol has no share")
        if not 0 < self.rate < 1:
            raise ValueError(f"a step says {self.rate} symbols")


class Transcripts(Texts):
    """Sequences as what a model reads, and the outputs that their labels are rows of, for which there may be too few steps."""

    def __init__(self, sequences: Gathered, reading: Reading):
        super().__init__(sequences, reading)
        self._least = np.array([least_steps(spell(name, self.unit)) for name in self.names], int)

    def too_long(self, own: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns which labels of these sequences take more steps than the sequences have, (n,)."""
        return self._least[self.labels[own]] > self.rows.lengths[own]

    def can_say(self, own: NDArray[np.int64]) -> NDArray[np.bool_]:
        return ~self.too_long(own) & super().can_say(own)

    def faults(self, own: NDArray[np.int64], of: str = "") -> Iterator[tuple[str, str]]:
        yield from super().faults(own, of)
        if count := int(self.too_long(own).sum()):
            yield "too long", f"{many(count, 'label')}{of}, counted as mistakes: they take more steps than there are"


def least_steps(label: Sequence[Any] | NDArray[Any]) -> int:
    """Returns how many steps it takes to say a label: one for each symbol, and a blank between two that are equal."""
    return len(label) + sum(a == b for a, b in pairwise(label))


def nats_of(log_p: Tensor, lengths: Tensor, labels: Sequence[NDArray[np.int64]]) -> Tensor:
    """Returns -log p(label | sequence) of each sequence, (B,): infinite if it has too few steps, or a symbol is unknown.

    log_p: (T, B, outputs), logarithms of probabilities. lengths: (B,).
    """
    sizes = torch.tensor([len(label) for label in labels])
    targets = torch.zeros(len(labels), max(1, int(sizes.max())), dtype=torch.int64)
    for k, label in enumerate(labels):
        targets[k, : len(label)] = torch.from_numpy(label).clamp(min=BLANK)
    found = ctc_loss(log_p, targets.to(log_p.device), lengths, sizes, BLANK, "none")
    strange = torch.tensor([bool((label == OTHER).any()) for label in labels], device=found.device)
    return found.masked_fill(strange, torch.inf)


def read_off(best: NDArray[np.int64], lengths: NDArray[Any]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Returns what the likeliest outputs of steps, (T, B), say: of each sequence the outputs, and the steps where they begin."""
    before = np.concatenate([np.full_like(best[:1], BLANK), best[:-1]])
    new = (best != BLANK) & (best != before) & (np.arange(len(best))[:, None] < lengths)  # (T, B)
    steps = [np.flatnonzero(column) for column in new.T]
    return [(best[own, b], own) for b, own in enumerate(steps)]


def read(path: Path | None, options: Options, bad: BadRows, reading: Reading | None = None) -> Parts:
    """Returns the sequences and the indices of the training and validation sets.

    reading: what was learned of the data before, whose channels they must have.
    """
    fonts = list[str]()

    def drawn() -> Iterator[Labelled]:
        for parts, font in examples.numbers():
            fonts.append(font)
            steps, number = np.concatenate([part for part, _ in parts]), "".join(digit for _, digit in parts)
            yield Labelled(str(len(fonts)), steps, number)

    where = path or Path(examples.DRAWN)
    found, count = gathered(path, options, bad, drawn(), reading)
    can = _can_say(found, np.arange(count), options, where, bad)
    own, test = (each[can[each]] for each in left_out(found, options, count, np.zeros(len(found)), path))
    if path is None and options.validation is None:  # fonts that were never seen
        held = examples.unseen(fonts, options.held_out)
        train, validation = np.flatnonzero(~held), np.flatnonzero(held)
    else:
        train, validation = divided(found, options, count, own)
    parts = Parts(found, train, validation, test)
    check_texts(parts, options, where, bad)
    return parts


def _can_say(found: Gathered, own: NDArray[np.int64], options: Options, path: Path, bad: BadRows) -> NDArray[np.bool_]:
    """Returns which of these sequences have as many steps as their labels take, (n,)."""
    unit = options.label_unit
    remedy = "" if unit == "words" else "learn words with --label-unit words"
    if options.text is not None and options.unit == "words":
        remedy = "read the text by characters with --unit characters"
    needs = np.array([least_steps(spell(name, unit)) for name in found.different])[found.given(own)]
    can = found.rows.lengths[own] >= needs
    for k in np.flatnonzero(~can):
        steps, of = many(int(found.rows.lengths[own[k]]), "step"), found.name(int(own[k]))
        bad.found(
            f"{path}: sequence {of!r} has {steps}, but its label takes {needs[k]}: one for each of its {unit}, and one between two that are equal",
            remedy,
        )
    return can


class Transcriber(Writer[Reading, Options]):
    """A model that says what sequences say: what a run holds when it is trained."""

    encoded, learned, made_for, built_in = Transcripts, Reading, Options, examples.DRAWN
    parts_of = staticmethod(read)
    speller: Speller | None = None  # a language model that helps
    spelling = ""  # which one
    unspelled = ""  # which symbols it does not know

    @staticmethod
    def model_of(reading: Reading, options: Options) -> TranscriptionModel:
        return TranscriptionModel(reading, len(reading.symbols), reading.rate, options)

    def spell_with(self, known: TrainedLanguageModel, weight: float = WEIGHT, name: str = "the language model") -> None:
        """Lets a language model help to read off texts, as `elman.tasks.spelling` has it.

        name: what it is called in messages. Raises InputError if it reads other units than labels have, or knows no symbol.
        """
        symbols = self.reading.symbols
        self.speller = Speller.of(known, symbols, self.reading.shares, self.options.label_unit, weight, name)
        self.spelling = f"{name}, weight {weight:g}"
        lacks = Counter(each for each, own in zip(symbols, self.speller.known.any(0), strict=True) if not own)
        remedy = "train it on texts that are written as the labels are"
        self.unspelled = f"{name} does not know {scores.few(lacks)}; {remedy}" if lacks else ""

    @property
    def remarks(self) -> list[str]:
        return [*super().remarks, *([f"spelling    {self.unspelled}"] if self.unspelled else [])]

    @torch.inference_mode()
    def logits(self, encoded: Encoded, own: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        """Yields sequences of similar lengths: their places in `own`, log p (T, B, outputs), and their lengths (B,)."""
        lengths, training = encoded.rows.lengths[own].astype(np.int64), self.model.training
        order, begin = np.argsort(-lengths, kind="stable"), 0
        self.model.eval()
        while begin < len(order):  # the longest first, of which there are fewer side by side
            most = min(2 * STEPS, OUTPUTS // self.width) // int(lengths[order[begin]])
            chunk = order[begin : begin + max(1, min(CHUNK, most))]
            x, steps = self._input(encoded, own, Pieces.whole(chunk, lengths))
            yield chunk, self.model(x, steps).float().log_softmax(-1), steps
            begin += len(chunk)
        self.model.train(training)

    def says(self, encoded: Transcripts, own: NDArray[np.int64] | None = None, labels: bool = True) -> list[Said]:
        """Returns what the model says of sequences. own: their places; all if left out.

        labels: whether nats are those of the labels, and not of what it says.
        """
        own = np.arange(len(encoded.rows)) if own is None else own
        found = dict[int, Said]()
        for chunk, log_p, lengths in self.logits(encoded, own):
            said = self._texts(log_p, lengths.cpu().numpy())
            wanted = [encoded.spelled(k) for k in own[chunk].tolist()] if labels else [outputs for outputs, _ in said]
            for k, (outputs, steps), nats in zip(chunk, said, nats_of(log_p, lengths, wanted).tolist(), strict=True):
                found[int(k)] = Said(outputs, max(0.0, nats), steps)
        return [found[k] for k in range(len(own))]

    def _texts(self, log_p: Tensor, lengths: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Returns what steps say, as `read_off` does. log_p: (T, B, outputs)."""
        if self.speller is None:
            return read_off(log_p.argmax(-1).cpu().numpy(), lengths)
        steps = log_p.cpu().numpy()
        texts = self.speller.read(steps, lengths)
        return [(text, begins(steps[:length, b], text)) for b, (text, length) in enumerate(zip(texts, lengths, strict=True))]  # fmt: skip

    def figures(
        self, encoded: Any, own: NDArray[np.int64], tallies: dict[str, Tally], differ: Marks
    ) -> Iterator[tuple[str, str]]:
        if self.spelling:
            yield "language model", self.spelling
        if self.unspelled:
            yield "spelling", self.unspelled
        yield from super().figures(encoded, own, tallies, differ)


class Transcription(Writing):
    """The task, as `elman.training.task.Task` has it."""

    made_of = Transcriber
    name = "transcribe"

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        logits, places = self.outputs(own)
        lengths = torch.from_numpy(self.pieces.take(own).lengths).to(logits.device)
        labels = [self.encoded.spelled(k) for k in places.tolist()]
        return nats_of(logits.float().log_softmax(-1), lengths, labels).sum() / self.size(own)

    def pictures(self, k: int, symbols: Sequence[str]) -> dict[str, Figure]:
        from elman import charts

        ((_, log_p, lengths),) = self.trained.logits(self.encoded, np.array([k]))
        ((said, steps),) = read_off(log_p.argmax(-1).cpu().numpy(), lengths.cpu().numpy())
        content = self.encoded.sequences.values(k)[0] if self.encoded.inputs.width else None
        chances = log_p[:, 0, 1:].exp().cpu().numpy()
        label, seconds = self.encoded.label(k), self.options.seconds
        return {"steps.png": charts.spoken_steps(content, chances, symbols, said - 1, steps, label, seconds)}


begin, resume, load = Transcription.begin, Transcription.resume, Transcriber.load
