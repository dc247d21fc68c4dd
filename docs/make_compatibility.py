"""Writes docs/compatibility.md from tests/differences.py and the tests of compatibility; with --check, says whether it is
up to date."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import pytest
from generated import write_or_check

TESTS = Path(__file__).parent.parent / "tests"
PAGE = Path(__file__).parent / "compatibility.md"
SUITE = {  # what runs on torch.nn and on elman, and what it is about
    "test_torchs_own.py": "PyTorch's own inputs, references, errors and messages (`torch.testing._internal.common_modules`)",
    "test_torch.py": "constructors, results, gradients, parameters, dropout, errors, types under autocast",
    "test_one_step.py": "`RNNCell`, `LSTMCell`, `GRUCell`",
    "test_as_module.py": "operations on a module: copies, files, types, devices, parametrizations, norms, pruning, averages, hooks",
    "test_differences.py": "the lists on this page",
}


class Counter:
    """Counts the cases of a file by what they run on."""

    def __init__(self) -> None:
        self.each: dict[str, int] = dict.fromkeys(SUITE, 0)
        self.together: dict[str, int] = dict.fromkeys(SUITE, 0)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            of_one = "library" in getattr(getattr(item, "callspec", None), "params", {})
            (self.each if of_one else self.together)[item.path.name] += 1


def counted() -> Counter:
    counter = Counter()
    words = ["--collect-only", "-q", "-p", "no:cacheprovider", *(str(TESTS / name) for name in SUITE)]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = pytest.main(words, plugins=[counter])
    if status:
        sys.exit(said.getvalue())
    return counter


def table(differences: list[Any]) -> list[str]:
    def shown(outcome: str) -> str:
        return outcome if " " in outcome or outcome == "works" or outcome == "replaced" else f"`{outcome}`"

    lines = ["| | torch.nn | elman | |", "|---|---|---|---|"]
    return lines + [f"| {d.what} | {shown(d.torchs)} | {shown(d.elmans)} | {d.why} |" for d in differences]


def page() -> str:
    sys.path.insert(0, str(TESTS))
    from differences import BETTER, BOTH, LEFT

    counter = counted()
    each, together = sum(counter.each.values()) // 2, sum(counter.together.values())
    lines = [
        "# Compatibility with torch.nn",
        "",
        "Written by `python docs/make_compatibility.py` from the tests.",
        "",
        f"{each} test cases run on torch.nn and, unchanged, on elman. {together} more compare the two, or compare elman with a",
        "reference. All pass. Errors have the same types as in torch.nn, and their messages contain torch.nn's words.",
        "",
        "| cases run on each | others | tests | what they test |",
        "|---:|---:|---|---|",
        *(f"| {counter.each[n] // 2} | {counter.together[n]} | `tests/{n}` | {what} |" for n, what in SUITE.items()),
        "",
        "## What differs",
        "",
        *table(LEFT),
        "",
        "## What only elman supports",
        "",
        *table(BETTER),
        "",
        "## What neither supports, because of torch's compiler",
        "",
        *table(BOTH),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_or_check(PAGE, page())
