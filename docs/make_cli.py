"""Writes docs/cli.md from what `--help` prints; with --check, says whether it is up to date."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"COLUMNS": "100", "TERMINAL_WIDTH": "100"}  # typer reads the second when it is imported

import typer
from generated import write_or_check

from elman.cli import app, main

PAGE = Path(__file__).parent / "cli.md"


def commands(of: Any, name: str = "") -> Iterator[str]:
    """Every command of the program and of its groups, in the order of `--help`; itself first, as the empty name."""
    yield name
    for each, command in getattr(of, "commands", {}).items():
        yield from commands(command, f"{name} {each}".strip())


def help_of(command: str) -> str:
    printed = io.StringIO()
    sys.argv = ["elman", *command.split(), "--help"]
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main()
    return printed.getvalue().strip()


def page() -> str:
    parts = [
        f"## elman {command}".rstrip() + f"\n\n```text\n{help_of(command)}\n```\n"
        for command in commands(typer.main.get_command(app))
    ]
    return "\n".join(["# Command line\n\nWritten by `python docs/make_cli.py` from what `--help` prints.\n", *parts])


if __name__ == "__main__":
    given = list(sys.argv)
    content = page()
    sys.argv = given  # where --check stands
    write_or_check(PAGE, content)
