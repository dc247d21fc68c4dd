"""Writes down what is said while it is said, or says what is heard, with a model's ONNX file, ONNX Runtime and numpy alone:

elman train transcribe said.csv --audio file --label said --causal --run runs/live
elman export runs/live live.onnx --streaming
python examples/listen.py live.onnx < said.wav
arecord -f S16_LE -r 16000 -t raw | python examples/listen.py live.onnx

A model of elman train classify or multilabel with --each-step --causal says a class, or classes: there is a line whenever they
change, with the second at which they do.

It reads samples of 16 bits, one channel, at the rate of the training; at the beginning there may be the header of a WAV file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import onnxruntime

BLANK = 0
UNKNOWN = (1 << 32) - 1  # the size of a WAV file that was written as it arrived
FULL_SCALE = 1 << 15


def samples(source: BinaryIO, rate: int, step: int) -> Iterator[np.ndarray]:
    """Yields the samples of each step, from -1 to 1, and zeros where the last one ends."""
    begin = whole(source, 12)
    left = begin_of_samples(source, rate) if begin[:4] == b"RIFF" else None  # bytes; None if nobody knows
    held = b"" if begin[:4] == b"RIFF" else begin
    while True:
        size = 2 * step - len(held)
        held += whole(source, size if left is None else min(size, left))
        left = None if left is None else max(0, left - size)
        row = np.frombuffer(held[: len(held) // 2 * 2], "<i2").astype(np.float32) / FULL_SCALE
        if not len(row):
            return
        yield np.pad(row, (0, step - len(row)))
        held = b""


def begin_of_samples(source: BinaryIO, rate: int) -> int | None:
    """Reads the header of a WAV file, which is chunks with a name and a size. Returns how many bytes of samples there are."""
    form = b""
    while len(head := whole(source, 8)) == 8:
        name, size = head[:4], int.from_bytes(head[4:], "little")
        if name == b"data":
            break
        content = whole(source, size + size % 2)
        form = content if name == b"fmt " else form
    else:
        sys.exit("the WAV file has no samples; give another file")
    channels, own, bits = (int.from_bytes(form[k : k + n], "little") for k, n in ((2, 2), (4, 4), (14, 2)))
    if (channels, own, bits) != (1, rate, 16):
        given = f"{channels} channels of {bits} bits at {own} samples a second"
        sys.exit(f"the file has {given}; give one channel of 16 bits at {rate}")
    return None if size in (0, UNKNOWN) else size


def whole(source: BinaryIO, size: int) -> bytes:
    """Returns so many bytes, which may arrive in pieces; fewer at the end."""
    held = b""
    while len(held) < size and (more := source.read(size - len(held))):
        held += more
    return held


def around(steps: Iterator[np.ndarray], step: int, width: int) -> Iterator[np.ndarray]:
    """Yields the samples around each step, (width,): there are zeros before the first one and behind the last."""
    before = (width - step) // 2
    held, needed = np.zeros(before, np.float32), 0
    for row in steps:
        held, needed = np.concatenate([held, row]), needed + 1
        while len(held) >= width:
            yield held[:width]
            held, needed = held[step:], needed - 1
    for _ in range(needed):
        held = np.pad(held, (0, max(0, width - len(held))))
        yield held[:width]
        held = held[step:]


def reader(session: Any, notes: dict[str, str]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that reads what is around a step, and returns the logits. It carries the states."""
    shapes = {each.name: each.shape for each in session.get_inputs()}  # each state is (layers, "B", units)
    pairs = json.loads(notes["elman.states"])
    state = {before: np.zeros((shapes[before][0], 1, shapes[before][2]), np.float32) for before, _ in pairs}
    names = ["logits", *(after for _, after in pairs)]

    def read(x: np.ndarray) -> np.ndarray:
        logits, *after = session.run(names, {"x": x[None], **state})
        state.update(zip(state, after, strict=True))
        return logits[0]

    return read


def write_down(every: Iterator[np.ndarray], symbols: list[str], between: str) -> None:
    """Prints a text, symbol by symbol. every: the logits of each step, of which the first is that of no symbol."""
    before = BLANK
    for logits in every:
        output = int(logits.argmax())
        if output not in (before, BLANK):
            print(symbols[output - 1], end=between, flush=True)
        before = output
    print()


def name_changes(every: Iterator[np.ndarray], classes: list[str], least: list[float] | None, seconds: float) -> None:
    """Prints a line whenever what is heard changes. least: the logits from which on a class is there; None if one always is.

    seconds: of a step.
    """
    before: list[int] | None = None
    bounds = None if least is None else np.array(least, np.float32)
    for count, logits in enumerate(every):
        there = [int(logits.argmax())] if bounds is None else np.flatnonzero(logits >= bounds).tolist()
        if there != before:
            print(f"{count * seconds:.2f}", ", ".join(classes[k] for k in there), sep="\t", flush=True)
        before = there


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("give the file of a model")
    session = onnxruntime.InferenceSession(sys.argv[1])
    notes = session.get_modelmeta().custom_metadata_map
    if "elman.states" not in notes:
        sys.exit("this is no file of one step; give one that elman export --streaming wrote")
    options, known = (json.loads(notes[f"elman.{name}"]) for name in ("config", "vocabulary"))
    options, rate = options["options"], options["options"]["sample_rate"]
    if not known.get("samples"):
        sys.exit("this model reads numbers and no audio; examples/watch.py uses such a one")
    if "symbols" not in known and "classes" not in known:
        sys.exit("this model says numbers; give one of elman train transcribe, classify or multilabel")
    step = round(rate * options["hop"] / 1000)
    every = map(reader(session, notes), around(samples(sys.stdin.buffer, rate, step), step, known["samples"]))
    if "symbols" in known:
        write_down(every, known["symbols"], " " if known["unit"] == "words" else "")
    else:
        least = json.loads(notes["elman.thresholds"])["logits"] if "elman.thresholds" in notes else None
        name_changes(every, known["classes"], least, step / rate)


if __name__ == "__main__":
    main()
