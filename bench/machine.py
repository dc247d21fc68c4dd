"""The machine and the versions that the numbers were measured with."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def processor() -> str:
    """Returns the processor's name, model number and widest vectors, and how many cores this process may use."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    fields = dict(re.findall(r"^(model name|model|flags)\s*: (.*)$", text, re.MULTILINE))
    name = re.sub(r"\s+", " ", fields.get("model name", platform.machine()))
    widest = next((what for what in ("avx512f", "avx2", "avx") if what in fields.get("flags", "").split()), "")
    parts = [name.strip(), f"model {fields['model']}" if "model" in fields else "", widest.removesuffix("f").upper()]
    return ", ".join([part for part in parts if part] + [f"{len(os.sched_getaffinity(0))} cores"])


def commit() -> str:
    """Returns the short hash of the commit, marked if the files in src differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    found = git("rev-parse", "--short", "HEAD")
    return f"{found} with changes" if git("status", "--porcelain", "--", "src") else found


def own_version() -> str:
    return f"elman {version('elman')} ({commit()}), Python {platform.python_version()}, {platform.system()}"
