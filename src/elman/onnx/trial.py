"""Runs an ONNX file at several sizes, as a program of its own: python -P trial.py FILE BYTES

BYTES: the memory that it may take. It prints lines of JSON: {"axes": names and places} first; before each run {"run": sizes}; and after it
{"outputs": shapes} or {"error": text}, unless it only looked for numbers that the file takes. It imports nothing of elman, so
that it starts quickly; `elman.onnx.checking` reads what it prints.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from typing import Any

import numpy as np
import onnxruntime

TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int64)": np.int64,
    "tensor(int32)": np.int32, "tensor(int16)": np.int16, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_,
}  # fmt: skip
SIZES = (1, 3, 9)  # of one axis, while the others have the usual size
USUAL = 2
SEARCHED = 64  # of an axis that has only one size, so far it is looked for


def main(path: str, most: int) -> None:
    for what, limit in ((resource.RLIMIT_AS, most), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (limit, limit))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    say("opening", True)
    try:
        opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        say("refused", reason(error))
        return
    inputs = {each.name: (each.type, list(each.shape)) for each in opened.get_inputs()}
    strange = [name for name, (kind, _) in inputs.items() if kind not in TYPES]
    if strange:
        say("untried", f"its input {strange[0]} is a {inputs[strange[0]][0]}")
        return
    axes: dict[str, str] = {}  # the free ones, and where each is first; one without a name is not tried
    for name, (_, shape) in inputs.items():
        for place, d in enumerate(shape):
            if isinstance(d, str):
                axes.setdefault(d, f"axis {place} of its input {name}")
    say("axes", axes)
    usual = dict.fromkeys(axes, USUAL)
    # Integers are 0, such as tokens, but those in vectors 1, such as lengths, unless the file takes no such number.
    number = next((n for n in (1, 0) if run(opened, inputs, usual, n, quiet=True)), 1)
    works = run(opened, inputs, usual, number)
    for axis in axes if not works else ():  # an axis with one size only: which?
        sizes = (usual | {axis: n} for n in range(1, SEARCHED + 1))
        found = next((each for each in sizes if run(opened, inputs, each, number, quiet=True)), None)
        if found is not None:
            usual, works = found, run(opened, inputs, found, number)
            break
    for axis in axes if works else ():
        for size in SIZES:
            if size != usual[axis]:
                run(opened, inputs, usual | {axis: size}, number)


def run(
    opened: Any, inputs: dict[str, tuple[str, list[Any]]], sizes: dict[str, int], number: int, quiet: bool = False
) -> bool:
    """Runs once. number: what stands in vectors of integers. Returns whether the run went well."""
    random, feed = np.random.default_rng(0), dict[str, Any]()
    for name, (kind, shape) in inputs.items():
        size = [d if isinstance(d, int) else sizes.get(d, USUAL) for d in shape]
        kind = TYPES[kind]
        value = (
            random.standard_normal(size) if issubclass(kind, np.floating) else np.full(size, number * (len(size) == 1))
        )
        feed[name] = value.astype(kind)
    say("run", sizes)
    try:
        found = opened.run(None, feed)
    except Exception as error:
        if not quiet:
            say("error", reason(error))
        return False
    if not quiet:
        said = {
            each.name: [list(each.shape), list(value.shape)]
            for each, value in zip(opened.get_outputs(), found, strict=True)
            if hasattr(value, "shape")
        }
        say("outputs", said)
    return True


def reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def say(name: str, value: Any) -> None:
    print(json.dumps({name: value}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
