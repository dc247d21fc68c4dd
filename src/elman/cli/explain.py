"""`elman explain`: look inside a language model while it reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from elman.cli.common import device
from elman.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLE = 'Example:  elman explain runs/first --text "for key in sorted(dictionary):" --output gates.png'


def explain(
    run: Path = typer.Argument(..., help="Directory of a run."),
    text: str | None = typer.Option(
        None, help="Text to read; default: sixty characters of the validation text.", show_default=False
    ),
    layer: int = typer.Option(1, help="Layer to look at, from 1."),
    units: int = typer.Option(16, help="How many units to show, those that remember most first."),
    panels: str | None = typer.Option(
        None,
        help="What to show, with commas between: states and gates by their names, and gradient, such as c,f,gradient; "
        "all if left out.",
        show_default=False,
    ),
    output: Path | None = typer.Option(
        None, help="Picture to write; default gates.png in the run's directory.", show_default=False
    ),
) -> None:
    """Draw what a network does along a text.

    The cell state, output and gates of the units that remember most, and how far back the last prediction's loss looks.
    """
    from elman import charts
    from elman.datasets.text import EXCERPT
    from elman.explain import pictures
    from elman.tasks.language_model import PER, load

    chosen = device("cpu")

    if units < 1:
        raise InputError(f"--units must be 1 or more, got {units}")
    model, vocabulary, config = load(run, chosen)
    path = output or run / "gates.png"
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

    for name, norms in insight.gradients.items():
        print(f"gradient of state {name}: {_reach(name, norms, per)}")
    print(f"picture in {path}", file=sys.stderr)


def _reach(state: str, norms: NDArray[Any], per: str) -> str:
    """Says how far back the last prediction looks: to the first place where the gradient is a thousandth of its largest."""
    if not norms.max() > 0:
        return f"nothing that {state} held changes the last prediction"
    count = len(norms) - int((norms >= norms.max() / 1000).argmax())
    steps = f"{count} {per}{'' if count == 1 else 's'}"
    if count == len(norms):
        return (
            f"the last prediction looks back over the whole text, {steps}: even what {state} held at the first of them "
            "counts at least a thousandth of what counts most"
        )
    return (
        f"the last prediction looks back over {steps}: what {state} held before them counts less than a thousandth of "
        "what counts most"
    )
