"""Writes down what is said while it is said, with a model's ONNX file, ONNX Runtime and numpy alone:

elman train transcribe said.csv --audio file --label said --causal --run runs/live
elman export runs/live live.onnx --streaming
python examples/listen.py live.onnx < said.wav
arecord -f S16_LE -r 16000 -t raw | python examples/listen.py live.onnx

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
HEADER = b"data"  # of a WAV file: behind it stand four bytes with a size, and then the samples
FULL_SCALE = 1 << 15


def samples(source: BinaryIO, rate: int, step: int) -> Iterator[np.ndarray]:
    """Yields the samples of each step, from -1 to 1, and zeros where the last one ends."""
    begin = source.read(2 * step)
    if begin[:4] == b"RIFF":
        while HEADER not in begin and (more := source.read(2 * step)):
            begin += more
        place, end = begin.find(b"fmt "), begin.find(HEADER)
        if place < 0 or end < 0:
            sys.exit("the header of the WAV file has no format, or no samples; give another file")
        numbers = np.frombuffer(begin[place + 8 : place + 24], "<u2")
        channels, own, bits = int(numbers[1]), int(numbers[2]) + (int(numbers[3]) << 16), int(numbers[7])
        if (channels, own, bits) != (1, rate, 16):
            given = f"{channels} channels of {bits} bits at {own} samples a second"
            sys.exit(f"the file has {given}; give one channel of 16 bits at {rate}")
        begin = begin[end + 8 :]
    while begin:
        while len(begin) < 2 * step and (more := source.read(2 * step - len(begin))):
            begin += more
        row = np.frombuffer(begin[: 2 * step][: len(begin) // 2 * 2], "<i2").astype(np.float32) / FULL_SCALE
        yield np.pad(row, (0, step - len(row)))
        begin = begin[2 * step :] or source.read(2 * step)


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


def reader(session: Any, notes: dict[str, str]) -> Callable[[np.ndarray], int]:
    """Returns a function that reads what is around a step, and returns the likeliest output. It carries the states."""
    shapes = {each.name: each.shape for each in session.get_inputs()}  # each state is (layers, "B", units)
    pairs = json.loads(notes["elman.states"])
    state = {before: np.zeros((shapes[before][0], 1, shapes[before][2]), np.float32) for before, _ in pairs}
    names = ["logits", *(after for _, after in pairs)]

    def read(x: np.ndarray) -> int:
        logits, *after = session.run(names, {"x": x[None], **state})
        state.update(zip(state, after, strict=True))
        return int(logits[0].argmax())

    return read


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("give the file of a model")
    session = onnxruntime.InferenceSession(sys.argv[1])
    notes = session.get_modelmeta().custom_metadata_map
    options, vocabulary = (json.loads(notes[f"elman.{name}"]) for name in ("config", "vocabulary"))
    options, symbols, width = options["options"], vocabulary["symbols"], vocabulary["samples"]
    step, read, before = round(options["sample_rate"] * options["hop"] / 1000), reader(session, notes), BLANK
    between = " " if vocabulary["unit"] == "words" else ""
    for x in around(samples(sys.stdin.buffer, options["sample_rate"], step), step, width):
        output = read(x)
        if output not in (before, BLANK):
            print(symbols[output - 1], end=between, flush=True)
        before = output
    print()


if __name__ == "__main__":
    main()
