"""Which rows of a file are unusual: in words, as a table and as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from elman.datasets.times import written
from elman.errors import InputError
from elman.tasks.separate import digits, many, table
from elman.tasks.unusual import OURS, Detector, Judged

FALSE_ALARMS = 0.001
TOGETHER = 10  # unusual rows that are so many rows apart at most are one stretch
TOLD = 10  # stretches that are printed
PANELS = 3  # stretches that are drawn


class Stretch(NamedTuple):
    """Unusual rows that are near each other: places in what is said of a series."""

    of: Judged
    begin: int
    end: int
    worst: int  # the most unusual row

    @property
    def score(self) -> float:
        return float(self.of.scores[self.worst])


class Findings:
    """The unusual rows of a file."""

    def __init__(self, detector: Detector, path: Path, false_alarms: float | None = None, label: str | None = None):
        """false_alarms: the share of usual rows that may be called unusual; None for a thousandth, or the smallest possible.

        label: a column that says which rows are unusual.
        """
        least = 1 / (1 + len(detector.usual[OURS]))
        self.detector, self.false_alarms = detector, max(FALSE_ALARMS, least) if false_alarms is None else false_alarms
        self.limits = {name: usual.limit(self.false_alarms) for name, usual in detector.usual.items()}
        every = detector.read(path, label)
        self.judged = [detector.judge(one, self.limits[OURS]) for one, _ in every]
        self.truths = None if label is None else [truth for _, truth in every]
        self.rows = sum(len(one.targets) for one, _ in every)
        self.count = sum(int(np.isfinite(each.scores).sum()) for each in self.judged)
        if not self.count:
            longest = max(len(one.targets) for one, _ in every)
            raise InputError(
                f"{path} has {longest} rows in its longest series, and none of them can be judged, since a forecast reads {detector.reads} rows before it; give more"
            )

    def alarms(self, each: Judged, name: str = OURS) -> NDArray[np.bool_]:
        """Returns which rows of a series are unusual to the model, or to a baseline."""
        return each.scores > self.limits[name]

    def stretches(self) -> list[Stretch]:
        """Returns the unusual stretches, the most unusual one first."""
        found = [
            Stretch(each, begin, end, begin + int(np.nan_to_num(each.scores[begin:end]).argmax()))
            for each in self.judged
            for begin, end in stretches(self.alarms(each), TOGETHER)
        ]
        return sorted(found, key=lambda stretch: -stretch.score)

    def report(self) -> Iterator[tuple[str, str]]:
        """Yields names and texts: how many rows are unusual, how well that fits labels, and the most unusual stretches."""
        usual, ahead, found = self.detector.usual[OURS], self.detector.ahead, self.stretches()
        forecaster, every = self.detector.forecaster, [each.one for each in self.judged]
        yield (
            "rows",
            f"{self.count:,} of {self.rows:,}, each compared with the forecast of {many(ahead, 'step')} before it",
        )
        yield from (("unknown", words) for words in forecaster.scales.unknown(every))
        yield from (("new series", new) for new in forecaster.new_series(every))
        targets = forecaster.scales.targets
        judged = np.any([np.isfinite(each.expected).any(axis=0) for each in self.judged], axis=0)
        blind = [name for name, any_number in zip(targets, judged, strict=True) if not any_number]
        if blind:
            yield "not judged", f"{', '.join(map(repr, blind))}, which has no number that could be compared"
        yield "usual", f"{many(len(usual), 'row')}, {self.detector.source}"
        half, most = f"{usual.sorted[len(usual) // 2]:.3g} in half of them", f"{100 * self.false_alarms:.3g}%"
        yield "usual score", f"at most {half}, at most {self.limits[OURS]:.3g} in all but {most}"
        alarms, chance = sum(int(self.alarms(each).sum()) for each in self.judged), self.false_alarms * self.count
        where = f", in {many(len(found), 'stretch', 'es')}" if found else ""
        yield "unusual", f"{many(alarms, 'row')} above that{where}; by chance there would be {chance:.3g}"
        if self.truths is not None:
            yield from self._compared(self.truths)
        yield from map(self._said, found[:TOLD])
        if len(found) > TOLD:
            yield "  ...", f"and {len(found) - TOLD:,} more, which --output FILE.csv has"

    def _compared(self, truths: list[NDArray[np.bool_]]) -> Iterator[tuple[str, str]]:
        """Yields how well the model and the baselines find what labels say."""
        for name in self.detector.expecting:
            every = self.judged if name == OURS else [self.detector.judge(each.one, name=name) for each in self.judged]
            own = [(each, truth[each.first :]) for each, truth in zip(every, truths, strict=True)]
            found = [
                bool(self.alarms(each, name)[begin:end].any())
                for each, truth in own
                for begin, end in stretches(truth)
                if np.isfinite(each.scores[begin:end]).any()
            ]
            scores, truth = (np.concatenate(each) for each in zip(*((each.scores, t) for each, t in own), strict=True))
            truth, scores = truth[np.isfinite(scores)], scores[np.isfinite(scores)]
            whole, others = many(len(found), "stretch", "es"), int((~truth).sum())
            if name == OURS:
                yield "labelled", f"{many(int(truth.sum()), 'judged row')} in {whole}; {many(others, 'other row')}"
            false = many(int((scores[~truth] > self.limits[name]).sum()), "other row")
            auc = f"; AUC {area(scores, truth):.4f}" if 0 < others < len(truth) else ""
            yield name, f"finds {sum(found):,} of {whole}, calls {false} unusual{auc}"

    def _said(self, stretch: Stretch) -> tuple[str, str]:
        """Returns how unusual a stretch is, when it is, and what is unusual about it."""
        of, k = stretch.of, stretch.worst
        first, worst, last = self._times(of, np.array([stretch.begin, k, stretch.end - 1]))
        when, at = (f"{first} to {last}", f" at {worst}") if first != last else (f"{first}", "")
        column = of.columns[k]
        name = self.detector.forecaster.scales.targets[column]
        numbers = f"{name!r} is {digits(of.values[k, column]):g} in place of {digits(of.expected[k, column]):g}{at}"
        return f"  score {stretch.score:.3g}", f"{of.one.group} {when}: {numbers}".strip()

    def _times(self, of: Judged, places: NDArray[np.int64]) -> list[Any]:
        """Returns the times of rows as they are written, or their numbers from 1."""
        rows = of.first + places
        return list(written(of.one.times[rows] if self.detector.forecaster.options.time else rows + 1, of.one.pace))

    def table(self, form: str) -> Iterator[str]:
        """Yields a row for each row that is judged, in the order of the file, as CSV or JSON lines."""
        return table(self._rows(), form)

    def _rows(self) -> Iterator[dict[str, Any]]:
        o, targets = self.detector.forecaster.options, self.detector.forecaster.scales.targets
        for each in self.judged:
            times, unusual = self._times(each, np.arange(len(each.scores))), self.alarms(each)
            for k, time in enumerate(times):
                row: dict[str, Any] = {o.group: each.one.group} if o.group else {}
                row |= {o.time or "row": time}
                said = dict.fromkeys(("score", "share", "unusual", "column", "value", "expected"))
                if not math.isnan(each.scores[k]):  # else all of it was filled in
                    own = each.values[k, each.columns[k]], each.expected[k, each.columns[k]]
                    score, share, value, expected = (digits(float(x)) for x in (each.scores[k], each.shares[k], *own))
                    said = {"score": score, "share": share, "unusual": int(unusual[k])}
                    said |= {"column": targets[each.columns[k]], "value": value, "expected": expected}
                yield row | said

    def draw(self, path: Path) -> None:
        """Draws the scores of the series that has the most unusual row, and what is around its most unusual stretches."""
        from elman import charts

        found, detector = self.stretches(), self.detector
        most = found[0].of if found else max(self.judged, key=lambda each: np.nan_to_num(each.scores).max(initial=0))
        panels, o = list[charts.Around](), detector.forecaster.options
        x = self._axis(most)
        for stretch in [each for each in found if each.of is most][:PANELS]:
            column = int(most.columns[stretch.worst])
            begin = max(0, stretch.begin - o.lookback // 2)
            end = min(len(most.scores), stretch.end + o.lookback // 4)
            (when,) = self._times(most, np.array([stretch.worst]))
            title = f"{detector.forecaster.scales.targets[column]} around {when}"
            values, expected = (each[begin:end, column] for each in (most.values, most.expected))
            panels.append(charts.Around(title, x[begin:end], values, expected, self.alarms(most)[begin:end]))
        along = o.time or "row"
        charts.save(charts.unusual(most.one.group, along, x, most.scores, self.limits[OURS], panels), path)

    def _axis(self, of: Judged) -> NDArray[Any]:
        """Returns the times of the rows of a series for a picture, or their numbers from 1."""
        pace = of.one.pace
        if pace is None:
            return of.first + 1 + np.arange(len(of.scores))
        times = of.one.times[of.first :]
        return (times + (pace.offset or 0)).astype("datetime64[us]") if pace.dates else times


def area(scores: NDArray[np.float64], unusual: NDArray[np.bool_]) -> float:
    """Returns the probability that an unusual row scores higher than another one: the area under the ROC curve."""
    others = np.sort(scores[~unusual])
    own = scores[unusual]
    below = np.searchsorted(others, own, side="left") + np.searchsorted(others, own, side="right")
    return float(below.sum() / 2 / max(1, len(own) * len(others)))


def stretches(rows: NDArray[np.bool_], apart: int = 1) -> list[tuple[int, int]]:
    """Returns where rows are True, (begin, end) each. Those that are at most `apart` rows from the next are one stretch."""
    places = np.flatnonzero(rows)
    breaks = np.flatnonzero(np.diff(places) > apart)
    begins, ends = np.concatenate([places[:1], places[breaks + 1]]), np.concatenate([places[breaks], places[-1:]]) + 1
    return list(zip(begins.tolist(), ends.tolist(), strict=True))
