"""Regression: one number for a whole sequence of numbers, or for a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.datasets import examples
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled, number_of, sequences
from elman.errors import InputError
from elman.tasks import scores
from elman.tasks.options import RegressionOptions as Options
from elman.tasks.separate import check_made_for, groups, held_out, moments, started, table
from elman.tasks.values import Criterion, rounded
from elman.tasks.whole import (
    CHUNK,
    FAR,
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
CONSTANT, LINEAR = "constant", "linear"  # what the baselines are called
LEARNED = 20_000  # sequences that the linear baseline learns from; of more, as many are taken at equal distances
CLOSE = 1e-150  # between values whose squares float64 cannot tell from zero
FREQUENT = 1000  # tokens that it counts in a text


class RegressionModel(SequenceModel):
    """A model whose outputs are numbers, in deviations of the training values from their mean, (B, outputs)."""


@dataclass(frozen=True, kw_only=True)
class Reading(Inputs):
    """What was learned of the data besides weights."""

    center: float  # the mean of the values to predict
    spread: float  # their standard deviation

    @classmethod
    def learn(cls, sequences: Gathered, own: NDArray[np.int64]) -> Reading:
        """own: the places of the sequences to learn from."""
        center, spread = moments([numbers_of(sequences)[own, None]], 1, 0.0)
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
        self.values = torch.from_numpy(scaled.clip(-FAR, FAR))  # (N,), float64

    def features(self, own: Sequence[int] | NDArray[np.int64], counted: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns what the linear baseline reads of these sequences, (N, features).

        Of each channel the mean, the deviation, the least, the largest, the first and the last value; of a text the
        logarithms of 1 and how often it has each token in `counted`. And the length.
        """
        found = []
        for k in own:
            row = self.rows[k]
            if len(self._mean):
                x = ((row - self._mean.numpy()) / self._deviation.numpy()).clip(-FAR, FAR)
                told = np.concatenate([x.mean(0), x.std(0), x.min(0), x.max(0), x[0], x[-1]])
            else:
                told = np.log1p(np.bincount(self._tokens[row], minlength=counted.max(initial=0) + 1)[counted])
            found.append(np.append(told, len(row)))
        return np.array(found)

    def frequent(self, own: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the tokens that most of these texts have."""
        counts = np.zeros(int(self._tokens.max(initial=0)) + 1, np.int64)
        for k in own if not len(self._mean) else ():
            counts[np.unique(self._tokens[self.rows[k]])] += 1
        order = np.argsort(-counts, kind="stable")[:FREQUENT]
        return order[counts[order] > 0]


def numbers_of(sequences: Gathered) -> NDArray[np.float64]:
    """Returns the values to predict, (N,), in their own unit; NaN where there is none, as there need not be to predict."""
    return np.array([number_of(name) for name in sequences.different])[sequences.labels]


class Baselines:
    """What predicts without a network: a constant, and a linear function of a few features.

    The constant is the mean, or the median if large errors do not count by their squares. The linear function is ridge
    regression on standardised features, w = (X' X + 1)^-1 X' y. Where quantiles are wanted, they are those of the values,
    and of what the linear function leaves.
    Source: A. E. Hoerl & R. W. Kennard, Ridge regression, Technometrics 12 (1970).
    """

    def __init__(self, learned: Values, own: NDArray[np.int64], criterion: Criterion):
        """own: the places of the sequences to learn from."""
        self.criterion, quantiles = criterion, criterion.quantiles
        values = learned.values.numpy()[own]
        self.constant = np.quantile(values, quantiles or [0.5]) if not criterion.squared else values.mean(keepdims=True)
        own = own[:: -(-len(own) // LEARNED)]
        y = learned.values.numpy()[own]
        self.counted = learned.frequent(own)
        x = learned.features(own, self.counted)
        self.mean, deviation = x.mean(0), x.std(0)
        self.deviation, self.intercept = np.where(deviation > 0, deviation, 1.0), y.mean()
        x, y = (x - self.mean) / self.deviation, y - self.intercept
        if len(x) < x.shape[1]:  # the same weights, by the smaller of two systems
            self.weights = x.T @ np.linalg.solve(x @ x.T + np.eye(len(x)), y)
        else:
            self.weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
        self.around = np.quantile(y - x @ self.weights, quantiles) if quantiles else np.zeros(1)

    def errors(self, judged: Values, own: NDArray[np.int64]) -> dict[str, float]:
        """Returns their scores (`score_of`) on the sequences at these places, in deviations."""
        truth, found = judged.values.numpy()[own], np.empty(len(own))
        for begin in range(0, len(own), LEARNED):
            part = slice(begin, begin + LEARNED)
            x = (judged.features(own[part], self.counted) - self.mean) / self.deviation
            found[part] = x @ self.weights + self.intercept
        said = {CONSTANT: np.tile(self.constant, (len(own), 1)), LINEAR: found[:, None] + self.around}
        score = score_of(self.criterion)
        return {
            name: scored(self.criterion, torch.from_numpy(each), torch.from_numpy(truth))[score]
            for name, each in said.items()
        }


def scored(criterion: Criterion, predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """Returns the loss of predictions (N, outputs), given the true values (N,), and the errors of their middle."""
    e = criterion.middle(predicted).double() - truth
    return {
        f"validation_{criterion.measure}": float(criterion.mean(predicted.double(), truth)),
        "rmse": float((e**2).mean().sqrt()),
        "mae": float(e.abs().mean()),
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


class Regressor(Trained[Reading, Options]):
    """A model that predicts a number: what a run holds when it is trained."""

    encoded, built_in = Values, examples.MARKED

    @property
    def criterion(self) -> Criterion:
        return Criterion(self.options.loss, self.options.quantile_list)

    @property
    def width(self) -> int:
        return self.criterion.outputs

    def predicted(self, encoded: Encoded, own: NDArray[np.int64] | None = None) -> Tensor:
        """Returns what the model says of sequences, in deviations, (N, outputs); quantiles rise."""
        return self.criterion.in_order(self.outputs(encoded, own))

    def told(self, predicted: Tensor, truth: Tensor) -> Iterator[tuple[str, str]]:
        """Yields names and figures of these predictions, and of their quantiles."""
        found = scored(self.criterion, predicted, truth)
        for name in dict.fromkeys((score_of(self.criterion), "rmse", "mae")):
            yield called(name), f"{found[name] * self.reading.spread:.6g}, which is {found[name]:.4f} {DEVIATIONS}"
        variance = float(truth.var(correction=0))
        if variance > 0:
            yield "R²", f"{1 - found['rmse'] ** 2 / variance:.4f}"
        yield from self.criterion.covered(self.criterion.below(predicted, truth), len(truth))

    def evaluate(self, path: Path) -> Iterator[tuple[str, str]]:
        """Yields names and figures for a file whose sequences have values."""
        encoded, lines = self.read(path)
        yield from lines
        yield from self.told(self.predicted(encoded), encoded.values)
        unit = f"{called(score_of(self.criterion))} in standard deviations"
        yield from scores.on_baselines(self.path, lambda: self._baselines(encoded), unit)

    def _baselines(self, judged: Values) -> dict[str, float]:
        learned, train, _ = self.read_again()
        baselines = Baselines(Values(learned, self.reading), train, self.criterion)
        return baselines.errors(judged, np.arange(len(judged.rows)))

    def parts(self) -> Parts:
        return read(self.path, self.options, BadRows(self.options.skip_bad), self.reading)

    def in_unit(self, predicted: Tensor) -> list[list[float]]:
        """Returns predictions (N, outputs) in the unit of the data."""
        values = predicted.double() * self.reading.spread + self.reading.center
        return [[rounded(v, self.reading.spread) for v in row] for row in values.tolist()]

    def examples(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row for each sequence: its true value, what the model says, and by how much this is more."""
        return table(self._examples(path), form)

    def _examples(self, path: Path) -> Iterator[dict[str, Any]]:
        for each, row in self._said(path, True, BadRows(self.options.skip_bad)):
            truth = number_of(each.label)
            error = float(self.criterion.middle(torch.tensor(list(row.values()), dtype=torch.float64))) - truth
            yield {"sequence": each.name, "label": truth} | row | {"error": rounded(error, self.reading.spread)}

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row of CSV, or JSON, for each sequence of a file: its value, or its quantiles."""
        self.skipped = BadRows(self.options.skip_bad)
        said = self._said(path, False, self.skipped)
        return table(({"sequence": each.name} | row for each, row in said), form)

    def _said(self, path: Path, labelled: bool, bad: BadRows) -> Iterator[tuple[Labelled, dict[str, float]]]:
        """Yields each sequence of a file with the named outputs of the model, in the unit of the data."""
        names, columns = [f"value{each}" for each in self.criterion.endings], columns_of(self.options, self.reading)
        for group in groups(sequences(path, columns, labelled, bad), CHUNK):
            found = self.in_unit(self.predicted(self.encode(group, path)))
            yield from ((each, dict(zip(names, row, strict=True))) for each, row in zip(group, found, strict=True))


DEVIATIONS = "standard deviations of the training values"


class Regression(WholeSequences):
    """The task, as `elman.training.task.Task` has it."""

    name = "regress"
    higher_is_better = False

    def __init__(
        self,
        regressor: Regressor,
        sequences: Gathered,
        train: NDArray[np.int64],
        validation: NDArray[np.int64],
        path: Path | None,
    ):
        """train, validation: places of sequences. path: where these come from; None for the built-in sequences."""
        super().__init__(regressor, sequences, train, validation, path)
        self.criterion = regressor.criterion
        self.measure, self.score = self.criterion.measure, score_of(self.criterion)
        self.score_unit = called(self.score)

    def untrained(self, options: Options) -> Regressor:
        return _regressor(self.trained.reading, options, str(device_of(self.model)), self.path)

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        found = self.outputs(own)
        return self.criterion.mean(found, self.encoded.values[self.train[own]].to(found))

    def evaluate(self) -> dict[str, float]:
        return scored(self.criterion, *self._judged())

    def _judged(self) -> tuple[Tensor, Tensor]:
        """Returns the predictions of the validation values, (N, outputs), and these, (N,)."""
        return self.trained.predicted(self.encoded, self.validation), self.encoded.values[self.validation]

    def about(self) -> dict[str, Any]:
        baselines = Baselines(self.encoded, self.train, self.criterion)
        return {"data": self.sizes(), "baselines": baselines.errors(self.encoded, self.validation)}

    def baseline(self, name: str) -> str:
        quantiles = bool(self.criterion.quantiles)
        if name == CONSTANT:
            said = "quantiles" if quantiles else "mean" if self.criterion.squared else "median"
            return f"says the {said} of the training values"
        features = "how often words occur" if self.options.text else "means, extremes and ends"
        return f"a linear function of {features}" + quantiles * ", and the quantiles of its errors"

    def introduction(self) -> list[tuple[str, str]]:
        (first, *others), reading = super().introduction(), self.trained.reading
        values = self.encoded.values[self.train].numpy() * reading.spread + reading.center
        told = (
            f"{values.min():.6g} to {values.max():.6g}, mean {values.mean():.6g}, standard deviation {values.std():.6g}"
        )
        return [first, ("values", told), *others]

    def result(self, row: Mapping[str, str]) -> str:
        told = (f"{called(name)} {float(row[name]):.4f}" for name in dict.fromkeys((self.score, "rmse", "mae")))
        return f"{', '.join(told)}, in {DEVIATIONS}"

    def conclusion(self) -> list[tuple[str, str]]:
        """Returns lines about the validation sequences, in the unit of the data."""
        return list(self.trained.told(*self._judged()))

    def draw(self, directory: Path) -> list[Path]:
        """Draws the predictions of the validation sequences over their true values."""
        from elman import charts

        found, truth = self._judged()
        own = np.array(self.trained.in_unit(found))
        true = np.array(self.trained.in_unit(truth[:, None]))[:, 0]
        middle = self.criterion.middle(torch.from_numpy(own)).numpy()
        band = (own[:, 0], own[:, -1]) if own.shape[1] > 1 else None
        path = directory / "values.png"
        charts.save(charts.agreement(true, middle, band), path)
        return [path]


def read(path: Path | None, options: Options, bad: BadRows, reading: Reading | None = None) -> Parts:
    """Returns the sequences and the indices of the training and validation sets.

    reading: what was learned of the data before, whose channels they must have.
    """
    marked = (Labelled(str(n), steps, repr(total)) for n, (steps, total) in enumerate(examples.marked_numbers(), 1))
    found, count = gathered(path, options, bad, marked, reading)
    if options.validation is not None:
        train, validation = np.arange(count), np.arange(count, len(found))
    else:
        train, validation = held_out(count, options.held_out, options.seed) if count else (np.arange(0),) * 2
    if len(train) < 2 or not len(validation):
        raise InputError(
            f"{path} leaves {len(train)} sequences for training and {len(validation)} for validation; give at least two for training and one for validation"
        )
    apart = np.ptp(values := numbers_of(found)[train])
    if apart == 0:
        raise InputError(
            f"the training sequences of {path} have only one value, {values[0]:g}; give sequences of different values"
        )
    if apart < CLOSE:
        raise InputError(f"the values to predict in {path} are at most {apart:.3g} apart; give them in a smaller unit")
    return found, train, validation


def begin(path: Path | None, options: Options, device: str, bad: BadRows, start: Run | None = None) -> Regression:
    """Returns a task that trains a model on a file. start: a run from whose model it starts; None for a new one."""
    check_made_for(start, options, CONFIG)
    known = None if start is None else Reading.load(start)
    found, train, validation = read(path, options, bad, known)
    reading = Reading.learn(found, train) if known is None else known
    check_tokens(reading, found, path, len(train))
    torch.manual_seed(options.seed)
    return started(Regression(_regressor(reading, options, device, path), found, train, validation, path), start)


def resume(run: Run, path: Path | None, options: Options, device: str) -> Regression:
    """Returns the task of a run. Its data are read again; its model does not have its parameters yet."""
    reading = Reading.load(run)
    data = read(path, options, BadRows(options.skip_bad), reading)
    return Regression(_regressor(reading, options, device, path), *data, path)


def load(record: Record | Path, device: str = "cpu") -> Regressor:
    """Returns the model of a run, with the parameters that were best on the validation sequences."""
    record = Run(record) if isinstance(record, Path) else record
    options, config = record.options(Options, CONFIG)
    reading = Reading.load(record)
    model = record.model(lambda: _model(reading, options), device)
    return Regressor(model, reading, options, data_of(config), record.digest())


def _regressor(reading: Reading, options: Options, device: str, path: Path | None) -> Regressor:
    return Regressor(_model(reading, options).to(device), reading, options, path)


def _model(reading: Reading, options: Options) -> RegressionModel:
    outputs = Criterion(options.loss, options.quantile_list).outputs
    return RegressionModel(len(reading.mean), reading.size, outputs, options)
