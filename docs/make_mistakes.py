"""Writes docs/mistakes.md by making every mistake; with --check, says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from generated import write_or_check

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import mistakes_on_the_command_line

PAGE = Path(__file__).parent / "mistakes.md"


def in_a_cell() -> list[str]:
    from mistakes import GOOD, SLIPS

    body = [f"    {GOOD[name]}" for name in ("f", "n", "return")]
    lines = ["## In your own cell", "", f"One line of this cell is replaced at a time, in {len(SLIPS)} ways:", ""]
    lines += ["```text", GOOD["step"], *body, "", GOOD["cell"], "```", ""]
    lines += [
        "Errors are raised when the layer is created or in its first call. Warnings appear in the first call.",
        "",
    ]
    lines += ["| line | message |", "|---|---|"]
    for slip in SLIPS:
        written = "<br>".join(f"`{line}`" for line in (slip.before, slip.line) if line)
        lines.append(f"| {written} | {slip.said()} |")
    return lines


def on_the_command_line() -> list[str]:
    return mistakes_on_the_command_line.section().splitlines()


PARTS = [in_a_cell, on_the_command_line]  # each returns the lines of a section


def page() -> str:
    lines = [
        "# Common mistakes and their messages",
        "",
        "Written by `python docs/make_mistakes.py`, which makes each mistake and records the message.",
    ]
    for part in PARTS:
        lines += ["", *part()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_or_check(PAGE, page())
