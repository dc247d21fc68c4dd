"""Texts that sequences are labelled with: rows of characters or words, and how what a model writes differs from them.

Here is what transcription and translation share: both write a text for a sequence, and differ in how.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from elman.datasets.reading import BadRows
from elman.datasets.tables import JSON_LINES
from elman.errors import InputError
from elman.tasks import scores
from elman.tasks.encoded import Encoded, Inputs
from elman.tasks.gathered import Gathered
from elman.tasks.linear import features_in_words, frequent, of_sequences
from elman.tasks.options import TextOptions
from elman.tasks.parts import Parts, check_labels
from elman.tasks.separate import csv_row, digits, many
from elman.tasks.tallies import Tally, which
from elman.tasks.whole import CHUNK, Trained, WholeSequences
from elman.training.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OTHER = -1  # in place of a symbol that the training lacks
NOTHING = 0  # the output that says nothing: the blank of a transcription, the end of a translation
SPACE = "␣"  # how a space is drawn
ABSENT = "nothing"  # what stands in a picture for a symbol that is left out, or put in
CONSTANT, NEAREST, COPY = "constant", "nearest", "copy"  # what baselines are called
SPOKEN = 10_000  # training sequences that the baselines know at most
CANDIDATES = 100  # labels of which one is the constant
JUDGES = 1000  # labels that decide which
FEW = 5  # confusions that are named
LETTERS = 20  # of a symbol that are shown
DRAWN = 30  # outputs in a picture


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

    def check(self) -> None:
        super().check()
        if not self.symbols or len({*self.symbols}) < len(self.symbols):
            raise ValueError("it has no symbols, or one twice")
        if not all(isinstance(symbol, str) for symbol in self.symbols) or self.unit not in ("characters", "words"):
            raise ValueError("its symbols are no texts, or their unit is unknown")


def counted(sequences: Gathered, own: NDArray[np.int64], unit: str) -> Counter[str]:
    """Returns how often each symbol occurs in the labels of the sequences at these places."""
    count, spelled = Counter[str](), [spell(name, unit) for name in sequences.different]
    for k in sequences.given(own):
        count.update(spelled[k])
    return count


class Texts(Encoded):
    """Sequences as what a model reads, and the outputs that their labels are rows of."""

    def __init__(self, sequences: Gathered, reading: Reading):
        super().__init__(sequences, reading)
        self.unit, self.names, self.labels = reading.unit, list(sequences.different), sequences.labels.steps  # (N,)
        outputs = {symbol: k for k, symbol in enumerate(reading.symbols, 1)}
        self._spelled = [np.array([outputs.get(s, OTHER) for s in spell(name, self.unit)], int) for name in self.names]
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

    def can_say(self, own: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns which labels of these sequences a model can say, (n,)."""
        return np.array([OTHER not in self.spelled(k) for k in own.tolist()])

    def faults(self, own: NDArray[np.int64], of: str = "") -> Iterator[tuple[str, str]]:
        """Yields names and figures that say why a model cannot say labels of these sequences. of: what they are labels of."""
        if unknown := self.unknown(own):
            yield "unknown symbols", scores.unknown(unknown, of)

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


class Said(NamedTuple):
    """What a model says of a sequence."""

    outputs: NDArray[np.int64]  # (n,), of which the text is a row
    nats: float  # -log p of what was asked for: of the label, or of what the model says
    steps: NDArray[np.int64] | None = None  # (n,), from 0, where each begins, if that is known
    cut: bool = False  # whether it did not end, and was cut off


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
        rows, columns = rows or [NOTHING] * len(columns), columns or [NOTHING] * len(rows)
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


def check_texts(parts: Parts, options: TextOptions, where: Path, bad: BadRows) -> None:
    """Raises InputError if there are too few sequences to learn from, or none of their labels says anything."""
    check_labels(parts, where, "give at least two for training and one for validation", 2, bad)
    names = list(parts.sequences.different)
    if not any(spell(names[k], options.label_unit) for k in np.unique(parts.sequences.given(parts.train))):
        raise InputError(f"all training labels of {where} are empty, so that there is nothing to say; give others")


Read = TypeVar("Read", bound=Reading)
Given = TypeVar("Given", bound=TextOptions)


class Writer(Trained[Read, Given]):
    """A model that writes a text for each sequence: what a run holds when it is trained."""

    cut_off = 0  # of the texts that were predicted, or judged, last

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

    def says(self, encoded: Any, own: NDArray[np.int64] | None = None, labels: bool = True) -> list[Said]:
        """Returns what the model says of sequences. own: their places; all if left out.

        labels: whether nats are those of the labels, and not of what it says.
        """
        raise NotImplementedError

    def score(
        self, encoded: Texts, own: NDArray[np.int64], said: Sequence[Said] | None = None
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

    def read(self, path: Path) -> tuple[Any, list[tuple[str, str]]]:
        encoded, lines = super().read(path)
        encoded.check_judged(np.arange(len(encoded.rows)), f"all labels of {path}")
        return encoded, lines

    def judge(
        self, encoded: Texts, said: Sequence[Said], unit: None
    ) -> tuple[dict[str, Tally], Iterator[tuple[str, str]]]:
        own, self.cut_off = np.arange(len(encoded.rows)), sum(each.cut for each in said)
        found, differ = self.score(encoded, own, said)
        tallies = {scores.named(name, self.unit): each for name, each in found.items()}
        return tallies, self.figures(encoded, own, tallies, differ)

    def figures(
        self, encoded: Any, own: NDArray[np.int64], tallies: dict[str, Tally], differ: Marks
    ) -> Iterator[tuple[str, str]]:
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
        names = [ABSENT, *map(repr, self.reading.symbols)]
        wrong = sorted((-count, a, b) for (a, b), count in differ.confused.items() if a != b)
        return ", ".join(f"{names[b]} for {names[a]} {-count:,}" for count, a, b in wrong[:FEW])

    def _baselines(self, judged: Texts, own: NDArray[np.int64]) -> dict[str, Tally]:
        sequences, train, *_ = self.read_again()
        return baselines(self.encoded(sequences, self.reading), train, judged, own)

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row of CSV, or JSON, for each sequence of a file: the text, its probability, and where each symbol begins, if that is known."""
        header = form not in JSON_LINES
        self.skipped, self.cut_off = BadRows(self.options.skip_bad), 0
        for encoded in self.read_groups(path, self.skipped):
            own = np.arange(len(encoded.rows))
            for (_, name, *_), said in zip(encoded.named(own), self.says(encoded, own, labels=False), strict=True):
                self.cut_off += said.cut
                row = name | {"text": self.text(said.outputs), "probability": digits(float(np.exp(-said.nats)))}
                if said.steps is not None:
                    row["steps"] = (said.steps + 1).tolist()
                if form in JSON_LINES:
                    yield json.dumps(row, ensure_ascii=False) + "\n"
                    continue
                if header:
                    yield csv_row([*row])
                    header = False
                yield csv_row([" ".join(map(str, v)) if isinstance(v, list) else v for v in row.values()])

    def rows(
        self, encoded: Texts, own: NDArray[np.int64], said: Sequence[Said]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for (k, name, label, _), one in zip(encoded.named(own), said, strict=True):
            errors = Levenshtein.distance(encoded.spelled(k).tolist(), one.outputs.tolist())
            nats = digits(one.nats) if np.isfinite(one.nats) else None  # None of a label that the model cannot say
            yield k, name | {"label": label, "text": self.text(one.outputs), "errors": errors, "nats": nats}


def _in_words(differ: Marks, units: str) -> str:
    """Returns how texts differ from labels, in words. units: what these are rows of."""
    kinds = f"{differ.replaced:,} replaced, {differ.left_out:,} left out and {differ.put_in:,} put in"
    return f"{kinds}, of {many(differ.symbols, units.removesuffix('s'))}"


class Writing(WholeSequences):
    """A part of a task (`elman.training.task.Task`), in which a model learns to write a text for each sequence."""

    measure = "nats"
    higher_is_better = False

    def __init__(self, writer: Writer[Any, Any], parts: Parts, path: Path | None):
        """path: where the sequences come from; None for the built-in ones."""
        super().__init__(writer, parts, path)
        self.unit = writer.unit
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

    def size(self, own: NDArray[np.int64]) -> int:
        return int(self.symbols[own].sum())

    def scores(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        return self.trained.score(self.encoded, own)[0]

    def baselines(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        return baselines(self.encoded, self.train, self.encoded, own)

    def baseline(self, name: str) -> str:
        if name == CONSTANT:
            return "says the same of every sequence"
        if name == COPY:
            return "says the text that it reads"
        features = features_in_words(self.encoded.inputs, self.encoded.sequences.unit)
        return f"says the label of the training sequence that is nearest by {features}"

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
        """Draws which symbols are said for which on the validation sequences, and how one of them is read."""
        from elman import charts

        symbols: list[str] = [SPACE if each == " " else each for each in self.trained.reading.symbols]
        _, differ = self.trained.score(self.encoded, self.validation)
        often = Counter[int]()
        for (a, b), count in differ.confused.items():
            often.update({a: count, b: count})
        del often[NOTHING]
        shown = [NOTHING, *sorted(own for own, _ in often.most_common(DRAWN - 1))]
        table = np.array([[differ.confused[a, b] for b in shown] for a in shown])
        which = f"the {DRAWN - 1} most frequent " * (len(often) >= DRAWN)
        names = [[ABSENT, *symbols][k] for k in shown]
        confusion = charts.confusion(table, names, self.unit, f"{which}{self.unit}s")
        pictures = {"confusion.png": confusion} | self.pictures(int(self.validation[0]), symbols)
        for name, figure in pictures.items():
            charts.save(figure, directory / name)
        return [directory / name for name in pictures]

    def pictures(self, k: int, symbols: Sequence[str]) -> dict[str, Figure]:
        """Returns figures, by the names of their files, of how the model reads a sequence. symbols: as they are drawn."""
        raise NotImplementedError


def baselines(learned: Texts, train: NDArray[np.int64], judged: Texts, own: NDArray[np.int64]) -> dict[str, Tally]:
    """Returns the error rates, on these sequences of what is judged, of what needs no network.

    train: the places of the sequences to learn from. The constant is the label that differs least from the others. The
    nearest training sequence is that whose features, as the linear baseline of other tasks has them, are nearest when
    each has a deviation of 1. A text that is read by characters is also said as it is.
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
    if judged.sequences.unit == "characters":  # words are read in small letters, and signs apart
        said[COPY] = [spell(str(each.content), judged.unit) for each in judged.sequences.labelled(own)]
    units, symbols, found = judged.units(own), np.array([*map(len, true)]), dict[str, Tally]()
    for name, texts in said.items():
        errors = np.array([Levenshtein.distance(a, b) for a, b in zip(true, texts, strict=True)])
        found[name] = Tally.of(units, (errors, symbols))
    return found
