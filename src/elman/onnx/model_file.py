"""A model that was exported from a run, read from its file: what the run knows of the data, and the model in ONNX Runtime."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from elman.errors import InputError
from elman.onnx import ports
from elman.onnx.activations import Problem
from elman.onnx.external import External, other_files, text
from elman.onnx.loading import read
from elman.onnx.proof import first_line, session
from elman.recurrence import use_engine
from elman.tasks.language_model import LanguageModel
from elman.tasks.tagging import TaggingModel
from elman.tasks.translation import TranslationModel
from elman.torch_private import tree_leaves
from elman.training.record import Model, Record


class ModelFile(Record):
    """The file that `elman export` makes of a run. Its metadata have the run's JSON: elman.config is that of config.json."""

    def __init__(self, path: Path):
        self.path, self._proto = path, read(path)
        self._beside = self._find_weights()
        self._notes = {text(each.key).removeprefix("elman."): each.value for each in self._proto.metadata_props}

    def place(self, name: str) -> str:
        return f"{name.removesuffix('.json')} in {self.path}"

    def has(self, name: str) -> bool:
        return name.removesuffix(".json") in self._notes

    def json(self, name: str) -> dict[str, Any]:
        if not self.has(name):
            missing = f"elman.{name.removesuffix('.json')}"
            raise InputError(
                f"{self.path} has no {missing} in its metadata, so it is no model of a run; give a file that `elman export RUN` made"
            )
        content = self._note(name.removesuffix(".json"))
        if not isinstance(content, dict):
            raise InputError(f"{self.place(name)} is damaged: it holds a {type(content).__name__} instead of an object")
        if name == "config.json":
            self._check_sizes(content.get("options"))
        return content

    def _check_sizes(self, options: Any) -> None:
        """Raises InputError for sizes that the weights in a file of so many bytes cannot have, before memory is taken for them."""
        most = self._proto.ByteSize() + self._beside
        for name, value in options.items() if isinstance(options, dict) else ():
            sized = isinstance(value, int) and name.endswith(("_size", "_layers"))
            if sized and (value > most or (name == "hidden_size" and value**2 > most)):
                raise InputError(
                    f"{self.path} does not fit its elman.config: {name} is {value:,}, but the file has {most:,} bytes; export the run again"
                )

    def _note(self, name: str) -> Any:
        try:
            return json.loads(self._notes[name])
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name} in {self.path} is damaged: {error}; export the run again") from error

    def model(self, make: Callable[[], Model], device: str) -> Model:
        """Returns the model in ONNX Runtime, which is called as what `make` returns.

        Raises InputError if the file does not fit what it says of its data, such as a vocabulary of another size.
        """
        try:
            like = make()  # for its sizes
        except (RuntimeError, MemoryError) as error:
            raise InputError(
                f"{self.path} has sizes in elman.config that no model can have; export the run again"
            ) from error
        streaming = "streaming" in self._notes and self._note("streaming") is True
        port = ports.of_task(like, streaming)
        opened = _kind(like, port)(self._open(), self.path, port)
        self._check(opened, port)
        return cast("Model", opened.eval())

    def _open(self) -> Any:
        try:
            return session(self.path if self._beside else self._proto.SerializeToString())
        except Exception as error:  # of ONNX Runtime's own kinds
            raise InputError(
                f"{self.path} cannot be opened in ONNX Runtime: {first_line(error)}; export the run again"
            ) from error

    def _find_weights(self) -> int:
        """Returns the size of the file of weights beside this one, if there is one. Raises InputError if it cannot be read."""
        places = other_files(self._proto)
        if not places:
            return 0
        if len(places) > 1:
            raise InputError(
                f"{self.path} has weights in {len(places)} other files, but `elman export` makes one at most; export the run again"
            )
        try:
            file = External(self.path.parent).open(places.pop())
        except Problem as problem:
            raise InputError(f"{self.path} {problem}") from problem
        with os.fdopen(file) as opened:
            return os.fstat(opened.fileno()).st_size

    def _check(self, opened: Exported, port: ports.Port) -> None:
        """Raises InputError if names or shapes are not those that the model must have. The largest tokens are tried."""
        names = {name: [value.name for value in getattr(self._proto.graph, name)] for name in ("input", "output")}
        for name, want in (("input", list(port.inputs)), ("output", list(port.outputs))):
            if names[name] != want:
                raise InputError(
                    f"{self.path} does not fit its elman.config: its {name}s are {', '.join(names[name])}, but the model has {', '.join(want)}; export the run again"
                )
        case = next(iter(port.cases([1], [1])))
        with torch.no_grad(), use_engine("reference"):  # a step, for which no kernels need to be compiled
            like = tree_leaves(port.call(port.model.eval(), *case.arguments))
        for (output, size), value, wanted in zip(port.outputs.items(), opened.run(case.feed), like, strict=True):
            if value.dim() != wanted.dim():
                raise InputError(
                    f"{self.path} does not fit its elman.config: its {output} has {value.dim()} axes, but that of the model has {wanted.dim()}; export the run again"
                )
            if size is not None and value.shape[-1] != size:
                raise InputError(
                    f"{self.path} does not fit its metadata: its {output} has {value.shape[-1]} columns, but by what it says of its data it should have {size}; export the run again"
                )


class Exported(nn.Module):
    """A model that ONNX Runtime computes. It takes what the model of a task takes, and returns what that returns."""

    def __init__(self, opened: Any, path: Path, port: ports.Port):
        super().__init__()
        self.path, self.port, self._session = path, port._replace(model=nn.Identity()), opened
        self._signature = inspect.signature(port.model.forward)

    def forward(self, *values: Any, **named: Any) -> Any:
        given = self._signature.bind(*values, **named).arguments
        if "tokens" in self.port.inputs:  # of a model of whole texts
            given["tokens"] = given.pop("x")
        (found,) = self.run({name: value for name, value in given.items() if name in self.port.inputs})
        return found

    def run(self, feed: dict[str, Tensor]) -> list[Tensor]:
        """Returns all outputs. Raises InputError if ONNX Runtime fails."""
        ready = {
            name: (value.float() if value.is_floating_point() else value.long()).contiguous().numpy()
            for name, value in feed.items()
        }
        try:
            return [torch.from_numpy(value) for value in self._session.run(None, ready)]
        except Exception as error:  # of ONNX Runtime's own kinds
            raise InputError(f"{self.path} cannot be run: {first_line(error)}; export the run again") from error


class ExportedWithStates(Exported):
    """A model whose states go in and out."""

    def _read(self, x: Tensor, state: Any, others: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """Returns what the model says of the steps of x, and the states after them. others: further inputs, of all steps."""
        states = [] if state is None else [state] if isinstance(state, Tensor) else list(state)
        names = [before for before, _ in self.port.notes["states"]]
        first = next(iter(self.port.inputs))
        if not self.port.notes.get("streaming"):
            y, *states = self.run({first: x} | others | dict(zip(names, states, strict=False)))
            return y, ports.as_state(states)
        if not states:  # in a file of one step they cannot be left out
            shapes = [each.shape for each in self._session.get_inputs()[1:]]  # (L, "B", H)
            states = [torch.zeros(layers, x.shape[1], width) for layers, _, width in shapes]
        every = []
        for row in x:
            y, *states = self.run({first: row} | dict(zip(names, states, strict=True)))
            every.append(y)
        return torch.stack(every), ports.as_state(states)


class ExportedLanguageModel(ExportedWithStates):
    """A language model in ONNX Runtime, which is called as `LanguageModel` is."""

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self._read(tokens, state, {})


class ExportedSteps(ExportedWithStates):
    """A causal model of numbers or texts in ONNX Runtime, which reads as `SequenceModel` does."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.read(x, lengths)[0]

    def read(self, x: Tensor, lengths: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self._read(x, state, {"lengths": lengths})


class ExportedTagger(Exported):
    """A tagger in ONNX Runtime, which is called as `TaggingModel` is."""

    def forward(self, *values: Any, **named: Any) -> Tensor:
        return self.tagged(*values, **named)[0]

    def tagged(
        self, words: Tensor, lengths: Tensor, forms: Tensor, characters: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        feed = {"words": words, "lengths": lengths, "forms": forms, "characters": characters, "sizes": sizes}
        logits, *likeliest = self.run(feed)  # the latter with a CRF
        return logits, likeliest[0] if likeliest else logits.argmax(-1)


class ExportedTranslation(Exported):
    """A model that writes texts in ONNX Runtime, which is called as `TranslationModel` is."""

    def forward(self, x: Tensor, lengths: Tensor, said: Tensor) -> Tensor:
        return self.write(x, lengths, said)[0]

    def write(self, x: Tensor, lengths: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        feed = {next(iter(self.port.inputs)): x, "lengths": lengths}
        logits, text = self.run(feed if given is None else feed | {"given": given})
        return logits, text


def _kind(model: nn.Module, port: ports.Port) -> type[Exported]:
    """Returns what stands in for the model of a task that has this port."""
    if isinstance(model, LanguageModel):
        return ExportedLanguageModel
    if isinstance(model, TaggingModel):
        return ExportedTagger
    if isinstance(model, TranslationModel):
        return ExportedTranslation
    return ExportedSteps if "states" in port.notes else Exported
