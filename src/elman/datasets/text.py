"""Text for language models: read in blocks, split, turned into token ids with one copy in memory."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from elman.datasets.vocabulary import BytePairs, Bytes, Characters, Vocabulary
from elman.errors import InputError

BLOCK = 1 << 20  # bytes read at a time
DEFAULT = "Python's documentation topics"
EXCERPT = 100  # characters of held-out text kept for pictures, chosen from the first
LOOKED_AT = 5000


Block = str | bytes  # bytes for the unit "bytes", else text; both can be sliced, and counted with len


class Corpus(NamedTuple):
    """Token ids of a text, the last part held out, and the vocabulary they belong to."""

    vocabulary: Vocabulary
    train: Tensor  # (N,) of the smallest type that holds the ids
    validation: Tensor  # (M,)
    validation_characters: int
    excerpt: str  # a readable piece of what is held out
    digest: str  # of the ids, to notice a file that has changed


def byte_blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked if it is gzipped. InputError, with the reason, if it cannot be read."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory; give a text file")
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                while block := file.read(BLOCK):
                    yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is a damaged gzip file: {error}") from error
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; give a text file that exists and is yours to read"
        ) from error


def text_blocks(path: Path | None) -> Iterator[str]:
    """The text of a UTF-8 file, a block at a time, cut at line ends where there are any. None: the default text.

    InputError, with line and byte, if the file is not UTF-8 or looks binary.
    """
    if path is None:
        from pydoc_data.topics import topics

        yield "\n".join(topics.values())
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest, done, line = "", 0, 1
    for block in byte_blocks(path):
        zero = block.find(b"\0")
        if zero >= 0:
            raise InputError(
                f"{path} looks binary: byte {done + zero + 1} is zero; give a text file, or read it as it is with --unit bytes"
            )
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block)
        except UnicodeDecodeError as error:
            at, bad = done - held + error.start, error.object[error.start]
            line += error.object[: error.start].count(b"\n")
            raise InputError(
                f"{path} is not UTF-8: byte {at + 1}, on line {line}, is 0x{bad:02x}; convert the file to UTF-8, or read it as it is with --unit bytes"
            ) from error
        done += len(block)
        line += text.count("\n")
        whole, newline, begun = (rest + text).rpartition("\n")
        yield whole + newline
        rest = begun
        if len(rest) > BLOCK:  # no line ends here
            yield rest
            rest = ""
    try:
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: it ends within a character, on line {line}; convert the file to UTF-8, or read it as it is with --unit bytes"
        ) from error
    yield rest


def blocks(path: Path | None, unit: str) -> Iterator[Block]:
    """The file in blocks of what the unit counts: bytes as they are, or text."""
    if unit != "bytes":
        yield from text_blocks(path)
    elif path is not None:
        yield from byte_blocks(path)
    else:
        yield from (block.encode() for block in text_blocks(None))


def learn_vocabulary(parts: Iterable[Block], unit: str, size: int) -> Vocabulary:
    """The vocabulary of a training text; size matters to byte-pair encoding only."""
    if unit == "bytes":
        return Bytes()
    text = (part for part in parts if isinstance(part, str))
    if unit == "bpe":
        return BytePairs.learn(text, size)
    return Characters("".join(sorted(set[str]().union(*text))))


def read(path: Path | None, unit: str, held_out: float, size: int = 0, vocabulary: Vocabulary | None = None) -> Corpus:
    """Read a text, learn its vocabulary from the training part unless one is given, and encode it.

    held_out: the share of the text, from its end, kept for validation. size: of a byte-pair
    vocabulary. The file is read once for each step, so that memory never holds the text, and the ids
    only once. InputError if the file is empty or cannot be read.
    """
    total = sum(len(block) for block in blocks(path, unit))
    if not total:
        raise InputError(f"{path or DEFAULT} is empty; give a file with text")
    boundary = total - round(total * held_out)
    if vocabulary is None:
        training = (part for part, held in _split(blocks(path, unit), boundary) if not held)
        vocabulary = learn_vocabulary(training, unit, size)

    # Room for the most tokens there can be: pages that are never written cost nothing.
    ids = np.empty(total * (4 if unit == "bpe" else 1), dtype=vocabulary.encode("").dtype)
    end, cut, beginning, characters = 0, 0, "", 0
    for part, held in _split(blocks(path, unit), boundary):
        tokens = vocabulary.encode(part)
        ids[end : end + len(tokens)] = tokens
        end += len(tokens)
        if not held:
            cut = end
            continue
        text = part if isinstance(part, str) else part.decode("utf-8", "replace")
        beginning += text[: LOOKED_AT - len(beginning)]
        characters += len(part) if isinstance(part, str) else int(np.count_nonzero((tokens & 0xC0) != 0x80))
    digest = hashlib.sha256(ids[:end].data).hexdigest()
    return Corpus(
        vocabulary, torch.from_numpy(ids[:cut]), torch.from_numpy(ids[cut:end]), characters, _prose(beginning), digest
    )


def _prose(text: str) -> str:
    """The piece of EXCERPT characters, from the start of a line, with the most letters in it."""
    starts = [0] + [at + 1 for at, character in enumerate(text) if character == "\n"]
    pieces = [text[start : start + EXCERPT] for start in starts if start + EXCERPT <= len(text)]
    return max(pieces, key=lambda piece: sum(map(str.isalpha, piece)), default=text[:EXCERPT])


def _split(blocks: Iterable[Block], boundary: int) -> Iterator[tuple[Block, bool]]:
    """The same blocks, the one that crosses the boundary in two, each with whether it is past it."""
    done = 0
    for block in blocks:
        cut = min(max(boundary - done, 0), len(block))
        if cut:
            yield block[:cut], False
        if cut < len(block):
            yield block[cut:], True
        done += len(block)
