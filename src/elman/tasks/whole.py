"""What the tasks share that predict something of a sequence of numbers or of a text, or of each step of numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.datasets.events import as_track
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled, sequences
from elman.datasets.tables import JSON_LINES
from elman.errors import InputError
from elman.spectrum import hide_bands
from elman.tasks import scores
from elman.tasks.encoded import NAMED, Encoded, Inputs
from elman.tasks.gathered import STEPS
from elman.tasks.options import ClassificationOptions, LabelOptions, SequenceOptions
from elman.tasks.parts import Parts, check_tokens, columns_of, empty, unit_of
from elman.tasks.pieces import Pieces, ranges, steps_of
from elman.tasks.scores import Judged
from elman.tasks.separate import (
    SeparateSequences,
    check_made_for,
    check_same,
    groups,
    many,
    started,
    table,
)
from elman.tasks.sequence_model import Reader
from elman.tasks.tallies import LEAST, Tally, Units, values
from elman.training.record import DATA, Record, data_of, device_of
from elman.training.run import Run
from elman.training.task import Batch

CHUNK = 256  # sequences that are read side by side
MANY = 1 << 20  # steps of several sequences that memory holds at a time while they are predicted
MOVED = 1 << 34  # of the random numbers that move pieces
DRAWN = 1000  # steps of a picture at most
MOST = 0.8  # a share of unknown words of the training texts that is worth a remark


Learned = TypeVar("Learned", bound=Inputs)
Given = TypeVar("Given", bound=SequenceOptions)


class Trained(Generic[Learned, Given]):
    """A model with what it knows of the data: what a run holds when it is trained."""

    encoded: ClassVar[Any]  # an `Encoded` that has labels, made of sequences that were gathered and of what was learned
    learned: ClassVar[type[Inputs]]  # what is learned of the data besides weights
    made_for: ClassVar[type[SequenceOptions]]  # the options
    built_in: ClassVar[str]  # what the data without a file are called
    # Returns the sequences of (path, options, bad rows, what was learned of the data before), and which are for what.
    parts_of: ClassVar[Callable[..., Parts]]

    judged_by: str | None = None  # the column of what is judged together by `evaluate`, such as a person

    def __init__(
        self,
        model: Any,
        reading: Learned,
        options: Given,
        path: Path | None = None,
        digest: str | None = None,
    ):
        """path: the training data; None for the built-in sequences. digest: that of these data, if it is known."""
        self.model, self.reading, self.path, self.digest = model, reading, path, digest
        self.options = reading.fitted(options)
        self.skipped = BadRows()  # what the last call of `predict` leaves out

    @staticmethod
    def model_of(reading: Any, options: Any) -> Reader:
        """Returns a new model for what was learned of the data."""
        raise NotImplementedError

    @classmethod
    def new(cls, reading: Learned, options: Given, device: str, path: Path | None) -> Self:
        """Returns one whose model is new."""
        return cls(cls.model_of(reading, options).to(device), reading, options, path)

    @classmethod
    def load(cls, record: Record | Path, device: str = "cpu") -> Self:
        """Returns that of a run, with the parameters that were best on the validation sequences."""
        record = Run(record) if isinstance(record, Path) else record
        options, config = record.options(cls.made_for, DATA)
        reading = cls.learned.load(record)
        model: Any = record.model(lambda: cls.model_of(reading, options), device)
        if isinstance(model, Reader):  # an exported one has been settled
            model.settle()
        return cls(model, cast("Learned", reading), cast("Given", options), data_of(config), record.digest())

    @property
    def remarks(self) -> list[str]:
        """What there is to say of the last predictions."""
        return self.skipped.remarks

    @property
    def width(self) -> int:
        """The number of outputs of the model."""
        raise NotImplementedError

    def says(self, encoded: Any, own: NDArray[np.int64]) -> Any:
        """Returns what the model says of the sequences at these places."""
        return self.outputs(encoded, own)

    def judged(self, encoded: Encoded, own: NDArray[np.int64]) -> tuple[NDArray[np.int64], Any]:
        """Returns the places of the labels that these sequences have, and what the model says of them, (n, outputs)."""
        places = encoded.all_places(own)
        told = encoded.told[places]
        return places[told], self.says(encoded, own)[torch.from_numpy(told)]

    def rows(self, encoded: Any, own: NDArray[np.int64], said: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields a row for each label of the sequences at these places, after the place of its sequence: what it is, and what the model says."""
        raise NotImplementedError

    @property
    def predicts(self) -> str:
        return f"a label of each {'step' if self.options.label_each_step else 'sequence'}"

    @property
    def unit_of_errors(self) -> Any:
        """In which errors are told; None if scores have no unit."""
        return None

    def judge(self, encoded: Any, said: Any, unit: Any) -> tuple[dict[str, Tally], Iterator[tuple[str, str]]]:
        """Returns how well the model predicts the labels of all sequences: scores by their names, and lines.

        said: what it says. unit: in which errors are told, as `unit_of_errors` has it.
        """
        raise NotImplementedError

    def evaluate(self, path: Path, like: Judged | None = None) -> Judged:
        """Returns how well the model predicts the labels of a file. like: in whose unit errors are told."""
        encoded, lines = self.read(path)
        said = self.says(encoded, np.arange(len(encoded.rows)))
        unit = self.unit_of_errors if like is None else like.unit
        tallies, figures = self.judge(encoded, said, unit)
        by = f"{many(int(encoded.told.sum()), 'label')} of {self.options.label!r}"
        rows = partial(self.table, encoded, said)
        return Judged(chain(lines, figures), rows, tallies, by, encoded.digest, unit)

    def table(self, encoded: Encoded, said: Any, form: str) -> Iterator[str]:
        """Yields the rows of all sequences, of which the model says this."""
        lengths = np.diff(encoded.sequences.labels.bounds)
        own = (np.array(some) for some in groups(range(len(lengths)), CHUNK, lengths.__getitem__, MANY))
        rows = (row for some in own for _, row in self.rows(encoded, some, self.some(encoded, said, some)))
        return table(rows, form, self.options.between_classes)

    def some(self, encoded: Encoded, said: Any, own: NDArray[np.int64]) -> Any:
        """Returns what the model says of some of all sequences."""
        return said[torch.from_numpy(encoded.all_places(own))]

    def how_sure(self, encoded: Encoded, units: Units | None = None) -> tuple[str, str]:
        """Returns what there is to say of the intervals of scores. units: those of all labels, if they are known."""
        units, by = units or encoded.units(np.flatnonzero(encoded.told)), self.options.group
        count = len(np.unique(units.of))
        if self.judged_by is not None:
            return scores.how_sure(count, f"{many(count, 'value')} of {self.judged_by!r}")
        if units.parts:
            return scores.how_sure(count, f"{count} parts of the only sequence", "the only sequence")
        name, told = scores.how_sure(count, many(count, "sequence"))
        more = f", if each is of another {by!r}; else give --group {by}"
        return name, told + more * (by is not None and count >= LEAST)

    def read_groups(self, path: Path, bad: BadRows) -> Iterator[Any]:
        """Yields the sequences of a file, which need no labels, as what the model reads: some at a time."""
        for group in in_groups(sequences(path, columns_of(self.options, self.reading), False, bad)):
            yield self.encode(group, path)

    def track(self, path: Path) -> Iterator[str]:
        """Yields the events that a model of moments finds in a recording, as the lines of a file that lies beside it."""
        elsewhere = self.options.elsewhere if isinstance(self.options, ClassificationOptions) else None
        return as_track(map(json.loads, self.predict(path, JSON_LINES[0])), elsewhere)

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row for each sequence or step of a file, as `elman.tasks.Trained.predict` says."""
        raise NotImplementedError

    def encode(self, every: Iterable[Labelled], path: Path) -> Any:
        """Raises InputError, naming the path, for a sequence that is not of the kind that was learned from."""
        gathered = empty(self.options, unit_of(self.options), self.reading)
        gathered.add(every, path)
        return self.encoded(gathered, self.reading)

    @torch.inference_mode()
    def outputs(self, encoded: Encoded, own: NDArray[np.int64] | None = None) -> Tensor:
        """Returns what the model says of sequences, (N, outputs), in the order of `encoded.all_places(own)`.

        own: the places of the sequences; all if left out.
        """
        own = np.arange(len(encoded.rows)) if own is None else own
        lengths, training = encoded.rows.lengths[own], self.model.training
        count = lengths.astype(np.int64) if encoded.each_step else np.ones(len(own), np.int64)
        first, found = np.cumsum(count) - count, torch.empty(int(count.sum()), self.width)
        self.model.eval()
        read, options = self._whole, self.options
        if isinstance(options, LabelOptions) and options.each_step:
            if options.causal and hasattr(self.model, "read"):
                read = partial(self._forward, options.window)
            else:  # A file that hears has no states to go on with: a causal one reads all at once.
                longest = int(lengths.max(initial=1))
                read = partial(self._both_ways, longest if options.causal else options.window)
        for pieces, y in read(encoded, own):
            rows = ranges(first[pieces.of] + pieces.begin, pieces.lengths)
            found[torch.from_numpy(rows)] = y.float().cpu()
        self.model.train(training)
        return self.model.corrected(found) if isinstance(self.model, Reader) else found

    def _input(self, encoded: Encoded, own: NDArray[np.int64], pieces: Pieces) -> tuple[Tensor, Tensor]:
        """Returns what the model reads. pieces: those of the sequences at the places `own`, by their numbers among these."""
        x, lengths = encoded.batch(pieces._replace(of=own[pieces.of]))
        device = device_of(self.model)
        return x.to(device), lengths.to(device)

    def _whole(self, encoded: Encoded, own: NDArray[np.int64]) -> Iterator[tuple[Pieces, Tensor]]:
        """Yields sequences, in place of which their first steps stand, and what the model says of them."""
        lengths = encoded.rows.lengths[own]
        order = np.argsort(lengths, kind="stable")
        for begin in range(0, len(order), CHUNK):
            pieces = Pieces.whole(order[begin : begin + CHUNK], lengths)
            yield pieces.first, self.model(*self._input(encoded, own, pieces))

    def _both_ways(self, window: int, encoded: Encoded, own: NDArray[np.int64]) -> Iterator[tuple[Pieces, Tensor]]:
        """Yields pieces and what the model says of their steps.

        It has never read more than a window, so that it reads no more here. Of a longer sequence it reads windows that
        overlap, and what it says of the middle half of each is taken: so it knows what is around every step.
        """
        lengths = encoded.rows.lengths[own]
        most = np.where(lengths <= window, window, window // 2)
        every = Pieces.cut(np.arange(len(own)), lengths, most)
        around = every.widened(lengths, (window - window // 2) // 2)
        order = np.argsort(around.lengths, kind="stable")
        side_by_side = max(1, min(CHUNK, STEPS // window))
        for begin in range(0, len(order), side_by_side):
            chunk = order[begin : begin + side_by_side]
            pieces, read = every.take(chunk), around.take(chunk)
            y = self.model(*self._input(encoded, own, read))
            yield pieces, steps_of(y, pieces.begin - read.begin, pieces.end - read.begin)

    def _forward(self, window: int, encoded: Encoded, own: NDArray[np.int64]) -> Iterator[tuple[Pieces, Tensor]]:
        """Yields pieces and what the model says of their steps; it goes on from the states after the piece before."""
        lengths = encoded.rows.lengths[own].astype(np.int64)
        order = np.argsort(-lengths, kind="stable")
        side_by_side = max(1, min(CHUNK, STEPS // window))
        for first in range(0, len(order), side_by_side):
            chunk, state = order[first : first + side_by_side], None
            for begin in range(0, int(lengths[chunk[0]]), window):
                chunk = chunk[lengths[chunk] > begin]
                pieces = Pieces(chunk, np.full(len(chunk), begin), np.minimum(lengths[chunk], begin + window))
                if state is not None:  # of the sequences that go on
                    B = len(chunk)
                    state = state[:, :B] if isinstance(state, Tensor) else tuple(each[:, :B] for each in state)
                x, steps = self._input(encoded, own, pieces)
                y, state = self.model.read(x, steps, state)
                yield pieces, steps_of(y, np.zeros_like(pieces.begin), pieces.lengths)

    def parts(self) -> Parts:
        """Returns the training data, read again."""
        return self.parts_of(self.path, self.options, BadRows(self.options.skip_bad), self.reading)

    def read_again(self) -> Parts:
        """Returns what `parts` does. Raises InputError if the data cannot be read, or have changed."""
        found = self.parts()
        check_same(self.digest, found.sequences.digest, self.path or self.built_in, self.options.validation)
        return found

    def read(self, path: Path) -> tuple[Any, list[tuple[str, str]]]:
        """Returns the labelled sequences of a file, and what there is to say of them before they are judged."""
        bad = BadRows(self.options.skip_bad)
        columns = columns_of(self.options, self.reading)._replace(group=self.judged_by)
        encoded = self.encode(sequences(path, columns, bad=bad), path)
        if not len(encoded.rows):
            raise InputError(f"{path} has no sequence; give at least one, with its label")
        if not encoded.told.any():
            raise InputError(f"{path} has no label; give at least one")
        lines = [("sequences", str(len(encoded.rows)))]
        if self.options.label_each_step:
            lines.append(
                ("steps", f"{int(encoded.rows.lengths.sum())}, {int(encoded.told.sum())} of them with a label")
            )
        if self.options.mark_gaps:
            lines.append(("missing", encoded.missing(range(len(encoded.rows))) or "none"))
        if self.reading.time is not None:  # another unit would show here
            usual = encoded.sequences.interval(range(len(encoded.rows)))
            lines.append(
                ("times", f"{usual:.6g} is usual from a step to the next, and {self.reading.interval:.6g} in training")
            )
        lines += unknown_words(encoded, range(len(encoded.rows)), "steps")
        if unit_of(self.options):
            tokens, strange = encoded.tokens(range(len(encoded.rows)))
            share = f"{strange}, {strange / max(1, tokens):.1%}"
            lines.append((f"unknown {self.options.unit}", f"{share}: the network reads one stand-in for all"))
        if bad.count:
            lines.append(("skipped", f"{bad.count}, the first: {bad.first}"))
        return encoded, lines


class WholeSequences(SeparateSequences):
    """A part of a task (`elman.training.task.Task`), in which something is learned of each sequence, or of its steps."""

    data, unit = "sequences", "sequence"
    made_of: ClassVar[type[Trained[Any, Any]]]  # what a run of this task holds
    score_unit: str  # what the score is called
    unit_of_score = 1.0  # what a score of 1 is in the unit of the data; 1 where it has none

    @classmethod
    def begin(
        cls, path: Path | None, options: SequenceOptions, device: str, bad: BadRows, start: Run | None = None
    ) -> Self:
        """Returns a task that trains a model on a file. start: a run from whose model it starts; None for a new one."""
        made = cls.made_of
        options = options.of_data(path)
        check_made_for(start, options, DATA)
        known = None if start is None else made.learned.load(start)
        options = options if known is None else known.fitted(options)
        parts = made.parts_of(path, options, bad, known)
        learn = made.learned.learn if known is None else known.grown
        reading = learn(parts.sequences, parts.train, options)
        check_tokens(reading, parts.sequences, path, len(parts.train))
        torch.manual_seed(options.seed)
        task = cls(made.new(reading, options, device, path), parts, path)
        task.check(start)
        return started(task, start)

    @classmethod
    def resume(cls, run: Run, path: Path | None, options: SequenceOptions, device: str) -> Self:
        """Returns the task of a run. Its data are read again; its model does not have its parameters yet."""
        trained = cls.made_of.new(cls.made_of.learned.load(run), options, device, path)
        return cls(trained, trained.parts(), path)

    def __init__(self, trained: Trained[Any, Any], parts: Parts, path: Path | None):
        """path: where the sequences come from; None for the built-in ones."""
        sequences, train, validation, self.test = parts
        self.path, self.source = path, str(path or trained.built_in)
        self.use(trained)
        self.train, self.validation, self.digest = train, validation, sequences.digest
        self.encoded, self.in_time = trained.encoded(sequences, trained.reading), sequences.in_time
        self.places, self.judged = map(self.encoded.told_places, (train, validation))  # of labels to learn, to judge by
        self.pieces = Pieces.whole(train, self.encoded.rows.lengths)
        if self.options.label_each_step:
            self.unit, pieces = "step", Pieces.cut(train, self.encoded.rows.lengths, self.options.window)
            labels = self._labels_of(pieces)
            self.pieces, self.labels = pieces.take(labels > 0), labels[labels > 0]  # how many each piece has
            self.labels_as_cut = self.labels
        self.cut, self.lengths = self.pieces, self.pieces.lengths  # as they were cut; they may be moved
        names, of = list(sequences.groups), sequences.group_of
        self.groups = len(names)
        # Those of a validation file have none.
        apart = {"held out": validation[validation < len(of)], "left out": self.test} if names else {}
        self.apart = {what: [names[k] for k in sorted({of[k] for k in own})] for what, own in apart.items() if len(own)}

    def check(self, start: Run | None) -> None:
        """Raises InputError if the labels do not fit the model, or that of the run from which it starts."""

    def _labels_of(self, pieces: Pieces) -> NDArray[np.int64]:
        """Returns how many labels each of these pieces has."""
        before, first = np.append(0, np.cumsum(self.encoded.told)), self.encoded.places(pieces.first)
        return before[first + pieces.lengths] - before[first]

    def batches(self, epoch: int, at: int) -> Iterator[Batch]:
        """Yields the batches of an epoch. With each_step, the pieces of long sequences are elsewhere in each epoch.

        So none of their steps always lies at an end, where less is around it. A piece that would have no label stays.
        """
        if self.options.label_each_step:
            moved = self.cut.moved(self.encoded.rows.lengths, np.random.default_rng([self.options.seed, epoch, MOVED]))
            labels = self._labels_of(moved)
            stays = labels == 0
            self.pieces = Pieces(*(np.where(stays, old, new) for old, new in zip(self.cut, moved, strict=True)))
            self.labels = np.where(stays, self.labels_as_cut, labels)
        yield from super().batches(epoch, at)

    def untrained(self, options: Any) -> Trained[Any, Any]:
        return self.made_of.new(self.trained.reading, options, str(device_of(self.model)), self.path)

    def use(self, trained: Any) -> None:
        if trained.reading.samples:  # an exported model, which hears recordings itself
            o = self.options
            parts = self.made_of.parts_of(self.path, o, BadRows(o.skip_bad), trained.reading)
            self.encoded = trained.encoded(parts.sequences, trained.reading)
        self.trained, self.model, self.options = trained, trained.model, trained.options

    def outputs(self, own: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
        """Returns what the model says of training pieces, (N, outputs), and the places of the labels."""
        pieces = self.pieces.take(own)
        found, places = self.model(*self.noisy(pieces)), self.encoded.places(pieces)
        if not self.options.label_each_step:
            return found, places
        found, told = steps_of(found, np.zeros_like(pieces.begin), pieces.lengths), self.encoded.told[places]
        return found[torch.from_numpy(told).to(found.device)], places[told]

    def noisy(self, pieces: Pieces) -> tuple[Tensor, Tensor]:
        """Returns what the model reads of training pieces, with noise added to their numbers and bands hidden, and their lengths."""
        x, lengths = self.encoded.batch(pieces)
        if x.is_floating_point():
            numbers = x[..., : len(self.encoded.mean)]  # and not how old they are
            numbers += self.options.noise * torch.randn_like(numbers)
            hide_bands(numbers, self.options.masks)
        device = device_of(self.model)
        return x.to(device), lengths.to(device)

    def shown(self) -> tuple[int, slice, NDArray[np.float64]]:
        """Returns which validation sequence a picture shows: the first one with labels; which of its steps, from the first
        label on; and their numbers, (n, channels), NaN where one is missing."""
        k = int(self.encoded.step_at(self.judged[:1])[0][0])
        first = int(self.encoded.told[self.encoded.all_places(np.array([k]))].argmax())
        part = slice(first, first + DRAWN)
        return k, part, self.encoded.sequences.values(k)[0][part]

    def scores(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        """Returns the scores of the sequences at these places."""
        raise NotImplementedError

    def baselines(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        """Returns the scores of the baselines on the sequences at these places."""
        raise NotImplementedError

    def evaluate(self) -> dict[str, float]:
        return self.as_it_is()

    def as_it_is(self) -> dict[str, float]:
        """Returns the scores of the validation sequences, by the model as it is: nothing of it is chosen by them first."""
        return values(self.scores(self.validation))

    def about(self) -> dict[str, Any]:
        return {"data": self.sizes(), "baselines": values(self.baselines(self.validation))}

    def tested(self) -> tuple[dict[str, float], dict[str, float]]:
        """Returns the scores of the sequences that --fold leaves out, and those of the baselines."""
        return values(self.scores(self.test)), values(self.baselines(self.test))

    def conclusion(self) -> list[tuple[str, str]]:
        if not len(self.test):
            return []
        found, baselines = self.tested()
        lines = [("test", self.result({name: repr(value) for name, value in found.items()}))]
        return lines + [(name, f"{value:.4f} {self.score_unit}") for name, value in baselines.items()]

    def result(self, row: Mapping[str, str], /) -> str:
        raise NotImplementedError

    def examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the rows about the sequences that --fold leaves out, each after the place of its sequence in FILE."""
        for begin in range(0, len(self.test), CHUNK):
            own = self.test[begin : begin + CHUNK]
            yield from self.trained.rows(self.encoded, own, self.trained.says(self.encoded, own))

    def size(self, own: NDArray[np.int64]) -> int:
        return int(self.lengths[own].sum()) if self.options.label_each_step else len(own)

    def weight(self, own: NDArray[np.int64]) -> float | None:
        return float(self.labels[own].sum()) if self.options.label_each_step else None

    def sizes(self) -> dict[str, Any]:
        """Returns where the data are, and how many."""
        return {
            "path": None if self.path is None else str(self.path.resolve()),
            "train_sequences": len(self.train),
            "validation_sequences": len(self.validation),
        } | ({"test_sequences": len(self.test)} if self.options.fold else {})

    def write(self, directory: Path) -> None:
        self.trained.reading.save(directory)

    def introduction(self) -> list[tuple[str, str]]:
        reading, unit = self.trained.reading, self.options.unit
        what = f"{len(reading.tokens)} different {unit}" if reading.tokens else _read(reading)
        lengths = self.encoded.rows.lengths[self.train]
        counts = f"{len(self.train):,} for training, {len(self.validation):,} for validation"
        counts += f", {len(self.test):,} for testing" * bool(self.options.fold)
        counts += f"; {lengths.min()} to {lengths.max()} steps"
        if self.in_time:
            later = int(self.encoded.rows.lengths[self.validation].sum())
            counts = f"one, of which the first {int(lengths.sum()):,} steps are for training and the last {later:,} for validation"
        lines = [("sequences", f"{self.source}: {counts}, {what}")]
        if reading.categories:
            counts = [f"{len(words):,} in {name!r}" for name, words in reading.categories.items()]
            lines.append(("words", ", ".join(counts)))
            lines += unknown_words(self.encoded, self.validation, "of the validation steps")
        if self.options.mark_gaps:
            without = "none in training, so nothing is learned of those that are missing later"
            lines.append(("missing", self.encoded.missing(self.train) or without))
        if reading.time is not None:
            unit = " seconds are" if reading.dates else " is"
            told = f"{reading.interval:.6g}{unit} usual from a step to the next in {reading.time!r}"
            still = f"all steps of a sequence have the same in {reading.time!r}, so nothing is learned of them"
            between = map(self.encoded.sequences.between, self.encoded.sequences.blocks(self.train))
            moving = any(block.any() for block in between)
            lines.append(("times", told if moving else still))
        for part, held in self.apart.items():
            shown = [" ".join(name.split())[:60] for name in held[:NAMED]] + ["..."] * (len(held) > NAMED)
            lines.append((part, f"{len(held)} of {self.groups} values of {self.options.group!r}: {', '.join(shown)}"))
        if len(self.places) < len(own := self.encoded.all_places(self.train)):
            lines.append(
                ("labels", f"{len(self.places):,} of {len(own):,} training steps have one; only these are learned")
            )
        if unit == "words" and reading.tokens:
            words, strange = self.encoded.tokens(self.train, words=True)
            if strange > MOST * words:
                only = f"{strange:,} of {words:,} words of the training occur in one text only, and are not told apart"
                lines.append(("words", f"{only}; --unit characters may learn more"))
        return lines


def _read(reading: Inputs) -> str:
    """Returns how many channels there are, and the names of some: a column of times or numbers of rows may be among them."""
    count, names = len(reading.mean), reading.channels
    if not count:
        return "no channel of numbers"
    shown = f": {', '.join(names[:NAMED])}{', ...' if count > NAMED else ''}" if names else ""
    return f"{count} channel{'s' * (count > 1)}{shown}"


def unknown_words(encoded: Encoded, own: Sequence[int] | NDArray[np.int64], of: str) -> Iterator[tuple[str, str]]:
    """Yields what there is to say of words that the training lacks. of: what the steps of these sequences are called."""
    steps = int(encoded.rows.lengths[np.asarray(own)].sum())
    for name, (count, words) in encoded.strange(own).items():
        if count:
            where = f"{words:,} word{'s' * (words > 1)} in {name!r}, at {count:,} {of}, {count / steps:.1%}"
            yield "unknown", f"{where}: the network reads one stand-in for all"


def in_groups(every: Iterable[Labelled]) -> Iterator[list[Labelled]]:
    """Yields sequences in lists of `CHUNK`, or fewer where these have more than `MANY` steps with labels of their own."""
    return groups(every, CHUNK, lambda each: len(each.labels or ()), MANY)
