"""The training loop of a language model: truncated BPTT, AdamW, a learning-rate schedule, and checkpoints.

Training resumes from a checkpoint bit for bit: see docs/decisions/0003.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from elman.datasets.text import Corpus
from elman.errors import InputError
from elman.tasks.language_model import LanguageModel, Options, evaluate
from elman.training.run import Run, fill
from elman.training.tbptt import tbptt

EVALUATIONS = 12  # in a run, evenly spaced; the last one is at its end
CHECKPOINT_SECONDS = 20.0
WARM_UP = 100  # steps over which the learning rate rises linearly
MODEL, CHECKPOINT = "model.safetensors", "checkpoint/state.safetensors"


@dataclass
class Place:
    """How far training has come: all that a checkpoint stores besides tensors."""

    step: int = 0
    epoch: int = 0
    at: int = 0  # time steps of this epoch that were trained on
    seconds: float = 0.0  # of training so far, including those before the run was resumed
    losses: float = 0.0  # sum of the losses of the `counted` steps since the last evaluation
    counted: int = 0
    evaluations: int = 0
    best: float = math.inf  # lowest loss on held-out text so far, in nats per token
    finished: bool = False

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Place:
        """Returns the place stored in a checkpoint. Raises TypeError for a field of the wrong type."""
        place = cls(**content)
        for field in fields(cls):
            value, kind = getattr(place, field.name), type(field.default)
            if not isinstance(value, (int, float) if kind is float else kind):
                raise TypeError(f"{field.name} is {value!r}")
        return place


@dataclass(frozen=True)
class Report:
    """What `Training.steps` reports after each step."""

    place: Place
    progress: float  # 0 to 1
    loss: float  # of this step, in nats per token
    tokens: int  # number of tokens that this step trained on
    row: dict[str, Any] | None = None  # the new row of metrics.csv, if the model was evaluated after this step


class Training:
    """A run in progress: `for report in Training(...).steps(): ...` trains it.

    A caller may leave that loop after any step and `save()` the run. `restore()` and `steps()` go on from there.
    """

    def __init__(self, run: Run, model: LanguageModel, corpus: Corpus, options: Options):
        self.run, self.model, self.corpus, self.options = run, model, corpus, options
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=options.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=options.weight_decay,
            fused=True,
        )
        self.place = Place()
        self._clock = time.monotonic()
        self.state: Any = None
        self.device = model.output.weight.device
        self.length = stream_length(corpus.train, options)
        self.steps_per_epoch = self.length // options.window

    def steps(self) -> Iterator[Report]:
        """Trains until the budget is used up. Yields a report after every step, and saves checkpoints on its own."""
        o, place = self.options, self.place
        parameters = list(self.model.parameters())
        self.model.train()
        torch.set_num_threads(o.threads)
        self._clock = saved = time.monotonic()
        while not place.finished:
            if place.at == self.length:  # the end of the text: the next epoch starts at its front, with a zero state
                place.epoch, place.at, self.state = place.epoch + 1, 0, None
            x, y = streams(self.corpus.train, o, place.epoch)
            for window in tbptt((x[place.at :], y[place.at :]), k1=o.window, state=self.state):
                rate = o.learning_rate * self.schedule()
                for group in self.optimizer.param_groups:
                    group["lr"] = rate

                logits, target = window.run(self.model)  # (T, B, size), (T, B)
                loss = cross_entropy(logits.flatten(0, 1), target.long().flatten())
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(parameters, o.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()

                self.state = window.carried
                value = self._count(loss, target.shape[0])
                self._tick()
                place.finished = self.progress() >= 1
                due = place.finished or int(self.progress() * EVALUATIONS) > place.evaluations
                row = self._evaluate(rate, float(norm)) if due else None
                # An evaluation may have replaced model.safetensors, so a checkpoint follows, whose `best` matches it.
                if row is not None or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = time.monotonic()
                yield Report(place, self.progress(), value, target.numel(), row)
                if place.finished:
                    return

    def _tick(self) -> None:
        now = time.monotonic()
        self.place.seconds, self._clock = self.place.seconds + now - self._clock, now

    def progress(self) -> float:
        """Returns the share of the budget that is used, 0 to 1: the share of steps or of time, whichever is larger."""
        o, place = self.options, self.place
        by_steps = place.step / max(1, round(o.epochs * self.steps_per_epoch)) if o.epochs is not None else 0.0
        by_time = place.seconds / (60 * o.minutes) if o.minutes is not None else 0.0
        return min(1.0, max(by_steps, by_time))

    def schedule(self) -> float:
        """Returns the factor on the learning rate: a linear warm-up, times half a cosine that falls to zero."""
        return min(1.0, (self.place.step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * self.progress()))

    def _count(self, loss: Tensor, steps: int) -> float:
        place, value = self.place, float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                f"the loss became {value} at step {place.step + 1}; training stopped and the last checkpoint is kept: "
                f"train again with a --learning-rate below {self.options.learning_rate}"
            )
        place.step += 1
        place.at += steps
        place.losses += value
        place.counted += 1
        return value

    def _evaluate(self, rate: float, norm: float) -> dict[str, Any]:
        """Evaluates the model on held-out text and saves it if it is the best so far. Returns a row of metrics.csv."""
        place = self.place
        score = evaluate(self.model, self.corpus.validation, self.corpus.validation_characters)
        row = {
            "step": place.step,
            "epoch": round(place.step / self.steps_per_epoch, 4),
            "seconds": round(place.seconds, 2),
            "learning_rate": rate,
            "gradient_norm": norm,
            "train_nats": place.losses / place.counted,
            "validation_nats": score.nats,
            "bits_per_character": score.bits_per_character,
            "perplexity": score.perplexity,
        }
        place.losses, place.counted = 0.0, 0
        self._tick()
        place.evaluations = int(self.progress() * EVALUATIONS)
        if score.nats < place.best:
            place.best = score.nats
            self.run.save_tensors(MODEL, self.model.state_dict(), {"step": place.step, "validation_nats": score.nats})
        self.run.append_metrics(row)
        return row

    def save(self) -> None:
        """Writes a checkpoint: one file with everything that is needed to go on from this step bit for bit."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        names = [name for name, _ in self.model.named_parameters()]
        for number, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{names[number]}.{key}": value for key, value in entries.items()}
        states = () if self.state is None else (self.state,) if isinstance(self.state, Tensor) else self.state
        tensors |= {
            f"state.{name}": value for name, value in zip(self.model.recurrent.cell.states, states, strict=False)
        }
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        self.run.save_tensors(CHECKPOINT, tensors, {"place": asdict(self.place), "data": self.corpus.digest})

    def restore(self) -> None:
        """Loads the checkpoint that `save` wrote last. Raises InputError if it is damaged or belongs to other data."""
        path = self.run.directory / CHECKPOINT
        tensors, notes = self.run.load_tensors(CHECKPOINT)
        if notes.get("data") != self.corpus.digest:
            raise InputError(
                f"the text has changed since {self.run.directory} was begun; put the old text back, or train again"
            )

        def under(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        fill(self.model, under("model."), path)
        try:
            self.place = Place.from_json(notes["place"])
            moments = {
                number: {key: tensors[f"optimizer.{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                for number, (name, _) in enumerate(self.model.named_parameters())
                if self.place.step  # before the first step the optimizer has no moments
            }
            for number, (name, parameter) in enumerate(self.model.named_parameters()):
                for key, value in moments.get(number, {}).items():
                    if value.shape != (() if key == "step" else parameter.shape):
                        raise ValueError(f"optimizer.{name}.{key} has shape {tuple(value.shape)}")
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            torch.set_rng_state(tensors["random.cpu"])
            if self.device.type == "cuda" and "random.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path} is damaged: {error}; restore it or train again") from error
        cell, found, o = self.model.recurrent.cell, under("state."), self.options
        shapes = {name: tuple(value.shape) for name, value in found.items()}
        wanted = dict.fromkeys(cell.states, (o.num_layers, o.batch_size, o.hidden_size))
        if found and shapes != wanted:
            raise InputError(
                f"{path} does not fit its config.json: its states are {shapes}, the model's {wanted}; restore one of them or train again"
            )
        states = tuple(found[name].to(self.device) for name in cell.states if found)
        self.state = None if not states else states[0] if len(states) == 1 else states
        # The budget may have changed, and with it the progress.
        self.place.finished = self.progress() >= 1
        self.place.evaluations = min(self.place.evaluations, int(self.progress() * EVALUATIONS))
        self.run.sweep()
        if not self.place.finished:
            self.run.forget_metrics_after(self.place.step)


def stream_length(tokens: Tensor, options: Options) -> int:
    """Returns the time steps in an epoch, all in whole windows. Raises InputError if the text is too short for one."""
    length = (len(tokens) - options.window) // options.batch_size // options.window * options.window
    if length < options.window:
        need = options.window * (options.batch_size + 1)
        raise InputError(
            f"the part of the text to learn from has {len(tokens):,} tokens, but {options.batch_size} streams with a window of {options.window} need {need:,}; "
            "give more text, or a smaller --batch-size or --window"
        )
    return length


def streams(tokens: Tensor, options: Options, epoch: int) -> tuple[Tensor, Tensor]:
    """Returns x and y, both (T, B): the text as B parallel streams, and for each token of x the token after it.

    Both are views of `tokens`. An epoch starts at a random place in the first window of the text, so that every
    epoch cuts the text into other streams and windows.
    """
    length, batch = stream_length(tokens, options), options.batch_size
    random = torch.Generator().manual_seed(options.seed + epoch)
    start = int(torch.randint(options.window, (), generator=random))
    x = tokens[start : start + length * batch].view(batch, length).t()
    y = tokens[start + 1 : start + 1 + length * batch].view(batch, length).t()
    return x, y
