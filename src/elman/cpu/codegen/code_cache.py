"""From a function that writes a program to addresses: compiled once, then kept by the process, and on disk.

A file holds the code of one module. It is named after all that the code depends on: what wrote it and its
arguments, this library, LLVM, and the processor. Code is executed, so a file is read only where nobody but
the user can have written it, and only if it is whole; any other is written anew. Nothing that goes wrong with
a file stops a call: the code is compiled then, as it is the first time.
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

MOST_FILES = 4096  # half of them go when there are more; a file has about 5,000 bytes
MOST_BYTES = 64 << 20  # of a file; a larger one is not ours


class Written(NamedTuple):
    """A module, before it is compiled."""

    module: ir.Module
    functions: Sequence[str]
    words: Sequence[str] = ()  # what the table holds that the function reads, in order


class Code(NamedTuple):
    """Where the functions lie, until the process ends."""

    addresses: tuple[int, ...]
    words: tuple[str, ...]


P = ParamSpec("P")


def module(write: Callable[P, Written]) -> Callable[P, Code]:
    """What `write` writes, compiled. Its arguments are numbers, names, formats and cells."""

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
    """The address of the function that `write` writes."""

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
    """What code depends on beside its arguments. The sources of the library stand for its version."""
    engine = Path(__file__).parent.parent
    sources = hashlib.sha256()
    for path in sorted([*engine.rglob("*.py"), *engine.parent.glob("*.py")]):
        sources.update(path.read_bytes())
    return sources.hexdigest(), *llvm.versions(), *llvm.target()


# Files: a digest, a line that says what follows, and the code.

Kept = tuple[list[str], list[str], bytes]


def folder() -> tuple[Path | None, str | None]:
    """Where code is kept, made if need be; or why it is not."""
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
    """What was kept under a key, if there is a file that can be trusted and is whole."""
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
    """Opened without following a link, and without waiting: a pipe would wait for somebody to write to it."""
    return os.open(path, flags | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY")))


def _write(key: str, functions: list[str], words: list[str], code: bytes) -> None:
    """Keep it, if that is possible: beside its place, then renamed."""
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
    """Where there are too many files, the older half goes."""
    files = [entry for entry in os.scandir(path) if entry.is_file(follow_symlinks=False)]
    if len(files) > MOST_FILES:
        for entry in sorted(files, key=lambda entry: entry.stat().st_mtime)[: len(files) // 2]:
            Path(entry.path).unlink(missing_ok=True)
