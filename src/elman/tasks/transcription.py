"""Transcription: what a sequence says, a row of characters or words, where nobody wrote down which step says what.

The network gives each step logits of all symbols, and of one more, the blank, which says nothing. What the steps say
becomes a text by two rules: of equal symbols in a row one is kept, and then blanks are left out. The probability of a text
is the sum over all ways in which the steps may say it (connectionist temporal classification, CTC).

Source: A. Graves, S. Fernández, F. Gomez & J. Schmidhuber, Connectionist temporal classification (2006).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from torch import Tensor
from torch.nn.functional import ctc_loss

from elman.datasets import examples
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled
from elman.datasets.tables import JSON_LINES
from elman.errors import InputError
from elman.tasks import scores
from elman.tasks.encoded import Encoded, Inputs
from elman.tasks.gathered import STEPS, Gathered
from elman.tasks.language_model import TrainedLanguageModel
from elman.tasks.linear import features_in_words, frequent, of_sequences
from elman.tasks.options import TranscriptionOptions as Options
from elman.tasks.parts import Parts, check_labels, gathered, left_out, parted
from elman.tasks.pieces import Pieces
from elman.tasks.separate import csv_row, digits, many
from elman.tasks.sequence_model import SequenceModel
from elman.tasks.spelling import BLANK, Speller, begins
from elman.tasks.tallies import Tally, which
from elman.tasks.whole import CHUNK, Trained, WholeSequences
from elman.training.record import DATA
from elman.training.run import Run

CONFIG = DATA
OTHER = -1  # in place of a symbol that the training lacks
SPACE = "␣"  # how a space is drawn
NOTHING = "nothing"  # what stands in a picture for a symbol that is left out, or put in
CONSTANT, NEAREST = "constant", "nearest"  # what baselines are called
WEIGHT = 0.5  # of a language model
MOST = 0.9  # symbols of a step that a model says at first
OUTPUTS = 1 << 24  # of all steps that are judged at once
SPOKEN = 10_000  # training sequences that the baselines know at most
CANDIDATES = 100  # labels of which one is the constant
JUDGES = 1000  # labels that decide which
FEW = 5  # confusions that are named
LETTERS = 20  # of a symbol that are shown
DRAWN = 30  # outputs in a picture


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


def spell(label: str, unit: str) -> list[str]:
    """Returns the characters of a label, in which spaces in a row count as one; or its words."""
    words = label.split()
    return words if unit == "words" else list(" ".join(words))


def written(symbols: Iterable[str], unit: str) -> str:
    """Returns symbols as a text."""
    return (" " if unit == "words" else "").join(symbols)


@dataclass(frozen=True, kw_only=True)
class Reading(Inputs):
    """What was learned of the data besides weights."""

    symbols: Sequence[str]
    unit: str  # what labels are rows of: characters or words
    shares: Sequence[float]  # of each symbol among those of all training labels
    rate: float  # how many symbols a step says on average, less than 1

    @classmethod
    def learn(cls, sequences: Gathered, own: NDArray[np.int64], options: Options) -> Reading:
        """own: the places of the sequences to learn from."""
        unit = options.label_unit
        count, spelled = Counter[str](), [spell(name, unit) for name in sequences.different]
        for k in sequences.given(own):
            count.update(spelled[k])
        symbols, rate = sorted(count), count.total() / int(sequences.rows.lengths[own].sum())
        shares = [count[symbol] / count.total() for symbol in symbols]
        known: Any = vars(Inputs.of(sequences, own))
        return cls(symbols=symbols, unit=unit, shares=shares, rate=min(rate, MOST), **known)

    def check(self) -> None:
        super().check()
        if not self.symbols or len({*self.symbols}) < len(self.symbols):
            raise ValueError("it has no symbols, or one twice")
        if len(self.shares) != len(self.symbols) or not all(0 < share <= 1 for share in self.shares):
            raise ValueError("a symbol has no share")
        if not 0 < self.rate < 1:
            raise ValueError(f"a step says {self.rate} symbols")


class Transcripts(Encoded):
    """Sequences as what a model reads, and the outputs that their labels are rows of."""

    def __init__(self, sequences: Gathered, reading: Reading):
        super().__init__(sequences, reading)
        self.unit, self.names, self.labels = reading.unit, list(sequences.different), sequences.labels.steps  # (N,)
        outputs = {symbol: k for k, symbol in enumerate(reading.symbols, 1)}
        spelled = [spell(name, self.unit) for name in self.names]
        self._spelled = [np.array([outputs.get(each, OTHER) for each in symbols], int) for symbols in spelled]
        self._least = np.array([least_steps(symbols) for symbols in spelled], int)
        self.told = self.labels >= 0

    def label(self, k: int) -> str:
        """Returns the label of a sequence as it is written."""
        return self.names[self.labels[k]]

    def spelled(self, k: int) -> NDArray[np.int64]:
        """Returns the outputs that the label of a sequence is a row of, OTHER for a symbol that the training lacks."""
        return self._spelled[self.labels[k]]

    def length(self, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns how many symbols the labels of these sequences have, (n,); 1 for one that is empty."""
        return np.array([max(1, len(self.spelled(k))) for k in own.tolist()], np.int64)

    def too_long(self, own: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns which labels of these sequences take more steps than the sequences have, (n,)."""
        return self._least[self.labels[own]] > self.rows.lengths[own]

    def can_say(self, own: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns which labels of these sequences a model can say, (n,)."""
        return ~self.too_long(own) & np.array([OTHER not in self.spelled(k) for k in own.tolist()])

    def faults(self, own: NDArray[np.int64], of: str = "") -> Iterator[tuple[str, str]]:
        """Yields names and figures that say why a model cannot say labels of these sequences. of: what they are labels of."""
        if unknown := self.unknown(own):
            yield "unknown symbols", scores.unknown(unknown, of)
        if count := int(self.too_long(own).sum()):
            yield "too long", f"{many(count, 'label')}{of}, counted as mistakes: they take more steps than there are"

    def check_judged(self, own: NDArray[np.int64], where: str) -> None:
        """Raises InputError if no label of these sequences says anything to judge a model by."""
        if not any(len(self.spelled(k)) for k in own.tolist()):
            raise InputError(f"{where} are empty, so that there is nothing to judge by; give some that say something")

    def unknown(self, own: NDArray[np.int64]) -> Counter[str]:
        """Returns the symbols in the labels of these sequences that the training did not have, and how often each occurs."""
        found = Counter[str]()
        for k in own.tolist():
            symbols = spell(self.label(k), self.unit)
            found.update(symbols[n] for n in np.flatnonzero(self.spelled(k) == OTHER))
        return found


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


class Said(NamedTuple):
    """What a model says of a sequence."""

    outputs: NDArray[np.int64]  # (n,), of which the text is a row
    steps: NDArray[np.int64]  # (n,), from 0, where each begins
    nats: float  # -log p of what was asked for: of the label, or of what the model says


class Marks(NamedTuple):
    """How texts of a model differ from labels: counted in symbols, and in words."""

    symbols: int  # of all labels
    replaced: int
    left_out: int
    put_in: int
    exact: int  # texts without an error
    words: int
    word_errors: int
    confused: Counter[tuple[int, int]]  # how often output a was said as b, where 0 is nothing

    @property
    def errors(self) -> int:
        return self.replaced + self.left_out + self.put_in


def marks(label: NDArray[np.int64], said: NDArray[np.int64], true: str, text: str) -> Marks:
    """Returns how a text differs from its label. label, said: rows of outputs; true, text: these as texts.

    Errors are the fewest symbols that are to be replaced, left out or put in to make a text of the label.
    Source: V. I. Levenshtein, Binary codes capable of correcting deletions, insertions, and reversals (1966).
    """
    kinds, confused = Counter[str](), Counter[tuple[int, int]]()
    a, b = label.tolist(), said.tolist()
    for each in Levenshtein.opcodes(a, b):
        rows, columns = a[each.src_start : each.src_end], b[each.dest_start : each.dest_end]
        kinds[each.tag] += max(len(rows), len(columns))
        rows, columns = rows or [BLANK] * len(columns), columns or [BLANK] * len(rows)
        confused.update((row, column) for row, column in zip(rows, columns, strict=True) if row != OTHER)
    words = true.split()
    word_errors = Levenshtein.distance(words, text.split())
    return Marks(
        len(a), kinds["replace"], kinds["delete"], kinds["insert"], int(a == b), len(words), word_errors, confused
    )


def together(every: Sequence[Marks]) -> Marks:
    """Returns the sums of how texts differ."""
    *counts, each = zip(*every, strict=True)
    confused = Counter[tuple[int, int]]()
    for one in each:
        confused.update(one)
    symbols, replaced, left_out, put_in, exact, words, word_errors = map(sum, counts)
    return Marks(symbols, replaced, left_out, put_in, exact, words, word_errors, confused)


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
    if options.validation is not None:
        train, validation = own, np.arange(count, len(found))
    elif path is None:  # fonts that were never seen
        held = examples.unseen(fonts, options.held_out)
        train, validation = np.flatnonzero(~held), np.flatnonzero(held)
    else:
        train, validation = parted(found, options, own)
    parts = Parts(found, train, validation, test)
    check_labels(parts, where, "give at least two for training and one for validation", 2, bad)
    names = list(found.different)
    if not any(spell(names[k], options.label_unit) for k in np.unique(found.given(train))):
        raise InputError(f"all training labels of {where} are empty, so that there is nothing to say; give others")
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


class Transcriber(Trained[Reading, Options]):
    """A model that says what sequences say: what a run holds when it is trained."""

    encoded, learned, made_for, built_in = Transcripts, Reading, Options, examples.DRAWN
    parts_of = staticmethod(read)
    speller: Speller | None = None  # a language model that helps
    spelling = ""  # which one
    unspelled = ""  # which symbols it does not know

    @staticmethod
    def model_of(reading: Reading, options: Options) -> TranscriptionModel:
        return TranscriptionModel(reading, len(reading.symbols), reading.rate, options)

    @property
    def width(self) -> int:
        return 1 + len(self.reading.symbols)

    @property
    def unit(self) -> str:
        """What a label is a row of: "character"."""
        return self.options.label_unit.removesuffix("s")

    def text(self, outputs: Iterable[int]) -> str:
        """Returns a row of outputs as a text."""
        return written((self.reading.symbols[k - 1] for k in outputs), self.options.label_unit)

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
            y = self.model.read(x, steps)[0] if self.options.causal else self.model(x, steps)
            yield chunk, y.float().log_softmax(-1), steps
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
                found[int(k)] = Said(outputs, steps, max(0.0, nats))
        return [found[k] for k in range(len(own))]

    def _texts(self, log_p: Tensor, lengths: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Returns what steps say, as `read_off` does. log_p: (T, B, outputs)."""
        if self.speller is None:
            return read_off(log_p.argmax(-1).cpu().numpy(), lengths)
        steps = log_p.cpu().numpy()
        texts = self.speller.read(steps, lengths)
        return [(text, begins(steps[:length, b], text)) for b, (text, length) in enumerate(zip(texts, lengths, strict=True))]  # fmt: skip

    def score(
        self, encoded: Transcripts, own: NDArray[np.int64], said: Sequence[Said] | None = None
    ) -> tuple[dict[str, Tally], Marks]:
        """Returns named scores of the sequences at these places, and how what is said of them differs from their labels.

        said: what the model says of them, if that is known.
        """
        said = self.says(encoded, own) if said is None else said
        each = [
            marks(encoded.spelled(k), one.outputs, encoded.label(k), self.text(one.outputs))
            for k, one in zip(own.tolist(), said, strict=True)
        ]
        units, nats = encoded.units(own), np.array([one.nats for one in said])
        can, symbols = np.isfinite(nats), encoded.length(own)
        can |= not can.any()  # if the model can say none of the labels, they cost infinitely many
        errors, count = (np.array([of(one) for one in each]) for of in (attrgetter("errors"), attrgetter("symbols")))
        found = {
            "validation_nats": Tally.of(units, (np.where(can, nats, 0), np.where(can, symbols, 0)))._replace(
                counted=which(can)
            ),
            f"{self.unit}_error_rate": Tally.of(units, (errors, count)),
        }
        if self.unit == "character" and " " in self.reading.symbols:
            wrong, words = np.array([(one.word_errors, one.words) for one in each]).T
            found["word_error_rate"] = Tally.of(units, (wrong, words))
        found["exact"] = Tally.of(units, (np.array([one.exact for one in each]), 1), share=True)
        return found, together(each)

    def read(self, path: Path) -> tuple[Transcripts, list[tuple[str, str]]]:
        encoded, lines = super().read(path)
        encoded.check_judged(np.arange(len(encoded.rows)), f"all labels of {path}")
        return encoded, lines

    def judge(
        self, encoded: Transcripts, said: Sequence[Said], unit: None
    ) -> tuple[dict[str, Tally], Iterator[tuple[str, str]]]:
        own = np.arange(len(encoded.rows))
        found, differ = self.score(encoded, own, said)
        tallies = {scores.named(name, self.unit): each for name, each in found.items()}
        return tallies, self._figures(encoded, own, tallies, differ)

    def _figures(
        self, encoded: Transcripts, own: NDArray[np.int64], tallies: dict[str, Tally], differ: Marks
    ) -> Iterator[tuple[str, str]]:
        if self.spelling:
            yield "language model", self.spelling
        if self.unspelled:
            yield "spelling", self.unspelled
        yield from encoded.faults(own)
        none = "not known, because the model cannot say any of the labels"
        for name, each in tallies.items():
            yield name, scores.figure(each) if np.isfinite(each.value) else none
        yield self.how_sure(encoded)
        yield "errors", _in_words(differ, self.options.label_unit)
        if few := self.confusions(differ):
            yield "most frequent", few
        rate = f"{self.unit} error rate"
        yield from scores.on_baselines(self.path, lambda: self._baselines(encoded, own), rate, tallies[rate])

    def some(self, encoded: Encoded, said: Sequence[Said], own: NDArray[np.int64]) -> list[Said]:
        return [said[k] for k in own]

    def confusions(self, differ: Marks) -> str:
        """Returns the most frequent errors in words; "" if there is none."""
        names = [NOTHING, *map(repr, self.reading.symbols)]
        wrong = sorted((-count, a, b) for (a, b), count in differ.confused.items() if a != b)
        return ", ".join(f"{names[b]} for {names[a]} {-count:,}" for count, a, b in wrong[:FEW])

    def _baselines(self, judged: Transcripts, own: NDArray[np.int64]) -> dict[str, Tally]:
        sequences, train, *_ = self.read_again()
        return baselines(Transcripts(sequences, self.reading), train, judged, own)

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row of CSV, or JSON, for each sequence of a file: the text, its probability, and where each symbol begins."""
        header = form not in JSON_LINES
        self.skipped = BadRows(self.options.skip_bad)
        for encoded in self.read_groups(path, self.skipped):
            own = np.arange(len(encoded.rows))
            for (name, _), said in zip(encoded.named(own), self.says(encoded, own, labels=False), strict=True):
                if header:
                    yield csv_row([*name, "text", "probability", "steps"])
                    header = False
                text, chance, steps = self.text(said.outputs), digits(float(np.exp(-said.nats))), (said.steps + 1).tolist()  # fmt: skip
                if form in JSON_LINES:
                    row = name | {"text": text, "probability": chance, "steps": steps}
                    yield json.dumps(row, ensure_ascii=False) + "\n"
                else:
                    yield csv_row([*name.values(), text, chance, " ".join(map(str, steps))])

    def rows(self, encoded: Transcripts, own: NDArray[np.int64], said: Sequence[Said]) -> Iterator[dict[str, Any]]:
        for (name, label), k, one in zip(encoded.named(own), own.tolist(), said, strict=True):
            errors = Levenshtein.distance(encoded.spelled(k).tolist(), one.outputs.tolist())
            nats = digits(one.nats) if np.isfinite(one.nats) else None  # None of a label that the model cannot say
            yield name | {"label": label, "text": self.text(one.outputs), "errors": errors, "nats": nats}


def _in_words(differ: Marks, units: str) -> str:
    """Returns how texts differ from labels, in words. units: what these are rows of."""
    kinds = f"{differ.replaced:,} replaced, {differ.left_out:,} left out and {differ.put_in:,} put in"
    return f"{kinds}, of {many(differ.symbols, units.removesuffix('s'))}"


class Transcription(WholeSequences):
    """The task, as `elman.training.task.Task` has it."""

    made_of = Transcriber
    name, measure = "transcribe", "nats"
    higher_is_better = False

    def __init__(self, transcriber: Transcriber, parts: Parts, path: Path | None):
        """path: where the sequences come from; None for the built-in ones."""
        super().__init__(transcriber, parts, path)
        self.unit = transcriber.unit
        self.score, self.score_unit = f"{self.unit}_error_rate", f"{self.unit} error rate"
        self.symbols = self.encoded.length(self.train)  # of each training sequence

    def check(self, start: Run | None) -> None:
        judged, own, where = (
            self.encoded,
            self.validation,
            f"validation labels of {self.options.validation or self.path}",
        )
        if start is not None:
            scores.check_known(judged.unknown(self.train), self.options.label_unit, self.path, start)
        judged.check_judged(own, f"all {where}")
        if not judged.can_say(own).any():
            why = "; ".join(f"{name}: {what}" for name, what in judged.faults(own))
            raise InputError(f"a model can say none of the {where} ({why}); give others")

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        logits, places = self.outputs(own)
        lengths = torch.from_numpy(self.pieces.take(own).lengths).to(logits.device)
        labels = [self.encoded.spelled(k) for k in places.tolist()]
        return nats_of(logits.float().log_softmax(-1), lengths, labels).sum() / self.size(own)

    def size(self, own: NDArray[np.int64]) -> int:
        return int(self.symbols[own].sum())

    def scores(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        return self.trained.score(self.encoded, own)[0]

    def baselines(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        return baselines(self.encoded, self.train, self.encoded, own)

    def baseline(self, name: str) -> str:
        if name == CONSTANT:
            return "says the same of every sequence"
        return f"says the label of the training sequence that is nearest by {features_in_words(self.encoded.inputs)}"

    def introduction(self) -> list[tuple[str, str]]:
        (first, *others), reading = super().introduction(), self.trained.reading
        symbols = " ".join(repr(each[:LETTERS]) for each in reading.symbols[:12]) + " ..." * (len(reading.symbols) > 12)
        sizes = np.array([len(self.encoded.spelled(k)) for k in self.train.tolist()])
        told = f"{sizes.min()} to {sizes.max()} {self.options.label_unit}, of {len(reading.symbols):,} different ones: {symbols}"
        return [first, ("labels", told), *self.encoded.faults(self.validation, " of the validation set"), *others]

    def result(self, row: Mapping[str, str]) -> str:
        rates = [name for name in row if name.endswith("error_rate")]
        told = ", ".join(f"{name.replace('_', ' ')} {float(row[name]):.4f}" for name in rates)
        return f"{told}, {float(row['exact']):.1%} without an error, {float(row['validation_nats']):.4f} nats per {self.unit}"

    def remark(self) -> str:
        """Returns the label of a validation sequence, and what the model says of it now."""
        (said,) = self.trained.says(self.encoded, self.validation[:1])
        return f"label: {self.encoded.label(self.validation[0])}\nsaid:  {self.trained.text(said.outputs)}"

    def draw(self, directory: Path) -> list[Path]:
        """Draws which symbols are said for which on the validation sequences, and where those of one of them are said."""
        from elman import charts

        symbols, k = [SPACE if each == " " else each for each in self.trained.reading.symbols], self.validation[:1]
        _, differ = self.trained.score(self.encoded, self.validation)
        ((_, log_p, lengths),) = self.trained.logits(self.encoded, k)
        ((said, steps),) = read_off(log_p.argmax(-1).cpu().numpy(), lengths.cpu().numpy())
        content = self.encoded.sequences.values(int(k[0]))[0] if self.encoded.inputs.width else None
        often = Counter[int]()
        for (a, b), count in differ.confused.items():
            often.update({a: count, b: count})
        del often[BLANK]
        shown = [BLANK, *sorted(own for own, _ in often.most_common(DRAWN - 1))]
        table = np.array([[differ.confused[a, b] for b in shown] for a in shown])
        which = f"the {DRAWN - 1} most frequent " * (len(often) >= DRAWN)
        pictures = {
            "confusion.png": charts.confusion(
                table, [[NOTHING, *symbols][k] for k in shown], self.unit, f"{which}{self.unit}s"
            ),
            "steps.png": charts.spoken_steps(
                content,
                log_p[:, 0, 1:].exp().cpu().numpy(),
                symbols,
                said - 1,
                steps,
                self.encoded.label(int(k[0])),
            ),
        }
        for name, figure in pictures.items():
            charts.save(figure, directory / name)
        return [directory / name for name in pictures]


def baselines(
    learned: Transcripts, train: NDArray[np.int64], judged: Transcripts, own: NDArray[np.int64]
) -> dict[str, Tally]:
    """Returns the error rates, on these sequences of what is judged, of what needs no network.

    train: the places of the sequences to learn from. The constant is the label that differs least from the others. The
    nearest training sequence is that whose features, as the linear baseline of other tasks has them, are nearest when
    each has a deviation of 1.
    """
    train = train[:: -(-len(train) // SPOKEN)]
    labels = np.unique(learned.labels[train], return_counts=True)
    candidates = [learned.names[k] for k in labels[0][np.argsort(-labels[1], kind="stable")[:CANDIDATES]]]
    candidates = [spell(each, learned.unit) for each in dict.fromkeys(["", *candidates])]
    judges = [spell(learned.label(k), learned.unit) for k in train[:: -(-len(train) // JUDGES)].tolist()]
    constant = min(candidates, key=lambda each: sum(Levenshtein.distance(each, label) for label in judges))
    counted = frequent(learned, train)
    known, asked = of_sequences(learned, train, counted), of_sequences(judged, own, counted)
    mean, deviation = known.mean(0), known.std(0)
    known, asked = ((each - mean) / np.where(deviation > 0, deviation, 1.0) for each in (known, asked))
    squares = (known**2).sum(1)
    parts = (asked[begin : begin + CHUNK] for begin in range(0, len(asked), CHUNK))
    nearest = train[np.concatenate([(squares - 2 * part @ known.T).argmin(1) for part in parts])].tolist()
    true = [spell(judged.label(k), judged.unit) for k in own.tolist()]
    said = {CONSTANT: [constant] * len(own), NEAREST: [spell(learned.label(k), learned.unit) for k in nearest]}
    units, symbols, found = judged.units(own), np.array([*map(len, true)]), dict[str, Tally]()
    for name, texts in said.items():
        errors = np.array([Levenshtein.distance(a, b) for a, b in zip(true, texts, strict=True)])
        found[name] = Tally.of(units, (errors, symbols))
    return found


begin, resume, load = Transcription.begin, Transcription.resume, Transcriber.load
