"""One HTML file that shows what a network does. It holds all that it needs, and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import elman
from elman import tasks
from elman.errors import InputError
from elman.explain import attention, directions, past
from elman.explain.language import language_models
from elman.files import write_atomically
from elman.training.run import Run

FILES = {  # the parts of a page, by its task, in their order
    "lm": "engine core model ribbon predictions unrolled equations units reach tracking start",
    "tag": "core items words",
    "classify": "core items series steps",
    "multilabel": "core items series steps",
    "regress": "core items series steps",
    "each step": "core items series every",  # of a model that says something of each step, as a transcriber does
    "translate": "core items attention",
    "forecast": "core items past",
}
LANGUAGES = ("en", "zh")
COMPARED = 2  # runs beside the first at most
HEIGHT = 820  # pixels of the frame in a notebook


class Page:
    """A page as text. In a notebook it shows itself.

    findings and remarks: what there is to say about it, of the networks and of what is not shown.
    """

    def __init__(self, html: str, findings: Sequence[str] = (), remarks: Sequence[str] = ()):
        self.html, self.findings, self.remarks = html, list(findings), list(remarks)

    def save(self, path: str | Path) -> Path:
        """Writes the page to a file, which is replaced as a whole. Raises InputError if that fails."""
        write_atomically(Path(path), self.html.encode())
        return Path(path)

    def _repr_html_(self) -> str:
        return (
            f'<iframe sandbox="allow-scripts" style="width: 100%; height: {HEIGHT}px; border: 0" '
            f'srcdoc="{html.escape(self.html)}"></iframe>'
        )


def page(
    run: str | Path,
    text: str | None = None,
    compare: Sequence[str | Path] = (),
    data: str | Path | None = None,
) -> Page:
    """Returns a page on which one sees what the network of a run does: `page("runs/first").save("first.html")`.

    text: what it reads; None for held-out text. On the page of a language model another text can be typed.
    compare: up to two more language models, of the same unit, to show beside it.
    data: a file for the model of another task, in the form that it was trained on; None for its held-out part.
    Raises InputError if a page cannot hold the runs or the text.
    """
    directory, others = Path(run), [Path(each) for each in compare]
    task = Run(directory).task(tasks.MODULES)
    if len(others) > COMPARED:
        raise InputError(f"{len(others)} runs to compare with are too many; give at most {COMPARED}")
    for each in (directory, *others) if others else ():
        if (other := Run(each).task(tasks.MODULES)) != "lm":
            raise InputError(
                f"{each} is a run of {other!r}, but only language models are compared; leave out --compare"
            )
    if task == "lm" and data is not None:
        raise InputError(f"{directory} is a language model, which reads a text; give --text instead of --data")
    if task in ("tag", "classify", "multilabel", "regress", "transcribe", "translate") and None not in (text, data):
        raise InputError(f"--text and --data {data} both say what {directory} reads; give one of them")
    if task == "lm":
        made = language_models([directory, *others], text)
    else:
        of = {
            "tag": directions.tagger,
            "classify": directions.classifier,
            "multilabel": directions.multilabeler,
            "regress": directions.regressor,
            "transcribe": directions.transcriber,
            "translate": attention.translator,
            "forecast": past.forecaster,
        }[task]
        made = of(directory, text, None if data is None else Path(data))
    return Page(assemble(made.data), made.findings, made.remarks)


def assemble(data: dict[str, Any]) -> str:
    """Returns the page that shows these contents."""

    def asset(name: str) -> str:
        return files("elman.explain").joinpath("assets", name).read_text(encoding="utf-8")

    strings = {language: json.loads(asset(f"{language}.json")) for language in LANGUAGES}
    parts = (asset(f"{name}.js") for name in FILES["each step" if data.get("each_step") else data["task"]].split())
    script = "\n".join(['"use strict";', "(() => {", f"const STRINGS = {_json(strings)};", *parts, "})();"])
    fingerprint = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    inside = {
        "FINGERPRINT": fingerprint,
        "STYLE": asset("style.css"),
        "DATA": _json(data | {"elman": elman.__version__}),
        "SCRIPT": script,
    }
    # In one pass: a text may well contain such a mark itself.
    return re.sub(r"/\*([A-Z]+)\*/", lambda mark: inside[mark[1]], asset("page.html"))


def _json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element or begin a comment."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
