"""Classification: one label for a whole sequence of numbers, or for a text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from elman.datasets import examples
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled, sequences
from elman.datasets.tables import JSON_LINES
from elman.errors import InputError
from elman.tasks import scores
from elman.tasks.options import ClassificationOptions as Options
from elman.tasks.separate import check_made_for, csv_row, digits, groups, held_out, started, table
from elman.tasks.whole import (
    CHUNK,
    Encoded,
    Gathered,
    Inputs,
    Parts,
    SequenceModel,
    Trained,
    WholeSequences,
    check_tokens,
    columns_of,
    gathered,
)
from elman.training.record import DATA, Record, data_of, device_of
from elman.training.run import Run

CONFIG = DATA
LARGEST = "largest class"  # what the baseline is called


class ClassificationModel(SequenceModel):
    """A model whose outputs are logits, (B, classes)."""


@dataclass(frozen=True, kw_only=True)
class Reading(Inputs):
    """What was learned of the data besides weights."""

    classes: list[str]

    @classmethod
    def learn(cls, sequences: Gathered, own: Sequence[int] | NDArray[np.int64] | None = None) -> Reading:
        """own: the places of the sequences to learn from; all if left out."""
        own, names = range(len(sequences)) if own is None else own, list(sequences.different)
        classes = sorted(
            {names[sequences.labels[k]] for k in own}, key=lambda c: (len(c), c) if c.isdigit() else (1 << 30, c)
        )
        return cls(classes=classes, **vars(Inputs.of(sequences, own)))

    def check(self) -> None:
        super().check()
        if not self.classes:
            raise ValueError("it has no classes")


class Classes(Encoded):
    """Sequences as what a model reads, and the numbers of their classes."""

    def __init__(self, sequences: Gathered, reading: Reading):
        super().__init__(sequences, reading)
        # Runs of earlier versions may have blanks around their classes.
        classes = {name.strip(): k for k, name in enumerate(reading.classes)}
        known = np.array([classes.get(name, -1) for name in sequences.different], dtype=np.int64)
        self.labels = known[sequences.labels]  # (N,), -1 for an unknown class
        self._names, self._given = list(sequences.different), sequences.labels

    def unknown(self, own: NDArray[np.int64]) -> Counter[str]:
        """Returns the classes of these sequences that the training did not have, and how often each occurs."""
        return Counter(self._names[self._given[k]] for k in own[self.labels[own] < 0])


class Classifier(Trained[Reading, Options]):
    """A classifier: what a run holds when it is trained."""

    encoded, built_in = Classes, examples.LABELLED

    @property
    def width(self) -> int:
        return len(self.reading.classes)

    def classify(self, encoded: Classes) -> tuple[list[str], NDArray[np.float32]]:
        """Returns the likeliest class of every sequence, and the probabilities (N, classes)."""
        probabilities = self.outputs(encoded).softmax(-1)
        return [self.reading.classes[k] for k in probabilities.argmax(-1).tolist()], probabilities.numpy()

    def score(self, encoded: Classes, own: NDArray[np.int64] | None = None) -> tuple[dict[str, float], scores.Scores]:
        """Returns named scores, and the table of counts. A label of -1 is wrong in any case.

        own: the places of the sequences; all if left out.
        """
        own = np.arange(len(encoded.rows)) if own is None else own
        logits, labels = self.outputs(encoded, own), encoded.labels[own]
        predicted, known = logits.argmax(-1).numpy(), np.flatnonzero(labels >= 0)
        counts = scores.counted(labels, predicted, len(self.reading.classes), len(encoded.unknown(own)))
        nats = float(cross_entropy(logits[known], torch.from_numpy(labels[known]))) if len(known) else 0.0
        accuracy = float((predicted == labels).mean())
        return {"validation_nats": nats, "accuracy": accuracy, "macro_f1": counts.macro_f1}, counts

    def evaluate(self, path: Path) -> Iterator[tuple[str, str]]:
        """Yields names and figures for a file whose sequences have labels."""
        encoded, lines = self.read(path)
        found, counts = self.score(encoded)
        yield from lines
        if unknown := encoded.unknown(np.arange(len(encoded.rows))):
            yield "unknown label", scores.unknown(unknown)
        for name, value in found.items():
            yield name.replace("validation_nats", "nats_per_sequence").replace("_", " "), f"{value:.4f}"
        score = self.options.best_by.replace("_f1", " F1")
        yield from scores.on_baselines(self.path, lambda: self._baselines(encoded), score)
        yield from counts.by_label(self.reading.classes, "sequences")

    def _baselines(self, judged: Classes) -> dict[str, float]:
        learned, train, _ = self.read_again()
        own = Classes(learned, self.reading).labels[train]
        every, classes = np.arange(len(judged.rows)), len(self.reading.classes)
        return {LARGEST: always(own, judged, every, classes, self.options.best_by)}

    def parts(self) -> Parts:
        return read(self.path, self.options, BadRows(self.options.skip_bad), self.reading)

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row of CSV, or JSON, for each sequence of a file: its class and the probability of every class."""
        classes, header = self.reading.classes, form not in JSON_LINES
        columns, self.skipped = columns_of(self.options, self.reading), BadRows(self.options.skip_bad)
        for group in groups(sequences(path, columns, labelled=False, bad=self.skipped), CHUNK):
            found, probabilities = self.classify(self.encode(group, path))
            if header:
                yield csv_row(["sequence", "class", *(f"p_{name}" for name in classes)])
                header = False
            for each, name, row in zip(group, found, probabilities.tolist(), strict=True):
                if form in JSON_LINES:
                    chances = {c: float(f"{p:.6g}") for c, p in zip(classes, row, strict=True)}
                    content = {"sequence": each.name, "class": name, "probabilities": chances}
                    yield json.dumps(content, ensure_ascii=False) + "\n"
                else:
                    yield csv_row([each.name, name, *row])

    def examples(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row for each sequence: its label, the class that the model says, and -log p(label)."""
        return table(self._examples(path), form)

    def _examples(self, path: Path) -> Iterator[dict[str, Any]]:
        columns, names = columns_of(self.options, self.reading), self.reading.classes
        for group in groups(sequences(path, columns, bad=BadRows(self.options.skip_bad)), CHUNK):
            encoded = self.encode(group, path)
            chances = self.outputs(encoded).double().log_softmax(-1)
            for each, row, label in zip(group, chances, encoded.labels.tolist(), strict=True):
                nats = (
                    None if label < 0 else digits(-float(row[label]))
                )  # a class that the training lacks has no chance
                yield {"sequence": each.name, "label": each.label, "class": names[int(row.argmax())], "nats": nats}


class Classification(WholeSequences):
    """The task, as `elman.training.task.Task` has it."""

    name, measure = "classify", "nats"
    higher_is_better = True

    def __init__(
        self,
        classifier: Classifier,
        sequences: Gathered,
        train: NDArray[np.int64],
        validation: NDArray[np.int64],
        path: Path | None,
    ):
        """train, validation: places of sequences. path: where these come from; None for the built-in sequences."""
        super().__init__(classifier, sequences, train, validation, path)
        self.labels, o = self.encoded.labels[train], self.options
        self.score, self.score_unit = o.best_by, o.best_by.replace("_f1", " F1")
        counts = np.bincount(self.labels, minlength=len(classifier.reading.classes))
        # A class that only the run has from which the training starts weighs nothing: smoothing would learn to say it.
        weights = np.where(counts > 0, len(train) / np.maximum(1, counts) / (counts > 0).sum(), 0.0)
        self.weights = torch.from_numpy(weights.astype(np.float32)) if o.balanced else None

    def untrained(self, options: Options) -> Classifier:
        return _classifier(self.trained.reading, options, str(device_of(self.model)), self.path)

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        logits = self.outputs(own)
        target = torch.from_numpy(self.labels[own]).to(logits.device)
        weights = None if self.weights is None else self.weights.to(logits.device)
        return cross_entropy(logits, target, weights, label_smoothing=self.options.smoothing)

    def weight(self, own: NDArray[np.int64]) -> float | None:
        return None if self.weights is None else float(self.weights[torch.from_numpy(self.labels[own])].sum())

    def evaluate(self) -> dict[str, float]:
        return self.trained.score(self.encoded, self.validation)[0]

    def about(self) -> dict[str, Any]:
        classes = len(self.trained.reading.classes)
        baseline = always(self.labels, self.encoded, self.validation, classes, self.score)
        return {"data": self.sizes(), "baselines": {LARGEST: baseline}}

    def baseline(self, name: str) -> str:
        return "predicts the most frequent class for every sequence"

    def introduction(self) -> list[tuple[str, str]]:
        names, (first, *others) = self.trained.reading.classes, super().introduction()
        counts = np.bincount(self.labels, minlength=len(names))
        order = np.argsort(-counts, kind="stable")[:12]
        shown = ", ".join(f"{names[k]} {counts[k] / counts.sum():.0%}" for k in order)
        lines = [first, ("classes", f"{len(names)}: {shown}{' ...' if len(names) > 12 else ''}")]
        if unknown := self.encoded.unknown(self.validation):
            lines.append(("unknown", scores.unknown(unknown, " classes of validation sequences")))
        return lines + others

    def result(self, row: Mapping[str, str]) -> str:
        accuracy, f1, nats = (float(row[name]) for name in ("accuracy", "macro_f1", "validation_nats"))
        return f"accuracy {accuracy:.4f}, macro F1 {f1:.4f}, {nats:.4f} nats per sequence"

    def draw(self, directory: Path) -> list[Path]:
        """Draws the confusion matrix on the validation sequences."""
        from elman import charts

        _, counts = self.trained.score(self.encoded, self.validation)
        path = directory / "confusion.png"
        charts.save(charts.confusion(counts.counts, self.trained.reading.classes, "class", "sequences"), path)
        return [path]


def always(learned: NDArray[np.int64], judged: Classes, own: NDArray[np.int64], classes: int, score: str) -> float:
    """Returns the score of saying of the sequences `own` the class that is the most frequent one in `learned`."""
    labels = judged.labels[own]
    guess = np.full(len(labels), np.bincount(learned[learned >= 0], minlength=classes).argmax())
    if score == "accuracy":
        return float((guess == labels).mean())
    return scores.counted(labels, guess, classes, len(judged.unknown(own))).macro_f1


def read(path: Path | None, options: Options, bad: BadRows, reading: Reading | None = None) -> Parts:
    """Returns the sequences and the indices of the training and validation sets, with the same share of each class.

    reading: what was learned of the data before, whose channels they must have.
    """
    o, where, fonts = options, path or Path(examples.LABELLED), list[str]()

    def outlines() -> Iterator[Labelled]:
        for steps, digit, font in examples.digits():
            fonts.append(font)
            yield Labelled(str(len(fonts)), steps, digit)

    found, count = gathered(path, o, bad, outlines(), reading)
    if o.validation is not None:
        train, validation = np.arange(count), np.arange(count, len(found))
    elif path is None:  # fonts that were never seen
        apart = set(sorted(set(fonts))[:: max(2, round(1 / o.held_out))])
        held = np.array([font in apart for font in fonts])
        train, validation = np.flatnonzero(~held), np.flatnonzero(held)
    else:
        train, validation = _halves(np.array(found.labels, dtype=np.int64), o)
    if not len(train) or not len(validation):
        raise InputError(
            f"{where} leaves {len(train)} sequences for training and {len(validation)} for validation; give at least two of each class"
        )
    if len({found.labels[k] for k in train}) < 2:
        only = list(found.different)[found.labels[train[0]]]
        raise InputError(f"{path} has only one class, {only!r}; give sequences of at least two classes")
    return found, train, validation


def _halves(labels: NDArray[np.int64], options: Options) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the indices for training and validation, with the same share of each class. A lone sequence of a class is for training."""
    apart = np.zeros(len(labels), dtype=bool)
    by_class = np.argsort(labels, kind="stable")
    for own in np.split(by_class, np.bincount(labels).cumsum()[:-1]):
        if len(own) > 1:
            apart[own[held_out(len(own), options.held_out, options.seed)[1]]] = True
    return np.flatnonzero(~apart), np.flatnonzero(apart)


def begin(path: Path | None, options: Options, device: str, bad: BadRows, start: Run | None = None) -> Classification:
    """Returns a task that trains a model on a file. start: a run from whose model it starts; None for a new one."""
    check_made_for(start, options, CONFIG)
    known = None if start is None else Reading.load(start)
    found, train, validation = read(path, options, bad, known)
    reading = Reading.learn(found, train) if known is None else known
    if start is not None:
        scores.check_known(Classes(found, reading).unknown(train), "classes", path, start)
    check_tokens(reading, found, path, len(train))
    torch.manual_seed(options.seed)
    return started(Classification(_classifier(reading, options, device, path), found, train, validation, path), start)


def resume(run: Run, path: Path | None, options: Options, device: str) -> Classification:
    """Returns the task of a run. Its data are read again; its model does not have its parameters yet."""
    reading = Reading.load(run)
    data = read(path, options, BadRows(options.skip_bad), reading)
    return Classification(_classifier(reading, options, device, path), *data, path)


def load(record: Record | Path, device: str = "cpu") -> Classifier:
    """Returns the classifier of a run, with the parameters that were best on the validation sequences."""
    record = Run(record) if isinstance(record, Path) else record
    options, config = record.options(Options, CONFIG)
    reading = Reading.load(record)
    model = record.model(lambda: _model(reading, options), device)
    return Classifier(model, reading, options, data_of(config), record.digest())


def _classifier(reading: Reading, options: Options, device: str, path: Path | None) -> Classifier:
    return Classifier(_model(reading, options).to(device), reading, options, path)


def _model(reading: Reading, options: Options) -> ClassificationModel:
    return ClassificationModel(len(reading.mean), reading.size, len(reading.classes), options)
