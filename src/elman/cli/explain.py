"""`elman explain`: look inside a network while it reads."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from elman.beginning import without_training
from elman.cli.common import device, given
from elman.errors import InputError

EXAMPLE = "Example:  elman explain runs/first --compare runs/second --output first.html"
OF_PICTURES, OF_PAGES = ("layer", "units", "panels"), ("compare", "data")


def explain(
    context: typer.Context,
    run: Path = typer.Argument(..., help="Directory of a run."),
    text: str | None = typer.Option(
        None,
        help="Text to read; default: held-out text, sixty characters for a picture and four hundred for a page.",
        show_default=False,
    ),
    output: Path | None = typer.Option(
        None,
        help="File to write: a page (.html), or a picture (.png, .svg, .pdf); default gates.png in the run's directory, "
        "or page.html for other tasks than lm.",
        show_default=False,
    ),
    compare: list[Path] = typer.Option(
        [], help="Another run to show on the page beside the first; may be given twice.", show_default=False
    ),
    data: Path | None = typer.Option(
        None,
        help="Data for the page of another task than lm, in the form that the run was trained on; "
        "default: its held-out part.",
        show_default=False,
    ),
    layer: int = typer.Option(1, help="Layer that a picture shows, from 1."),
    units: int = typer.Option(16, help="How many units a picture shows, those that remember most first."),
    panels: str | None = typer.Option(
        None,
        help="What a picture shows, with commas between: states and gates by their names, and gradient, such as "
        "c,f,gradient; all if left out.",
        show_default=False,
    ),
) -> None:
    """Show what a network does while it reads: as a page for a browser, or as a picture.

    The page (--output NAME.html) has the network in it: choose a moment in the text, see what it expects and why, and type
    another text. A picture shows the units of a language model that remember most, and how far back its last prediction looks.
    """
    from elman import tasks
    from elman.training.run import Run

    task = Run(run).task(tasks.MODULES)
    path = output or run / ("gates.png" if task == "lm" else "page.html")
    paged = path.suffix.lower() in (".html", ".htm")
    for name in OF_PICTURES if paged else OF_PAGES:
        if name in given(context):
            needs, other = ("pictures", "leave it out") if paged else ("pages", "give --output NAME.html")
            raise InputError(f"--{name} is for {needs}, and {path} is none; {other}")
    if not paged and task != "lm":
        raise InputError(
            f"{run} is a run of {task!r}, of which there is no picture; give --output NAME.html for a page"
        )
    if paged:
        _page(run, text, path, compare, data)
    else:
        _picture(run, text, path, layer, units, panels)


def _page(run: Path, text: str | None, path: Path, compare: list[Path], data: Path | None) -> None:
    from elman.explain import page
    from elman.files import check_writable

    device("cpu")
    check_writable(path)
    with without_training():
        made = page(run, text, compare, data)
    made.save(path)
    for finding in made.findings:
        print(finding)
    for remark in (*made.remarks, f"page in {path}; open it in a browser"):
        print(remark, file=sys.stderr)


def _picture(run: Path, text: str | None, path: Path, layer: int, units: int, panels: str | None) -> None:
    from elman import charts
    from elman.datasets.text import EXCERPT
    from elman.explain import memory, pictures
    from elman.tasks.language_model import PER, load

    if units < 1:
        raise InputError(f"--units must be 1 or more, got {units}")
    model, vocabulary, config = load(run, device("cpu"))
    charts.check_path(path)
    if text is None:
        text = str(config["data"]["excerpt"])[:EXCERPT]
    insight = pictures.look(model, vocabulary, text, layer)
    per, many = PER[vocabulary.unit], len(insight.tokens)
    if begin := pictures.shown(insight.tokens):
        print(
            f"the picture shows the last {many - begin} of {many} {per}s; the network reads all of them",
            file=sys.stderr,
        )
    options = config["options"]
    title = f"{options['cell']}, layer {layer} of {options['num_layers']}, {options['hidden_size']} units"
    names = [name.strip() for name in panels.split(",")] if panels else []
    charts.save(pictures.memory(insight, title, units, names), path)
    norms = memory.gradients_by_token(model, memory.encoded(vocabulary, text))
    print(memory.looks_back(memory.reach(norms), len(norms), per))
    print(f"picture in {path}", file=sys.stderr)
