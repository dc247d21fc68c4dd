"""Regression: one number for a whole sequence of numbers, or for a text; or a number for each step of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.datasets import examples
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled, number_of
from elman.errors import InputError
from elman.tasks import scores
from elman.tasks.encoded import FAR, Encoded, Inputs
from elman.tasks.gathered import Gathered
from elman.tasks.linear import LINEAR, Linear, in_words
from elman.tasks.options import RegressionOptions as Options
from elman.tasks.parts import Parts, check_labels, divided, gathered, left_out
from elman.tasks.separate import moments, table
from elman.tasks.sequence_model import SequenceModel
from elman.tasks.tallies import Tally, Units, root
from elman.tasks.values import Criterion, rounded
from elman.tasks.whole import Trained, WholeSequences
from elman.training.record import DATA

CONFIG = DATA
CONSTANT = "constant"  # what a baseline is called
CLOSE = 1e-150  # between values whose squares float64 cannot tell from zero


class RegressionModel(SequenceModel):
    """A model whose outputs are numbers, in deviations of the training values from their mean, (B, outputs), or with each_step (T, B, outputs)."""


@dataclass(frozen=True, kw_only=True)
class Reading(Inputs):
    """What was learned of the data besides weights."""

    center: float  # the mean of the values to predict
    spread: float  # their standard deviation

    @classmethod
    def learn(cls, sequences: Gathered, own: NDArray[np.int64], options: Options) -> Reading:
        """own: the places of the sequences to learn from."""
        center, spread = moments([learned_of(sequences, own)[:, None]], 1, 0.0)
        return cls(center=float(center[0]), spread=float(spread[0]), **vars(Inputs.of(sequences, own)))

    def check(self) -> None:
        super().check()
        if not (np.isfinite(self.center) and 0 < self.spread < np.inf):
            raise ValueError(f"its values have the mean {self.center} and the deviation {self.spread}")


class Values(Encoded):
    """Sequences as what a model reads, and their values in deviations."""

    def __init__(self, sequences: Gathered, reading: Reading):
        super().__init__(sequences, reading)
        scaled = (numbers_of(sequences) - reading.center) / reading.spread
        self.values = torch.from_numpy(scaled.clip(-FAR, FAR))  # (M,), float64, NaN where there is none
        self.told = ~np.isnan(scaled)

    def kind(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        values = numbers_of(self.sequences)[places]
        return values > values.mean()


def numbers_of(sequences: Gathered, own: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Returns values to predict, (N,), in their own unit; NaN where there is none, as there need not be to predict.

    own: the places of the sequences; all if left out.
    """
    given = sequences.labels.steps if own is None else sequences.given(own)
    return np.array([*map(number_of, sequences.different), np.nan])[given]


def learned_of(sequences: Gathered, own: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the values that the sequences at these places have, (N,), in their own unit."""
    found = numbers_of(sequences, own)
    return found[~np.isnan(found)]


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
    values, quantiles = learned.values.numpy()[own], criterion.quantiles
    constant = values.mean(keepdims=True) if criterion.squared else np.quantile(values, quantiles or [0.5])
    linear = Linear(learned, own, lambda some: learned.values.numpy()[some, None], causal)
    around = np.quantile(linear.left, quantiles) if quantiles else np.zeros(1)
    said = {CONSTANT: np.tile(constant, (len(places), 1)), LINEAR: linear(judged, places) + around}
    score, truth, units = score_of(criterion), judged.values[torch.from_numpy(places)], judged.units(places)
    return {name: scored(criterion, torch.from_numpy(each), truth, units)[score] for name, each in said.items()}


def scored(criterion: Criterion, predicted: Tensor, truth: Tensor, units: Units) -> dict[str, Tally]:
    """Returns the loss of predictions (N, outputs), given the true values (N,), and the errors of their middle."""
    e = (criterion.middle(predicted).double() - truth).numpy()
    return {
        f"validation_{criterion.measure}": Tally.of(units, (criterion.each(predicted.double(), truth).numpy(), 1)),
        "rmse": Tally.of(units, (e**2, 1), root),
        "mae": Tally.of(units, (np.abs(e), 1)),
    }


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
    if options.each_step:
        added = (Labelled(str(n), steps, None, labels=[*map(repr, sums)]) for n, (steps, sums) in every)
    else:
        added = (Labelled(str(n), steps, repr(sums[-1])) for n, (steps, sums) in every)
    found, count = gathered(path, options, bad, added, reading)
    own, test = left_out(found, options, count, np.zeros(len(found)), path)
    train, validation = divided(found, options, count, own)
    least = "give at least two for training and one for validation"
    parts = Parts(found, train, validation, test)
    check_labels(parts, path or Path(examples.MARKED), least, 2, bad)
    values = learned_of(found, train)
    apart = np.ptp(values)
    if apart == 0:
        what = "steps" if options.each_step else "sequences"
        raise InputError(
            f"the training {what} of {path} have only one value, {values[0]:g}; give {what} of different values"
        )
    if apart < CLOSE:
        raise InputError(f"the values to predict in {path} are at most {apart:.3g} apart; give them in a smaller unit")
    return parts


class Regressor(Trained[Reading, Options]):
    """A model that predicts a number: what a run holds when it is trained."""

    encoded, learned, made_for, built_in = Values, Reading, Options, examples.MARKED
    parts_of = staticmethod(read)

    @staticmethod
    def model_of(reading: Reading, options: Options) -> RegressionModel:
        return RegressionModel(reading, Criterion(options.loss, options.quantile_list).outputs, options)

    @property
    def criterion(self) -> Criterion:
        return Criterion(self.options.loss, self.options.quantile_list)

    @property
    def width(self) -> int:
        return self.criterion.outputs

    def says(self, encoded: Values, own: NDArray[np.int64]) -> Tensor:
        """Returns what the model says of sequences, or their steps, in deviations, (N, outputs); quantiles rise."""
        return self.criterion.in_order(self.outputs(encoded, own))

    def told(
        self, found: Mapping[str, Tally], predicted: Tensor, truth: Tensor, written: Callable[[Tally], str]
    ) -> Iterator[tuple[str, str]]:
        """Yields names and figures of these predictions, and of their quantiles. found: their scores, which are written so."""
        for name in dict.fromkeys((score_of(self.criterion), "rmse", "mae")):
            each = found[name]
            yield called(name), f"{each.value * self.reading.spread:.6g}, which is {written(each)} {DEVIATIONS}"
        variance = float(truth.var(correction=0))
        if variance > 0:
            yield "R²", f"{1 - found['rmse'].value ** 2 / variance:.4f}"
        yield from self.criterion.covered(self.criterion.below(predicted, truth), len(truth))

    @property
    def unit_of_errors(self) -> float:
        return self.reading.spread

    def judge(self, encoded: Values, said: Tensor, unit: float) -> tuple[dict[str, Tally], Iterator[tuple[str, str]]]:
        places, ratio = np.flatnonzero(encoded.told), self.reading.spread / unit
        predicted, truth, units = said[places], encoded.values[places], encoded.units(places)
        found = scored(self.criterion, predicted, truth, units)
        shared = found if ratio == 1 else scored(self.criterion, ratio * predicted, ratio * truth, units)
        tallies = {called(name): shared[name] for name in ("rmse", "mae")}
        if quantiles := self.criterion.quantiles:
            tallies["pinball"] = shared[score_of(self.criterion)]._replace(counted=str(quantiles))
        return tallies, self._figures(encoded, places, found, predicted, truth)

    def _figures(
        self, encoded: Values, places: NDArray[np.int64], found: dict[str, Tally], predicted: Tensor, truth: Tensor
    ) -> Iterator[tuple[str, str]]:
        score = score_of(self.criterion)
        yield from self.told(found, predicted, truth, scores.figure)
        yield self.how_sure(encoded)
        unit = f"{called(score)} in standard deviations"
        yield from scores.on_baselines(self.path, lambda: self._baselines(encoded, places), unit, found[score])

    def _baselines(self, judged: Values, places: NDArray[np.int64]) -> dict[str, Tally]:
        sequences, train, *_ = self.read_again()
        learned = Values(sequences, self.reading)
        own = learned.told_places(train)
        return baselines(learned, own, judged, places, self.criterion, self.options.causal)

    def in_unit(self, predicted: Tensor) -> list[list[float]]:
        """Returns predictions (N, outputs) in the unit of the data."""
        values = predicted.double() * self.reading.spread + self.reading.center
        return [[rounded(v, self.reading.spread) for v in row] for row in values.tolist()]

    def rows(self, encoded: Values, own: NDArray[np.int64], said: Tensor) -> Iterator[dict[str, Any]]:
        for name, label, row in self._named(encoded, own, said):
            if not np.isnan(truth := number_of(label)):
                error = float(self.criterion.middle(torch.tensor(list(row.values()), dtype=torch.float64))) - truth
                yield name | {"label": truth} | row | {"error": rounded(error, self.reading.spread)}

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row of CSV, or JSON, for each sequence, or step, of a file: its value, or its quantiles."""
        self.skipped = BadRows(self.options.skip_bad)
        every = ((encoded, np.arange(len(encoded.rows))) for encoded in self.read_groups(path, self.skipped))
        said = (self._named(encoded, own, self.says(encoded, own)) for encoded, own in every)
        return table((name | row for of_group in said for name, _, row in of_group), form)

    def _named(
        self, encoded: Values, own: NDArray[np.int64], said: Tensor
    ) -> Iterator[tuple[dict[str, Any], str | None, dict[str, float]]]:
        """Yields what each sequence is called, or each step, its label, and the outputs in the unit of the data."""
        names = [f"value{each}" for each in self.criterion.endings]
        for (name, label), row in zip(encoded.named(own), self.in_unit(said), strict=True):
            yield name, label, dict(zip(names, row, strict=True))


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
        self.score_unit, self.unit_of_score = called(self.score), regressor.reading.spread

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        found, places = self.outputs(own)
        return self.criterion.mean(found, self.encoded.values[torch.from_numpy(places)].to(found))

    def _judged(self, own: NDArray[np.int64]) -> tuple[Tensor, Tensor, Units]:
        """Returns the predictions of the values of the sequences at these places, (N, outputs); these, (N,); and whose they are."""
        places = self.encoded.all_places(own)
        told = self.encoded.told[places]
        places, found = places[told], self.trained.says(self.encoded, own)[torch.from_numpy(told)]
        return found, self.encoded.values[torch.from_numpy(places)], self.encoded.units(places)

    def scores(self, own: NDArray[np.int64]) -> dict[str, Tally]:
        return scored(self.criterion, *self._judged(own))

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
        (first, *others), reading = super().introduction(), self.trained.reading
        own = self.encoded.values.numpy()[self.places] * reading.spread + reading.center
        told = f"{own.min():.6g} to {own.max():.6g}, mean {own.mean():.6g}, standard deviation {own.std():.6g}"
        return [first, ("values", told), *others]

    def result(self, row: Mapping[str, str]) -> str:
        told = (f"{called(name)} {float(row[name]):.4f}" for name in dict.fromkeys((self.score, "rmse", "mae")))
        return f"{', '.join(told)}, in {DEVIATIONS}"

    def conclusion(self) -> list[tuple[str, str]]:
        """Returns lines about the validation sequences, in the unit of the data, and about those that --fold leaves out."""
        predicted, truth, units = self._judged(self.validation)
        found = scored(self.criterion, predicted, truth, units)
        # Without intervals: these sequences have chosen the parameters.
        told = self.trained.told(found, predicted, truth, lambda each: f"{each.value:.4f}")
        return [*told, *super().conclusion()]

    def draw(self, directory: Path) -> list[Path]:
        """Draws the predictions of the validation values over these, and with each_step those of one sequence."""
        from elman import charts

        found, truth, _ = self._judged(self.validation)
        own = np.array(self.trained.in_unit(found))
        true = np.array(self.trained.in_unit(truth[:, None]))[:, 0]
        middle = self.criterion.middle(torch.from_numpy(own)).numpy()
        band = (own[:, 0], own[:, -1]) if own.shape[1] > 1 else None
        pictures = {"values.png": charts.agreement(true, middle, band, f"{self.unit}s")}
        if self.options.each_step:
            k, part, numbers = self.shown()
            said = np.array(self.trained.in_unit(self.trained.says(self.encoded, np.array([k]))[part]))
            own = self.encoded.values.numpy()[self.encoded.all_places(np.array([k]))][part]
            own = own * self.trained.reading.spread + self.trained.reading.center
            pictures["steps.png"] = charts.valued_steps(
                numbers, own, said, self.criterion.middle(torch.from_numpy(said)).numpy(), part.start
            )
        for name, figure in pictures.items():
            charts.save(figure, directory / name)
        return [directory / name for name in pictures]


begin, resume, load = Regression.begin, Regression.resume, Regressor.load
