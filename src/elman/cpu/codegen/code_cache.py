"""Compiles each module once, and keeps the machine code in the process and on disk.

A file holds the code of one module. Its name is a hash of everything that the code depends on: the function that
writes the module and its arguments, the sources of this library, the version of LLVM, and the processor. Since
code is executed, a file is read only if nobody but the user can have written it, and only if it is complete; any
other file is written anew. No problem with a file makes a call fail: the code is then compiled, as at first use.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, cast

from llvmlite import ir

from elman.cell import Cell
from elman.cpu import system
from elman.cpu.codegen import llvm
from elman.cpu.codegen.formats import Format
from elman.cpu.codegen.program import Program
from elman.graph import fingerprint

MOST_FILES = 4096  # in the folder; if there are more, the older half is deleted. A file has about 5,000 bytes
MOST_BYTES = 64 << 20  # in a file; this library writes no larger ones, so a larger one is not read


class Written(NamedTuple):
    """A module before it is compiled, and the names of the functions in it."""

    module: ir.Module
    functions: Sequence[str]
    words: Sequence[str] = ()  # the names of the words in the table that the function reads, in order


class Code(NamedTuple):
    """The addresses of a module's compiled functions, valid until the process ends."""

    addresses: tuple[int, ...]
    words: tuple[str, ...]


P = ParamSpec("P")


def module(write: Callable[P, Written]) -> Callable[P, Code]:
    """Returns a function that compiles the module which `write` returns, or finds it compiled.

    The arguments of `write` may be numbers, names, formats and cells.
    """

    @wraps(write)
    def compiled(*arguments: P.args, **named: P.kwargs) -> Code:
        key = _key(f"{write.__module__}.{write.__qualname__}", [*arguments, *sorted(named.items())])
        found = _read(key)
        if found is None:
            written = write(*arguments, **named)
            found = list(written.functions), list(written.words), llvm.machine_code(written.module)
            _write(key, *found)
        functions, words, code = found
        return Code(tuple(llvm.load(code, functions)), tuple(words))

    return cast("Callable[P, Code]", cache(compiled))


def function(write: Callable[P, Program]) -> Callable[P, int]:
    """Returns a function that compiles the program of `write`, or finds it compiled, and returns its address."""

    @wraps(write)
    def alone(*arguments: P.args, **named: P.kwargs) -> Written:
        p = write(*arguments, **named)
        p.done()
        return Written(p.module, [p.function.name])

    code = module(alone)

    @wraps(write)
    def address(*arguments: P.args, **named: P.kwargs) -> int:
        return code(*arguments, **named).addresses[0]

    return address


def _key(name: str, arguments: Sequence[Any]) -> str:
    return repr((name, [_identity(argument) for argument in arguments], _environment()))


def _identity(argument: Any) -> Any:
    if isinstance(argument, Cell):
        return fingerprint(argument)
    return argument.name if isinstance(argument, Format) else argument


@cache
def _environment() -> tuple[Any, ...]:
    """Returns what code depends on besides its arguments. A hash of the library's sources serves as its version."""
    engine = Path(__file__).parent.parent
    sources = hashlib.sha256()
    for path in sorted([*engine.rglob("*.py"), *engine.parent.glob("*.py")]):
        sources.update(path.read_bytes())
    return sources.hexdigest(), *llvm.versions(), *llvm.target()


# A file has a line with the digest of the rest, a line of JSON (key, functions, words), and the machine code.

Kept = tuple[list[str], list[str], bytes]


def folder() -> tuple[Path | None, str | None]:
    """Returns the folder for code, which is made if need be, and None; or None, and why no folder is used."""
    try:
        path = system.directory()
    except RuntimeError as error:
        return None, str(error)
    if path is None:
        return None, "ELMAN_CACHE is off"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = system.not_private(os.lstat(path)) if path.is_dir() else "it is no folder"
    except OSError as error:
        problem = error.strerror or str(error)
    return (None, f"{path} is not used: {problem}") if problem else (path, None)


def _place(key: str) -> Path | None:
    path = folder()[0]
    return None if path is None else path / f"{hashlib.sha256(key.encode()).hexdigest()}.code"


def _read(key: str) -> Kept | None:
    """Returns what the file of a key holds; None if there is no file, it cannot be trusted, or it is not complete."""
    try:
        path = _place(key)
        if path is None:
            return None
        with open(path, "rb", opener=_descriptor) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES or system.not_private(status):
                return None
            digest, _, rest = file.read().partition(b"\n")
        if digest != hashlib.sha256(rest).hexdigest().encode():
            return None
        line, _, code = rest.partition(b"\n")
        head = json.loads(line)
        return (head["functions"], head["words"], code) if head["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _descriptor(path: str, flags: int) -> int:
    """Opens a file without following a link and without blocking: opening a pipe would wait for a writer."""
    return os.open(path, flags | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY")))


def _write(key: str, functions: list[str], words: list[str], code: bytes) -> None:
    """Writes the file of a key if possible. It is renamed when it is complete, so that nobody reads half a file."""
    try:
        path = _place(key)
        if path is None:
            return
        rest = json.dumps({"key": key, "functions": functions, "words": words}).encode() + b"\n" + code
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _trim(path.parent)
    except OSError:
        return


def _trim(path: Path) -> None:
    """Deletes the older half of the files in a folder if there are too many."""
    files = [entry for entry in os.scandir(path) if entry.is_file(follow_symlinks=False)]
    if len(files) > MOST_FILES:
        for entry in sorted(files, key=lambda entry: entry.stat().st_mtime)[: len(files) // 2]:
            Path(entry.path).unlink(missing_ok=True)
