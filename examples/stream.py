"""Writes text with a language model from its ONNX file, one step at a time, with ONNX Runtime and numpy alone:

elman export runs/first model.onnx --streaming
python examples/stream.py model.onnx --prompt "The " --length 300
"""

from __future__ import annotations

import argparse
import codecs
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime

WORD = re.compile(r" ?\w+| ?[^\w\s]+|\s+")  # how elman cuts a text into words


class Vocabulary:
    """The tokens of a model: `encode` gives the numbers of a text, `decode` the text that the next number completes."""

    def __init__(self, notes: dict[str, str]):
        content = json.loads(notes["elman.vocabulary"])
        self.unit = content["unit"]
        self.tokens = list(content.get("symbols") or content.get("words") or ())
        self.numbers: dict[str, int] = {token: number for number, token in enumerate(self.tokens)}
        self.bytes = codecs.getincrementaldecoder("utf-8")("replace")

    def prompt(self, text: str) -> str:
        """Leaves out the spaces at the end, where they are no word, since the next word brings its own."""
        last = WORD.findall(text)[-1:] if self.unit == "words" else []
        return text.rstrip(" ") if last and not last[0].strip(" ") and last[0] not in self.numbers else text

    def encode(self, text: str) -> list[int]:
        if self.unit == "bytes":
            return list(text.encode())
        pieces = WORD.findall(text) if self.unit == "words" else list(text)
        strange = [piece for piece in pieces if piece not in self.numbers]
        if strange and text != "\n":  # which stands in place of a prompt
            sys.exit(f"the prompt has {strange[0]!r}, which is not in the model's vocabulary; leave it out")
        return [self.numbers.get(piece, len(self.tokens)) for piece in pieces]  # the last number stands for all others

    def decode(self, token: int) -> str:
        return self.bytes.decode(bytes([token])) if self.unit == "bytes" else self.tokens[token]


class BytePairs:
    """The same for byte pairs, which the library tokenizers reads."""

    tokens = ()  # all may be written

    def __init__(self, notes: dict[str, str]):
        from tokenizers import Tokenizer
        from tokenizers.decoders import DecodeStream

        self.tokenizer, self.stream = Tokenizer.from_str(notes["elman.tokenizer"]), DecodeStream()

    def prompt(self, text: str) -> str:
        return text

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def decode(self, token: int) -> str:
        return self.stream.step(self.tokenizer, token) or ""


def steps(session: Any, pairs: list[tuple[str, str]]) -> Callable[[int], np.ndarray]:
    """Returns a function that reads a token and returns the logits of the next one, (tokens,). It carries the states."""
    inputs = {each.name: each.shape for each in session.get_inputs()}  # each state is (layers, "B", units)
    state = {before: np.zeros((inputs[before][0], 1, inputs[before][2]), np.float32) for before, _ in pairs}
    names = ["logits", *(after for _, after in pairs)]

    def step(token: int) -> np.ndarray:
        logits, *after = session.run(names, {"tokens": np.array([token]), **state})
        state.update(zip(state, after, strict=True))
        return logits[0]

    return step


def write(
    step: Callable[[int], np.ndarray],
    vocabulary: Vocabulary | BytePairs,
    prompt: str,
    length: int,
    temperature: float,
    seed: int,
) -> Iterator[str]:
    """Yields the text of `length` tokens after a prompt."""
    random, logits = np.random.default_rng(seed), np.zeros(0)
    for token in vocabulary.encode(prompt or "\n"):
        logits = step(token)
    for _ in range(length):
        known = logits[: len(vocabulary.tokens) or None]  # never the one that stands for all others
        if temperature == 0:
            token = int(known.argmax())
        else:
            likely = np.exp((known - known.max()).astype(float) / temperature)
            token = int(random.choice(len(likely), p=likely / likely.sum()))
        yield vocabulary.decode(token)
        logits = step(token)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write text with a language model from its ONNX file.")
    parser.add_argument("model", help="what `elman export RUN model.onnx --streaming` wrote")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--length", type=int, default=300, help="tokens to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest token")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a step is too small to share
    try:
        session = onnxruntime.InferenceSession(given.model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of ONNX Runtime's own kinds
        sys.exit(f"cannot open {given.model}: {str(error).splitlines()[0]}; give a file that elman export wrote")
    notes = session.get_modelmeta().custom_metadata_map
    if notes.get("elman.task") != '"lm"' or notes.get("elman.streaming") != "true":
        sys.exit(
            f"{given.model} is no language model of one step; write one with elman export RUN model.onnx --streaming"
        )
    vocabulary = (BytePairs if "elman.tokenizer" in notes else Vocabulary)(notes)
    step = steps(session, json.loads(notes["elman.states"]))
    prompt = vocabulary.prompt(given.prompt)
    vocabulary.encode(prompt)  # which refuses what the model does not know, before anything is printed
    print(prompt, end="")
    for text in write(step, vocabulary, prompt, given.length, given.temperature, given.seed):
        print(text, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
