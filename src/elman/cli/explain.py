"""`elman explain`: look inside a language model while it reads."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from elman.cli.common import device
from elman.errors import InputError

EXAMPLE = 'Example:  elman explain runs/first --text "for key in sorted(dictionary):" --output gates.png'


def explain(
    run: Path = typer.Argument(..., help="Directory of a run."),
    text: str | None = typer.Option(
        None, help="Text to read; the beginning of the text held out if left out.", show_default=False
    ),
    layer: int = typer.Option(1, help="Layer to look at, from 1."),
    units: int = typer.Option(16, help="How many units to show, the most active first."),
    output: Path | None = typer.Option(
        None, help="Picture to write; default gates.png in the run's directory.", show_default=False
    ),
) -> None:
    """Draw what a network does along a text.

    Every gate of its most active units, and how far back the last prediction's loss looks.
    """
    from elman import charts
    from elman.explain import pictures
    from elman.tasks.language_model import PER, load

    chosen = device("cpu")

    if units < 1:
        raise InputError(f"--units must be 1 or more, got {units}")
    model, vocabulary, config = load(run, chosen)
    if text is None:
        text = str(config["data"]["excerpt"])
    insight = pictures.look(model, vocabulary, text, layer)
    options = config["options"]
    title = f"{options['cell']}, layer {layer} of {options['num_layers']}, {options['hidden_size']} units"
    path = output or run / "gates.png"
    charts.save(pictures.memory(insight, title, units), path)

    # The reach of the gradient as a number: how many steps back it falls below a thousandth of its largest value.
    for name, norms in insight.gradients.items():
        reach = next((back for back, norm in enumerate(norms[::-1]) if norm < norms.max() / 1000), None)
        fall = f"falls below a thousandth of its largest value {reach} {PER[vocabulary.unit]}s back"
        print(
            f"gradient of state {name}: {fall if reach is not None else 'stays above a thousandth of its largest value'}"
        )
    print(f"picture in {path}", file=sys.stderr)
