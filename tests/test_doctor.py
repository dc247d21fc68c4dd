"""`elman doctor` says what is there, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from elman import cells
from elman.cli.doctor import doctor
from elman.cpu import system
from elman.cpu.codegen import llvm
from elman.cpu.codegen.formats import FLOAT32
from elman.errors import InputError


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The target is found out anew, and again afterwards."""
    llvm.target.cache_clear()
    yield
    llvm.target.cache_clear()


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    doctor()
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    return {line[:25].strip(): line[25:] for line in lines}


def test_it_tells_what_is_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELMAN_CACHE", str(tmp_path / "elman"))
    told = said(capsys)
    assert f"torch {torch.__version__}" in told["versions"]
    assert llvm.target().cpu in told["processor"]
    assert f"{FLOAT32.lanes} float32" in told["vectors"]
    assert told["executable memory"] == "allowed"
    assert told["compiled code"] == f"0 files of 0 bytes together in {tmp_path / 'elman'}"
    assert {name for name in told if name in cells.BUILT_IN} == set(cells.BUILT_IN)
    for name in cells.BUILT_IN:
        assert told[name] == "cpu: kernels made from the cell's equations"


def test_it_tells_what_is_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("ELMAN_CACHE", str(tmp_path / "taken"))
    monkeypatch.setenv("ELMAN_CPU", "aarch64" if llvm.target().triple.startswith("x86") else "x86-64")
    llvm.target.cache_clear()
    monkeypatch.setattr(system, "parallel", lambda: None)
    told = said(capsys)
    assert told["compiled code"] == f"not kept: {tmp_path / 'taken'} is not used: File exists"
    assert told["threads"] == "1: no OpenMP was found in torch"
    assert told[""] == "kernels for it cannot run on this processor: ELMAN_CPU asks for another one"


def test_it_counts_files_only(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.code").write_bytes(b"12345")
    (tmp_path / "a link to nothing.code").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a folder.code").mkdir()
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ELMAN_CACHE", str(tmp_path))
    assert said(capsys)["compiled code"] == f"1 files of 5 bytes together in {tmp_path}"


def test_an_unknown_home_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELMAN_CACHE", "~nosuchuser/elman")
    told = said(capsys)["compiled code"]
    assert told == "not kept: no home directory is known for ~nosuchuser/elman; let ELMAN_CACHE name another folder"


def test_an_unknown_processor_is_a_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELMAN_CPU", "pentium")
    with pytest.raises(InputError, match="ELMAN_CPU is 'pentium' but must be one of"):
        doctor()
