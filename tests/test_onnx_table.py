"""The page that compares torch.nn and elman as ONNX is what its script writes."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch

from elman.onnx.proof import flat

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(DOCS)
    return import_module("make_onnx_table")


def test_the_page_has_the_rows_of_its_script(script: Any) -> None:
    """Two entries are found again, since all take two minutes. Other versions may find something else."""
    page = script.PAGE.read_text(encoding="utf-8")
    before, _, table = page.partition("|---|---|---|\n")
    rows = [line[2:-2].split(" | ") for line in table.splitlines()]
    assert [row[0] for row in rows] == [row.name for row in script.ROWS]
    assert all(len(row) == 3 for row in rows)
    with_these = script.versions() in before
    assert not with_these or before.startswith(script.TEXT.format(versions=script.versions()))
    time_major = script.ROWS[0]
    elmans = script.found(time_major, time_major.elmans)
    assert elmans.startswith("right at every size; ")
    if with_these:
        assert rows[0][1:] == [script.found(time_major, time_major.torchs), elmans]


def test_sizes_that_are_wrong_are_told(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file like an unrolled loop over 20 steps, and one that never runs."""
    row = script.ROWS[0]
    module = row.torchs().eval()

    class Unrolled:
        def __init__(self, content: bytes) -> None:
            pass

        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="x")]

        def run(self, names: None, feed: dict[str, Any]) -> list[Any]:
            x = torch.from_numpy(feed["x"])
            if len(x) < 20:
                raise RuntimeError("Status Message: too short\nand more")
            with torch.no_grad():
                return [value.numpy() for value in flat(module(x[:20]))]

    class Never(Unrolled):
        def run(self, names: None, feed: dict[str, Any]) -> list[Any]:
            raise RuntimeError("Status Message: no kernel") from None

    said = {}
    for kind in (Unrolled, Never):
        monkeypatch.setattr(script, "session", kind)
        said[kind] = script.verdict(onnx.ModelProto(), module, row)
    assert said[Unrolled] == "right at the example's size and B = 5, stops at T = 7, wrong at T = 31"
    assert said[Never] == "stops at every size (no kernel)"
    assert not script.alike(torch.zeros(3), torch.full((3,), 3e-4))
    assert not script.alike(torch.zeros(3), torch.zeros(1, 3))
