"""A run: the directory with a trained model, the record of its training, and the checkpoint to resume from.

    config.json         the options, the size and origin of the data, and the baselines
    vocabulary.json     the words, characters, tags or classes that were learned from the data
    scales.json         the columns of a forecaster, their means and deviations
    tokenizer.json      the vocabulary of byte pairs, in place of vocabulary.json
    model.safetensors   the parameters with the best score on held-out data
    metrics.csv         one row per evaluation
    checkpoint/state.safetensors   everything that is needed to resume bit for bit
    samples.txt         what a language model wrote after every evaluation
    loss.png            a plot of the losses
    confusion.png       which label is taken for which, of a tagger or classifier
    calibration.png     whether the probabilities of a classifier are right as often as they say
    forecast.png        forecasts beside the truth
    gates.png           the picture that `elman explain` draws
    page.html           the page that it writes
    tensorboard/        the metrics for TensorBoard, if they were asked for
    lock                the number of the process that trains the run, while one does

A file is always replaced as a whole. No pickle is written or read.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from elman.errors import InputError
from elman.files import check_directory, read_json, write_atomically
from elman.training.lock import Lock
from elman.training.record import Model, Record

MODEL, CHECKPOINT, SAMPLES = "model.safetensors", "checkpoint/state.safetensors", "samples.txt"
EVENTS = "tensorboard/events.out.tfevents.*"  # as TensorBoard names them
SAMPLE = re.compile(r"^--- step (\d+)$", re.MULTILINE)  # the beginning of one

GIVEN = "given"  # in config.json: the names of files in the directory that have data which a program gave
FILES = (
    "config.json",
    "vocabulary.json",
    "tokenizer.json",
    "scales.json",
    MODEL,
    "metrics.csv",
    CHECKPOINT,
    SAMPLES,
    "loss.png",
    "gates.png",
    "page.html",
    "confusion.png",
    "calibration.png",
    "forecast.png",
)


class Run(Record):
    """The directory of one run. If reading or writing fails, methods raise InputError with the file and the reason."""

    def __init__(self, directory: Path, writes: bool = True):
        """writes: False for a process that trains together with another one, which writes the files."""
        self.directory, self.writes = directory, writes
        self._lock = Lock(directory / "lock")

    @property
    def exists(self) -> bool:
        """Whether elman made this directory. No other directory may be overwritten."""
        path = self.directory / "config.json"
        try:
            return path.exists() and "elman" in read_json(path)
        except InputError:
            return False

    def check_free(self, overwrite: bool, given: Collection[Path] = ()) -> None:
        """Raises InputError if the directory holds a run that must not be overwritten, or any other files.

        given: files in it that are for the new run.
        """
        self.check_untrained(", or give another --run")
        check_directory(self.directory)
        try:
            known = {path.name for path in given}
            occupied = self.directory.exists() and not all(path.name in known for path in self.directory.iterdir())
        except OSError as error:
            raise InputError(_unusable(self.directory, error)) from error
        if self.exists and not overwrite:
            raise InputError(
                f"{self.directory} already holds a run; resume it with --resume {self.directory}, replace it with --overwrite, or choose another --run"
            )
        if occupied and not self.exists:
            raise InputError(f"{self.directory} is not empty and holds no run of elman; choose another directory")

    def check_untrained(self, otherwise: str = "") -> None:
        """Raises InputError if another process trains the run. otherwise: what else can be done about it."""
        if other := self._lock.holder():
            raise InputError(_trained_by(self.directory, other, otherwise))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training the run meanwhile. Raises InputError if one does so already."""
        if not self.writes:  # the process that writes has the lock
            yield
            return
        try:
            other = self._lock.take()
        except OSError as error:
            raise InputError(_unusable(self.directory, error)) from error
        if other:
            raise InputError(_trained_by(self.directory, other))
        try:
            yield
        finally:
            self._lock.give_back()

    def create(self, config: dict[str, Any]) -> None:
        """Makes the directory, removes the files of an earlier run, and writes config.json."""
        if not self.writes:
            return
        earlier, place = self.given, self.directory.resolve()
        read = {config.get("data", {}).get("path"), config.get("options", {}).get("validation")}
        again = [name for name in earlier if str(place / name) in read]
        if again:  # the new run learns from data of the old one
            config[GIVEN] = [*config.get(GIVEN, []), *again]
        try:
            (self.directory / "checkpoint").mkdir(parents=True, exist_ok=True)
            with self.locked():
                for name in FILES:
                    (self.directory / name).unlink(missing_ok=True)
                for events in self.directory.glob(EVENTS):
                    events.unlink()
                self.sweep()
                self.save_config(config)
                for name in {*earlier}.difference(config.get(GIVEN, [])):
                    (self.directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(_unusable(self.directory, error)) from error

    @property
    def given(self) -> list[str]:
        """The names of files in the directory that have data which a program gave (`elman.datasets.given`)."""
        with contextlib.suppress(InputError):
            names = self.json("config.json").get(GIVEN, []) if self.exists else []
            return [name for name in names if isinstance(name, str) and Path(name).name == name]
        return []

    def sweep(self) -> None:
        """Removes the temporary files that a process leaves beside a run's file when it is killed while writing."""
        for name in FILES if self.writes else ():
            path = self.directory / name
            for leftover in path.parent.glob(f".{path.name}.*"):
                leftover.unlink(missing_ok=True)

    def save_config(self, config: dict[str, Any]) -> None:
        self._write("config.json", json.dumps(config, indent=2, ensure_ascii=False).encode())

    def _write(self, name: str, content: bytes) -> None:
        if self.writes:
            if not self.directory.is_dir():
                raise InputError(f"{self.directory} was removed while it was trained; train again")
            write_atomically(self.directory / name, content)

    def place(self, name: str) -> str:
        return str(self.directory / name)

    def has(self, name: str) -> bool:
        return (self.directory / name).exists()

    def json(self, name: str) -> dict[str, Any]:
        if not self.directory.is_dir():
            problem = "is a file, but a run is a directory" if self.directory.exists() else "does not exist"
            raise InputError(f"{self.directory} {problem}; give the directory of a run, as `elman train` made it")
        if name == "config.json" and not self.has(name):
            raise InputError(
                f"{self.directory} is not a run of elman: it has no config.json; give the directory that `elman train` made"
            )
        content = read_json(self.directory / name)
        given = content.get(GIVEN) if name == "config.json" else None
        if isinstance(given, list):  # files of the run, which may have been moved
            here = {each: str(self.directory.resolve() / each) for each in map(str, given)}
            for entries, key in ((content.get("data"), "path"), (content.get("options"), "validation")):
                if isinstance(entries, dict) and isinstance(entries.get(key), str):
                    entries[key] = here.get(Path(entries[key]).name, entries[key])
        return content

    # Tensors

    def save_tensors(self, name: str, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Writes tensors and a JSON object into one file, so that both always belong to the same step."""
        if not self.writes:
            return
        self._write(name, safetensors.torch.save(_apart(tensors), {"elman": json.dumps(notes)}))

    def load_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        path = self.directory / name
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                # Clone them into memory that torch aligns: matrix products round differently on unaligned memory.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a dict
                notes = json.loads((file.metadata() or {})["elman"])
            if not isinstance(notes, dict):
                raise ValueError(f"its notes are {notes!r}")
        except FileNotFoundError as error:
            raise InputError(
                f"{path} is missing: the run was stopped before it was first written, or it is incomplete; train again"
            ) from error
        except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
            raise InputError(f"{path} is damaged or not elman's: {error}; restore it or train again") from error
        return tensors, notes

    def digest(self) -> str | None:
        try:
            with safetensors.safe_open(self.directory / CHECKPOINT, framework="pt") as file:
                digest = json.loads((file.metadata() or {})["elman"])["data"]
        except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError):
            return None
        return digest if isinstance(digest, str) else None

    def model(self, make: Callable[[], Model], device: str) -> Model:
        model = make()
        self.fill(model)
        return model.to(device).eval()

    def fill(self, model: torch.nn.Module) -> dict[str, Any]:
        """Gives a model the parameters that were kept, and returns their notes: the step and the score."""
        tensors, notes = self.load_tensors(MODEL)
        fill(model, tensors, self.directory / MODEL)
        return notes

    # Metrics

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Adds a row to metrics.csv. The keys of the first row are the columns."""
        rows = [*self.metrics(), {key: _shortest(value) for key, value in row.items()}]
        self._write_metrics(rows)

    def metrics(self, *columns: str) -> list[dict[str, str]]:
        """Returns the rows of metrics.csv. Raises InputError if one lacks a number, or one of these columns."""
        path = self.directory / "metrics.csv"
        if not path.exists():
            return []
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                int(row["step"])
                for column in (*row, *columns):
                    float(row[column])
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise InputError(
                f"{path} is damaged: {error}; restore it, or remove it and go on without its rows"
            ) from error
        return rows

    def forget_after(self, step: int) -> None:
        """Removes what is later than `step` from metrics.csv and samples.txt: a resumed run does those steps again."""
        rows = self.metrics()
        if any(int(row["step"]) > step for row in rows):
            self._write_metrics([row for row in rows if int(row["step"]) <= step])
        samples = self._samples()
        for found in SAMPLE.finditer(samples):
            if int(found[1]) > step:
                self._write(SAMPLES, samples[: found.start()].encode())
                return

    def _write_metrics(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        if rows:
            writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        self._write("metrics.csv", text.getvalue().encode())

    # Samples

    def append_sample(self, step: int, text: str) -> None:
        """Adds to samples.txt what the model wrote after a step."""
        self._write(SAMPLES, f"{self._samples()}--- step {step}\n{text}\n".encode())

    def _samples(self) -> str:
        path = self.directory / SAMPLES
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors on the CPU, none of which shares memory with another, as tied weights do: safetensors refuses that."""
    apart, seen = dict[str, Tensor](), set[int]()
    for key, value in tensors.items():
        own = value.detach().cpu().contiguous()
        memory = own.untyped_storage().data_ptr()
        apart[key] = own.clone() if memory in seen else own
        seen.add(memory)
    return apart


def _unusable(directory: Path, error: OSError) -> str:
    return f"cannot use {directory} for a run: {error.strerror or error}; choose another directory"


def _trained_by(directory: Path, process: str, otherwise: str = "") -> str:
    return f"{directory} is being trained by process {process}; stop it first{otherwise}"


def _shortest(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def fill(model: torch.nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Loads tensors into a model. Raises InputError, with both shapes, where a tensor does not fit.

    Files of earlier versions may lack what the model calls `later`, where each name has the number that there is instead.
    """
    wanted = model.state_dict()
    later: dict[str, float] = getattr(model, "later", {})
    tensors = {name: torch.full_like(wanted[name], number) for name, number in later.items()} | tensors
    for name in sorted(wanted.keys() | tensors.keys()):
        have = tuple(tensors[name].shape) if name in tensors else "missing"
        want = tuple(wanted[name].shape) if name in wanted else "unknown to it"
        if have != want:
            raise InputError(
                f"{path} does not fit its config.json: {name} is {have} in the file and {want} in the model; restore one of them or train again"
            )
    model.load_state_dict(tensors)
