"""Docstrings as Markdown. They are written to be read in a terminal: a line `name: what it is` for each argument."""

from __future__ import annotations

import re
from typing import Any

import griffe

ARGUMENT = re.compile(r"^((?:[a-z][\w\\]*(?: [A-Z]\w*)?(?:, | and )?)+): (?=\S)")


class PlainDocstrings(griffe.Extension):
    """Makes a list of the lines on arguments, and keeps signs such as * from meaning anything else."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and not obj.is_module:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    lines: list[str] = []
    for line in docstring.splitlines():
        if not line.startswith("    "):  # what is indented is code, and so is what stands between `
            parts = line.split("`")
            line = "`".join(p if k % 2 else re.sub(r"([*<_])", r"\\\1", p) for k, p in enumerate(parts))
        argument = ARGUMENT.match(line)
        if argument:
            if lines and lines[-1] and not lines[-1].startswith("- "):
                lines.append("")
            line = f"- **{argument[1]}**: {line[argument.end() :]}"
        elif line.startswith(("Returns ", "Raises ", "Source: ")) and lines and lines[-1]:
            lines.append("")
        lines.append(line)
    return "\n".join(lines)
