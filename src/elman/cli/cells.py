"""`elman cells`: the built-in cells and their equations."""

from __future__ import annotations

import typer

EXAMPLE = "Example:  elman cells gru --input-size 64 --hidden-size 128"


def cells(
    name: str | None = typer.Argument(
        None, help="A cell, to see its equations; all are listed if left out.", metavar="CELL", show_default=False
    ),
    input_size: int = typer.Option(128, help="Input size for the count of parameters."),
    hidden_size: int = typer.Option(128, help="Units for the count of parameters."),
    proj_size: int = typer.Option(64, help="Width of a projected state, for a cell that has one."),
) -> None:
    """List the cells, or print the equations of one.

    Equations are printed as mathematics, read from the source of the cell.
    """
    from elman import cells as built_in
    from elman.errors import InputError
    from elman.layout import NAMES, parameter_shapes
    from elman.mathematics import equations

    if name is None:
        for cell in built_in.BUILT_IN.values():
            summary = (cell.step.__doc__ or "").strip().splitlines()[0]
            if cell.projected:  # the models of `elman train` have no use for it
                summary += " For layers in Python, not for --cell."
            typer.echo(f"{cell.name:<22} gates {' '.join(cell.gates):<8} states {' '.join(cell.states):<4} {summary}")
        return
    cell = built_in.by_name(name)
    if min(input_size, hidden_size, proj_size) < 1:
        raise InputError(
            f"sizes must be 1 or more, got --input-size {input_size}, --hidden-size {hidden_size} and --proj-size {proj_size}"
        )
    shapes = parameter_shapes(cell, input_size, hidden_size, proj_size if cell.projected else 0)
    counts = {field: shape[0] * (shape[1] if len(shape) > 1 else 1) for field, shape in shapes.items()}

    typer.echo(f"{cell.name}: {(cell.step.__doc__ or '').strip().splitlines()[0]}\n")
    for line in equations(cell):
        typer.echo(f"    {line}")
    typer.echo(f"\ngates       {', '.join(cell.gates)}")
    typer.echo(f"states      {', '.join(cell.states)}; the first is the output")
    if cell.vectors:
        typer.echo(f"vectors     {', '.join(cell.vectors)}: one weight per unit")
    typer.echo(
        f"parameters  {sum(counts.values()):,} for input_size={input_size}, hidden_size={hidden_size}{f', proj_size={proj_size}' if cell.projected else ''}"
    )
    for field, shape in shapes.items():
        typer.echo(
            f"            {NAMES[field].format(0, ''):<13} {' x '.join(map(str, shape)):<12} {counts[field]:>10,}"
        )
    typer.echo(f"source      {cell.reference}")
    typer.echo(
        "\nW, b: weight_ih, bias_ih.  R, b': weight_hh, bias_hh.  p: weight_ch.  P: weight_hr.  σ: sigmoid.  ⊙: elementwise."
    )
