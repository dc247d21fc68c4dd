"""`elman detect`: which rows of a series are unusual."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from elman.beginning import needs_onnx, without_training
from elman.cli.common import opened
from elman.errors import InputError

EXAMPLE = "Example:  elman detect runs/load now.csv --output unusual.csv"
PICTURES, MODELS = (".png", ".svg", ".pdf"), (".onnx",)


def detect(
    run: Path = typer.Argument(..., help="Directory of a run of `elman train forecast`, or its exported file."),
    file: Path = typer.Argument(..., help="Data in the form that the run was trained on."),
    usual: Path | None = typer.Option(
        None,
        help="Data whose rows are usual, to measure by; default: the validation part of the training data.",
        show_default=False,
    ),
    ahead: int | None = typer.Option(
        None,
        help="Compare each row with the forecast that was made so many steps before it; "
        "default: --horizon of the run, but at most its --period.",
        show_default=False,
    ),
    false_alarms: float | None = typer.Option(
        None,
        help="Share of usual rows that may be called unusual; default: 0.001, or the smallest share that they can tell.",
        show_default=False,
    ),
    label: str | None = typer.Option(
        None, help="Column that says which rows are unusual (1 or 0), to judge the model by.", show_default=False
    ),
    output: Path | None = typer.Option(
        None,
        help="File to write as well: a row for each row of FILE (.csv, .jsonl), a picture (.png, .svg, .pdf), or the model "
        "with what is usual (.onnx).",
        show_default=False,
    ),
    device_name: str = typer.Option("auto", "--device", help="auto, cpu, cuda, ..."),
) -> None:
    """Say which rows of a time series are unusual, and in which column.

    Each row is compared with the forecast of it. Its score says how far off its worst number is, once the other columns are
    known, in standard deviations of usual rows. A row is unusual if so few usual rows score as much as --false-alarms says.
    With --label, the naive forecasts are judged by the same labels.
    """
    from elman import tasks
    from elman.datasets.tables import JSON_LINES
    from elman.files import check_writable, write_atomically
    from elman.tasks import forecasting
    from elman.tasks.findings import Findings
    from elman.tasks.unusual import USUAL, Detector

    record, device = opened(run, device_name)
    if (task := record.task(tasks.MODULES)) != "forecast":
        lm = "; elman predict says how unusual each line of a text is" if task == "lm" else ""
        raise InputError(f"{run} is a run of {task!r}, but elman detect needs a run of elman train forecast{lm}")
    form, tables = output.suffix.lower() if output is not None else "", (".csv", *JSON_LINES)
    if output is not None:
        if form not in (forms := (*tables, *PICTURES, *MODELS)):
            raise InputError(f"{output}: what is found is written as {', '.join(forms)}; choose one of these endings")
        check_writable(output)
    if form in MODELS and run.is_file():
        raise InputError(f"{run} is an exported model already; give the directory of a run, to write {output} from")
    runs = needs_onnx("writing a model").runs if form in MODELS else None
    with without_training():
        forecaster = forecasting.load(record, device)
        if usual is None and record.has(USUAL):
            detector = Detector.load(forecaster, record, ahead)
        else:
            detector = Detector.of(forecaster, ahead, usual)
        found = Findings(detector, file, false_alarms, label)
    for name, text in found.report():
        print(f"{name:<20} {text}")
    for remark in detector.remarks:
        print(remark, file=sys.stderr)
    if output is not None and form in tables:
        write_atomically(output, (row.encode() for row in found.table(form)))
    elif output is not None and form in PICTURES:
        found.draw(output)
    elif output is not None and runs is not None:
        runs.export_run(run, output, further={USUAL.removesuffix(".json"): detector.as_json()})
