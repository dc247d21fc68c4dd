"""What a training has left: the directory of a run, or the file of a model that was exported."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from elman.errors import InputError
from elman.files import Kept
from elman.training.options import Options

OptionsOf = TypeVar("OptionsOf", bound=Options)
Model = TypeVar("Model", bound=nn.Module)

Entries = Mapping[str, type | tuple[type, ...]]  # names of entries in config.json, with dots inside, and their types
CONFIG: Entries = {"options": dict, "parameters": int, "baselines": dict}  # what every run has besides its task
DATA: Entries = {"data": dict, "data.path": (str, type(None))}  # what the runs of the command line have besides that
NOT_KEPT = Path()  # in place of the training data of a model that does not say where they are


class Record(Kept):
    """What is known of the data, and a model.

    It is `elman.training.run.Run` for a directory, and `elman.onnx.model_file.ModelFile` for an exported model.
    """

    @abstractmethod
    def model(self, make: Callable[[], Model], device: str) -> Model:
        """Returns the trained model, in evaluation mode. make: returns one of that kind, with any parameters."""

    def digest(self) -> str | None:
        """Returns `elman.training.task.Task.digest` of the data that were trained on, None where that is not kept."""
        return None

    def task(self, known: Collection[str]) -> str:
        """Returns the name of the task. Raises InputError if it is none of the known ones."""
        name = self.json("config.json").get("task")
        if not isinstance(name, str) or name not in known:
            place = self.place("config.json")
            raise InputError(f"{place} is that of a run for task {name!r}; this command knows {', '.join(known)}")
        return name

    def config(self, task: str, entries: Entries) -> dict[str, Any]:
        """Returns config.json, checked: it belongs to this task and has these entries besides those of all."""
        config, place = self.json("config.json"), self.place("config.json")
        if config.get("task") != task:
            raise InputError(f"{place} is not that of a run for task {task!r}: its task is {config.get('task')!r}")
        for name, kind in (*CONFIG.items(), *entries.items()):
            value: Any = config
            for key in name.split("."):
                value = value.get(key, ...) if isinstance(value, dict) else ...
            if not isinstance(value, kind):
                said = "missing" if value is ... else repr(value)
                raise InputError(f"{place} is damaged: {name} is {said}; restore it or train again")
        if not all(isinstance(nats, (int, float)) for nats in config["baselines"].values()):
            raise InputError(f"{place} is damaged: baselines is {config['baselines']!r}; restore it or train again")
        return config

    def options(self, of: type[OptionsOf], entries: Entries) -> tuple[OptionsOf, dict[str, Any]]:
        """Returns the options that the training was begun with, and config.json, both checked."""
        config = self.config(of.task, entries)
        return of.from_json(config["options"], self.place("config.json")), config


def data_of(config: Mapping[str, Any]) -> Path | None:
    """Returns where the training data are that config.json names; None for those that come with elman."""
    path = config["data"]["path"]
    return None if path is None else Path(path)


def device_of(model: nn.Module) -> torch.device:
    """Returns where a model computes: an exported one, which has no parameters here, on the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
