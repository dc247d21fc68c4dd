"""Says the class, the classes or the value of each row of a table as it arrives, or the text that the rows say, with ONNX Runtime and numpy alone:

elman train classify walk.csv --each-step --causal --label activity --run runs/walk
elman export runs/walk step.onnx --streaming
tail -n +1 -f sensor.csv | python examples/watch.py step.onnx

The rows are CSV on standard input, below a header. What is said of a row depends on all rows before it. Of a model that was
trained with elman train transcribe there is a line for each symbol, as soon as it is said: the number of its row, from 1, the
symbol, and its probability there. A row that lacks a number is left out, and named on standard error, unless the model was
trained with --mark-gaps. One that was trained with --time reads the times of the rows, too, and one that was trained with
--categories reads words.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnxruntime

MOST = float(np.finfo(np.float32).max)  # how far from zero a number may be
FAR = 1e30  # deviations from the mean, beyond which all numbers are the same
OLD = 1e4  # usual steps, beyond which all ages are the same
MISSING = ("", "?", "na", "n/a", "#n/a", "<na>", "nan", "null", "none")  # in place of a number, in any case


class Model:
    """A model of one step, with what it knows of its data, and its states."""

    def __init__(self, path: str):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a step is too small to share
        try:
            self.session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of ONNX Runtime's own kinds
            sys.exit(f"cannot open {path}: {str(error).splitlines()[0]}; give a file that elman export wrote")
        notes = self.session.get_modelmeta().custom_metadata_map
        if (
            notes.get("elman.task") not in ('"classify"', '"multilabel"', '"regress"', '"transcribe"')
            or notes.get("elman.streaming") != "true"
        ):
            sys.exit(f"{path} is no model of a step of numbers; train one with --each-step --causal, or elman train transcribe --causal, and write it with elman export RUN step.onnx --streaming")  # fmt: skip
        known = json.loads(notes["elman.vocabulary"])
        self.channels: list[str] = known["channels"]  # empty if the data had no names
        self.mean, self.deviation = np.array(known["mean"]), np.array(known["deviation"])
        # Files of versions that knew nothing of gaps and times lack these entries.
        self.time: str | None = known.get("time")  # what the column of times is called; None if it is not read
        self.interval: float = known.get("interval", 1.0)
        self.dates: bool | None = known.get("dates")  # whether times are dates; None in files of earlier versions
        self.gaps = known.get("marked") is not None  # whether numbers may be missing
        self.marked = np.isin(np.arange(len(self.mean)), known.get("marked") or [])
        # Of each column of words their codes; 0 is that of all others.
        self.codes = {
            name: {word: code for code, word in enumerate(words, 1)}
            for name, words in known.get("categories", {}).items()
        }
        self.latest = np.full(len(self.mean), np.nan)  # of each channel: the latest number, and when it was measured
        self.measured = np.full(len(self.mean), np.nan)
        self.count, self.before = 0, np.nan  # how many steps there were, and the time of the last one
        self.counts = (
            "symbols" in known
        )  # whether most rows say nothing, so that what is said needs the number of its row
        if self.counts:
            self.say = self._symbol(known["symbols"])
        elif "elman.thresholds" in notes:
            self.say = self._classes(known["classes"], json.loads(notes["elman.thresholds"])["logits"])
        elif "classes" in known:
            self.say = self._class(known["classes"])
        else:
            self.say = self._value(known["center"], known["spread"])
        shapes = {each.name: each.shape for each in self.session.get_inputs()}  # each state is (layers, "B", units)
        pairs = json.loads(notes["elman.states"])
        self.state = {before: np.zeros((shapes[before][0], 1, shapes[before][2]), np.float32) for before, _ in pairs}

    def read(self, row: Sequence[float], time: float | None, words: Sequence[str]) -> str | None:
        """Reads the numbers of a step, NaN where one is missing, its time and its words. Returns what the model says of it, None for nothing."""
        now = self.count if time is None else time
        missing = np.isnan(row)
        self.latest = np.where(missing, self.latest, row)
        since = np.where(np.isnan(self.measured), now, self.measured)  # before the first number: since the first step
        self.measured = np.where(missing, since, now)
        read = [((self.latest - self.mean) / self.deviation).clip(-FAR, FAR)]
        if self.gaps:
            age = ((now - self.measured) / self.interval).clip(max=OLD)
            read = [
                np.nan_to_num(read[0]),
                np.where(missing & self.marked, age, -1.0),
            ]  # 0, the mean, if never measured
        if time is not None:
            read.append(np.log1p([(time - self.before) / self.interval if self.count else 0.0]))
        read.append(
            np.array([codes.get(word, 0) for codes, word in zip(self.codes.values(), words, strict=True)], float)
        )
        self.count, self.before = self.count + 1, now
        output, *after = self.session.run(None, {"x": np.concatenate(read)[None].astype(np.float32), **self.state})
        self.state = dict(zip(self.state, after, strict=True))
        return self.say(output[0].astype(float))

    @staticmethod
    def _class(names: list[str]) -> Callable[[np.ndarray], str]:
        def say(logits: np.ndarray) -> str:
            best, chance = likeliest(logits)
            return f"{names[best]}\t{chance:.3f}"

        return say

    @staticmethod
    def _classes(names: list[str], least: list[float]) -> Callable[[np.ndarray], str]:
        """least: the logits from which on a class is there. Of each that is there, the name and the probability are said."""

        def say(logits: np.ndarray) -> str:
            chances = 1 / (1 + np.exp(-logits))
            return "\t".join(
                f"{names[k]}\t{chances[k]:.3f}" for k in np.flatnonzero(logits >= np.array(least, np.float32))
            )

        return say

    @staticmethod
    def _symbol(names: list[str]) -> Callable[[np.ndarray], str | None]:
        before = 0  # the output that the step before said; 0 says nothing

        def say(logits: np.ndarray) -> str | None:
            nonlocal before
            best, chance = likeliest(logits)
            new, before = best not in (0, before), best
            return f"{names[best - 1]}\t{chance:.3f}" if new else None

        return say

    @staticmethod
    def _value(center: list[float] | float, spread: list[float] | float) -> Callable[[np.ndarray], str]:
        """center, spread: of each value; files of earlier versions have one number."""
        own = np.reshape(center, (-1, 1)), np.reshape(spread, (-1, 1))

        def say(outputs: np.ndarray) -> str:
            quantiles = np.sort(outputs.reshape(len(own[0]), -1)) * own[1] + own[0]  # of each value a row
            return "\t".join(f"{value:.6g}" for value in quantiles.flat)

        return say


def likeliest(logits: np.ndarray) -> tuple[int, float]:
    """Returns the number of the largest of some logits, and its probability."""
    likely = np.exp(logits - logits.max())
    best = int(likely.argmax())
    return best, float(likely[best] / likely.sum())


def rows(lines: Iterator[str], model: Model) -> Iterator[tuple[int, list[float], float | None, list[str]]]:
    """Yields the number of each row of CSV, from 1, its numbers in the order of the model's channels, its time, if that is read, and its words.

    A number is NaN where it is missing. The first columns are read if the channels have no names.
    """
    csv.field_size_limit(2**31 - 1)  # a cell may be long
    table = csv.reader(lines)
    header = next(table, [])
    if not header:
        sys.exit("there is no header; give rows of CSV below one, on standard input")
    header[0] = header[0].removeprefix("\ufeff")  # which some programs write before the first name
    for name in [*model.channels, *([model.time] if model.time else []), *model.codes]:
        if name not in header:
            sys.exit(f"the rows have no column {name!r}, which the model reads; their columns are {', '.join(map(repr, header))}: rename or add it")  # fmt: skip
    places = [header.index(name) for name in model.channels]
    others = [k for k, name in enumerate(header) if name != model.time and name not in model.codes]
    places, when, last = places or others[: len(model.mean)], header.index(model.time) if model.time else None, -np.inf
    spoken = [header.index(name) for name in model.codes]
    for number, row in enumerate(filter(None, table), 1):  # an empty line is no row
        row += [""] * (len(header) - len(row))
        try:
            cells = [row[place].strip() for place in places]
            read = [float("nan" if model.gaps and cell.lower() in MISSING else cell) for cell in cells]
            time, date = (None, None) if when is None else seconds(row[when])
            words = [word_of(row[place]) for place in spoken]
        except ValueError:
            read, time, date, words = [np.inf], None, None, []
        if not all(abs(each) <= MOST or (model.gaps and np.isnan(each)) for each in read):
            lacks = "a number or a time" if model.time else "a number"
            print(f"line {table.line_num} is left out, because it lacks {lacks}: {','.join(row)}", file=sys.stderr)
        elif date is not None and model.dates not in (None, date):
            wanted = "a date" if model.dates else "a number"
            print(f"line {table.line_num} is left out, because its time is not {wanted}: {','.join(row)}", file=sys.stderr)  # fmt: skip
        elif time is not None and time < last:
            print(f"line {table.line_num} is left out, because it is earlier than one before it: {','.join(row)}", file=sys.stderr)  # fmt: skip
        else:
            last = last if time is None else time
            yield number, read, time, words


def word_of(cell: str) -> str:
    """Returns the word that a cell is. 1.0 is the code 1: tables with missing whole numbers often have floats."""
    return re.sub(r"^(-?\d+)\.0$", r"\1", cell.strip())


def seconds(text: str) -> tuple[float, bool]:
    """Returns a time that is a number as it is, and a date in seconds; and whether it is a date.

    A date that does not say where it is holds in UTC. Raises ValueError for any other text.
    """
    with contextlib.suppress(ValueError):
        if abs(number := float(text)) <= MOST:  # not so of NaN
            return number, False
    date = datetime.fromisoformat(text)
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp(), True


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Say the class or the value of each row of a table as it arrives, or the text that the rows say."
    )
    parser.add_argument("model", help="what `elman export RUN step.onnx --streaming` wrote")
    model = Model(parser.parse_args().model)
    try:
        for number, row, time, words in rows(sys.stdin, model):
            if (said := model.read(row, time, words)) is not None:
                print(f"{number}\t{said}" if model.counts else said, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads any more, not even what is flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
