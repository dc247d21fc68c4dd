"""Multi-label classification: any number of classes for a whole sequence of numbers, or for a text; or for each step of numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from elman.datasets import examples
from elman.datasets.events import TRACK
from elman.datasets.reading import BadRows
from elman.datasets.sequences import BETWEEN, FLAGS, Labelled, class_set, classes_in, numbers_in
from elman.errors import InputError
from elman.tasks import scores
from elman.tasks.encoded import Encoded, Inputs, slowest
from elman.tasks.gathered import Gathered
from elman.tasks.linear import LINEAR, fitted, in_words
from elman.tasks.options import MultilabelOptions as Options
from elman.tasks.options import quoted
from elman.tasks.parts import Parts, check_labels, divided, gathered, halves, left_out
from elman.tasks.separate import digits, many, of_classes, table
from elman.tasks.sequence_model import SequenceModel
from elman.tasks.tallies import Tally, Units, mean, values
from elman.tasks.whole import DRAWN, Trained, WholeSequences
from elman.training.record import DATA, Record
from elman.training.run import Run

CONFIG = DATA
CONSTANT = "constant"  # what a baseline is called
MOST = 1 << 22  # values that a threshold is found with; of more, some at equal distances
SHOWN = 12  # classes that the introduction names

Members = NDArray[np.float32]  # (n, C): 1 where a label has a class, 0 where it has not, NaN where that is not known


class MultilabelModel(SequenceModel):
    """A model whose outputs are logits, (B, classes), or with each_step (T, B, classes): each class is there, or not, on its own.

    threshold: (classes,), the logits from which on a class is said to be there; the largest number there is, so that it is never
    said, for one of which nothing has been learned. It has no gradient.
    """

    threshold: Tensor

    def __init__(self, inputs: Inputs, outputs: int, options: Options):
        super().__init__(inputs, outputs, options)
        self.register_buffer("threshold", torch.full((outputs,), torch.finfo(torch.float32).max))


@dataclass(frozen=True, kw_only=True)
class Reading(Inputs):
    """What was learned of the data besides weights."""

    classes: list[str]
    # The columns of 1 and 0 that a label has its classes from, in their order; none where it is a set of classes.
    columns: Sequence[str] = ()

    @classmethod
    def learn(cls, sequences: Gathered, own: NDArray[np.int64], options: Options) -> Reading:
        """own: the places of the sequences to learn from."""
        classes, columns = _named(sequences, own, options)
        return cls(classes=classes, columns=columns, **vars(Inputs.of(sequences, own)))

    def grown(self, sequences: Gathered, own: NDArray[np.int64], options: Options) -> Self:
        return replace(self, columns=_columns(options))

    def check(self) -> None:
        super().check()
        for names in (self.classes, self.columns):
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"its classes or their columns are {names}, and should be names")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError("it has no classes, or one of them twice")


def _thresholds(record: Record, count: int) -> Tensor:
    """Returns those that stand in the file of an exported model. count: of its classes."""
    found = record.json("thresholds.json").get("logits")
    try:
        tensor = torch.tensor(found, dtype=torch.float32)
        if tensor.shape != (count,) or not tensor.isfinite().all():
            raise ValueError(f"{count} numbers are needed")
    except (TypeError, ValueError) as error:
        raise InputError(f"{record.place('thresholds.json')} is damaged: {error}; export the run again") from error
    return tensor


def _columns(options: Options) -> list[str]:
    """Returns the columns of 1 and 0; none where a label is a set of classes."""
    return [] if options.between_classes is not None else list(options.label_columns)


def _labels(sequences: Gathered, own: NDArray[np.int64]) -> Iterator[str]:
    """Yields the different labels of the sequences at these places."""
    names = list(sequences.different)
    return (names[k] for k in np.unique(sequences.given(own)) if k >= 0)


class Sets(Encoded):
    """Sequences as what a model reads, and the classes of their labels."""

    def __init__(self, sequences: Gathered, reading: Reading):
        super().__init__(sequences, reading)
        self._columns = reading.columns
        self._given = sequences.labels.steps  # (M,), numbers of different labels, of which -1 is none
        # Of each different label, and at last of none: its members, and the classes that the training did not have.
        self._members, self._others = members([*sequences.different], reading.classes, reading.columns)
        self.told = np.asarray(~np.isnan(self._members).all(1))[self._given]

    def members(self, places: NDArray[np.int64]) -> Members:
        """Returns which classes the labels at these places have."""
        return self._members[self._given[places]]

    def others(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns how many classes each label at these places has that the training did not have, (n,)."""
        return np.array([*map(len, self._others)])[self._given[places]]

    def names_of_others(self, places: NDArray[np.int64]) -> list[list[str]]:
        """Returns which classes these are, of each label."""
        return [self._others[k] for k in self._given[places].tolist()]

    @property
    def texts_of_labels(self) -> list[str]:
        """Of labels in columns, whose order may be another one for another model, these are in alphabetical order."""
        labels, columns = super().texts_of_labels, self._columns
        order = sorted(range(len(columns)), key=columns.__getitem__)
        named = (dict(zip(columns, label.split(BETWEEN), strict=True)) for label in labels)
        return [BETWEEN.join(f"{columns[k]}={own[columns[k]]}" for k in order) for own in named] if columns else labels

    def kind(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        found = self.members(places)
        changing = found[:, np.nanmin(found, 0, initial=1) < np.nanmax(found, 0, initial=0)]
        return slowest(changing) if changing.shape[1] else np.zeros(len(places), bool)

    def richest(self, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the places of these sequences, those with many different classes first."""
        counts = [int((self.members(self.all_places(own[n : n + 1])) == 1).any(0).sum()) for n in range(len(own))]
        return own[np.argsort(-np.array(counts), kind="stable")]

    def unknown(self, places: NDArray[np.int64]) -> Counter[str]:
        """Returns the classes at these places that the training did not have, and how often each occurs."""
        found = Counter[str]()
        counts = np.bincount(self._given[places] + 1, minlength=len(self._others))[1:]
        for names, n in zip(self._others, counts.tolist(), strict=False):
            found.update(dict.fromkeys(names, n) if n else {})
        return found


def members(
    labels: Sequence[str], classes: Sequence[str], columns: Sequence[str] = ()
) -> tuple[Members, list[list[str]]]:
    """Returns which classes each of the labels has, and those that it has besides; and the same, at last, of no label.

    columns: what the values of a label say 1 or 0 of; none where a label is a set of classes.
    """
    place = {name: k for k, name in enumerate(classes)}
    found = np.full((len(labels) + 1, len(classes)), np.nan, np.float32)
    others = [list[str]() for _ in found]
    for own, more, label in zip(found, others, labels, strict=False):
        if columns:
            said = dict(zip(columns, numbers_in(label, len(columns)), strict=True))
        else:
            own[:] = 0
            said = dict.fromkeys(classes_in(label), 1.0)
        for name, value in said.items():
            if name in place:
                own[place[name]] = value
            elif value == 1:
                more.append(name)
    return found, others


def read(path: Path | None, options: Options, bad: BadRows, reading: Reading | None = None) -> Parts:
    """Returns the sequences and the indices of the training and validation sets, both with some of the rare classes.

    reading: what was learned of the data before, whose channels they must have.
    """
    o, where = options, path or Path(examples.EVENTS)

    def built_in() -> Iterator[Labelled]:
        for n, (steps, going) in enumerate(examples.events(), 1):
            if o.each_step:
                yield Labelled(str(n), steps, None, labels=[class_set(own, "") for own in going])
            else:
                yield Labelled(str(n), steps, class_set(sorted({name for own in going for name in own}), ""))

    found, count = gathered(path, o, bad, built_in(), reading)
    kinds = np.zeros(len(found), np.int64) if o.each_step else _kinds(found, o)
    own, test = left_out(found, o, count, kinds, path)
    if o.validation is not None or o.each_step or found.groups:
        train, validation = divided(found, o, count, own)
    else:
        train, validation = (own[each] for each in halves(kinds[own], o))
    parts = Parts(found, train, validation, test)
    check_labels(parts, where, "give at least two of each class", 1, bad)
    classes, columns = _named(found, train, o)
    learned, _ = members([*_labels(found, train)], classes, columns)
    if not (learned == 1).any():
        raise InputError(f"no label of the training part of {where} has a class; give some that have")
    if not (np.nanmin(learned, 0, initial=1) < np.nanmax(learned, 0, initial=0)).any():
        raise InputError(f"all labels of the training part of {where} have the same classes; give different ones")
    if not columns and (learned[:-1] == 1).sum(1).max() == 1 and {name.lower() for name in classes} <= FLAGS.keys():
        raise InputError(
            f"column {o.label!r} of {where} has only {' or '.join(map(repr, classes))}; learn whether a single class is there with elman train classify, or name several such columns"
        )
    for name in classes if o.between_classes is not None else ():
        if o.separator in name:
            raise InputError(
                f"{where} has the class {name!r}, which has the separator {o.separator!r} in it; give another --separator"
            )
    return parts


def _named(sequences: Gathered, own: NDArray[np.int64], options: Options) -> tuple[list[str], list[str]]:
    """Returns the classes that these sequences have, and the columns that say so, as `members` takes them."""
    columns = _columns(options)
    return columns or sorted({name for label in _labels(sequences, own) for name in classes_in(label)}), columns


def _kinds(sequences: Gathered, options: Options) -> NDArray[np.int64]:
    """Returns of each sequence the place of its rarest class; those without any have a number of their own. Each part should have
    its share of these."""
    every = np.arange(len(sequences))
    found = members([*sequences.different], *_named(sequences, every, options))[0][sequences.labels.steps] == 1
    order = np.argsort(found.sum(0), kind="stable")
    return np.append(found[:, order], np.ones((len(found), 1), bool), 1).argmax(1)


class Counts(NamedTuple):
    """How often C classes are said rightly, said, and there: (C,) each."""

    right: NDArray[np.int64]
    said: NDArray[np.int64]
    there: NDArray[np.int64]

    @classmethod
    def of(cls, said: NDArray[np.bool_], truth: Members) -> Counts:
        """said: (n, C), whether each class is said to be there."""
        there = truth == 1
        return cls((said & there).sum(0), (said & ~np.isnan(truth)).sum(0), there.sum(0))

    @property
    def precision(self) -> NDArray[np.float64]:
        return self.right / np.maximum(1, self.said)

    @property
    def recall(self) -> NDArray[np.float64]:
        return self.right / np.maximum(1, self.there)

    @property
    def f1(self) -> NDArray[np.float64]:
        return 2 * self.right / np.maximum(1, self.said + self.there)


class Cuts(NamedTuple):
    """What each different value, from the largest, takes in if it is the threshold of a class, (n,) each."""

    values: NDArray[np.floating[Any]]
    right: NDArray[np.int64]  # those that are there
    said: NDArray[np.int64]  # all

    @classmethod
    def of(cls, values: NDArray[np.floating[Any]], there: NDArray[np.bool_]) -> Cuts:
        """values, there: (n,), at least one."""
        order = np.argsort(-values, kind="stable")
        values, right = values[order], there[order].cumsum()
        last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
        return cls(values[last], right[last], last + 1)


def average_precision(logits: NDArray[np.float32], truth: Members) -> NDArray[np.float64]:
    """Returns of each class the mean, over the labels that have it, of the precision with the threshold that just takes this one in, (C,).

    NaN of a class that no label has. Labels with equal logits are taken in together. logits: (n, C).
    """
    found = np.full(logits.shape[1], np.nan)
    for k, (column, own) in enumerate(zip(logits.T, truth.T, strict=True)):
        if (own == 1).any():
            known = ~np.isnan(own)
            _, right, said = Cuts.of(column[known], own[known] == 1)
            found[k] = (np.diff(right, prepend=0) * right / said).sum() / right[-1]
    return found


def nats_of(logits: Tensor, truth: Members) -> NDArray[np.float64]:
    """Returns -log p of what is true of each class, (n, C); 0 where that is not known."""
    target = torch.from_numpy(np.nan_to_num(truth)).double()
    nats = binary_cross_entropy_with_logits(logits.double(), target, reduction="none").numpy()
    return np.where(np.isnan(truth), 0.0, nats)


def scored(
    said: NDArray[np.bool_], truth: Members, others: NDArray[np.int64], unknown: int, units: Units
) -> dict[str, Tally]:
    """Returns named scores of classes that are said to be there, (n, C).

    others: how many classes each label has that the training lacks, (n,); each counts as missed. unknown: how many different ones.
    """
    known, there = ~np.isnan(truth), truth == 1
    right, either = said & there, (said & known).astype(np.int64) + there
    exact = (((said == there) | ~known).all(1)) & (others == 0)
    return {
        "micro_f1": Tally.of(units, (2 * right.sum(1), either.sum(1) + others), share=True),
        "macro_f1": Tally.of(units, [*(2 * right).T, *either.T], partial(scores.macro, unknown=unknown), share=True),
        "exact_match": Tally.of(units, (exact, 1), share=True),
    }


class Multilabeler(Trained[Reading, Options]):
    """A model that says which classes a sequence has: what a run holds when it is trained."""

    encoded, learned, made_for, built_in = Sets, Reading, Options, examples.EVENTS
    parts_of = staticmethod(read)

    def __init__(
        self, model: Any, reading: Reading, options: Options, path: Path | None = None, digest: str | None = None
    ):
        super().__init__(model, reading, options, path, digest)
        if list(reading.columns) != _columns(options):
            raise InputError(
                f"the model has learned labels in {quoted(reading.columns) or 'one column'}, but its options say {options.label}; restore its files or train again"
            )

    @staticmethod
    def model_of(reading: Reading, options: Options) -> MultilabelModel:
        return MultilabelModel(reading, len(reading.classes), options)

    @property
    def width(self) -> int:
        return len(self.reading.classes)

    @classmethod
    def load(cls, record: Record | Path, device: str = "cpu") -> Self:
        found = super().load(record, device)
        if not isinstance(found.model, MultilabelModel) and not isinstance(record, Path):  # an exported one
            found.model.register_buffer("threshold", _thresholds(record, found.width))
        return found

    @property
    def unit(self) -> str:
        return "step" if self.options.each_step else "sequence"

    def said(self, logits: Tensor) -> NDArray[np.bool_]:
        """Returns which classes are said to be there, (..., C)."""
        return (logits >= self.model.threshold.to(logits)).numpy()

    def score(self, encoded: Sets, places: NDArray[np.int64], logits: Tensor) -> dict[str, Tally]:
        """Returns named scores of the labels at these places. logits: what the model says of them, (n, C)."""
        truth, units = encoded.members(places), encoded.units(places)
        unknown = len(encoded.unknown(places))
        losses = Tally.of(units, [*nats_of(logits, truth).T, *(~np.isnan(truth)).T], mean)._replace(apart=True)
        found = scored(self.said(logits), truth, encoded.others(places), unknown, units)
        return {"validation_nats": losses, **found}

    def judge(self, encoded: Sets, said: Tensor, unit: None) -> tuple[dict[str, Tally], Iterator[tuple[str, str]]]:
        places = np.flatnonzero(encoded.told)
        logits = said[places]
        found = self.score(encoded, places, logits)
        tallies = {scores.named(name, "class"): each for name, each in found.items()}
        return tallies, self._figures(encoded, places, logits, tallies)

    def _figures(
        self, encoded: Sets, places: NDArray[np.int64], logits: Tensor, tallies: dict[str, Tally]
    ) -> Iterator[tuple[str, str]]:
        truth, best = encoded.members(places), self.options.best_by.replace("_f1", " F1")
        counts, precision = Counts.of(self.said(logits), truth), average_precision(logits.numpy(), truth)
        if unknown := encoded.unknown(places):
            yield "unknown label", scores.unknown(unknown)
        for name, each in tallies.items():
            yield name, scores.figure(each)
        if (counts.there > 0).any():
            yield "average precision", f"{np.nanmean(precision):.4f}, the mean over classes"
        yield self.how_sure(encoded)
        model = tallies[best.replace(" F1", " f1")]
        yield from scores.on_baselines(self.path, lambda: self._baselines(encoded, places), best, model)
        known, least = (~np.isnan(truth)).sum(0), self.model.threshold.sigmoid().tolist()
        if len({*least}) == 1:
            yield "threshold", f"{least[0]:.4f}: from this probability on, a class is said to be there"
        else:
            yield "thresholds", "from this probability on, a class is said to be there; each has its own"
        for k, name in enumerate(self.reading.classes):
            told = f"precision {counts.precision[k]:.4f}  recall {counts.recall[k]:.4f}  F1 {counts.f1[k]:.4f}"
            area = f"  average precision {precision[k]:.4f}" if counts.there[k] else ""
            own = f"  threshold {least[k]:.4f}" if len({*least}) > 1 else ""
            yield f"  {name}", f"{told}{area}{own}  {self.unit}s {counts.there[k]} of {known[k]}"

    def _baselines(self, judged: Sets, places: NDArray[np.int64]) -> dict[str, Tally]:
        sequences, train, *_ = self.read_again()
        learned = Sets(sequences, self.reading)
        return baselines(learned, learned.told_places(train), judged, places, self.options)

    def names(self, own: Iterable[bool]) -> list[str]:
        """Returns what the classes of which this is true are called. own: (C,)."""
        return [name for name, there in zip(self.reading.classes, own, strict=True) if there]

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row of CSV, or JSON, for each sequence or step of a file: its classes and the probability of every class.

        Of a recording whose moments have classes, a row has one event: a class, from when to when it is there, and its mean
        probability. A recording in which there is none has a row, too.
        """
        if form == TRACK:
            return self.track(path)
        self.skipped = BadRows(self.options.skip_bad)
        groups, moments = self.read_groups(path, self.skipped), self.options.label_moments
        rows = (self._events(encoded) if moments else self._predicted(encoded, form) for encoded in groups)
        return table(chain.from_iterable(rows), form, self.options.between_classes)

    def _predicted(self, encoded: Sets, form: str) -> Iterator[dict[str, Any]]:
        logits = self.outputs(encoded)
        for (_, name, *_), there, row in zip(
            encoded.named(np.arange(len(encoded.rows))), self.said(logits), logits.sigmoid().tolist(), strict=True
        ):
            yield name | {"classes": self.names(there)} | of_classes(self.reading.classes, row, form)

    def _events(self, encoded: Sets) -> Iterator[dict[str, Any]]:
        """Yields the events of recordings in the order of their begins."""
        every = self.outputs(encoded)
        for k in range(len(encoded.rows)):
            own, found = np.array([k]), list[dict[str, Any]]()
            logits = self.some(encoded, every, own)
            there, chances = self.said(logits), logits.sigmoid().double().numpy()
            for number, name in enumerate(self.reading.classes):
                for _, row, _, places in encoded.named(own, there[:, number]):
                    if there[places.start, number]:
                        chance = digits(float(chances[places, number].mean()))
                        found.append(row | {"class": name, "probability": chance})
            none = {"sequence": encoded.sequences.name(k)} | dict.fromkeys(("begin", "end", "class", "probability"))
            yield from sorted(found, key=lambda row: row["begin"]) or [none]

    def rows(self, encoded: Sets, own: NDArray[np.int64], said: Tensor) -> Iterator[tuple[int, dict[str, Any]]]:
        places = encoded.all_places(own)
        truth, others = encoded.members(places), encoded.names_of_others(places)
        nats, there = nats_of(said, truth).sum(1).tolist(), self.said(said)
        _, same = np.unique(there, axis=0, return_inverse=True)
        for k, name, _, together in encoded.named(own, same.ravel()):
            if encoded.told[places[n := together.start]]:
                name["label"] = sorted([*self.names(truth[n] == 1), *others[n]])
                if self.reading.columns:
                    name["unknown"] = self.names(np.isnan(truth[n]))
                # A class that the training lacks has no chance.
                cost = None if others[n] else digits(sum(nats[together]))
                yield k, name | {"classes": self.names(there[n]), "nats": cost}


class MultilabelClassification(WholeSequences):
    """The task, as `elman.training.task.Task` has it."""

    made_of = Multilabeler
    name, measure = "multilabel", "nats"
    higher_is_better = True

    def __init__(self, trained: Multilabeler, parts: Parts, path: Path | None):
        """path: where the sequences come from; None for the built-in ones."""
        super().__init__(trained, parts, path)
        self.unit = "class"  # the loss is the mean over classes
        self.score, self.score_unit = self.options.best_by, self.options.best_by.replace("_f1", " F1")
        truth = self.encoded.members(self.places)
        self.known, self.there = (~np.isnan(truth)).sum(0), (truth == 1).sum(0)  # (C,)
        # All classes have the same weight in an epoch, however often they are known.
        weight = len(truth) / ((self.known > 0).sum() * np.maximum(1, self.known))
        of_both = [weight, weight]  # of a label without a class, and with it
        if self.options.balanced:
            counts = [self.known - self.there, self.there]
            kinds = np.sum([n > 0 for n in counts], 0)  # of a class that is always there, all labels are of one kind
            of_both = [weight * self.known / np.maximum(1, kinds * n) for n in counts]
        self.weights = torch.from_numpy(np.array(of_both)).float()  # (2, C)

    def check(self, start: Run | None) -> None:
        if start is not None:
            scores.check_known(self.encoded.unknown(self.places), "classes", self.path, start)

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        logits, places = self.outputs(own)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        truth = torch.from_numpy(self.encoded.members(places)).to(logits)
        target, (without, with_it) = truth.nan_to_num(), self.weights.to(logits)
        weights = torch.where(target > 0, with_it, without).where(~truth.isnan(), 0.0)
        return binary_cross_entropy_with_logits(logits, target, weights, reduction="sum") / len(truth)

    def evaluate(self) -> dict[str, float]:
        """Returns the scores of the validation sequences, with the thresholds that are best for them, which the model keeps.

        A class of which the training knows nothing keeps the threshold that it had, in the run from which the training starts.
        """
        places, logits = self.trained.judged(self.encoded, self.validation)
        found = thresholds(logits.numpy(), self.encoded.members(places), self.options.best_by == "macro_f1")
        self.model.threshold.copy_(
            torch.from_numpy(found).where(torch.from_numpy(self.known > 0), self.model.threshold.cpu())
        )
        return values(self.trained.score(self.encoded, places, logits))

    def scores(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        return self.trained.score(self.encoded, *self.trained.judged(self.encoded, own))

    def baselines(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        return baselines(self.encoded, self.places, self.encoded, self.encoded.told_places(own), self.options)

    def baseline(self, name: str) -> str:
        if name == CONSTANT:
            return f"says the same classes for every {self.trained.unit}: those with the best {self.score_unit} in training"
        which = "thresholds that are" if self.options.best_by == "macro_f1" else "threshold that is"
        return f"{in_words(self.options, self.trained.reading)}, with the {which} best in training"

    def introduction(self) -> list[tuple[str, str]]:
        names, (first, *others) = self.trained.reading.classes, super().introduction()
        share = self.there / np.maximum(1, self.known)
        order = np.argsort(-share, kind="stable")[:SHOWN]
        shown = ", ".join(f"{names[k]} {share[k]:.0%}" for k in order)
        lines = [first, ("classes", f"{len(names)}: {shown}{' ...' if len(names) > SHOWN else ''}")]
        truth = self.encoded.members(self.places)
        of = f"of the training {self.trained.unit}s have"
        several, none = ((truth == 1).sum(1) > 1).mean(), ((truth == 1).sum(1) == 0).mean()
        lines.append(("several", f"{several:.0%} {of} several classes, {none:.0%} have none"))
        if missing := int((self.known < len(truth)).sum()):
            some = f"{many(missing, 'class', 'es')} at some training {self.trained.unit}s, which do not count there"
            lines.append(("not known", some))
        if lacking := [name for name, n in zip(names, self.known, strict=True) if not n]:
            lines.append(("not learned", f"nothing is known in training of {scores.few(Counter(lacking))}"))
        if never := [name for name, n, m in zip(names, self.there, self.known, strict=True) if m and not n]:
            lines.append(("never there", f"in training: {scores.few(Counter(never))}"))
        if not (self.encoded.members(self.judged) == 1).any():
            none = f"no validation {self.trained.unit} has a class, so F1 is 0 and no threshold is chosen; give some that have"
            lines.append(("not judged", none))
        if unknown := self.encoded.unknown(self.judged):
            which = f"{many(len(unknown), 'class', 'es')} of validation labels that training lacks"
            lines.append(
                ("unknown", f"{which}, {many(unknown.total(), 'time')}, counted as missed: {scores.few(unknown)}")
            )
        return lines + others

    def result(self, row: Mapping[str, str]) -> str:
        micro, macro, exact, nats = (
            float(row[name]) for name in ("micro_f1", "macro_f1", "exact_match", "validation_nats")
        )
        return f"micro F1 {micro:.4f}, macro F1 {macro:.4f}, exact match {exact:.4f}, {nats:.4f} nats per class"

    def draw(self, directory: Path) -> list[Path]:
        """Draws how well each class is found in the validation sequences, and with each_step what is said of one of them."""
        from elman import charts

        places, logits = self.trained.judged(self.encoded, self.validation)
        classes = self.trained.reading.classes
        counts = Counts.of(self.trained.said(logits), self.encoded.members(places))
        pictures = {
            "classes.png": charts.found(classes, counts.precision, counts.recall, counts.there, f"{self.trained.unit}s")
        }
        if self.options.each_step:
            own = self.encoded.richest(self.validation)[:1]
            truth = self.encoded.members(self.encoded.all_places(own))
            # Of a long one the part where its first class begins.
            first = max(0, int((truth == 1).any(1).argmax()) - DRAWN // 20) if len(truth) > DRAWN else 0
            part = slice(first, first + DRAWN)
            numbers = self.encoded.sequences.values(int(own[0]))[0][part]
            chances = self.trained.outputs(self.encoded, own).sigmoid().numpy()[part]
            pictures["steps.png"] = charts.overlapping_steps(
                numbers, truth[part], chances, classes, first, self.options.seconds
            )
        for name, figure in pictures.items():
            charts.save(figure, directory / name)
        return [directory / name for name in pictures]


def baselines(
    learned: Sets, own: NDArray[np.int64], judged: Sets, places: NDArray[np.int64], options: Options
) -> dict[str, Tally]:
    """Returns the scores, at these places of what is judged, of what needs no network.

    own: the places of the labels to learn from. The same classes are said of everything: those with which the score is best.
    And those for which a linear function reaches a threshold, which is chosen as that of a network is.
    """
    truth = learned.members(own)
    there, count = (truth == 1).sum(0), (~np.isnan(truth)).sum(0)
    order = np.argsort(-there / np.maximum(1, count), kind="stable")
    # Of the first m classes: 2 right / (said + there). Macro F1 is best with all.
    micro = 2 * there[order].cumsum() / np.maximum(1, count[order].cumsum() + there.sum())
    most = int(micro.argmax()) + 1 if options.best_by == "micro_f1" else int((there > 0).sum())
    always = np.zeros((len(places), len(there)), bool)
    always[:, order[:most]] = True
    # Classes that are known at the same places have a linear function together, which says so much of what it was fitted to.
    numbers, apart = np.zeros(always.shape), options.best_by == "macro_f1"
    least, every = np.full(len(there), np.inf), list[tuple[NDArray[Any], NDArray[Any]]]()
    for together, linear in fitted(learned, own, learned.members, options.causal):
        numbers[:, together] = linear(judged, places)
        every.append((linear.targets - linear.left, linear.targets))
        least[together] = thresholds(*every[-1], apart)
    if not apart:
        said, true = (np.concatenate([each.ravel() for each in one])[:, None] for one in zip(*every, strict=True))
        least[count > 0] = thresholds(said, true, apart)
    unknown, units = len(judged.unknown(places)), judged.units(places)
    return {
        name: scored(guess, judged.members(places), judged.others(places), unknown, units)[options.best_by]
        for name, guess in {CONSTANT: always, LINEAR: numbers >= least}.items()
    }


def thresholds(
    values: NDArray[np.floating[Any]], truth: NDArray[np.floating[Any]], apart: bool
) -> NDArray[np.floating[Any]]:
    """Returns the values from which on a class should be said to be there, (C,), for the best F1. values, truth: (n, C).

    One value serves all classes, which is best for micro F1; or apart, each class has its own one, which is best for macro F1. If
    values are calibrated probabilities, it is half of the F1 that they reach, and not a half.
    Source: Z. C. Lipton, C. Elkan & B. Naryanaswamy, Optimal thresholding of classifiers to maximize F1 measure (2014).
    """
    known, there = ~np.isnan(truth), truth == 1
    stride = -(-values.size // MOST)
    found = np.full(values.shape[1], _threshold(values[known][::stride], there[known][::stride]), values.dtype)
    for k in np.flatnonzero(there.any(0)) if apart else ():
        found[k] = _threshold(values[known[:, k], k], there[known[:, k], k])
    return found


def _threshold(values: NDArray[np.floating[Any]], there: NDArray[np.bool_]) -> float:
    """Returns the value from which on F1 is best: halfway between two that there are, (n,). 0 if nothing is there."""
    if not there.any():
        return 0.0
    values, right, said = Cuts.of(values, there)
    best = (right / (said + right[-1])).argmax()
    middle = values[best : best + 2].mean()
    return float(middle if best + 1 == len(values) or middle > values[best + 1] else values[best])


begin, resume, load = MultilabelClassification.begin, MultilabelClassification.resume, Multilabeler.load
