"""Says the class or the value of each row of numbers as it arrives, with ONNX Runtime and numpy alone:

elman train classify walk.csv --each-step --causal --label activity --run runs/walk
elman export runs/walk step.onnx --streaming
tail -n +1 -f sensor.csv | python examples/watch.py step.onnx

The rows are CSV on standard input, below a header. What is said of a row depends on all rows before it. A row that lacks a
number is left out, and named on standard error.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnxruntime

MOST = float(np.finfo(np.float32).max)  # how far from zero a number may be
FAR = 1e30  # deviations from the mean, beyond which all numbers are the same


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
        if notes.get("elman.task") not in ('"classify"', '"regress"') or notes.get("elman.streaming") != "true":
            sys.exit(f"{path} is no model of a step of numbers; train one with --each-step --causal, and write it with elman export RUN step.onnx --streaming")  # fmt: skip
        known = json.loads(notes["elman.vocabulary"])
        self.channels: list[str] = known["channels"]  # empty if the data had no names
        self.mean, self.deviation = np.array(known["mean"]), np.array(known["deviation"])
        self.say = (
            self._class(known["classes"]) if "classes" in known else self._value(known["center"], known["spread"])
        )
        shapes = {each.name: each.shape for each in self.session.get_inputs()}  # each state is (layers, "B", units)
        pairs = json.loads(notes["elman.states"])
        self.state = {before: np.zeros((shapes[before][0], 1, shapes[before][2]), np.float32) for before, _ in pairs}

    def read(self, row: Sequence[float]) -> str:
        """Reads the numbers of a step, and returns what the model says of it."""
        x = ((np.array(row) - self.mean) / self.deviation).clip(-FAR, FAR).astype(np.float32)
        output, *after = self.session.run(None, {"x": x[None], **self.state})
        self.state = dict(zip(self.state, after, strict=True))
        return self.say(output[0].astype(float))

    @staticmethod
    def _class(names: list[str]) -> Callable[[np.ndarray], str]:
        def say(logits: np.ndarray) -> str:
            likely = np.exp(logits - logits.max())
            best = int(likely.argmax())
            return f"{names[best]}\t{likely[best] / likely.sum():.3f}"

        return say

    @staticmethod
    def _value(center: float, spread: float) -> Callable[[np.ndarray], str]:
        return lambda values: "\t".join(f"{value:.6g}" for value in np.sort(values) * spread + center)


def rows(lines: Iterator[str], channels: list[str], count: int) -> Iterator[list[float]]:
    """Yields the numbers of each row of CSV, in the order of the channels; without names the first `count` columns."""
    table = csv.reader(lines)
    header = next(table, [])
    if not header:
        sys.exit("there is no header; give rows of CSV below one, on standard input")
    header[0] = header[0].removeprefix("\ufeff")  # which some programs write before the first name
    if missing := [name for name in channels if name not in header]:
        sys.exit(f"the rows have no column {missing[0]!r}, which the model reads; their columns are {', '.join(map(repr, header))}: rename or add it")  # fmt: skip
    places = [header.index(name) for name in channels] or range(count)
    for row in filter(None, table):  # an empty line is no row
        try:
            numbers = [float(row[place]) for place in places]
        except (ValueError, IndexError):
            numbers = [np.nan]
        if np.abs(numbers).max() <= MOST:  # not so of NaN
            yield numbers
        else:
            print(f"line {table.line_num} is left out, because it lacks a number: {','.join(row)}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description="Say the class or the value of each row of numbers as it arrives.")
    parser.add_argument("model", help="what `elman export RUN step.onnx --streaming` wrote")
    model = Model(parser.parse_args().model)
    try:
        for row in rows(sys.stdin, model.channels, len(model.mean)):
            print(model.read(row), flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads any more, not even what is flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
