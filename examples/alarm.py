"""Says of each row of a table as it arrives whether it is unusual, with ONNX Runtime and numpy alone:

elman train forecast past.csv --time date --horizon 24 --loss mse --run runs/plant
elman detect runs/plant past.csv --output alarm.onnx
tail -n +1 -f sensors.csv | python examples/alarm.py alarm.onnx

The rows are CSV on standard input, below a header, at even steps of time. What is printed is CSV, too, as `elman detect --output
FILE.csv` writes it: how unusual each row is, in which column, and what was expected there. A row has to come after as many as a
forecast reads. One that lacks a number is left out, and named on standard error, unless the model was trained with --fill-gaps:
then the last number takes the place of the one that is missing, and is not judged.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnxruntime

MISSING = ("", "?", "na", "n/a", "#n/a", "<na>", "nan", "null", "none")  # in place of a number, in any case
FALSE_ALARMS = 0.001
LASTS = 3  # times --ahead that a fault lasts at most
FARTHEST = 1e30  # deviations from the mean, beyond which all numbers are the same


class Model:
    """A forecaster, with what it knows of its data and of the errors of usual rows."""

    def __init__(self, path: str, false_alarms: float | None):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a forecast is too small to share
        try:
            self.session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of ONNX Runtime's own kinds
            sys.exit(f"cannot open {path}: {str(error).splitlines()[0]}; give a file that elman detect wrote")
        notes = self.session.get_modelmeta().custom_metadata_map
        if "elman.usual" not in notes:
            sys.exit(f"{path} does not know what is usual; write it with elman detect RUN FILE --output alarm.onnx")
        scales, usual = json.loads(notes["elman.scales"]), json.loads(notes["elman.usual"])
        own = json.loads(notes["elman.config"])["options"]
        self.targets, self.group, self.time = scales["targets"], own["group"], own["time"]
        self.lookback, self.fill, self.ahead = own["lookback"], own["fill_gaps"], usual["ahead"]
        quantiles = [float(q) for q in (own["quantiles"] or "0.5").split(",")]
        self.middle = min(range(len(quantiles)), key=lambda k: abs(quantiles[k] - 0.5))

        # What is read besides: numbers first, then words as codes, of which 0 is that of all that are not known.
        others = [*scales["known"], *scales.get("observed", ())]
        self.codes = {
            name: {word: code for code, word in enumerate(words, 1)} for name, words in scales.get("words", {}).items()
        }
        self.beside = sorted(others, key=lambda name: name in self.codes)
        places = [len(self.targets) + others.index(name) for name in self.beside]
        mean, deviation = np.array(scales["mean"]), np.array(scales["deviation"])
        self.mean, self.deviation = mean[places], deviation[places]
        # Of each series the means and deviations of its targets; all are in the scale of one if they have no group.
        alone = {name: (np.array(m), np.array(d)) for name, (m, d, _) in scales.get("series", {}).items()}
        self.scale = alone or {"": (mean[: len(self.targets)], deviation[: len(self.targets)])}

        known = usual["usual"]["the model"]
        self.products = {name: np.array(products, float) for name, products in known["own"].items()}
        self.together, self.sorted = np.array(known["together"], float), np.array(known["scores"])
        rows = len(self.sorted)
        share = max(FALSE_ALARMS, 1 / (1 + rows)) if false_alarms is None else false_alarms
        above = int(share * (1 + rows) + 1e-9) if 0 < share < 1 else 0
        if not above:
            sys.exit(f"--false-alarms must be below 1, and at least {1 / (1 + rows):.2g}, got {share:g}")
        self.limit = self.sorted[rows - above]

    def forecast(self, past: np.ndarray, beside: np.ndarray) -> np.ndarray:
        """Returns forecasts of `ahead` steps, (targets, outputs), in order.

        past: (lookback, targets), in deviations. beside: (lookback and some more, known and observed).
        """
        c = past.shape[1]
        found, names = list[np.ndarray](), [each.name for each in self.session.get_inputs()]
        while sum(map(len, found)) < self.ahead:  # the recursive strategy goes on from what it has forecast
            begin = sum(map(len, found))
            feed = {"past": past[-self.lookback :].astype(np.float32), "column": np.arange(c)}
            if "known" in names:
                steps = next(each.shape[0] for each in self.session.get_inputs() if each.name == "known")
                seen = beside[begin : begin + steps]
                seen = np.concatenate([seen, seen[-1:].repeat(steps - len(seen), 0)])
                feed["known"] = seen[:, None].repeat(c, 1).astype(np.float32)
            (own,) = self.session.run(None, feed)  # (steps, targets, outputs)
            found.append(np.sort(own, -1).astype(float))
            past = np.concatenate([past, found[-1][..., self.middle]])
        return np.concatenate(found)[self.ahead - 1]

    def departures(self, group: str, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns how far errors are from what those of the other columns lead one to expect, and in deviations."""
        products = self.products.get(group, self.together)
        told, found = np.isfinite(errors) & np.isfinite(np.diag(products)), np.full((2, len(errors)), np.nan)
        if told.any():
            inverse = np.linalg.inv(products[np.ix_(told, told)])
            own, of = inverse @ errors[told], np.diag(inverse)
            found[:, told] = own / of, np.abs(own) / np.sqrt(of)
        return found[0], found[1]

    def usually(self, group: str, errors: np.ndarray) -> np.ndarray:
        """Returns errors with what the others lead one to expect in place of unusual ones, of which the worst goes first."""
        kept, scores = errors.copy(), np.nan_to_num(self.departures(group, errors)[1])
        while scores.max() > self.limit:
            kept[scores.argmax()] = np.nan
            scores = np.nan_to_num(self.departures(group, kept)[1])
        products, found = self.products.get(group, self.together), errors.copy()
        told, gone = np.isfinite(kept) & np.isfinite(np.diag(self.together)), np.isfinite(errors) & np.isnan(kept)
        found[gone] = products[np.ix_(gone, told)] @ np.linalg.solve(products[np.ix_(told, told)], kept[told])
        return found


class Series:
    """One series: its last rows, in deviations, with what was expected in place of unusual numbers."""

    def __init__(self, model: Model, group: str):
        self.model, self.group = model, group
        self.mean, self.deviation = model.scale[group]
        self.past, self.raw, self.replaced = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
        self.beside = list[np.ndarray]()
        self.begun = np.zeros(len(self.mean), bool)  # which columns have had a number

    def read(self, numbers: np.ndarray, beside: np.ndarray) -> list[Any] | None:
        """Reads a row: its targets, NaN where one is missing, and what else is read. Returns what is said of it, if anything."""
        model, keep = self.model, self.model.lookback + self.model.ahead - 1
        values = ((numbers - self.mean) / self.deviation).clip(-FARTHEST, FARTHEST)
        told = np.isfinite(values)
        last = self.raw[-1] if self.raw else np.where(told, values, np.nan)
        raw, judged = np.where(told, values, last), np.where(told & self.begun, values, np.nan)
        if not self.begun.all():  # before a column's first number stands this one
            for row in (*self.past, *self.raw):
                row[~self.begun & told] = values[~self.begun & told]
            self.begun |= told
        before = self.beside[-1] if self.beside else np.zeros(len(beside))  # the mean, before the first number
        self.beside.append(np.where(np.isnan(beside), before, beside))
        # What is missing repeats what forecasts read before it.
        changed = self.replaced[-1] & ~told if self.replaced else np.zeros(len(values), bool)
        said, read = None, np.where(changed, self.past[-1], raw) if self.past else raw.copy()
        if len(self.past) >= keep:
            found = model.forecast(np.array(self.past[: model.lookback]), np.array(self.beside))
            middle = found[:, model.middle]
            width = np.maximum((found[:, -1] - found[:, 0]) / 2, 1e-6) if found.shape[1] > 1 else np.ones(len(values))
            errors = (judged - middle) / width
            departures, scores = model.departures(self.group, errors)
            said = self._said(judged, judged - departures * width, scores)
            if np.nan_to_num(scores).max() > model.limit:
                usually = model.usually(self.group, errors)
                unusual = np.isfinite(errors) & (usually != errors)
                # What lasts longer has changed for good, and is read as it is.
                most = min(model.lookback / 2, LASTS * model.ahead)
                gone = unusual & (np.sum(self.replaced[-model.lookback :], axis=0) >= most)
                for row, own, replaced in zip(self.past, self.raw, self.replaced, strict=True):
                    row[gone], replaced[gone] = own[gone], False
                unusual &= ~gone
                read, changed = np.where(unusual, middle + usually * width, read), changed | unusual
        self.past.append(read)
        self.raw.append(raw)
        self.replaced.append(changed)
        self.past, self.raw, self.replaced = self.past[-keep:], self.raw[-keep:], self.replaced[-keep:]
        self.beside = self.beside[-keep:]
        return said

    def _said(self, values: np.ndarray, expected: np.ndarray, scores: np.ndarray) -> list[Any]:
        if np.isnan(scores).all():
            return [""] * 6
        k, model = int(np.nanargmax(scores)), self.model
        above = len(model.sorted) - np.searchsorted(model.sorted, scores[k], side="left")
        own = (f"{each[k] * self.deviation[k] + self.mean[k]:.6g}" for each in (values, expected))
        share = (1 + above) / (1 + len(model.sorted))
        return [f"{scores[k]:.6g}", f"{share:.6g}", int(scores[k] > model.limit), model.targets[k], *own]


def rows(lines: Iterator[str], model: Model) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yields the series of each row of CSV, its time or its number, its targets, and what else is read of it."""
    csv.field_size_limit(2**31 - 1)  # a cell may be long
    table = csv.reader(lines)
    header = next(table, [])
    if not header:
        sys.exit("there is no header; give rows of CSV below one, on standard input")
    header[0] = header[0].removeprefix("\ufeff")  # which some programs write before the first name
    wanted = [*model.targets, *model.beside, *(name for name in (model.group, model.time) if name)]
    for name in wanted:
        if name not in header:
            sys.exit(f"the rows have no column {name!r}, which the model reads; their columns are {', '.join(map(repr, header))}: rename or add it")  # fmt: skip
    count = dict[str, int]()
    for row in filter(None, table):  # an empty line is no row
        own = dict(zip(header, [*row, *[""] * (len(header) - len(row))], strict=False))
        group = own[model.group] if model.group else ""
        try:
            numbers = np.array([number(own[name]) for name in model.targets])
            beside = [model.codes[name].get(word_of(own[name]), 0) if name in model.codes else number(own[name]) for name in model.beside]  # fmt: skip
        except ValueError:
            numbers, beside = np.array([np.inf]), [0.0]
        known = (np.array(beside, float) - model.mean) / model.deviation
        whole = np.isfinite(numbers).all() and np.isfinite(known).all()
        if np.isinf(numbers).any() or not (whole or model.fill):
            print(f"line {table.line_num} is left out, because it lacks a number: {','.join(row)}", file=sys.stderr)
        elif group not in model.scale:
            print(f"line {table.line_num} is left out, because the model does not know the series {group!r}", file=sys.stderr)  # fmt: skip
        else:
            count[group] = count.get(group, 0) + 1
            yield group, own[model.time] if model.time else str(count[group]), numbers, known


def number(cell: str) -> float:
    """Returns the number that a cell is, NaN where it is missing. Raises ValueError for any other text."""
    return float("nan" if cell.strip().lower() in MISSING else cell)


def word_of(cell: str) -> str:
    """Returns the word that a cell is. 1.0 is the code 1: tables with missing whole numbers often have floats."""
    return re.sub(r"^(-?\d+)\.0$", r"\1", cell.strip())


def watch(model: Model, lines: Iterator[str]) -> Iterator[Sequence[Any]]:
    """Yields the header and what is said of each row that is judged."""
    names = [*([model.group] if model.group else []), model.time or "row"]
    yield [*names, "score", "share", "unusual", "column", "value", "expected"]
    series = dict[str, Series]()
    for group, time, numbers, beside in rows(lines, model):
        if group not in series:
            series[group] = Series(model, group)
        said = series[group].read(numbers, beside)
        if said is not None:
            yield [*([group] if model.group else []), time, *said]


def main() -> None:
    parser = argparse.ArgumentParser(description="Say of each row of a table as it arrives whether it is unusual.")
    parser.add_argument("model", help="what `elman detect RUN FILE --output alarm.onnx` wrote")
    parser.add_argument("--false-alarms", type=float, help="share of usual rows that may be called unusual")
    given = parser.parse_args()
    model, writer = Model(given.model, given.false_alarms), csv.writer(sys.stdout, lineterminator="\n")
    try:
        for row in watch(model, sys.stdin):
            writer.writerow(row)
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads any more, not even what is flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
