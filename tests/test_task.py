"""A task that is no language model, through the same loop: batches in random order, squared error, nothing carried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import elman
from elman.errors import InputError
from elman.training import begin, fit
from elman.training.loop import CHECKPOINT, Report, Training
from elman.training.run import Run
from elman.training.task import Batch


@dataclass(frozen=True)
class Options:
    learning_rate: float = 0.02
    weight_decay: float = 0.0
    clip: float = 1.0
    epochs: float | None = 3.0
    minutes: float | None = None
    threads: int = 1


class Sums(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read = elman.GRU(1, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        _, h_n = self.read(x, lengths=lengths)
        return self.head(h_n[-1])[:, 0]


class Adding:
    """Sums of sequences of unequal lengths. A batch is eight of them; their order is another one in every epoch."""

    name, data, measure, digest = "adding", "sequences", "squares", "numbers of seed 0"
    score, higher_is_better = "validation_squares", False
    options = Options()

    def __init__(self, count: int = 40) -> None:
        torch.manual_seed(3)
        self.model = Sums()
        random = torch.Generator().manual_seed(0)
        self.x = torch.rand(6, count, 1, generator=random)
        self.lengths = torch.randint(1, 7, (count,), generator=random)
        within = torch.arange(6)[:, None] < self.lengths
        self.y = (self.x[..., 0] * within).sum(0)
        self.steps_per_epoch = count // 8

    def batches(self, epoch: int, at: int) -> Iterator[Batch]:
        order = torch.randperm(self.x.size(1), generator=torch.Generator().manual_seed(epoch))
        for k in range(at, self.steps_per_epoch):
            own = order[8 * k : 8 * k + 8]
            yield Batch(lambda own=own: self.loss(own), 1, int(self.lengths[own].sum()))

    def loss(self, own: Tensor) -> Tensor:
        return mse_loss(self.model(self.x[:, own], self.lengths[own]), self.y[own])

    def evaluate(self) -> dict[str, float]:
        with torch.no_grad():
            return {"validation_squares": float(self.loss(torch.arange(self.x.size(1))))}

    def about(self) -> dict[str, Any]:
        return {"baselines": {"the mean": float(self.y.var(correction=0))}}

    def write(self, directory: Path) -> None:
        (directory / "numbers.txt").write_text("of seed 0\n")

    def carried(self) -> dict[str, Tensor]:
        return {}

    def carry(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        assert not tensors


def begun(directory: Path, task: Adding) -> Training[Adding]:
    return begin(task, directory)[0]


def test_it_is_trained(tmp_path: Path) -> None:
    task = Adding()
    task.options = Options(epochs=60.0)  # 300 steps, of which the learning rate rises for 100
    first = task.evaluate()["validation_squares"]
    reports = list(begun(tmp_path / "run", task).steps())
    assert (reports[-1].place.epoch, reports[-1].place.at) == (59, 5)
    assert len(reports) == 300
    assert sum(report.size for report in reports) == 60 * int(task.lengths.sum())
    rows = [report.row for report in reports if report.row is not None]
    assert rows[-1]["validation_squares"] == task.evaluate()["validation_squares"] < 0.1 * first
    assert {"step", "epoch", "train_squares", "validation_squares"} <= set(rows[-1])


@pytest.mark.parametrize("step", [1, 5, 7, 14])
def test_it_is_resumed_to_the_bit(tmp_path: Path, step: int) -> None:
    whole = Adding()
    for _ in begun(tmp_path / "whole", whole).steps():
        pass
    training = begun(tmp_path / "run", Adding())
    for report in training.steps():
        if report.place.step == step:
            training.save()
            break
    again = Training(Run(tmp_path / "run"), Adding())
    again.restore()
    assert len(list(again.steps())) == 15 - step
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_other_data_are_refused_by_their_name(tmp_path: Path) -> None:
    begun(tmp_path / "run", Adding())
    other = Adding()
    other.digest = "numbers of seed 1"
    with pytest.raises(InputError, match="was begun with other sequences; put the old sequences back"):
        Training(Run(tmp_path / "run"), other).restore()
    assert (tmp_path / "run" / CHECKPOINT).exists()


def test_an_epoch_without_batches_ends_with_a_sentence(tmp_path: Path) -> None:
    task = Adding(count=7)
    with pytest.raises(InputError, match="the task has no batch in epoch 0; give more sequences"):
        list(begun(tmp_path / "run", task).steps())


def test_fit_trains_to_the_end_and_leaves_the_best(tmp_path: Path) -> None:
    task, shown = Adding(), []
    rows = fit(task, tmp_path / "run", show=shown.append)
    assert len(shown) == 15
    assert task.evaluate()["validation_squares"] == pytest.approx(min(float(r["validation_squares"]) for r in rows))
    config = Run(tmp_path / "run").config("adding", {"baselines.the mean": float})
    assert config["options"] == asdict(task.options)
    assert config["parameters"] == sum(p.numel() for p in task.model.parameters())
    assert (tmp_path / "run" / "numbers.txt").exists()
    with pytest.raises(InputError, match="already holds a run"):
        fit(Adding(), tmp_path / "run")
    assert len(fit(Adding(), tmp_path / "run", overwrite=True)) == len(rows)


def test_fit_goes_on_with_a_run(tmp_path: Path) -> None:
    whole, resumed = Adding(), Adding()
    fit(whole, tmp_path / "whole")

    def stop(report: Report) -> None:
        if report.place.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(Adding(), tmp_path / "run", show=stop)
    rows = fit(resumed, tmp_path / "run", resume=True)
    assert rows[-1]["step"] == "15"
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_more_of_a_score_may_be_better(tmp_path: Path) -> None:
    """And the model that `fit` leaves is the one with the best score, not the last one."""
    task, models = Adding(), []
    task.score, task.higher_is_better = "accuracy", True
    scores = [0.2, 0.5, 0.4] + [0.3] * 12

    def evaluate() -> dict[str, float]:
        models.append({name: value.clone() for name, value in task.model.state_dict().items()})
        return {"accuracy": scores[len(models) - 1]}

    task.evaluate = evaluate
    fit(task, tmp_path / "run")
    _, notes = Run(tmp_path / "run").load_tensors("model.safetensors")
    assert notes["accuracy"] == 0.5
    assert len(models) > 2
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, models[1][name]), name
        assert not torch.equal(value, models[-1][name]), name
