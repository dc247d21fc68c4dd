"""Files of any task: read in blocks, unpacked on the way, and what becomes of rows that make no sense."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from elman.errors import InputError

BLOCK = 1 << 20  # bytes read at a time
# Of JSON: half a character, which may be written as two halves; and what is no such half alone.
HALF = re.compile(r"\\u[dD][89a-fA-F]..")
WHOLE = re.compile(r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..")
GZIP, ZSTANDARD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"  # the first bytes of packed files


class BadRows:
    """What becomes of a row that makes no sense: the first one ends the reading, or all are counted and left out."""

    def __init__(self, skip: bool = False):
        self.skip, self.count, self.first = skip, 0, ""

    def found(self, what: str, remedy: str = "") -> None:
        """what: the file, the line and the value. remedy: what else helps in a training.

        Raises InputError unless such rows are skipped.
        """
        if not self.skip:
            also = f" {remedy}," if remedy else ""
            raise InputError(f"{what}; correct it,{also} or skip such rows with --skip-bad", f"{what}; correct it")
        self.count += 1
        self.first = self.first or what

    @property
    def remarks(self) -> list[str]:
        """What there is to say of the rows that were left out."""
        return [f"skipped     {self.count} malformed, the first: {self.first}"] if self.count else []


def byte_blocks(path: Path) -> Iterator[bytes]:
    """Yields the bytes of a file, unpacked if it is gzip or Zstandard. Raises InputError if it cannot be read."""
    import zstandard

    kind = ""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory; give a text file")
        with path.open("rb") as raw:
            if not raw.seekable():
                raise InputError(
                    f"{path} is a pipe, which cannot be read twice; write it to a file first, and give that"
                )
            beginning = raw.read(4)
            raw.seek(0)
            if beginning[:2] == GZIP:
                kind = "gzip"
                with gzip.open(raw) as file:
                    yield from _blocks(cast("IO[bytes]", file))
            elif beginning == ZSTANDARD:
                kind = "Zstandard"
                yield from _frames(raw)
            else:
                yield from _blocks(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        what = "it was cut short" if isinstance(error, EOFError) else str(error)
        raise InputError(f"{path} is a damaged {kind} file: {what}; copy or download it again") from error
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; give a text file that exists and that you may read"
        ) from error


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _frames(raw: IO[bytes]) -> Iterator[bytes]:
    """Yields what the frames of a Zstandard file hold. Raises EOFError if the last one has no end."""
    import zstandard

    frame = None
    while packed := raw.read(min(BLOCK, 1 << 14)):  # a little, of which much may come
        while packed:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            if block := frame.decompress(packed):
                yield block
            packed = frame.unused_data
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError


def check_whole(path: Path) -> None:
    """Raises InputError if a packed file is damaged, which other libraries may say of its content."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(4).startswith((GZIP, ZSTANDARD)):
            for _ in byte_blocks(path):
                pass


def text_blocks(path: Path, otherwise: str = "") -> Iterator[str]:
    """Yields the text of a UTF-8 file in blocks, which end at line ends where there are any. A byte-order mark is left out.

    otherwise: what else can be done in a training with a file that is no text, for messages. Raises InputError, with the place in
    the file, if the file is not UTF-8 or looks binary.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest, done, line, begun_to_read = "", 0, 1, False
    for block in byte_blocks(path):
        zero = block.find(b"\0")
        if zero >= 0:
            raise _no_text(f"{path} looks binary: byte {done + zero + 1} is zero; give a text file", otherwise)
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block)
        except UnicodeDecodeError as error:
            at, bad = done - held + error.start, error.object[error.start]
            line += error.object[: error.start].count(b"\n")
            problem = f"byte {at + 1}, on line {line}, is 0x{bad:02x}"
            raise _no_text(f"{path} is not UTF-8: {problem}; convert the file to UTF-8", otherwise) from error
        if text and not begun_to_read:
            text, begun_to_read = text.removeprefix("\ufeff"), True
        done += len(block)
        line += text.count("\n")
        whole, newline, begun = (rest + text).rpartition("\n")
        yield whole + newline
        rest = begun
        if len(rest) > BLOCK:  # no line end for the length of a block: cut here
            yield rest
            rest = ""
    try:
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        problem = f"it ends in the middle of a character, on line {line}"
        raise _no_text(f"{path} is not UTF-8: {problem}; convert the file to UTF-8", otherwise) from error
    yield rest


def _no_text(problem: str, otherwise: str) -> InputError:
    return InputError(problem + otherwise, problem)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines of a UTF-8 file without their ends, each with its number, from 1. Files may be packed."""
    number, rest = 0, ""
    for block in text_blocks(path):
        *lines, rest = (rest + block).split("\n")
        for line in lines:
            number += 1
            yield number, line.removesuffix("\r")
    if rest:
        yield number + 1, rest.removesuffix("\r")


def json_lines(path: Path, bad: BadRows) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yields the objects of a file of JSON lines, each with the number of its line and the line.

    A line that is no JSON is a bad row, and so is one with half a character, which UTF-8 cannot write. One that holds no
    object is yielded as an empty one, which lacks every name.
    """
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            # Its own line is always 1, which would be read as that of the file.
            at = (
                f"no JSON at character {error.pos + 1}: {error.msg}"
                if isinstance(error, json.JSONDecodeError)
                else error
            )
            bad.found(f"{path}, line {number}: {at}")
            continue
        if HALF.search(line) and (half := HALF.search(WHOLE.sub("", line))):
            bad.found(f"{path}, line {number}: {half[0]} is half a character, without its other half")
            continue
        yield number, line, row if isinstance(row, dict) else {}
