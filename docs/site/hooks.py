"""What mkdocs is told besides mkdocs.yml: pages that lie at the root of the repository, and links that lead out of docs/."""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

log = logging.getLogger("mkdocs.hooks")  # a warning there fails a strict build
ROOT = Path(__file__).parent.parent.parent
# Pages of the site that are files at the root of the repository.
PAGES = {
    "index.md": "README.md",
    "zh/index.md": "README.zh.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made here."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "decisions.md", content=_decisions()))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Makes links fit the site: those of the pages from the root, and those to files that the site has not."""
    own = page.file.src_uri
    source = PAGES.get(own, f"docs/{own}")  # where the page lies in the repository

    def fitted(found: re.Match[str]) -> str:
        sign, text, target = found.groups()
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        on_site = next((site for site, at in PAGES.items() if at == path), path.removeprefix("docs/"))
        if path.startswith("docs/") or on_site in PAGES:
            if files.get_file_from_path(on_site) is not None or sign:
                relative = posixpath.relpath(on_site, posixpath.dirname(own) or ".")
                return f"{sign}[{text}]({relative}{'#' + anchor if anchor else ''})"
            if path == "docs/decisions":
                return f"[{text}](decisions.md)"
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which does not exist", source, path)
        # A file that only the repository has.
        return text if path in text.replace("`", "") else f"{text} (`{path}`)"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(fitted, part) for part in parts)


def _decisions() -> str:
    """Returns a page that lists the decisions."""
    lines = ["# Decisions", "", "Why things are as they are, half a page each.", ""]
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"- [{title}](decisions/{path.name})")
    return "\n".join(lines) + "\n"
