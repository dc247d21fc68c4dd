"""A task that is no language model, through the same loop: batches in random order, squared error, nothing carried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
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
from elman.training.dropout import Dropout
from elman.training.loop import CHECKPOINT, Report, Training
from elman.training.options import most_threads
from elman.training.range_test import range_test
from elman.training.run import Run
from elman.training.task import Batch
from elman.training.watch import Watch


@dataclass(frozen=True)
class Options:
    learning_rate: float = 0.02
    weight_decay: float = 0.0
    clip: float = 1.0
    epochs: float | None = 3.0
    minutes: float | None = None
    evaluations: int = 12
    patience: int | None = None
    threads: int = 1
    seed: int = 0
    precision: str = "float32"


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


def test_a_model_that_was_read_for_inference_is_trained_with_its_dropout(tmp_path: Path) -> None:
    task = Adding()
    task.model.eval()
    next(begun(tmp_path / "run", task).steps())
    assert task.model.training
    assert task.model.read.training


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


def frozen() -> Adding:
    task = Adding()
    task.model.read.weight_ih_l0.requires_grad_(False)
    return task


def unused() -> Adding:
    task = Adding()
    task.model.spare = nn.Linear(2, 2)
    return task


def tied() -> Adding:
    task = Adding()
    task.model.tail = nn.Linear(8, 1)
    task.model.tail.weight = task.model.head.weight
    return task


def turned() -> Adding:
    task = Adding()
    task.model.spare = nn.Linear(3, 2)
    task.model.spare.weight = nn.Parameter(torch.rand(3, 2).T)  # not contiguous, and safetensors refuses that
    return task


@pytest.mark.parametrize("make", [frozen, unused, tied, turned])
def test_a_run_with_unusual_parameters_is_resumed_to_the_bit(tmp_path: Path, make: Callable[[], Adding]) -> None:
    whole, resumed = make(), make()
    for _ in begun(tmp_path / "whole", whole).steps():
        pass
    training = begun(tmp_path / "run", make())
    next(training.steps())
    training.save()
    again = Training(Run(tmp_path / "run"), resumed)
    again.restore()
    assert len(list(again.steps())) == 14
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


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


@pytest.mark.parametrize("end", ["at the end", "by an error", "by a break", "of a range test"])
def test_the_threads_of_the_caller_are_given_back(tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may come from a larger machine, and wish for more threads than this one can have."""
    count, seen = 5, set[int]()

    def set_count(new: int) -> None:
        nonlocal count
        count = new

    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    monkeypatch.setattr(torch, "set_num_threads", set_count)
    task = Adding()
    task.options = Options(threads=10**6)

    def watch(report: Report | None) -> None:
        seen.add(count)
        if end == "by an error":
            raise KeyboardInterrupt

    if end == "of a range test":
        loss = task.loss
        task.loss = lambda own: watch(None) or loss(own)
        range_test(task)
    elif end == "by a break":
        for report in begun(tmp_path / "run", task).steps():
            watch(report)
            break
    else:
        with pytest.raises(KeyboardInterrupt) if end == "by an error" else nullcontext():
            fit(task, tmp_path / "run", show=watch)
    assert seen == {most_threads()}
    assert count == 5


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


def test_of_two_equal_scores_the_lower_loss_is_kept(tmp_path: Path) -> None:
    task = Adding()
    task.score, task.higher_is_better = "accuracy", True
    rows = iter([(1.0, 0.5), (1.0, 0.3), (1.0, 0.4)] + [(0.9, 0.1)] * 12)
    task.evaluate = lambda: dict(zip(("accuracy", "validation_squares"), next(rows), strict=True))
    fit(task, tmp_path / "run")
    _, notes = Run(tmp_path / "run").load_tensors("model.safetensors")
    assert notes["step"] == int(Run(tmp_path / "run").metrics()[1]["step"])


@pytest.mark.parametrize("patience", [None, 1, 3])
def test_patience_ends_a_run_and_it_stays_ended(tmp_path: Path, patience: int | None) -> None:
    def begun_with(scores: list[float]) -> Adding:
        task, rest = Adding(), iter(scores)
        task.options = Options(patience=patience)
        task.evaluate = lambda: {"validation_squares": next(rest)}
        return task

    scores = [5.0, 4.0, 4.0, 3.0, 3.5, 3.1, 3.0, *[1.0] * 8]
    rows = fit(begun_with(scores), tmp_path / "run")
    assert len(rows) == {None: 12, 1: 3, 3: 7}[patience]
    again = Training(Run(tmp_path / "run"), begun_with(scores))
    again.restore()
    assert again.place.finished
    assert list(again.steps()) == []


# What the watch remarks


def watched(norms: list[float], clip: float = 1.0) -> list[str]:
    watch = Watch(Sums())
    return [remark for norm in norms if (remark := watch.gradient(norm, clip)) is not None]


def test_a_gradient_that_explodes_or_vanishes_is_remarked_on_once() -> None:
    usual = [0.5 + 0.01 * k for k in range(50)]
    assert watched([*usual, 60.0, 2.0]) == []
    (exploded,) = watched([*usual, 200.0, 300.0])
    assert exploded.startswith(
        "the gradient exploded: its norm is 200 after 0.745 in the steps before; it was clipped to 1"
    )
    assert watched([0.001 * norm for norm in [*usual, 200.0]]) == []  # nothing was clipped
    assert watched([1e3, *usual]) == []  # the first steps are the usual ones
    (vanished,) = watched([1e-9] * 120)
    assert vanished.startswith("the gradient vanished: its norm stayed below 1e-06 for 50 steps")
    assert watched([1e-9] * 40 + [1.0] + [1e-9] * 40) == []


def test_outputs_that_are_saturated_are_remarked_on(tmp_path: Path) -> None:
    task = Adding()
    watch = Watch(task.model)
    with watch.outputs():
        task.evaluate()
    assert watch.saturated == 0.0
    assert watch.saturation() is None
    with torch.no_grad():
        for parameter in task.model.read.parameters():
            parameter.mul_(0).add_(10)  # n is near one, and so is z: h hardly moves from zero
        task.model.get_parameter("read.bias_ih_l0")[8:16] = -30  # z near zero: h is n
    with watch.outputs():
        task.evaluate()
    assert watch.saturated > 0.5  # past their ends, outputs are zero
    assert "of its outputs are 0.98 or more in size" in str(watch.saturation())
    assert watch.saturation() is None
    handles = [module._forward_hooks for module in task.model.modules()]
    assert not any(handles)


def test_remarks_come_with_the_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elman.training.watch.RECENT", 3)
    monkeypatch.setattr("elman.training.watch.VANISHED", 1e9)
    task, remarks = Adding(), []
    fit(task, tmp_path / "run", show=lambda report: remarks.extend(report.remarks))
    assert len(remarks) == 1
    assert remarks[0].startswith("the gradient vanished")


@pytest.mark.parametrize("p", [0.1, 0.5, 0.99])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float) -> None:
    """Also in each quarter of the elements, since four are decided by one number."""
    torch.manual_seed(0)
    drop, x = Dropout(p), torch.ones(4, 99_999, requires_grad=True)
    y = drop(x)
    dropped = y == 0
    for part in (*dropped, *dropped.flatten()[:-4].view(-1, 4).unbind(1)):
        assert part.double().mean().item() == pytest.approx(p, abs=0.006)
    assert torch.corrcoef(dropped.flatten()[:-4].view(-1, 4).double().t()).fill_diagonal_(0).abs().max() < 0.02
    assert y.max().item() == pytest.approx(1 / (1 - p), rel=1e-3)
    (d,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(d, y.detach())
    assert not torch.equal(drop(x) == 0, dropped)
    torch.manual_seed(0)
    assert torch.equal(drop(x), y)
    assert drop.eval()(x) is x
    assert Dropout(0.0)(x) is x
