"""Compiled code is kept on disk, and only code that the user has made there is ever run."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import json
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elman import cells
from elman.cpu import system
from elman.cpu.codegen import code_cache, llvm
from elman.cpu.codegen.formats import FLOAT64
from elman.cpu.codegen.program import INT, POINTER, Program
from forks import Child, Forks

posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache" / "elman"
    monkeypatch.setenv("ELMAN_CACHE", str(place))
    return place


class Writer:
    """Writes a program that stores a number; it counts how often it was asked to."""

    def __init__(self) -> None:
        self.times = 0

    def address(self) -> Callable[[int], int]:
        """The function that gives the address of the program, as a new process has it."""

        def constant(number: int) -> Program:
            self.times += 1
            p = Program(llvm.new_module("constant"), "constant", {"out": POINTER}, FLOAT64, lanes=1)
            p.store_word(p.int(number), p.given["out"], 0)
            return p

        return code_cache.function(constant)

    def stores(self, number: int) -> int:
        """What the program of a new process stores."""
        out = ctypes.c_int64(-1)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address()(number))(ctypes.addressof(out))
        return out.value


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_code_is_written_once(folder: Path) -> None:
    writer = Writer()
    assert [writer.stores(number) for number in (5, 5, 6, 5, 6)] == [5, 5, 6, 5, 6]
    assert writer.times == 2
    assert len(files(folder)) == 2
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o700
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in files(folder))


def test_off_is_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELMAN_CACHE", "off")
    writer = Writer()
    assert [writer.stores(5), writer.stores(5), writer.times] == [5, 5, 2]
    assert not files(folder)
    assert not Path("off").exists()


def test_what_code_depends_on_is_in_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [code_cache._key("kernel", arguments) for arguments in ([cells.lstm, 4], [cells.gru, 4], [cells.lstm, 8])]
    code_cache._environment.cache_clear()
    try:
        with monkeypatch.context() as other:
            other.setattr(llvm, "versions", lambda: ("0.0", 1))
            keys.append(code_cache._key("kernel", [cells.lstm, 4]))
        code_cache._environment.cache_clear()
        for change in ({"cpu": "znver9"}, {"features": "+avx9"}, {"vector_bytes": 16}):
            with monkeypatch.context() as other:
                target = llvm.target()._replace(**change)
                other.setattr(llvm, "target", lambda target=target: target)
                keys.append(code_cache._key("kernel", [cells.lstm, 4]))
            code_cache._environment.cache_clear()
        with monkeypatch.context() as other:  # a line of the library is another one
            original = Path.read_bytes
            other.setattr(Path, "read_bytes", lambda path: original(path) + b"#" * (path.name == "derivative.py"))
            keys.append(code_cache._key("kernel", [cells.lstm, 4]))
    finally:
        code_cache._environment.cache_clear()
    assert len(set(keys)) == len(keys) == 8


# What was done to the file of the program that stores 5, whose code is that of the one that stores 6.


def foreign_code(path: Path, other: Path, *, digest: bool = True) -> None:
    """Makes it run other code: what a stranger would do who could write to the file."""
    head, code = other.read_bytes().split(b"\n", 1)[1].split(b"\n", 1)
    own = json.loads(path.read_bytes().split(b"\n")[1])
    rest = json.dumps(json.loads(head) | {"key": own["key"]}).encode() + b"\n" + code
    name = hashlib.sha256(rest).hexdigest() if digest else hashlib.sha256(b"").hexdigest()
    path.write_bytes(name.encode() + b"\n" + rest)


def cut_short(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def one_bit(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-300] ^= 1
    path.write_bytes(content)


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def no_json(path: Path, other: Path) -> None:
    rest = b"[1]\n" + path.read_bytes().split(b"\n", 2)[2]
    path.write_bytes(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)


def of_another(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def without_digest(path: Path, other: Path) -> None:
    foreign_code(path, other, digest=False)


def linked(path: Path, other: Path) -> None:
    foreign_code(path, other)
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def of_the_group(path: Path, other: Path) -> None:
    foreign_code(path, other)
    path.chmod(0o660)


def of_the_world(path: Path, other: Path) -> None:
    foreign_code(path, other)
    path.chmod(0o602)


def of_a_stranger(path: Path, other: Path) -> None:
    foreign_code(path, other)
    try:
        os.chown(path, 12345, 12345)
    except PermissionError:
        pytest.skip("only root gives files away")


DAMAGES = [cut_short, one_bit, empty, no_json, of_another, without_digest]
DAMAGES += [linked, of_the_group, of_the_world, of_a_stranger] if os.name == "posix" else []


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_cannot_be_trusted_is_written_anew(folder: Path, damage: Callable[[Path, Path], None]) -> None:
    writer = Writer()
    writer.stores(5)
    (path,) = files(folder)
    writer.stores(6)
    (other,) = set(files(folder)) - {path}
    whole = path.read_bytes()
    damage(path, other)
    assert writer.stores(5) == 5
    assert writer.times == 3
    assert path.read_bytes() == whole
    assert not path.is_symlink()
    assert writer.stores(5) == 5
    assert writer.times == 3


def test_the_users_own_file_is_run(folder: Path) -> None:
    """What the others above would do if they were trusted."""
    writer = Writer()
    writer.stores(5)
    (path,) = files(folder)
    writer.stores(6)
    foreign_code(path, *(set(files(folder)) - {path}))
    assert writer.stores(5) == 6


@posix
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777], ids=oct)
def test_a_folder_that_others_may_write_to_is_not_used(folder: Path, mode: int) -> None:
    writer = Writer()
    writer.stores(5)
    (path,) = files(folder)
    writer.stores(6)
    foreign_code(path, *(set(files(folder)) - {path}))
    before = path.read_bytes()
    folder.chmod(mode)
    assert writer.stores(5) == 5
    assert path.read_bytes() == before
    where, why = code_cache.folder()
    assert where is None
    assert str(folder) in str(why)
    assert f"mode {mode:o}); chmod go-w it" in str(why)


@posix
def test_a_strangers_folder_is_not_used(folder: Path) -> None:
    folder.mkdir(parents=True)
    try:
        os.chown(folder, 12345, 12345)
    except PermissionError:
        pytest.skip("only root gives folders away")
    writer = Writer()
    assert [writer.stores(5), writer.stores(5), writer.times] == [5, 5, 2]
    assert not files(folder)
    assert "it belongs to user 12345" in str(code_cache.folder()[1])


@pytest.mark.parametrize("place", ["a file", "below a file", "a link to nothing", "a pipe", "a stranger's home"])
def test_where_no_folder_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    path = tmp_path / "taken"
    if place == "a link to nothing":
        path.symlink_to(tmp_path / "nowhere")
    elif place == "a pipe" and os.name == "posix":
        os.mkfifo(path)
    elif place == "a stranger's home":
        path = Path("~nosuchuser")
    else:
        path.write_text("mine")
    monkeypatch.setenv("ELMAN_CACHE", str(path / "more" if place in ("below a file", "a stranger's home") else path))
    writer = Writer()
    assert [writer.stores(5), writer.stores(5), writer.times] == [5, 5, 2]
    where, why = code_cache.folder()
    assert where is None
    assert str(path) in str(why)
    assert not path.is_file() or path.read_text() == "mine"


@posix
def test_where_there_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without an entry in the system's list, as containers have them. No folder called ~ is made."""
    import pwd

    def missing(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("ELMAN_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", missing)
    monkeypatch.chdir(tmp_path)
    writer = Writer()
    assert [writer.stores(5), writer.stores(5), writer.times] == [5, 5, 2]
    assert "no home directory is known for this user" in str(code_cache.folder()[1])
    assert not files(tmp_path)


class Full(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("step", ["mkstemp", "write", "replace"])
def test_a_disk_that_takes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: str) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    if step == "write":
        ordinary = open

        def full(file: Any, mode: str, *more: Any, **named: Any) -> Any:
            if mode != "wb":
                return ordinary(file, mode, *more, **named)
            os.close(file)
            return Full()

        monkeypatch.setattr("builtins.open", full)
    else:
        monkeypatch.setattr(code_cache.tempfile if step == "mkstemp" else os, step, refuse)
    writer = Writer()
    assert writer.stores(5) == 5
    monkeypatch.undo()
    assert not files(folder)


def test_old_files_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_cache, "MOST_FILES", 6)
    writer = Writer()
    for number in range(7):
        assert writer.stores(number) == number
        for place, path in enumerate(sorted(files(folder), key=lambda path: path.stat().st_mtime)):
            os.utime(path, (place, place))
    assert len(files(folder)) == 4
    assert writer.stores(6) == 6
    assert writer.times == 7


# Whole processes.

TRAINED = """
import sys
import torch, elman
from elman.cpu.codegen import llvm

if "nothing is compiled" in sys.argv:
    def machine_code(module):
        raise AssertionError(f"compiled {module.name}")
    llvm.machine_code = machine_code
torch.manual_seed(0)
torch.set_num_threads(1)
for of in (elman.LSTM(5, 20), elman.GRU(5, 20, dtype=torch.float64, reset_after=False)):
    x = torch.randn(7, 3, 5, dtype=next(of.parameters()).dtype, requires_grad=True)
    of(x)[0].square().sum().backward()
    print(of(x)[0].sum().item(), x.grad.sum().item(), of.weight_hh_l0.grad.sum().item())
    with torch.no_grad():
        print(of(x)[0].sum().item())
"""


def child(cache: Path, code: str, *arguments: str) -> Child:
    code = f"import warnings\nwarnings.simplefilter('error')\n{code}"
    return Child(code, arguments, os.environ | {"ELMAN_CACHE": str(cache)})


def outputs(forks: Forks, *children: Child) -> list[str]:
    done = forks.run(*children)
    for each in done:
        assert each.returncode == 0, each.stderr[-2000:]
    return [each.stdout for each in done]


def test_a_second_process_compiles_nothing(tmp_path: Path, forks: Forks) -> None:
    """Two that begin at once and write the same files, then one that finds them all."""
    cache = tmp_path / "elman"
    first, second = outputs(forks, child(cache, TRAINED), child(cache, TRAINED))
    assert [first] == [second] == outputs(forks, child(cache, TRAINED, "nothing is compiled"))
    assert {path.suffix for path in files(cache)} == {".code"}


# What may lie in the place of a file of code. Reading some of it would never end.


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as of:
            of.bind(path.name)
    finally:
        os.chdir(here)


def a_folder(path: Path) -> None:
    path.mkdir()


def zeros_without_end(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # what /dev/zero is
        os.close(os.open(path, os.O_RDONLY))
    except PermissionError:
        pytest.skip("only root makes devices")


def a_huge_file(path: Path) -> None:
    path.touch(0o600)
    os.truncate(path, 1 << 40)


STORES = """
import os, resource, sys
sys.path.insert(0, "tests")
from test_cpu_compiled import Writer

def next_descriptor():
    os.close(number := os.open(os.devnull, os.O_RDONLY))
    return number

with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
most = pages * resource.getpagesize() + (1 << 30)  # what reads too much fails, instead of using up the machine
resource.setrlimit(resource.RLIMIT_AS, (most, most))
before = next_descriptor()
print(Writer().stores(5))
assert next_descriptor() == before, "a file was left open"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize(
    "thing", [a_pipe, a_socket, a_folder, zeros_without_end, a_huge_file], ids=lambda thing: thing.__name__
)
def test_what_is_no_ordinary_file_is_not_read(folder: Path, thing: Callable[[Path], None], forks: Forks) -> None:
    assert Writer().stores(5) == 5
    (path,) = files(folder)
    path.unlink()
    thing(path)
    assert outputs(forks, child(folder, STORES)) == ["5\n"]
    assert files(folder) == [path]
    assert thing is a_folder or (path.is_file() and path.stat().st_size < 1 << 20)


def test_cells_of_one_name_are_not_mixed_up(tmp_path: Path, forks: Forks) -> None:
    code = """
import sys
import torch, elman
factor = float(sys.argv[1])
def step(x, R, s):
    return elman.State(h=torch.tanh(x.h + factor * (R.h @ s.h)))
of = elman.Recurrent(elman.Cell(step, gates=("h",), name="mine"), 2, 3)
for weight in of.parameters():
    torch.nn.init.constant_(weight, 0.5)
with elman.use_engine("cpu"), torch.no_grad():
    out = of(torch.ones(4, 1, 2))[0]
with elman.use_engine("reference"):
    assert torch.allclose(out, of(torch.ones(4, 1, 2))[0])
"""
    for factor in ("0.25", "-3", "0.25", "1"):
        outputs(forks, child(tmp_path / "elman", code, factor))


REFUSED = """
import ctypes
import torch, elman
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0:  # PR_SET_MDWE: memory that was written to is never executed
    raise SystemExit(9)
from elman.cli.doctor import doctor
doctor()
of, x = elman.LSTM(2, 3), torch.randn(4, 1, 2)
print(elman.describe(of, x))
of(x)[0].sum().backward()
try:
    with elman.use_engine("cpu"):
        of(x)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to refuse executable memory")
def test_where_executable_memory_is_refused_the_reference_engine_runs(tmp_path: Path, forks: Forks) -> None:
    (done,) = forks.run(child(tmp_path / "elman", REFUSED))
    if done.returncode == 9:
        pytest.skip("this Linux is too old to be asked")
    assert done.returncode == 0, done.stderr[-2000:]
    out = done.stdout
    assert (
        "engine      reference: this system lets no memory be executed that was written to (Permission denied)" in out
    )
    for name in ("executable memory", "  lstm                   reference:"):
        assert "this system lets no memory be executed" in out.split(name)[1].splitlines()[0]
    assert "the engine 'cpu' was asked for but cannot run this: this system lets no memory be executed" in out


def test_executable_memory_is_not_refused_here() -> None:
    assert system.refuses_code() is None


def test_addresses_stay_what_they_are() -> None:
    """Code that was loaded is not moved by what is loaded later."""
    assert INT.width == 64
    writer = Writer()
    address = writer.address()
    places = [address(number) for number in range(20)]
    assert len(set(places)) == 20
    for number, place in enumerate(places):
        out = ctypes.c_int64(-1)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(place)(ctypes.addressof(out))
        assert out.value == number
