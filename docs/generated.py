"""Writes a page that is generated; with --check, says whether it is up to date instead."""

from __future__ import annotations

import sys
from pathlib import Path


def write_or_check(page: Path, text: str) -> None:
    if "--check" not in sys.argv:
        page.write_text(text, encoding="utf-8")
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        sys.exit(f"docs/{page.name} is not up to date; run: python docs/{Path(sys.argv[0]).name}")
