"""The training loop of every task: AdamW, a learning-rate schedule, clipping, a budget, and checkpoints.

The task defines the model, the batches and the loss (`elman.training.task`). Training resumes from
a checkpoint bit for bit: see docs/decisions/0003.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from elman.errors import InputError
from elman.training.options import check_precision, most_threads
from elman.training.run import CHECKPOINT, MODEL, Run, fill
from elman.training.task import Batch, Recipe, Task, as_it_is
from elman.training.team import ALONE, Team
from elman.training.watch import Watch

CHECKPOINT_SECONDS = 20.0
WARM_UP = 100  # steps over which the learning rate rises linearly


Of = TypeVar("Of", bound=Task)


class Diverged(InputError):
    """The loss is no longer a number: nothing is wrong but the options."""


@dataclass
class Place:
    """How far training has progressed: everything that a checkpoint stores besides tensors."""

    step: int = 0
    epoch: int = 0
    at: int = 0  # how far this epoch has come, as the task counts it
    seconds: float = 0.0  # of training so far, including those before the run was resumed
    losses: float = 0.0  # sum of the losses of the `counted` steps since the last evaluation
    counted: int = 0
    evaluations: int = 0
    stale: int = 0  # evaluations since the best one
    best: float = math.inf  # lowest score on held-out data so far; negated where more of it is better
    best_loss: float = math.inf  # the loss on held-out data of the model with the best score
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


def _random(kind: str, rank: int) -> str:
    """Returns the name that a checkpoint has for the state of a process's random numbers."""
    return f"random.{kind}.{rank}" if rank else f"random.{kind}"


@dataclass(frozen=True)
class Report:
    """What `Training.steps` reports after each step."""

    place: Place
    progress: float  # 0 to 1
    loss: float  # of this step
    size: int  # of its batch, in the task's unit, such as tokens; of several processes, about
    row: dict[str, Any] | None = None  # the new row of metrics.csv, if the model was evaluated after this step
    remarks: tuple[str, ...] = ()  # what is wrong with the network, in words


@contextmanager
def threads(options: Recipe) -> Iterator[None]:
    """Gives torch the threads of a training, and afterwards its own again: see docs/decisions/0005."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(options.threads, most_threads()))  # a run may go on on a smaller machine
    try:
        yield
    finally:
        torch.set_num_threads(before)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the parameters that training changes, by name: those that are not frozen."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def optimizer_of(task: Task) -> torch.optim.AdamW:
    """Returns the optimizer that trains every task."""
    o, parameters = task.options, list(trainable(task.model).values())
    return torch.optim.AdamW(parameters, lr=o.learning_rate, betas=(0.9, 0.99), weight_decay=o.weight_decay, fused=True)


def update(
    batch: Batch, optimizer: torch.optim.Optimizer, rate: float, clip: float, team: Team = ALONE
) -> tuple[float, Tensor]:
    """Trains on a batch. Returns its loss, and the norm of the gradient before clipping.

    team: the processes that each have a part of the batch. The loss is then that of the whole batch.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if team.world == 1:
        loss = batch.loss()
        loss.backward()
        value = float(loss.detach())
    else:
        value = _of_parts(batch, parameters, team)
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    optimizer.zero_grad()
    return value, norm


def _of_parts(batch: Batch, parameters: list[Tensor], team: Team) -> float:
    """Gives parameters the gradients of the whole batch, of which this process has a part. Returns its loss."""
    weight = float(batch.size if batch.weight is None else batch.weight)
    loss = batch.loss() if weight else None
    total, value = team.total(weight, 0.0 if loss is None else weight * float(loss.detach()))
    if loss is not None:
        (loss * (weight / total)).backward()
    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    team.add_up([p.grad for p in parameters if p.grad is not None])
    return value / total


class Training(Generic[Of]):
    """A run in progress: `for report in Training(...).steps(): ...` trains it.

    A caller may leave that loop after any step and `save()` the run. `restore()` and `steps()` resume it there.
    """

    def __init__(self, run: Run, task: Of, team: Team = ALONE):
        """team: the processes that train together. Each has a `Training`; only the first one's run writes files."""
        self.run, self.task, self.model, self.options, self.team = run, task, task.model, task.options, team
        self.optimizer = optimizer_of(task)
        self._trained = trainable(task.model)  # in the order of the optimizer, which knows numbers only
        self.place = Place()
        self.watch = Watch(self.model)
        self._clock = time.monotonic()
        self.device = next(self.model.parameters()).device
        check_precision(self.options.precision, self.device.type)
        if team.world > 1:
            share = getattr(task, "share", None)
            if share is None:
                raise InputError(f"the task {task.name} has no method `share`, so several processes cannot train it")
            share(team.rank, team.world)
            if not team.first:  # what is dropped in one part of a batch must not be dropped in all
                torch.manual_seed(self.options.seed + team.rank * 1_000_003)

    def _precision(self) -> torch.autocast:
        """Returns the context in which the model runs."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bf16")

    def steps(self) -> Iterator[Report]:
        """Trains until the budget is used up. Yields a report after every step, and saves checkpoints on its own.

        Raises InputError if another process trains the run.
        """
        with self.run.locked(), threads(self.options):
            yield from self._steps()

    def _steps(self) -> Iterator[Report]:
        o, place = self.options, self.place
        self.model.train()
        self._clock, saved = time.monotonic(), place.seconds
        while not place.finished:
            for batch in self.task.batches(place.epoch, place.at):
                rate = o.learning_rate * self.schedule()
                value, norm = update(self._in_precision(batch), self.optimizer, rate, o.clip, self.team)
                self._count(value, batch.advance)
                remarks = [self.watch.gradient(float(norm), o.clip)]
                self._tick()
                place.finished = self.progress() >= 1
                due = place.finished or self._evaluations_due() > place.evaluations
                row = None
                if due:
                    row = self._evaluate(rate, float(norm))
                    remarks.append(self.watch.saturation())
                    place.finished = place.finished or self._is_stale()
                # An evaluation may have replaced model.safetensors, so a checkpoint follows, whose `best` matches it.
                if row is not None or place.seconds - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = place.seconds
                said = tuple(remark for remark in remarks if remark is not None)
                yield Report(place, self.progress(), value, batch.size * self.team.world, row, said)
                if place.finished:
                    return
            if place.at == 0:
                raise InputError(f"the task has no batch in epoch {place.epoch}; give more {self.task.data}")
            place.epoch, place.at = place.epoch + 1, 0

    def _in_precision(self, batch: Batch) -> Batch:
        def loss() -> Tensor:
            with self._precision():
                return batch.loss()

        return batch._replace(loss=loss) if self.options.precision == "bf16" else batch

    def _tick(self) -> None:
        now = time.monotonic()
        spent = now - self._clock if self.team.first else 0.0
        self.place.seconds, self._clock = self.place.seconds + self.team.total(spent)[0], now

    def progress(self) -> float:
        """Returns the share of the budget that is used, 0 to 1: the share of steps or of time, whichever is larger."""
        o, place = self.options, self.place
        by_steps = place.step / max(1, round(o.epochs * self.task.steps_per_epoch)) if o.epochs is not None else 0.0
        by_time = place.seconds / (60 * o.minutes) if o.minutes is not None else 0.0
        return min(1.0, max(by_steps, by_time))

    def score(self) -> float:
        """Returns the score of the model as it is, on the validation data."""
        with threads(self.options), self._precision():
            return float(as_it_is(self.task)[self.task.score])

    def _is_stale(self) -> bool:
        """Returns whether the score has not improved for as many evaluations as patience allows."""
        return self.options.patience is not None and self.place.stale >= self.options.patience

    def _evaluations_due(self) -> int:
        """Returns how many evaluations there should have been by now; the last one is at the end of the budget."""
        return int(self.progress() * self.options.evaluations)

    def schedule(self) -> float:
        """Returns the factor on the learning rate: a linear warm-up, times half a cosine that falls to zero.

        The warm-up takes a hundred steps, or a tenth of the budget if that is less.
        """
        warm = max((self.place.step + 1) / WARM_UP, 10 * self.progress())
        return min(1.0, warm) * 0.5 * (1 + math.cos(math.pi * self.progress()))

    def _count(self, value: float, advance: int) -> None:
        place = self.place
        if not math.isfinite(value):
            raise Diverged(
                f"the loss became {value} at step {place.step + 1}; training stopped and the last checkpoint is kept: "
                f"train again with a --learning-rate below {self.options.learning_rate}"
            )
        place.step += 1
        place.at += advance
        place.losses += value
        place.counted += 1

    def _evaluate(self, rate: float, norm: float) -> dict[str, Any]:
        """Evaluates the model on the validation data and saves it if it is the best so far. Returns a row of metrics.csv."""
        place, scores = self.place, None
        if self.team.first:
            with self.watch.outputs(), self._precision():
                scores = self.task.evaluate()
        scores, self.watch.saturated = self.team.told((scores, self.watch.saturated))
        score = scores[self.task.score]
        badness = -score if self.task.higher_is_better else score
        row = {
            "step": place.step,
            "epoch": round(place.step / self.task.steps_per_epoch, 4),
            "seconds": round(place.seconds, 2),
            "learning_rate": rate,
            "gradient_norm": norm,
            "saturated": self.watch.saturated,
            f"train_{self.task.measure}": place.losses / place.counted,
            **scores,
        }
        place.losses, place.counted = 0.0, 0
        self._tick()
        place.evaluations, place.stale = self._evaluations_due(), place.stale + 1
        loss = scores.get(f"validation_{self.task.measure}", badness)
        # Of two models with the same score, such as an accuracy of 1, the one with the lower loss is better.
        if (badness, loss) < (place.best, place.best_loss):
            place.best, place.best_loss, place.stale = badness, loss, 0
            notes = {"step": place.step, self.task.score: score}
            self.run.save_tensors(MODEL, self.model.state_dict(), notes)
        self.run.append_metrics(row)
        return row

    def save(self) -> None:
        """Writes a checkpoint: one file with everything that is needed to resume from this step bit for bit."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        names = list(self._trained)
        for number, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{names[number]}.{key}": value for key, value in entries.items()}
        for name, value in self.task.carried().items():
            tensors[f"state.{name}"] = torch.cat(self.team.gathered(value), 1) if self.team.world > 1 else value
        for rank, state in enumerate(self.team.gathered(torch.get_rng_state())):
            tensors[_random("cpu", rank)] = state
        if self.device.type == "cuda":
            for rank, state in enumerate(self.team.gathered(torch.cuda.get_rng_state(self.device))):
                tensors[_random("cuda", rank)] = state
        self.run.save_tensors(CHECKPOINT, tensors, {"place": asdict(self.place), "data": self.task.digest})

    def restore(self) -> None:
        """Loads the last checkpoint that `save` wrote. Raises InputError if it is damaged or belongs to other data."""
        path = self.run.directory / CHECKPOINT
        tensors, notes = self.run.load_tensors(CHECKPOINT)
        if notes.get("data") != self.task.digest:
            raise InputError(
                f"{self.run.directory} was begun with other {self.task.data}; put the old {self.task.data} back, or train again"
            )

        def under(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        fill(self.model, under("model."), path)
        try:
            self.place = Place.from_json(notes["place"])
            moments: dict[int, dict[str, Tensor]] = {}
            for number, (name, parameter) in enumerate(self._trained.items()):
                keys = {key: f"optimizer.{name}.{key}" for key in ("step", "exp_avg", "exp_avg_sq")}
                if tensors.keys().isdisjoint(keys.values()):  # a parameter that no step has used so far
                    continue
                moments[number] = {key: tensors[stored] for key, stored in keys.items()}
                for key, value in moments[number].items():
                    if value.shape != (() if key == "step" else parameter.shape):
                        raise ValueError(f"{keys[key]} has shape {tuple(value.shape)}")
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            rank = self.team.rank
            if not rank or _random("cpu", rank) in tensors:  # a run may go on with more processes
                torch.set_rng_state(tensors[_random("cpu", rank)])
            if self.device.type == "cuda" and _random("cuda", rank) in tensors:
                torch.cuda.set_rng_state(tensors[_random("cuda", rank)], self.device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path} is damaged: {error}; restore it or train again") from error
        self.task.carry({name: value.to(self.device) for name, value in under("state.").items()}, path)
        # The budget may have changed, and with it the progress.
        self.place.finished = self.progress() >= 1 or self._is_stale()
        self.place.evaluations = min(self.place.evaluations, self._evaluations_due())
        with self.run.locked():
            self.run.sweep()
            if not self.place.finished:
                self.run.forget_after(self.place.step)
