"""Forecasting: from the last values of a series, the values that follow."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from elman import cells
from elman.datasets import examples, series
from elman.datasets.codes import Codes, Growing
from elman.datasets.reading import BadRows
from elman.datasets.series import Columns, Series
from elman.datasets.tables import JSON_LINES
from elman.datasets.times import written
from elman.errors import InputError
from elman.recurrent import Recurrent
from elman.tasks.options import ForecastingOptions as Options
from elman.tasks.scores import Judged, compared, figure, how_sure
from elman.tasks.separate import SeparateSequences, check_made_for, check_same, csv_row, digits, many, started, table
from elman.tasks.values import Criterion, rounded
from elman.tasks.windows import Errors, Scale, Scaled, Scales, Windows, words_of
from elman.tasks.words import Categories
from elman.training.dropout import Dropout
from elman.training.record import DATA, Record, data_of, device_of
from elman.training.run import Run

CONFIG = DATA
MOST = 20_000  # windows that are judged while training; of more, as many are taken at equal distances
TOLD = 10  # series that were left out are named, at most


class ForecastingModel(nn.Module):
    """A recurrent layer reads a series in segments, and runs on over the segments to forecast.

        x_k = relu(W_r [segment k of the past - last value])              k = 1 ... lookback / segment
        q_j = (which segment it is, which column it is) + W_k [what is known of segment j ahead]
        h   = the outputs of the layer for x_1 x_2 ... q_1 q_2 ...
        y_j = W_w dropout(h at q_j) + last value

    Every column is a separate series, and all series share the weights. An embedding stands for each word that is read.
    Source: S. Lin et al., SegRNN: segment recurrent neural network for long-term time series forecasting (2023), which
    forecasts each segment from the last state alone.
    """

    def __init__(self, scales: Scales, options: Options):
        super().__init__()
        o, h, beside = options, options.hidden_size, scales.beside
        words = [*map(len, (scales.words[name] for name in beside if name in scales.words))]
        self.numbers = len(beside)  # that are read of a row besides its column
        self.categories = Categories(words, o.embedding_size) if words else None
        # Which of them are known in advance, once embeddings stand in the places of codes.
        widths = [1] * (len(beside) - len(words)) + (self.categories.widths if self.categories is not None else [])
        self.ahead = [name in scales.known for name, width in zip(beside, widths, strict=True) for _ in range(width)]
        read, known, columns = sum(widths), sum(self.ahead), len(scales.targets)
        self.segment, self.lookback, self.horizon = o.segment, o.lookback, o.ahead
        self.outputs = Criterion(o.loss, o.quantile_list).outputs
        self.segments = math.ceil(o.ahead / o.segment)
        self.read = nn.Linear(o.segment * (1 + read), h)
        self.recurrent = Recurrent(
            cells.by_name(o.cell),
            h,
            h,
            o.num_layers,
            dropout=o.dropout if o.num_layers > 1 else 0.0,
            weight_dropout=o.weight_dropout,
        )
        self.place = nn.Parameter(0.1 * torch.randn(self.segments, h - h // 2))
        self.column = nn.Parameter(0.1 * torch.randn(columns, h // 2))
        self.known = nn.Linear(o.segment * known, h) if known else None
        self.dropout = Dropout(o.dropout)
        self.write = nn.Linear(h, o.segment * self.outputs)

    def forward(self, past: Tensor, column: Tensor, known: Tensor) -> Tensor:
        """Returns forecasts (horizon, N, outputs) of N windows.

        past: (lookback, N). column: (N,), the number of each window's column. known: (lookback + horizon, N, known + observed),
        of which nothing observed is read ahead.
        """
        length, n = past.shape
        last = past[-1]
        known = known if self.categories is None else self.categories(known)
        x = torch.cat([(past - last)[..., None], known[:length]], -1)
        place = self.place[:, None].expand(-1, n, -1)
        query = torch.cat([place, self.column[column].expand(self.segments, -1, -1)], -1)
        if self.known is not None:
            ahead = known[length:] if all(self.ahead) else known[length:, :, self.ahead]
            ahead = pad(ahead, (0, 0, 0, 0, 0, self.segments * self.segment - self.horizon))
            query = query + self.known(self._cut(ahead))
        _, state = self.recurrent(torch.relu(self.read(self._cut(x))))
        h, _ = self.recurrent(query, state)
        y = self.write(self.dropout(h)).unflatten(2, (self.segment, self.outputs))
        return y.transpose(1, 2).flatten(0, 1)[: self.horizon] + last[:, None]

    def _cut(self, x: Tensor) -> Tensor:
        """Returns (T, N, K) in segments, (T / segment, N, segment * K)."""
        return x.unflatten(0, (-1, self.segment)).movedim(1, 2).flatten(2)


def naive(past: Tensor, ahead: int, period: int) -> Tensor:
    """Returns the forecast that repeats the last `period` values (past, N): the last value for 1. (ahead, N)"""
    return past[-period:].repeat(math.ceil(ahead / period), 1)[:ahead]


class Forecaster:
    """A model with the scales of its columns: what a run holds when it is trained."""

    def __init__(
        self,
        model: ForecastingModel,
        scales: Scales,
        options: Options,
        path: Path | None = None,
        digest: str | None = None,
    ):
        """path: the training data; None for the built-in series. digest: that of these data, if it is known."""
        self.model, self.scales, self.options, self.path, self.digest = model, scales, options, path, digest
        self.criterion = Criterion(options.loss, options.quantile_list)
        self.remarks: list[str] = []  # what there is to say of the last predictions
        self.after = options.lookback  # rows before the first forecast that `evaluate` judges

    def loss(self, forecast: Tensor, truth: Tensor, partly: bool = False) -> Tensor:
        """Returns the mean loss of forecasts (H, N, outputs), given the truths (H, N).

        partly: whether some truths may be NaN, which do not count. If all are, the loss is 0.
        """
        if partly:
            told = ~truth.isnan()
            if not told.any():
                return 0.0 * forecast.sum()
            forecast, truth = forecast[told], truth[told]
        return self.criterion.mean(forecast, truth)

    @torch.inference_mode()
    def forecast(self, past: Tensor, column: Tensor, known: Tensor) -> Tensor:
        """Returns forecasts (horizon, N, outputs), in deviations, as `ForecastingModel` has them."""
        return self.differentiable(past, column, known)

    def differentiable(self, past: Tensor, column: Tensor, known: Tensor) -> Tensor:
        """Returns what `forecast` does, where gradients may be asked for.

        The recursive strategy forecasts a segment, appends it to the past, and continues from there.
        """
        o, device = self.options, device_of(self.model)
        past, column, known = past.to(device), column.to(device), known.to(device)
        if o.strategy == "direct":
            return self.criterion.in_order(self.model(past, column, known)).cpu()
        found, lookback = [], o.lookback
        for begin in range(0, o.horizon, o.ahead):
            seen = known[begin : begin + lookback + o.ahead]
            if len(seen) < lookback + o.ahead:  # the last segment may reach past the horizon
                seen = torch.cat([seen, seen[-1:].expand(lookback + o.ahead - len(seen), -1, -1)])
            found.append(self.criterion.in_order(self.model(past[-lookback:], column, seen)))
            past = torch.cat([past, self.criterion.middle(found[-1])])
        return torch.cat(found)[: o.horizon].cpu()

    def read_again(self) -> list[Series]:
        """Returns the training data. Raises InputError if they cannot be read, or have changed."""
        o = self.options
        every, _ = read(self.path, self.scales.columns(o), o, BadRows(o.skip_bad))
        if self.digest is not None:
            check_same(self.digest, digest_of(every, self.scales, o), self.path or examples.SERIES)
        return every

    def errors(
        self, windows: Windows, most: int, unit: NDArray[np.float64] | None = None
    ) -> tuple[Errors, float, list[tuple[str, str]]]:
        """Returns the errors of the forecasts of at most so many windows, their mean loss, and lines about quantiles.

        unit: in which errors are told, as `Errors` has it.
        """
        training = self.model.training
        self.model.eval()
        errors, loss, count = Errors(windows, unit), 0.0, 0.0
        below, values = torch.zeros(self.criterion.outputs, dtype=torch.int64), 0
        for own in windows.chunks(most):
            past, column, ahead, truth = windows.take(own)
            forecast = self.forecast(past, column, ahead)
            partly = windows.given is not None
            known = int((~truth.isnan()).sum())
            below, values = below + self.criterion.below(forecast, truth), values + known
            told = known / len(truth)  # in windows
            loss, count = loss + float(self.loss(forecast, truth, partly)) * told, count + told
            errors.add(self.criterion.middle(forecast), truth, own)
        self.model.train(training)
        return errors, loss / count if count else 0.0, list(self.criterion.covered(below, values))

    def errors_of_baselines(self, windows: Windows, most: int) -> dict[str, Errors]:
        """Returns the errors of the baselines on the windows that `errors` takes."""
        errors = {name: Errors(windows) for name, _ in self.baselines()}
        for own in windows.chunks(most):
            past, _, _, truth = windows.take(own)
            for name, period in self.baselines():
                errors[name].add(naive(past, len(truth), period), truth, own)
        return errors

    def baselines(self) -> list[tuple[str, int]]:
        period = self.options.period
        return [("naive", 1)] + ([(f"seasonal {period}", period)] if period > 1 else [])

    @property
    def predicts(self) -> str:
        return f"{', '.join(sorted(self.scales.targets))}, {many(self.options.horizon, 'row')} ahead"

    def evaluate(self, path: Path, like: Judged | None = None) -> Judged:
        """Returns how good the forecasts from every place in a file are that has enough values before it, and a row for each window.

        like: in whose deviations, of each series and column, errors are told.
        """
        every, scaled, windows = self._judged(path)
        names = [(one.group, target) for one in every for target in self.scales.targets]
        unit = dict(zip(names, zip(scaled.scale.deviation, scaled.scale.seasonal, strict=True), strict=True))
        if like is not None:
            unit = unit | {name: like.unit[name] for name in names if name in like.unit}
        own, _, covered = self.errors(windows, len(windows), np.array([unit[name] for name in names]).T)
        figures = self._figures(every, scaled, windows, own, covered)
        tallies = {name.upper(): each for name, each in own.tallies.items()}
        rows = f"{many(len(windows), 'window')} of {many(sum(scaled.rows), 'row')}"
        return Judged(
            figures,
            lambda form: table(self._rows(every, windows, own), form),
            tallies,
            rows,
            self._digest(every, windows),
            unit,
        )

    def _digest(self, every: Sequence[Series], windows: Windows) -> str:
        """Returns a digest of what is forecast, and where the first forecasts begin. The order of the columns does not matter."""
        found, targets, counts = hashlib.sha256(), self.scales.targets, np.diff(windows.before)
        for n, one in enumerate(every):
            for k in sorted(range(len(targets)), key=targets.__getitem__):
                block = n * len(targets) + k
                about = one.group, targets[k], windows.begins[block], counts[block]
                found.update(repr([*map(str, about)]).encode())
                found.update(np.ascontiguousarray(one.targets[:, k]).data)
        return found.hexdigest()

    def _figures(
        self, every: Sequence[Series], scaled: Scaled, windows: Windows, own: Errors, covered: Iterable[tuple[str, str]]
    ) -> Iterator[tuple[str, str]]:
        more = f", after {self.after} rows, which another model reads" if self.after > self.options.lookback else ""
        yield "windows", f"{len(windows)}{more}"
        for words in self.scales.unknown(every):
            yield "unknown", words
        if filled := sum(s.filled for s in every):
            yield "filled in", f"{filled:,} of {sum(scaled.rows) * scaled.columns:,} values, which are not scored"
        for new in self.new_series(every):
            yield "new series", new
        yield "the model", ", ".join(f"{name.upper()} {figure(each)}" for name, each in own.tallies.items())
        units = many(own.units, "series", "") if own.by_series else f"{own.units} parts of the time"
        yield how_sure(own.units, units, "" if own.by_series else "the time")
        for name, each in self.errors_of_baselines(windows, len(windows)).items():
            better = compared(own.tallies["mae"], each.tallies["mae"])
            yield name, f"{said(each.means())}{better}{' in MAE' if better else ''}"
        yield from covered
        for k, name in enumerate(self.scales.targets):
            total, count = own.columns[:, k].tolist()
            yield f"  {name}", f"MAE {total / count:.6g} in its own unit" if count else "has no number to be scored"

    def _judged(self, path: Path) -> tuple[list[Series], Scaled, Windows]:
        """Returns the series of a file, and all windows of them. Raises InputError if there is none."""
        o, bad = self.options, BadRows(self.options.skip_bad)
        every, _ = series.read(path, self.scales.columns(o), bad, fill_gaps=o.fill_gaps)
        check_steps(every, self.scales, path)
        scaled = Scaled.of(every, self.scales, o)
        windows = Windows(scaled, [(self.after, n) for n in scaled.rows], o.lookback, o.horizon)
        needs, longer = self.after + o.horizon, self.after > o.lookback
        other = f", since another model reads {self.after}" if longer else ""
        if not len(windows):
            if max(scaled.rows) >= needs:
                raise InputError(
                    f"{path} lacks too many numbers: no forecast has one to read and one to be judged by; give more"
                )
            raise InputError(
                f"{path} has {max(scaled.rows)} rows in its longest series, but a forecast and its true values need {needs}{other}; give more"
            )
        return every, scaled, windows

    def _rows(self, every: Sequence[Series], windows: Windows, errors: Errors) -> Iterator[dict[str, Any]]:
        """Yields a row for each window: its column, the first time that is forecast, and the mean absolute error."""
        o, targets = self.options, self.scales.targets
        for own, mean in zip(windows.chunks(len(windows)), errors.of_windows, strict=True):
            block = windows.block(own)
            rows = windows.begins[block] + own - windows.before[block]  # of the series, from 0
            for b in np.unique(block):
                one, here = every[b // len(targets)], block == b
                times = one.times[rows[here]] if o.time else rows[here] + 1
                for time, e in zip(written(times, one.pace), mean[here].tolist(), strict=True):
                    row: dict[str, Any] = {o.group: one.group} if o.group else {}
                    row |= {"column": targets[b % len(targets)], o.time or "row": time}
                    scaled, deviation = (None, None) if math.isnan(e) else (digits(e), digits(e * errors.deviation[b]))
                    yield row | {"mae": deviation, "mae_in_deviations": scaled}

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields rows of CSV, or JSON lines: the forecast of each series from its end.

        Rows of the file whose targets are empty may follow the others: they say what is known of the times ahead.
        Series that are too short are left out, which `remarks` then says. Raises InputError if no other is left.
        """
        o, scales = self.options, self.scales
        bad = BadRows(o.skip_bad)
        every, _ = series.read(path, scales.columns(o), bad, fill_gaps=o.fill_gaps, tail=o.lookback)
        self.remarks = bad.remarks
        names = [name for name in (o.group, o.time or "step") if name] + [
            t + q for t in scales.targets for q in self.criterion.endings
        ]
        lacks = [self._lacks(one) for one in every]
        lacking = [lack for lack in lacks if lack[0]]
        if len(lacking) == len(every):
            what, remedy = lacking[0]
            raise InputError(f"{path} has {what}; {remedy}")
        if lacking:
            told = "; ".join(what for what, _ in lacking[:TOLD]) + ("; ..." if len(lacking) > TOLD else "")
            self.remarks += [f"left out {len(lacking)} of {len(every)} series: {path} has {told}"]
            every = [one for one, (what, _) in zip(every, lacks, strict=True) if not what]
        check_steps(every, self.scales, path)
        self.remarks += [f"new series: {new}" for new in self.new_series(every)]
        scale = [scales.of_series(one, o) for one in every]
        found = [self._ahead(one, own) for one, own in zip(every, scale, strict=True)]
        if form not in JSON_LINES:
            yield csv_row(names)
        for one, own, values in zip(every, scale, found, strict=True):
            times = series.times_ahead(one, o.horizon) if o.time else np.arange(1, o.horizon + 1)
            for time, row in zip(written(times, one.pace), values, strict=True):
                # A column that has no number in the file has no forecast.
                numbers = [
                    None if math.isnan(v) else rounded(v, d)
                    for each, d in zip(row.tolist(), own.deviation, strict=True)
                    for v in each
                ]
                cells_of_row = [*([one.group] if o.group else []), time, *numbers]
                if form in JSON_LINES:
                    yield json.dumps(dict(zip(names, cells_of_row, strict=True)), ensure_ascii=False) + "\n"
                else:
                    yield csv_row(
                        "" if c is None else c if isinstance(c, str) else repr(c).removesuffix(".0")
                        for c in cells_of_row
                    )

    def _lacks(self, one: Series) -> tuple[str, str]:
        """Returns what a series has too little of for a forecast, and a remedy; empty texts if it has enough."""
        o, rows = self.options, len(one.targets)
        of = f" of {one.group!r}" if one.group else ""
        if rows < o.lookback:
            return f"{rows} rows{of}, but a forecast reads the last {o.lookback}", "give more"
        ahead = len(one.known) - rows
        if self.scales.known and ahead < o.horizon:
            what = f"{ahead} rows{of} with {', '.join(self.scales.known)} after the last value"
            return f"{what}, but a forecast needs {o.horizon}", "add the future times with empty targets"
        return "", ""

    def new_series(self, every: Sequence[Series]) -> Iterator[str]:
        """Yields how those that the training data do not have are scaled, if there are some."""
        if not (new := self.scales.new(every)):
            return
        names = ", ".join(map(repr, new[:TOLD])) + (", ..." if len(new) > TOLD else "")
        yield f"{len(new)} of {len(every)} are not in the training data, so each is scaled by the {self.options.lookback} rows that its first forecast reads: {names}"

    def _ahead(self, one: Series, scale: Scale) -> NDArray[np.float64]:
        """Returns the forecast from the end of a series, (horizon, targets, outputs), in its own unit."""
        o, c, rows = self.options, len(self.scales.targets), len(one.targets)
        past = torch.from_numpy(((one.targets[-o.lookback :] - scale.mean) / scale.deviation).astype(np.float32))
        given = self.scales.scaled_known(one.known[rows - o.lookback : rows + o.horizon])
        known = np.zeros((o.lookback + o.horizon, given.shape[1]), np.float32)  # nothing observed is known ahead
        known[: len(given)] = given
        seen = torch.from_numpy(known)[:, None].expand(-1, c, -1)
        found = self.forecast(past, torch.arange(c), seen).double().numpy()
        return found * scale.deviation[:, None] + scale.mean[:, None]


def check_steps(every: Sequence[Series], scales: Scales, path: Path) -> None:
    """Raises InputError for a series whose rows are another step apart than those of the training."""
    for one in every:
        step = one.pace.said() if one.pace else None
        if None not in (step, scales.step) and step != scales.step:
            of = f" of {one.group!r}" if one.group else ""
            raise InputError(
                f"{path}: the rows{of} are {step} apart, but the run was trained on rows that are {scales.step} apart; give such rows, or train on these"
            )


def said(errors: Mapping[str, float]) -> str:
    return ", ".join(f"{name.upper()} {errors[name]:.4f}" for name in ("mse", "mae", "mase"))


class Forecasting(SeparateSequences):
    """The task, as `elman.training.task.Task` has it. A sequence is a window of one column."""

    name, data, unit = "forecast", "series", "window"
    higher_is_better = False

    def __init__(self, forecaster: Forecaster, every: Sequence[Series], path: Path | None):
        """path: where the series come from; None for the built-in series."""
        self.path, self.source = path, str(path or examples.SERIES)
        self.use(forecaster)
        o, scales = self.options, forecaster.scales
        self.measure = forecaster.criterion.measure
        self.score = "mse" if forecaster.criterion.squared else "mae"
        self.score_unit = self.score.upper()
        scaled = Scaled.of(every, scales, o)
        self.groups, self.rows, self.filled = [s.group for s in every], sum(scaled.rows), sum(s.filled for s in every)
        cuts = [parts(rows, o) for rows in scaled.rows]
        self.train = Windows(scaled, [(0, a) for a, _, _ in cuts], o.lookback, o.ahead)
        self.validation = Windows(scaled, [(a, b) for a, b, _ in cuts], o.lookback, o.horizon)
        self.test = Windows(scaled, [(b, c) for _, b, c in cuts], o.lookback, o.horizon)
        for what, windows, ahead in (("training", self.train, o.ahead), ("validation", self.validation, o.horizon)):
            if not len(windows):
                raise InputError(
                    f"no series has a window for {what}: its part of --split {o.split} must have {ahead} steps to forecast, after {o.lookback} past steps; "
                    "give more rows, another --split, or a smaller --horizon or --lookback"
                )
        self.lengths = np.broadcast_to(1, len(self.train))
        later = (s._replace(targets=s.targets[a:], known=s.known[a:]) for s, (a, _, _) in zip(every, cuts, strict=True))
        self.unknown = list(scales.unknown(later))
        self.digest = digest_of(every, scales, o)

    def use(self, forecaster: Forecaster) -> None:
        self.forecaster, self.model, self.options = forecaster, forecaster.model, forecaster.options

    def untrained(self, options: Options) -> Forecaster:
        return _forecaster(self.forecaster.scales, options, str(device_of(self.model)), self.path)

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        device = device_of(self.model)
        past, column, known, truth = (value.to(device) for value in self.train.take(own))
        return self.forecaster.loss(self.model(past, column, known), truth, self.train.given is not None)

    def weight(self, own: NDArray[np.int64]) -> float | None:
        if self.train.given is None or self.part[1] == 1:  # alone, no process asks for it
            return None
        told = int((~self.train.take(own)[3].isnan()).sum())
        return max(told, 1e-9) if len(own) else 0.0  # the weights of a batch add up to more than zero

    def evaluate(self) -> dict[str, float]:
        errors, loss, _ = self.forecaster.errors(self.validation, MOST)
        return {f"validation_{self.measure}": loss} | errors.means()

    def about(self) -> dict[str, Any]:
        found = self.forecaster.errors_of_baselines(self.validation, MOST)
        baselines = {name: each.means() for name, each in found.items()}
        data = {
            "path": None if self.path is None else str(self.path.resolve()),
            "series": len(self.groups),
            "rows": self.rows,
            "filled_values": self.filled,
            "train_windows": len(self.train),
            "validation_windows": len(self.validation),
            "test_windows": len(self.test),
        }
        return {"data": data, "baselines": {name: means[self.score] for name, means in baselines.items()}}

    def baseline(self, name: str) -> str:
        return "repeats the last value" if name == "naive" else f"repeats the last {self.options.period} values"

    def write(self, directory: Path) -> None:
        self.forecaster.scales.save(directory)

    def introduction(self) -> list[tuple[str, str]]:
        o, scales = self.options, self.forecaster.scales
        many = f"{len(self.groups)} series, " if len(self.groups) > 1 else ""
        filled = f", {self.filled:,} of the values filled in, which are not scored" if self.filled else ""
        counts = ", ".join(f"{len(words):,} in {name!r}" for name, words in scales.words.items())
        return [
            ("series", f"{self.source}: {many}{self.rows:,} rows of {len(scales.targets)} columns{filled}"),
            *([("words", counts)] if counts else []),
            *(("unknown", f"after the training part, {words}") for words in self.unknown),
            (
                "windows",
                f"{len(self.train):,} for training, {len(self.validation):,} for validation, {len(self.test):,} for testing; {o.lookback} past steps, {o.horizon} steps to forecast",
            ),
        ]

    def result(self, row: Mapping[str, str]) -> str:
        of = "its series' training part" if self.forecaster.scales.series else "the training part"
        return f"{said({name: float(row[name]) for name in ('mse', 'mae', 'mase')})}, in standard deviations of {of}"

    def conclusion(self) -> list[tuple[str, str]]:
        """Returns lines about the test windows, on which nothing was chosen."""
        if not len(self.test):
            return []
        own, _, covered = self.forecaster.errors(self.test, len(self.test))
        baselines = self.forecaster.errors_of_baselines(self.test, len(self.test))
        return [
            ("test", said(own.means())),
            *((name, said(each.means())) for name, each in baselines.items()),
            *covered,
        ]

    def draw(self, directory: Path) -> list[Path]:
        """Draws forecasts of up to four columns, in the unit of the data.

        They begin in the middle of the test part, or of the validation part where the test part has no window.
        """
        from elman import charts

        o, scales = self.options, self.forecaster.scales
        windows = self.test if len(self.test) else self.validation
        panels: dict[str, dict[str, Any]] = {}
        for k in np.flatnonzero(np.diff(windows.before))[:4]:
            middle = np.array([int(windows.before[k] + windows.before[k + 1]) // 2])
            past, column, known, truth = windows.take(middle)
            c = int(column)
            forecast = self.forecaster.forecast(past, column, known)

            def own(values: Tensor, k: int = int(k)) -> NDArray[Any]:
                return values.double().numpy() * windows.scale.deviation[k] + windows.scale.mean[k]

            group = self.groups[k // len(scales.targets)]
            panel: dict[str, Any] = {
                "past": own(past[-min(o.lookback, 2 * o.horizon) :, 0]),
                "truth": own(truth[:, 0]),
                "forecast": own(self.forecaster.criterion.middle(forecast)[:, 0]),
                "others": {f"seasonal {o.period}": own(naive(past, o.horizon, o.period)[:, 0])} if o.period > 1 else {},
            }
            if len(o.quantile_list) > 1:
                panel |= {"low": own(forecast[:, 0, 0]), "high": own(forecast[:, 0, -1])}
            panels[f"{group} {scales.targets[c]}".strip()] = panel
        path = directory / "forecast.png"
        charts.save(charts.forecasts(panels, o.horizon), path)
        return [path]


def digest_of(every: Sequence[Series], scales: Scales, options: Options) -> str:
    """Returns the SHA-256 of series and of their parts, by which changed files are noticed."""
    cuts = [parts(len(s.targets), options) for s in every]
    digest = hashlib.sha256(repr((scales.targets, scales.known, cuts)).encode())
    if scales.observed or scales.words:
        digest.update(repr((scales.observed, scales.words)).encode())
    for s in every:
        for values in (s.targets, s.known):
            for begin in range(0, len(values), series.BLOCK):
                digest.update(values[begin : begin + series.BLOCK].tobytes())
        if (
            s.given is not None
        ):  # where whole rows were filled in, a bit for each, as there was before single numbers were
            rows = s.given[:, 0] if (s.given.all(1) == s.given.any(1)).all() else s.given
            digest.update(np.packbits(rows).tobytes())
    return digest.hexdigest()


def parts(rows: int, options: Options) -> tuple[int, int, int]:
    """Returns where the training, validation and test parts of a series end."""
    a, b, c = options.split_list
    if a + b + c <= 1.0 + 1e-9:  # shares
        return round(a * rows), round((a + b) * rows), round((a + b + c) * rows)
    ends = int(a), int(a + b), int(a + b + c)
    if ends[-1] > rows:
        needs = f"{ends[-1]} rows, but a series has {rows}"
        raise InputError(f"--split {options.split} needs {needs}; give smaller parts", f"the training read {needs}")
    return ends


def read(path: Path | None, columns: Columns, options: Options, bad: BadRows) -> tuple[list[Series], tuple[str, ...]]:
    if path is None:
        values = examples.mackey_glass()
        return [Series("", np.empty(0), values[:, None], np.empty((len(values), 0)))], ("x",)
    return series.read(path, columns, bad, fill_gaps=options.fill_gaps)


def begin(path: Path | None, options: Options, device: str, bad: BadRows, start: Run | None = None) -> Forecasting:
    """Returns a task that trains a model on a file. start: a run from whose model it starts; None for a new one.

    The model knows no units, so the series are measured by these data even if it starts from another run's.
    """
    o = options
    check_made_for(start, o, CONFIG)
    if start is None:
        codes = {name: Growing() for name in o.category_list}
        columns = Columns(o.column_list, o.known_list, o.time, o.group, o.observed_list, codes)
        every, targets = read(path, columns, o, bad)
        words = words_of(_learned(every, o), o, codes)
        if words:  # which have other codes from now on
            columns = columns._replace(words={name: Codes(own) for name, own in words.items()})
            every, _ = read(path, columns, o, BadRows(o.skip_bad))
    else:
        before = Scales.load(start)
        every, targets = read(path, before.columns(o), o, bad)
        if path is None and (before.targets, before.beside) != (list(targets), []):
            reads = ", ".join(map(repr, (*before.targets, *before.beside)))
            raise InputError(
                f"without FILE the data are {examples.SERIES} with the column {targets[0]!r} alone, but {start.directory} reads {reads}; give a table with these columns"
            )
        check_steps(every, before, path or Path(examples.SERIES))
        words = before.words
    scales = Scales.of(_learned(every, o), targets, o, words)
    torch.manual_seed(o.seed)
    return started(Forecasting(_forecaster(scales, o, device, path), every, path), start)


def _learned(every: Sequence[Series], options: Options) -> list[Series]:
    """Returns the part of every series that is learned from."""
    return [one.first(parts(len(one.targets), options)[0]) for one in every]


def resume(run: Run, path: Path | None, options: Options, device: str) -> Forecasting:
    """Returns the task of a run. Its data are read again; its model does not have its parameters yet."""
    forecaster = _forecaster(Scales.load(run), options, device, path)
    every, _ = read(path, forecaster.scales.columns(options), options, BadRows(options.skip_bad))
    return Forecasting(forecaster, every, path)


def load(record: Record | Path, device: str = "cpu") -> Forecaster:
    """Returns the forecaster of a run, with the parameters that were best on the validation windows."""
    record = Run(record) if isinstance(record, Path) else record
    options, config = record.options(Options, CONFIG)
    scales = Scales.load(record)
    model = record.model(lambda: _model(scales, options), device)
    return Forecaster(model, scales, options, data_of(config), record.digest())


def _forecaster(scales: Scales, options: Options, device: str, path: Path | None) -> Forecaster:
    return Forecaster(_model(scales, options).to(device), scales, options, path)


def _model(scales: Scales, options: Options) -> ForecastingModel:
    return ForecastingModel(scales, options)
