"""Text for language models: read in blocks, split into a training and a held-out part, turned into token ids.

Memory never holds the whole text. It holds the ids once, or not at all if they are many.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from elman.datasets import reading
from elman.datasets.store import Store
from elman.datasets.vocabulary import BytePairs, Bytes, Characters, Vocabulary, Words
from elman.errors import InputError

DEFAULT = "Python's documentation topics"
EXCERPT = 60  # characters of held-out text that are kept for pictures
LOOKED_AT = 5000  # characters at the beginning of the held-out text from which the excerpt is chosen


Block = str | bytes  # bytes for the unit "bytes", text for other units; slices and len work on both


class Corpus(NamedTuple):
    """The token ids of a text, whose last part is held out, and their vocabulary."""

    vocabulary: Vocabulary
    train: Tensor  # (N,) of the type that `vocabulary.encode` returns: uint8 or int32
    validation: Tensor  # (M,)
    validation_characters: int
    excerpt: str  # a readable piece of the held-out text
    digest: str  # SHA-256 of all ids, by which a changed file is noticed


def text_blocks(path: Path | None) -> Iterator[str]:
    """Yields the text of a file in blocks. None is the default text."""
    if path is not None:
        yield from reading.text_blocks(path, ", or read it as it is with --unit bytes")
        return
    from pydoc_data.topics import topics

    yield "\n".join(topics.values())


def blocks(path: Path | None, unit: str) -> Iterator[Block]:
    """Yields the blocks of a file: of bytes for the unit "bytes", of text for other units."""
    if unit != "bytes":
        yield from text_blocks(path)
    elif path is not None:
        yield from reading.byte_blocks(path)
    else:
        yield from (block.encode() for block in text_blocks(None))


def learn_vocabulary(parts: Iterable[Block], unit: str, size: int) -> Vocabulary:
    """Returns the vocabulary of a training text. Only byte pairs and words use `size`."""
    if unit == "bytes":
        return Bytes()
    text = (part for part in parts if isinstance(part, str))
    if unit == "bpe":
        return BytePairs.learn(text, size)
    if unit == "words":
        return Words.learn(text, size)
    symbols = set[str]()
    for part in text:
        symbols.update(part)
    return Characters("".join(sorted(symbols)))


def read(
    path: Path | None,
    unit: str,
    held_out: float,
    size: int = 0,
    vocabulary: Vocabulary | None = None,
    apart: Path | None = None,
) -> Corpus:
    """Reads a text, learns its vocabulary from the training part unless one is given, and returns it encoded.

    held_out: the share of the text, at its end, that is kept for validation. size: tokens of a vocabulary of
    byte pairs or words. apart: a file that is held out in place of the end of the text.
    The file is read again for each pass (to count, to learn, to encode), so that memory never holds the whole text.
    Raises InputError if the file is empty or cannot be read.
    """
    first = sum(len(block) for block in blocks(path, unit))
    second = 0 if apart is None else sum(len(block) for block in blocks(apart, unit))
    if not first or (apart is not None and not second):
        raise InputError(f"{(apart if first else path) or DEFAULT} is empty; give a file with text")
    total = first + second
    boundary = first if apart is not None else total - round(total * held_out)

    def whole() -> Iterator[Block]:
        yield from blocks(path, unit)
        if apart is not None:
            yield from blocks(apart, unit)

    if vocabulary is None:
        training = (part for part, held in _split(whole(), boundary) if not held)
        vocabulary = learn_vocabulary(training, unit, size)

    ids, digest = Store(vocabulary.encode("").dtype), hashlib.sha256()
    end, cut, beginning, characters = 0, 0, "", 0
    for part, held in _split(whole(), boundary):
        tokens = vocabulary.encode(part)
        ids.append(tokens)
        digest.update(tokens.data)
        end += len(tokens)
        if not held:
            cut = end
            continue
        text = part if isinstance(part, str) else part.decode("utf-8", "replace")
        beginning += text[: LOOKED_AT - len(beginning)]
        characters += len(part) if isinstance(part, str) else int(np.count_nonzero((tokens & 0xC0) != 0x80))
    tokens = torch.from_numpy(ids.array())
    return Corpus(vocabulary, tokens[:cut], tokens[cut:], characters, _prose(beginning), digest.hexdigest())


def _prose(text: str) -> str:
    """Returns the piece of EXCERPT characters that begins with the first word of a line and has the most letters.

    The text may begin within a word, which is left out.
    """
    starts = [found.end() for found in re.finditer(r"\A\S*\s+|\n\s*", text)]
    pieces = [text[start : start + EXCERPT] for start in starts if start + EXCERPT <= len(text)]
    return max(pieces, key=lambda piece: sum(map(str.isalpha, piece)), default=text[:EXCERPT])


def _split(blocks: Iterable[Block], boundary: int) -> Iterator[tuple[Block, bool]]:
    """Yields each block with whether it lies past the boundary. A block that crosses the boundary is cut in two."""
    done = 0
    for block in blocks:
        cut = min(max(boundary - done, 0), len(block))
        if cut:
            yield block[:cut], False
        if cut < len(block):
            yield block[cut:], True
        done += len(block)
