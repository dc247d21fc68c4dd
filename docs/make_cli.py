"""Writes docs/cli.md from what `--help` prints; with --check, says whether it is up to date."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from generated import write_or_check

from elman.cli import app

PAGE = Path(__file__).parent / "cli.md"


def commands(of: Any, name: str = "") -> Iterator[str]:
    """Every command of the program and of its groups, in the order of `--help`; itself first, as the empty name."""
    yield name
    for each, command in getattr(of, "commands", {}).items():
        yield from commands(command, f"{name} {each}".strip())


def page() -> str:
    parts = ["# Command line\n\nWritten by `python docs/make_cli.py` from what `--help` prints.\n"]
    for command in commands(typer.main.get_command(app)):
        words = [sys.executable, "-m", "elman", *command.split(), "--help"]
        done = subprocess.run(
            words,
            env=os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100"},
            capture_output=True,
            text=True,
            check=True,
        )
        parts.append(f"## elman {command}".rstrip() + f"\n\n```text\n{done.stdout.strip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    write_or_check(PAGE, page())
