"""Regression: one number, or several, for a whole sequence of numbers, or for a text; or for each step of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.datasets import examples
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled, numbers_in
from elman.errors import InputError
from elman.tasks import scores
from elman.tasks.encoded import FAR, Encoded, Inputs, slowest
from elman.tasks.gathered import Gathered
from elman.tasks.linear import LINEAR, fitted, in_words
from elman.tasks.options import RegressionOptions as Options
from elman.tasks.options import quoted
from elman.tasks.parts import Parts, check_labels, divided, gathered, left_out
from elman.tasks.separate import many, moments, table
from elman.tasks.sequence_model import SequenceModel
from elman.tasks.tallies import Tally, Units, mean, root
from elman.tasks.tallies import values as values_of
from elman.tasks.values import LEAST, Criterion, rounded
from elman.tasks.whole import Trained, WholeSequences
from elman.training.record import DATA

CONFIG = DATA
CONSTANT = "constant"  # what a baseline is called
CLOSE = 1e-150  # between values whose squares float64 cannot tell from zero


class RegressionModel(SequenceModel):
    """A model whose outputs are numbers, in deviations of the training values from their mean, (B, V Q), or with each_step (T, B, V Q).

    It has Q outputs, such as quantiles, for each of V values.

    shift: (V Q), what is added to quantiles, so that they hold as many true values as they say; 0 in a model that is loaded,
    whose last layer adds it. It has no gradient.
    """

    later: ClassVar = {"shift": 0.0}  # buffers that files of earlier versions lack
    shift: Tensor

    def __init__(self, inputs: Inputs, outputs: int, options: Options):
        super().__init__(inputs, outputs, options)
        self.register_buffer("shift", torch.zeros(outputs))

    def corrected(self, outputs: Tensor) -> Tensor:
        return outputs + self.shift.to(outputs)

    @torch.no_grad()
    def settle(self) -> None:
        self.output.bias.add_(self.shift)
        self.shift.zero_()


@dataclass(frozen=True, kw_only=True)
class Reading(Inputs):
    """What was learned of the data besides weights."""

    center: Sequence[float]  # the mean of each value to predict
    spread: Sequence[float]  # their standard deviations
    labels: Sequence[str] = ()  # what they are called; empty in runs of earlier versions

    def __post_init__(self):
        for name in ("center", "spread"):  # runs of earlier versions have a number of one value
            if isinstance(number := getattr(self, name), float):
                object.__setattr__(self, name, [number])

    def fitted(self, options: Options) -> Options:
        """Earlier versions took a label with commas or quotes for one column."""
        plain = options.label == quoted(options.label_columns) and len(options.label_columns) == 1
        return options if self.labels or plain else replace(options, label=quoted([options.label]))

    def grown(self, sequences: Gathered, own: NDArray[np.int64], options: Options) -> Self:
        return replace(self, labels=list(options.label_columns))

    @classmethod
    def learn(cls, sequences: Gathered, own: NDArray[np.int64], options: Options) -> Self:
        """own: the places of the sequences to learn from."""
        labels = list(options.label_columns)
        center, spread = moments([learned_of(sequences, own, len(labels))], len(labels), 0.0)
        inputs = vars(Inputs.of(sequences, own))
        return cls(center=center.tolist(), spread=spread.tolist(), labels=labels, **inputs)

    def check(self) -> None:
        super().check()
        fits = len(self.center) == len(self.spread) > 0 and len(self.labels) in (0, len(self.center))
        if not (fits and np.isfinite(self.center).all() and all(0 < each < np.inf for each in self.spread)):
            raise ValueError(f"its values have the means {self.center} and the deviations {self.spread}")


class Values(Encoded):
    """Sequences as what a model reads, and their values in deviations."""

    def __init__(self, sequences: Gathered, reading: Reading):
        super().__init__(sequences, reading)
        scaled = (numbers_of(sequences, len(reading.center)) - reading.center) / np.array(reading.spread)
        self.values = torch.from_numpy(scaled.clip(-FAR, FAR))  # (M, V), float64, NaN where there is none
        self.told = np.asarray(~np.isnan(scaled).all(1))

    def kind(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        return slowest(self.values.numpy()[places])

    def units_of(self, places: NDArray[np.int64], k: int) -> Units:
        """Returns what `units` does, for the value number k, which is there at all of these places."""
        values = self.values.numpy()[places, k]
        return self.units(places, values > values.mean())


def numbers_of(sequences: Gathered, count: int, own: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Returns values to predict, (N, count), in their own unit; NaN where there is none, as there need not be to predict.

    own: the places of the sequences; all if left out.
    """
    given = sequences.labels.steps if own is None else sequences.given(own)
    return np.array([numbers_in(label, count) for label in (*sequences.different, None)])[given]


def learned_of(sequences: Gathered, own: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Returns the values that the sequences at these places have, (N, count), in their own unit, of which some may be NaN."""
    found = numbers_of(sequences, count, own)
    return found[~np.isnan(found).all(1)]


def baselines(
    learned: Values,
    own: NDArray[np.int64],
    judged: Values,
    places: NDArray[np.int64],
    criterion: Criterion,
    causal: bool,
) -> dict[str, Tally]:
    """Returns the scores (`score_of`), at these places of what is judged, of what predicts without a network.

    own: the places of the values to learn from. The constant is the mean, or the median if large errors do not count by
    their squares. Where quantiles are wanted, they are those of the values, and of what the linear function leaves.
    """
    values, quantiles = learned.values.numpy(), criterion.quantiles
    truth, units = judged.values[torch.from_numpy(places)], judged.units(places)
    if criterion.squared:
        constant = np.nanmean(values[own], 0)[:, None]
    else:
        constant = np.nanquantile(values[own], quantiles or [0.5], 0).T
    said = {CONSTANT: np.tile(constant, (len(places), 1, 1)), LINEAR: np.empty((*truth.shape, criterion.outputs))}
    for together, linear in fitted(learned, own, values.__getitem__, causal):
        around = np.quantile(linear.left, quantiles, 0).T if quantiles else np.zeros((len(together), 1))
        said[LINEAR][:, together] = linear(judged, places)[..., None] + around
    score = score_of(criterion)
    return {name: scored(criterion, torch.from_numpy(each), truth, units)[score] for name, each in said.items()}


def scored(criterion: Criterion, predicted: Tensor, truth: Tensor, units: Units) -> dict[str, Tally]:
    """Returns the loss of predictions (N, V, outputs), given the true values (N, V), and the errors of their middle.

    A true value is NaN where there is none. Each value has the same weight, however often it is there.
    """
    there = ~truth.isnan()
    predicted, truth = predicted.double(), truth.nan_to_num()
    e = criterion.middle(predicted) - truth

    def mean_of(each: Tensor, score: Callable[[NDArray[Any]], NDArray[Any]] = mean) -> Tally:
        columns = torch.cat([each.where(there, 0.0), there.double()], 1).T.numpy()
        return Tally.of(units, columns, score)._replace(apart=True)

    losses = mean_of(criterion.each(predicted, truth))
    return {f"validation_{criterion.measure}": losses, "rmse": mean_of(e**2, root), "mae": mean_of(e.abs())}


def score_of(criterion: Criterion) -> str:
    """Returns the score that decides which parameters are kept.

    It is not the error of one quantile: where the network says 0.9, this is the least if it says the median instead.
    """
    if criterion.quantiles:
        return f"validation_{criterion.measure}"
    return "rmse" if criterion.squared else "mae"


def called(score: str) -> str:
    """Returns what a score is called in a sentence."""
    return score.removeprefix("validation_") if score.startswith("validation_") else score.upper()


def read(path: Path | None, options: Options, bad: BadRows, reading: Reading | None = None) -> Parts:
    """Returns the sequences and the indices of the training and validation sets.

    reading: what was learned of the data before, whose channels they must have.
    """
    every = enumerate(examples.marked_numbers(), 1)
    if reading is not None:
        check_labels_of(reading, options)
    if options.each_step:
        added = (Labelled(str(n), steps, None, labels=[*map(repr, sums)]) for n, (steps, sums) in every)
    else:
        added = (Labelled(str(n), steps, repr(sums[-1])) for n, (steps, sums) in every)
    found, count = gathered(path, options, bad, added, reading)
    own, test = left_out(found, options, count, kinds_of(found, options), path)
    train, validation = divided(found, options, count, own)
    least = "give at least two for training and one for validation"
    parts = Parts(found, train, validation, test)
    check_labels(parts, path or Path(examples.MARKED), least, 2, bad)
    check_values(learned_of(found, train, len(options.label_columns)), options, path)
    return parts


def check_labels_of(reading: Reading, options: Options) -> None:
    """Raises InputError if a model does not predict the values that are to be learned, or in another order."""
    labels, known = options.label_columns, list(reading.labels)
    if len(labels) != len(reading.center):
        raise InputError(
            f"the model predicts {many(len(reading.center), 'value')}, but --label names {len(labels)}; name as many, or train a new model"
        )
    if any(name in known and known.index(name) != k for k, name in enumerate(labels)):
        raise InputError(
            f"the model predicts {quoted(known)}, but --label names {quoted(labels)}; name them in the order of the model, or train a new one"
        )


def kinds_of(sequences: Gathered, options: Options) -> NDArray[np.int64]:
    """Returns which of several values each sequence has, (N,), of which each fold should have its share."""
    if options.each_step or len(options.label_columns) == 1:
        return np.zeros(len(sequences), np.int64)
    there = ~np.isnan(numbers_of(sequences, len(options.label_columns)))
    return np.unique(there, axis=0, return_inverse=True)[1].ravel()


def check_values(learned: NDArray[np.float64], options: Options, path: Path | None) -> None:
    """Raises InputError if there is nothing to learn of one of the values of the training, (N, V)."""
    what = "steps" if options.each_step else "sequences"
    where = f"{path}" + f" that --fold {options.fold} leaves" * bool(options.fold)
    for name, values in zip(options.label_columns, learned.T, strict=True):
        own, column = values[~np.isnan(values)], f" in {name!r}" * (learned.shape[1] > 1)
        if not len(own):
            raise InputError(f"the training {what} of {where} have no number{column}; give some, or leave it out")
        apart = np.ptp(own)
        if apart == 0:
            raise InputError(
                f"the training {what} of {where} have only one value{column}, {own[0]:g}; give {what} of different values"
            )
        if apart < CLOSE:
            raise InputError(
                f"the values to predict in {path}{column and f', column {name!r},'} are at most {apart:.3g} apart; give them in a smaller unit"
            )


class Judgement(NamedTuple):
    """How well one of the values is predicted."""

    ending: str  # of what its scores are called; empty of the only one
    spread: float
    predicted: Tensor  # (n, outputs), where there is
    truth: Tensor  # (n,)
    units: Units  # whose they are
    found: dict[str, Tally]


class Regressor(Trained[Reading, Options]):
    """A model that predicts a number: what a run holds when it is trained."""

    encoded, learned, made_for, built_in = Values, Reading, Options, examples.MARKED
    parts_of = staticmethod(read)

    @staticmethod
    def model_of(reading: Reading, options: Options) -> RegressionModel:
        outputs = len(reading.center) * Criterion(options.loss, options.quantile_list).outputs
        return RegressionModel(reading, outputs, options)

    @property
    def criterion(self) -> Criterion:
        return Criterion(self.options.loss, self.options.quantile_list)

    @property
    def width(self) -> int:
        return len(self.reading.center) * self.criterion.outputs

    @property
    def values(self) -> tuple[str, ...]:
        """What the values are called; the only one has no name."""
        names = self.options.label_columns
        return names if len(names) > 1 else ("",)

    def says(self, encoded: Values, own: NDArray[np.int64]) -> Tensor:
        """Returns what the model says of sequences, or their steps, in deviations, (N, V, outputs); quantiles rise."""
        return self.criterion.in_order(self.outputs(encoded, own).unflatten(-1, (-1, self.criterion.outputs)))

    def by_value(
        self, encoded: Values, places: NDArray[np.int64], predicted: Tensor, truth: Tensor
    ) -> Iterator[Judgement]:
        """Yields how well each value is predicted, if there is any at these places. predicted: (N, V, outputs); truth: (N, V)."""
        for k, (name, spread) in enumerate(zip(self.values, self.reading.spread, strict=True)):
            there = ~truth[:, k].isnan()
            if there.any():
                own, true, units = predicted[there, k], truth[there, k], encoded.units_of(places[there.numpy()], k)
                found = scored(self.criterion, own[:, None], true[:, None], units)
                yield Judgement(name and f" of {name}", spread, own, true, units, found)

    def told(
        self, found: Mapping[str, Tally], every: Sequence[Judgement], written: Callable[[Tally], str], own: str = ""
    ) -> Iterator[tuple[str, str]]:
        """Yields names and figures of predictions, and of their quantiles.

        found: the scores of all values, which are written so; every: each of them. own: what to say of quantiles that these
        values have shifted.
        """
        names = dict.fromkeys((score_of(self.criterion), "rmse", "mae"))
        if len(self.values) > 1:
            for name in names:
                yield called(name), f"{written(found[name])} {DEVIATIONS}, over {many(len(every), 'value')}"
        if lacking := [name for name in self.values if name and f" of {name}" not in {each.ending for each in every}]:
            yield "not judged", f"{', '.join(lacking)}: there is no number to judge by"
        for ending, spread, predicted, truth, _, tallies in every:
            for name in names:
                told = f"{tallies[name].value * spread:.6g}, which is {written(tallies[name])} {DEVIATIONS}"
                yield called(name) + ending, told
            variance = float(truth.var(correction=0))
            if variance > 0:
                yield f"R²{ending}", f"{1 - tallies['rmse'].value ** 2 / variance:.4f}"
            for name, told in self.criterion.covered(self.criterion.below(predicted, truth), len(truth)):
                yield name + ending, told + own * (name == "quantiles" and len(truth) >= LEAST)

    @property
    def unit_of_errors(self) -> Sequence[float]:
        return self.reading.spread

    def judge(
        self, encoded: Values, said: Tensor, unit: Sequence[float]
    ) -> tuple[dict[str, Tally], Iterator[tuple[str, str]]]:
        places, spread = np.flatnonzero(encoded.told), self.reading.spread
        predicted, truth, units = said[places], encoded.values[places], encoded.units(places)
        found = shared = scored(self.criterion, predicted, truth, units)
        every = by_value = list(self.by_value(encoded, places, predicted, truth))
        if unit != spread and len(unit) == len(spread):  # models of other values are not compared
            ratio = torch.as_tensor(np.array(spread) / unit)
            predicted, truth = ratio[..., None] * predicted, ratio * truth
            shared = scored(self.criterion, predicted, truth, units)
            by_value = list(self.by_value(encoded, places, predicted, truth))
        several = [(each.ending, each.found) for each in by_value] if len(spread) > 1 else []
        tallies = {}
        for ending, own in (("", shared), *several):
            tallies |= {called(name) + ending: own[name] for name in ("rmse", "mae")}
            if quantiles := self.criterion.quantiles:
                tallies[f"pinball{ending}"] = own[score_of(self.criterion)]._replace(counted=str(quantiles))
        return tallies, self._figures(encoded, places, found, every)

    def _figures(
        self, encoded: Values, places: NDArray[np.int64], found: dict[str, Tally], every: Sequence[Judgement]
    ) -> Iterator[tuple[str, str]]:
        score = score_of(self.criterion)
        yield from self.told(found, every, scores.figure)
        yield self.how_sure(encoded, max((each.units for each in every), key=lambda units: len(np.unique(units.of))))
        unit = f"{called(score)} in standard deviations"
        yield from scores.on_baselines(self.path, lambda: self._baselines(encoded, places), unit, found[score])

    def _baselines(self, judged: Values, places: NDArray[np.int64]) -> dict[str, Tally]:
        sequences, train, *_ = self.read_again()
        learned = Values(sequences, self.reading)
        own = learned.told_places(train)
        return baselines(learned, own, judged, places, self.criterion, self.options.causal)

    def in_unit(self, predicted: Tensor) -> list[list[list[float]]]:
        """Returns predictions (N, V, outputs) in the unit of the data."""
        spread, center = (np.array(each)[:, None] for each in (self.reading.spread, self.reading.center))
        values = predicted.double().numpy() * spread + center
        return [
            [[rounded(v, own) for v in row] for own, row in zip(self.reading.spread, rows, strict=True)]
            for rows in values.tolist()
        ]

    def rows(self, encoded: Values, own: NDArray[np.int64], said: Tensor) -> Iterator[tuple[int, dict[str, Any]]]:
        for k, name, label, found in self._named(encoded, own, said):
            truth = numbers_in(label, len(found))
            if np.isnan(truth).all():
                continue
            for value, spread, true, outputs in zip(self.values, self.reading.spread, truth, found, strict=True):
                there, ending = not np.isnan(true), value and f"_{value}"
                middle = float(self.criterion.middle(torch.tensor([*outputs.values()], dtype=torch.float64)))
                name |= {f"label{ending}": true if there else None} | outputs
                name[f"error{ending}"] = rounded(middle - true, spread) if there else None
            yield k, name

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row of CSV, or JSON, for each sequence, or step, of a file: its values, or their quantiles."""
        self.skipped = BadRows(self.options.skip_bad)
        every = ((encoded, np.arange(len(encoded.rows))) for encoded in self.read_groups(path, self.skipped))
        said = (self._named(encoded, own, self.says(encoded, own)) for encoded, own in every)
        rows = ((name, chain(*(row.items() for row in found))) for of_group in said for _, name, _, found in of_group)
        return table((name | dict(row) for name, row in rows), form)

    def _named(
        self, encoded: Values, own: NDArray[np.int64], said: Tensor
    ) -> Iterator[tuple[int, dict[str, Any], str | None, list[dict[str, float]]]]:
        """Yields the place of each sequence, or of that of each step, what it is called, its label, and for each value the outputs in the unit of the data."""
        begin = [name and f"_{name}" for name in self.values]
        names = [[f"value{each}{ending}" for ending in self.criterion.endings] for each in begin]
        for (k, name, label, _), rows in zip(encoded.named(own), self.in_unit(said), strict=True):
            yield k, name, label, [dict(zip(of, row, strict=True)) for of, row in zip(names, rows, strict=True)]


DEVIATIONS = "standard deviations of the training values"


class Regression(WholeSequences):
    """The task, as `elman.training.task.Task` has it."""

    made_of = Regressor
    name = "regress"
    higher_is_better = False

    def __init__(self, regressor: Regressor, parts: Parts, path: Path | None):
        """path: where the sequences come from; None for the built-in ones."""
        super().__init__(regressor, parts, path)
        self.criterion = regressor.criterion
        self.measure, self.score = self.criterion.measure, score_of(self.criterion)
        self.score_unit = called(self.score)
        values = self.encoded.values[torch.from_numpy(self.places)]
        counts = (~values.isnan()).sum(0)
        self.balance = len(values) / (len(counts) * counts)  # (V,): all values have the same weight in an epoch
        if len(counts) == 1:
            self.unit_of_score = regressor.reading.spread[0]

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        found, places = self.outputs(own)
        predicted = found.to(torch.promote_types(found.dtype, torch.float32))
        predicted = predicted.unflatten(-1, (-1, self.criterion.outputs))
        truth = self.encoded.values[torch.from_numpy(places)].to(predicted)
        weights = self.balance.to(truth).where(~truth.isnan(), 0.0)
        return (weights * self.criterion.each(predicted, truth.nan_to_num())).sum() / len(truth)

    def _judged(self, own: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor, Tensor]:
        """Returns the places of the values that these sequences have, the predictions of them, (N, V, outputs), and them, (N, V)."""
        places, found = self.trained.judged(self.encoded, own)
        return places, found, self.encoded.values[torch.from_numpy(places)]

    def evaluate(self) -> dict[str, float]:
        """Returns the scores of the validation values, by whose errors quantiles are shifted; the model keeps the shift."""
        if not self.criterion.quantiles:
            return super().evaluate()
        self.model.shift.zero_()
        places, V = self.encoded.all_places(self.validation), len(self.trained.values)
        said = self.trained.outputs(self.encoded, self.validation).unflatten(-1, (V, -1))
        truth = self.encoded.values[torch.from_numpy(places)]
        shift = torch.stack([self.criterion.shift(said[:, k], truth[:, k]) for k in range(V)]).to(said)
        self.model.shift.copy_(shift.flatten())
        told, predicted = self.encoded.told[places], self.criterion.in_order(said + shift)
        return values_of(scored(self.criterion, predicted[told], truth[told], self.encoded.units(places[told])))

    def scores(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        places, predicted, truth = self._judged(own)
        return scored(self.criterion, predicted, truth, self.encoded.units(places))

    def baselines(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        places, causal = self.encoded.told_places(own), self.options.causal
        return baselines(self.encoded, self.places, self.encoded, places, self.criterion, causal)

    def baseline(self, name: str) -> str:
        quantiles = bool(self.criterion.quantiles)
        if name == CONSTANT:
            said = "quantiles" if quantiles else "mean" if self.criterion.squared else "median"
            return f"says the {said} of the training values"
        return in_words(self.options, self.trained.reading) + quantiles * ", and the quantiles of its errors"

    def introduction(self) -> list[tuple[str, str]]:
        (first, *others), reading, lines = super().introduction(), self.trained.reading, []
        for k, name in enumerate(self.trained.values):
            own = self.encoded.values.numpy()[self.places, k] * reading.spread[k] + reading.center[k]
            own = own[~np.isnan(own)]
            told = f"{own.min():.6g} to {own.max():.6g}, mean {own.mean():.6g}, standard deviation {own.std():.6g}"
            few = f", at {len(own):,} of {len(self.places):,} {self.unit}s" * (len(own) < len(self.places))
            lines.append(("values" + (name and f" of {name}"), told + few))
            if self.encoded.values[torch.from_numpy(self.judged), k].isnan().all():
                lines.append(
                    ("not judged", f"{name}: no validation {self.unit} has one, so the parameters are chosen without")
                )
        return [first, *lines, *others]

    def result(self, row: Mapping[str, str]) -> str:
        told = (f"{called(name)} {float(row[name]):.4f}" for name in dict.fromkeys((self.score, "rmse", "mae")))
        return f"{', '.join(told)}, in {DEVIATIONS}"

    def conclusion(self) -> list[tuple[str, str]]:
        """Returns lines about the validation sequences, in the unit of the data, and about those that --fold leaves out."""
        places, predicted, truth = self._judged(self.validation)
        # Without intervals: these sequences have chosen the parameters.
        found = scored(self.criterion, predicted, truth, self.encoded.units(places))
        every = list(self.trained.by_value(self.encoded, places, predicted, truth))
        told = self.trained.told(found, every, lambda each: f"{each.value:.4f}", ", by which they were shifted")
        return [*told, *super().conclusion()]

    def draw(self, directory: Path) -> list[Path]:
        """Draws the predictions of the validation values over these, and with each_step those of one sequence."""
        from elman import charts

        _, found, truth = self._judged(self.validation)
        names = self.options.label_columns
        own, true = np.array(self.trained.in_unit(found)), np.array(self.trained.in_unit(truth[..., None]))[..., 0]
        middle = self.criterion.middle(torch.from_numpy(own)).numpy()
        pictures = {"values.png": charts.agreement(true, middle, own, names, f"{self.unit}s")}
        if self.options.each_step:
            k, part, numbers = self.shown()
            said = np.array(self.trained.in_unit(self.trained.says(self.encoded, np.array([k]))[part]))
            values = self.encoded.values[torch.from_numpy(self.encoded.all_places(np.array([k])))][part]
            true = values.numpy() * self.trained.reading.spread + self.trained.reading.center
            middle = self.criterion.middle(torch.from_numpy(said)).numpy()
            pictures["steps.png"] = charts.valued_steps(
                numbers, true, said, middle, names, part.start, self.options.seconds
            )
        for name, figure in pictures.items():
            charts.save(figure, directory / name)
        return [directory / name for name in pictures]


begin, resume, load = Regression.begin, Regression.resume, Regressor.load
