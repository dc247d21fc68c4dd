"""Runs as ONNX files, which have all that the commands need besides the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elman import tasks
from elman.datasets import audio
from elman.onnx import ports
from elman.onnx.exporting import write
from elman.onnx.model_file import ModelFile
from elman.onnx.proof import Proof
from elman.tasks.parts import hearing_of
from elman.tasks.sequence_model import Ear
from elman.training.fitting import START
from elman.training.record import data_of
from elman.training.run import Run
from elman.training.task import as_it_is

KEPT = ("vocabulary.json", "tokenizer.json", "scales.json")  # what a run knows of its data


def export_run(
    run: str | Path,
    path: str | Path,
    *,
    streaming: bool = False,
    int8: bool = False,
    further: Mapping[str, Any] | None = None,
) -> Proof:
    """Writes the model of a run to an ONNX file. Returns its path and its errors.

    A language model takes tokens (T, B) and states, h_0 and so on, (L, B, H), which may be left out, and returns logits
    (T, B, size) and the states after them. The other tasks have the inputs and outputs that docs/onnx.md lists.
    The file also has what the run knows of its data, as JSON in its metadata, but not where these are. So it can be given to
    `elman sample`, `evaluate` and `predict` in place of the run.

    streaming: one step of a language model, tokens (B,), or of a causal model of numbers, x (B, numbers), or of texts, tokens (B,), and states that
    cannot be left out.
    int8: products with weights in integers, as in `elman.onnx.export`.
    further: what else the metadata are to have, by names without "elman.".
    Raises InputError if the run cannot be read, or streamed, or the file cannot be written or fails its proof.
    """
    record = Run(Path(run))
    name = record.task(tasks.MODULES)
    config = record.json("config.json")
    trained: Any = tasks.module(name).load(record)
    kept = {each.removesuffix(".json"): record.json(each) for each in KEPT if record.has(each)}
    if config["options"].get("audio") is not None:
        kept["vocabulary"] |= _listening(trained, streaming)
    port = ports.of_task(trained.model, streaming)
    notes = {"task": name, "config": without_paths(config)} | kept | dict(port.notes) | dict(further or {})
    return write(port._replace(notes=notes), Path(path), int8)


def _listening(trained: Any, streaming: bool) -> dict[str, Any]:
    """Lets the model of a run that has learned from audio read samples. Returns what it then knows of its channels."""
    reading, spectrum = trained.reading, audio.spectrum(hearing_of(trained.options))
    samples = spectrum.width if streaming else spectrum.step
    trained.model.listen(Ear(spectrum, reading.mean, reading.deviation), samples)
    return {"samples": samples, "channels": [], "mean": [0.0] * samples, "deviation": [1.0] * samples}


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns config.json without the data: neither where they are, nor a piece of them; and without where another run is."""
    data, options = dict(config["data"]), dict(config["options"])
    if data["path"] is not None:
        data["path"] = ""  # `elman.training.record.NOT_KEPT`
    if options.get("validation") is not None:
        options["validation"] = None
    if "excerpt" in data:
        data["excerpt"] = ""
    kept = {name: value for name, value in config.items() if name != START}
    return kept | {"data": data, "options": options}


def losses(run: str | Path, path: str | Path) -> tuple[str, float, float]:
    """Returns what the loss of a run is called, its value on the validation data, and that of a file that was exported from it.

    Raises InputError if the data cannot be read.
    """
    record = Run(Path(run))
    module: Any = tasks.module(record.task(tasks.MODULES))
    options, config = record.options(module.Options, module.CONFIG)
    task = module.resume(record, data_of(config), options, "cpu")
    found = []
    for each in (record, ModelFile(Path(path))):
        task.use(module.load(each))
        found.append(float(as_it_is(task)[f"validation_{task.measure}"]))
    return f"{task.measure} per {task.unit}" if task.measure == "nats" else task.measure, *found
