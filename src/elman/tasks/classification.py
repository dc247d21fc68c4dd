"""Classification: one label for a whole sequence of numbers, or for a text; or a label for each step of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from elman.datasets import examples
from elman.datasets.events import TRACK
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled
from elman.errors import InputError
from elman.tasks import scores
from elman.tasks.calibration import Reliability, temperature
from elman.tasks.encoded import Encoded, Inputs
from elman.tasks.gathered import Gathered
from elman.tasks.linear import LINEAR, Linear, in_words
from elman.tasks.options import ClassificationOptions as Options
from elman.tasks.parts import Parts, check_labels, gathered, halves, left_out, parted
from elman.tasks.separate import digits, of_classes, table
from elman.tasks.sequence_model import SequenceModel
from elman.tasks.tallies import Tally, values, which
from elman.tasks.whole import Trained, WholeSequences
from elman.training.record import DATA
from elman.training.run import Run

CONFIG = DATA
LARGEST = "largest class"  # what a baseline is called
UNKNOWN, MISSING = -1, -2  # in place of the number of a class: one that the training lacks, or none


class ClassificationModel(SequenceModel):
    """A model whose outputs are logits, (B, classes), or with each_step (T, B, classes).

    temperature: what divides the logits before probabilities are made of them; 1 in a model that is loaded, whose last layer
    has been divided by it. It has no gradient.
    """

    later: ClassVar = {"temperature": 1.0}  # buffers that files of earlier versions lack
    temperature: Tensor

    def __init__(self, inputs: Inputs, outputs: int, options: Options):
        super().__init__(inputs, outputs, options)
        self.register_buffer("temperature", torch.ones(()))

    def corrected(self, outputs: Tensor) -> Tensor:
        return outputs / self.temperature.to(outputs)

    @torch.no_grad()
    def settle(self) -> None:
        for parameter in self.output.parameters():
            parameter.div_(self.temperature)
        self.temperature.fill_(1)


@dataclass(frozen=True, kw_only=True)
class Reading(Inputs):
    """What was learned of the data besides weights."""

    classes: list[str]

    @classmethod
    def learn(cls, sequences: Gathered, own: NDArray[np.int64], options: Options) -> Reading:
        """own: the places of the sequences to learn from."""
        names = list(sequences.different)
        found = (names[k] for k in np.unique(sequences.given(own)) if k >= 0)
        classes = sorted(found, key=lambda c: (len(c), c) if c.isdigit() else (1 << 30, c))
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
        known = np.array([*(classes.get(name, UNKNOWN) for name in sequences.different), MISSING], dtype=np.int64)
        self.labels = known[sequences.labels.steps]  # (M,)
        self.told = self.labels != MISSING
        self._names, self._given = list(sequences.different), sequences.labels.steps

    def kind(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._given[places]

    def unknown(self, places: NDArray[np.int64]) -> Counter[str]:
        """Returns the classes at these places that the training did not have, and how often each occurs."""
        given = self._given[places[self.labels[places] == UNKNOWN]]
        return Counter({self._names[k]: n for k, n in enumerate(np.bincount(given).tolist()) if n})


def read(path: Path | None, options: Options, bad: BadRows, reading: Reading | None = None) -> Parts:
    """Returns the sequences and the indices of the training and validation sets, with the same share of each class.

    reading: what was learned of the data before, whose channels they must have.
    """
    o, where, fonts = options, path or Path(examples.LABELLED), list[str]()

    def outlines() -> Iterator[Labelled]:
        for steps, digit, font in examples.digits():
            fonts.append(font)
            yield Labelled(str(len(fonts)), steps, digit)

    def drawn() -> Iterator[Labelled]:
        for parts, font in examples.numbers():
            fonts.append(font)
            steps, classes = np.concatenate([part for part, _ in parts]), [digit for part, digit in parts for _ in part]
            yield Labelled(str(len(fonts)), steps, None, labels=classes)

    found, count = gathered(path, o, bad, drawn() if o.each_step else outlines(), reading)
    kinds = np.zeros(len(found)) if o.each_step else found.labels.steps
    own, test = left_out(found, o, count, kinds, path)
    if o.validation is not None:
        train, validation = own, np.arange(count, len(found))
    elif path is None:  # fonts that were never seen
        held = examples.unseen(fonts, o.held_out)
        train, validation = np.flatnonzero(~held), np.flatnonzero(held)
    elif o.each_step or found.groups:
        train, validation = parted(found, o, own)
    else:
        train, validation = (own[each] for each in halves(found.labels.steps.astype(np.int64)[own], o))
    parts = Parts(found, train, validation, test)
    check_labels(parts, where, "give at least two of each class", 1, bad)
    learned = found.given(train)
    if len(learned := np.unique(learned[learned >= 0])) < 2:
        only, what = list(found.different)[learned[0]], "steps" if o.each_step else "sequences"
        of = f"the training part of {where}" if o.each_step or found.groups else where
        if found.groups and len(found.different) > 1:
            raise InputError(
                f"{of} has only one class, {only!r}, because --group {o.group} holds the others out; give more values of {o.group!r} for each class, or another --seed"
            )
        if not o.each_step and len(np.setdiff1d(found.given(test), learned)):
            raise InputError(
                f"{of} has only one class, {only!r}, when --fold {o.fold} leaves the others out; give at least two sequences of each class"
            )
        raise InputError(f"{of} has only one class, {only!r}; give {what} of at least two classes")
    return parts


class Classifier(Trained[Reading, Options]):
    """A classifier: what a run holds when it is trained."""

    encoded, learned, made_for, built_in = Classes, Reading, Options, examples.LABELLED
    parts_of = staticmethod(read)

    @staticmethod
    def model_of(reading: Reading, options: Options) -> ClassificationModel:
        return ClassificationModel(reading, len(reading.classes), options)

    @property
    def width(self) -> int:
        return len(self.reading.classes)

    @property
    def unit(self) -> str:
        return "step" if self.options.each_step else "sequence"

    def classify(self, encoded: Classes) -> tuple[list[str], NDArray[np.float32]]:
        """Returns the likeliest class of every sequence, or step, and the probabilities (N, classes)."""
        probabilities = self.outputs(encoded).softmax(-1)
        return [self.reading.classes[k] for k in probabilities.argmax(-1).tolist()], probabilities.numpy()

    def score(
        self, encoded: Classes, places: NDArray[np.int64], logits: Tensor
    ) -> tuple[dict[str, Tally], scores.Scores]:
        """Returns named scores of the labels at these places, and the table of counts. An unknown class is wrong in any case.

        logits: what the model says of them, (n, classes).
        """
        labels, units, classes = encoded.labels[places], encoded.units(places), self.width
        predicted, known = logits.argmax(-1).numpy(), labels >= 0
        unknown = len(encoded.unknown(places))
        nats = cross_entropy(logits, torch.from_numpy(labels), ignore_index=UNKNOWN, reduction="none").double().numpy()
        found = {
            "validation_nats": Tally.of(units, (nats, known))._replace(counted=which(known)),
            "accuracy": Tally.of(units, (predicted == labels, 1), share=True),
            "macro_f1": scores.macro_f1(labels, predicted, classes, unknown, units),
        }
        if self.options.each_step:
            found["segment_f1"] = scores.segment_f1(labels, predicted, encoded.step_at(places)[0], units)
        return found, scores.counted(labels, predicted, classes)

    def judge(self, encoded: Classes, said: Tensor, unit: None) -> tuple[dict[str, Tally], Iterator[tuple[str, str]]]:
        places = np.flatnonzero(encoded.told)
        logits = said[places]
        found, counts = self.score(encoded, places, logits)
        tallies = {scores.named(name, self.unit): each for name, each in found.items()}
        return tallies, self._figures(encoded, places, logits, tallies, counts)

    def _figures(
        self,
        encoded: Classes,
        places: NDArray[np.int64],
        logits: Tensor,
        tallies: dict[str, Tally],
        counts: scores.Scores,
    ) -> Iterator[tuple[str, str]]:
        best = self.options.best_by
        if unknown := encoded.unknown(places):
            yield "unknown label", scores.unknown(unknown)
        for name, each in tallies.items():
            yield name, scores.figure(each)
        yield self.how_sure(encoded)
        sure, right = (reliability := Reliability.of(logits, encoded.labels[places])).means
        told = f"{reliability.error:.4f}: the likeliest class has a probability of {sure:.4f} on average, and {right:.4f} are right"
        yield "calibration error", told
        of, model = best.replace("_f1", " F1"), tallies[best.replace("_", " ")]
        yield from scores.on_baselines(self.path, lambda: self._baselines(encoded, places), of, model)
        yield from counts.by_label(self.reading.classes, f"{self.unit}s")

    def _baselines(self, judged: Classes, places: NDArray[np.int64]) -> dict[str, Tally]:
        sequences, train, *_ = self.read_again()
        learned = Classes(sequences, self.reading)
        own = learned.all_places(train)
        return baselines(learned, own[learned.labels[own] >= 0], judged, places, self.options)

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row of CSV, or JSON, for each sequence or step of a file: its class and the probability of every class.

        Of a recording whose moments have classes, a row has all steps in a row of a class, and their mean probabilities.
        """
        if form == TRACK:
            return self.track(path)
        self.skipped = BadRows(self.options.skip_bad)
        groups = self.read_groups(path, self.skipped)
        return table((row for encoded in groups for row in self._predicted(encoded, form)), form)

    def _predicted(self, encoded: Classes, form: str) -> Iterator[dict[str, Any]]:
        said, probabilities = self.classify(encoded)
        for _, name, _, places in encoded.named(np.arange(len(encoded.rows)), probabilities.argmax(-1)):
            chances = probabilities[places].mean(0).tolist()
            yield name | {"class": said[places.start]} | of_classes(self.reading.classes, chances, form)

    def rows(self, encoded: Classes, own: NDArray[np.int64], said: Tensor) -> Iterator[tuple[int, dict[str, Any]]]:
        names, chances = self.reading.classes, said.double().log_softmax(-1).numpy()
        numbers, best = encoded.labels[encoded.all_places(own)], chances.argmax(-1)
        for k, name, label, places in encoded.named(own, best):
            number = int(numbers[places.start])
            # A class that the training lacks has no chance.
            nats = None if number < 0 else digits(-float(chances[places, number].sum()))
            if number != MISSING:
                yield k, name | {"label": label, "class": names[int(best[places.start])], "nats": nats}


class Classification(WholeSequences):
    """The task, as `elman.training.task.Task` has it."""

    made_of = Classifier
    name, measure = "classify", "nats"
    higher_is_better = True

    def __init__(self, classifier: Classifier, parts: Parts, path: Path | None):
        """path: where the sequences come from; None for the built-in ones."""
        super().__init__(classifier, parts, path)
        classes, o = len(classifier.reading.classes), self.options
        labels = self.encoded.labels[self.places]
        self.counts = np.bincount(labels[labels >= 0], minlength=classes)
        self.score, self.score_unit = o.best_by, o.best_by.replace("_f1", " F1")
        # A class that only the run has from which the training starts weighs nothing: smoothing would learn to say it.
        there = self.counts > 0
        weights = np.where(there, len(self.places) / np.maximum(1, self.counts) / there.sum(), 0.0)
        self.weights = weights.astype(np.float32) if o.balanced else None

    def check(self, start: Run | None) -> None:
        if start is not None:
            scores.check_known(self.encoded.unknown(self.places), "classes", self.path, start)

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        logits, places = self.outputs(own)
        target = torch.from_numpy(self.encoded.labels[places]).to(logits.device)
        weights = None if self.weights is None else torch.from_numpy(self.weights).to(logits.device)
        return cross_entropy(logits, target, weights, label_smoothing=self.options.smoothing)

    def weight(self, own: NDArray[np.int64]) -> float | None:
        if self.weights is None:
            return super().weight(own)
        labels = self.encoded.labels[self.encoded.places(self.pieces.take(own))]
        return float(self.weights[labels[labels >= 0]].sum())

    def evaluate(self) -> dict[str, float]:
        """Returns the scores of the validation sequences, with the temperature that is best for them, which the model keeps."""
        self.model.temperature.fill_(1)
        places, logits = self.trained.judged(self.encoded, self.validation)
        labels = self.encoded.labels[places]
        known = labels >= 0
        self.model.temperature.fill_(temperature(logits[torch.from_numpy(known)], labels[known]))
        return values(self.trained.score(self.encoded, places, logits / self.model.temperature.cpu())[0])

    def scores(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        return self.trained.score(self.encoded, *self.trained.judged(self.encoded, own))[0]

    def baselines(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        return baselines(self.encoded, self.places, self.encoded, self.encoded.told_places(own), self.options)

    def baseline(self, name: str) -> str:
        if name == LARGEST:
            return f"predicts the most frequent class for every {self.unit}"
        return in_words(self.options, self.trained.reading)

    def introduction(self) -> list[tuple[str, str]]:
        names, (first, *others) = self.trained.reading.classes, super().introduction()
        order, share = np.argsort(-self.counts, kind="stable")[:12], self.counts / self.counts.sum()
        shown = ", ".join(f"{names[k]} {share[k]:.0%}" for k in order)
        lines = [first, ("classes", f"{len(names)}: {shown}{' ...' if len(names) > 12 else ''}")]
        if unknown := self.encoded.unknown(self.judged):
            lines.append(
                ("unknown", scores.unknown(unknown, f" validation {self.unit}s of a class that training lacks"))
            )
        return lines + others

    def result(self, row: Mapping[str, str]) -> str:
        accuracy, f1, nats = (float(row[name]) for name in ("accuracy", "macro_f1", "validation_nats"))
        segments = f"segment F1 {float(row['segment_f1']):.4f}, " if self.options.each_step else ""
        return f"accuracy {accuracy:.4f}, macro F1 {f1:.4f}, {segments}{nats:.4f} nats per {self.unit}"

    def draw(self, directory: Path) -> list[Path]:
        """Draws of the validation sequences which class is taken for which, and whether probabilities are right as often as they say.

        With each_step also what is said of one of them.
        """
        from elman import charts

        places, logits = self.trained.judged(self.encoded, self.validation)
        _, counts = self.trained.score(self.encoded, places, logits)
        reliability = Reliability.of(logits, self.encoded.labels[places])
        classes, of = self.trained.reading.classes, f"{self.unit}s"
        pictures = {
            "confusion.png": charts.confusion(counts.counts, classes, "class", of),
            "calibration.png": charts.reliability(*reliability, reliability.error, of, not self.options.each_step),
        }
        if self.options.each_step:
            k, part, numbers = self.shown()
            said = self.trained.outputs(self.encoded, np.array([k])).argmax(-1).numpy()[part]
            labels = self.encoded.labels[self.encoded.all_places(np.array([k]))][part]
            pictures["steps.png"] = charts.labelled_steps(
                numbers, labels, said, classes, part.start, self.options.seconds
            )
        for name, figure in pictures.items():
            charts.save(figure, directory / name)
        return [directory / name for name in pictures]


def baselines(
    learned: Classes, own: NDArray[np.int64], judged: Classes, places: NDArray[np.int64], options: Options
) -> dict[str, Tally]:
    """Returns the scores, at these places of what is judged, of what needs no network.

    own: the places of the labels to learn from. The most frequent class is said of everything; and the class whose
    number, 1 where it is and 0 elsewhere, a linear function finds the largest.
    """
    labels, classes = learned.labels[own], int(learned.labels.max(initial=0)) + 1
    linear = Linear(learned, own, lambda some: np.eye(classes)[learned.labels[some]], options.causal)
    largest = np.full(len(places), np.bincount(labels).argmax())
    return {
        name: scored(guess, judged, places, options.best_by)
        for name, guess in {LARGEST: largest, LINEAR: linear(judged, places).argmax(-1)}.items()
    }


def scored(guess: NDArray[np.int64], judged: Classes, places: NDArray[np.int64], score: str) -> Tally:
    """Returns the score of classes that are said of what is at these places."""
    labels, units = judged.labels[places], judged.units(places)
    if score == "accuracy":
        return Tally.of(units, (guess == labels, 1), share=True)
    classes = 1 + int(max(guess.max(), labels.max()))
    return scores.macro_f1(labels, guess, classes, len(judged.unknown(places)), units)


begin, resume, load = Classification.begin, Classification.resume, Classifier.load
