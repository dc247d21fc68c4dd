"""Fixtures that choose the form in which the engine `gpu` runs the time loop, in Triton's interpreter."""

from __future__ import annotations

import functools
from typing import Any

import pytest


@pytest.fixture
def resident(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass is one kernel of 2 x 2 programs for each direction, which meet. The last one runs first by default.

    The one that runs first may be lazy: see meeting.py. Weights may be in registers.
    """
    from triton.runtime import interpreter

    import meeting
    from elman.gpu import choice
    from elman.gpu.resident import Resident, Tile

    how = getattr(request, "param", "")
    monkeypatch.setattr(interpreter, "GridExecutor", meeting.Meeting)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_inline_asm", meeting.run_assembly)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_store", meeting.store)
    monkeypatch.setattr(meeting.Meeting, "backwards", "in order" not in how)
    monkeypatch.setattr(meeting.Meeting, "lazy", "lazy" in how)

    def make(form: Any, graphs: bool) -> Resident:
        loop = Resident(form, Tile(units=16, warps=2, rows=2, registers="registers" in how))
        loop.module.__dict__.update(arrive=meeting.arrive, wait=meeting.wait)
        loop.try_out()
        return loop

    monkeypatch.setattr(choice, "make", functools.cache(make))  # as on a GPU, where loops are kept


@pytest.fixture
def form(request: pytest.FixtureRequest) -> None:
    """The form "steps" or "resident"."""
    if request.param == "resident":
        request.getfixturevalue("resident")
