"""Several processes that train one model: the same curve as one, files as from one, and what they say when one is lost."""

from __future__ import annotations

import csv
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from elman.errors import InputError
from elman.tasks import language_model
from elman.tasks.separate import SeparateSequences
from elman.training.loop import CHECKPOINT, Training, _of_parts, optimizer_of, update
from elman.training.run import Run
from elman.training.task import Batch
from elman.training.team import Team, joined
from forks import Child, Forks
from test_task import Adding
from test_tasks import SMALL, write_sentences, write_series, write_waves
from tiny_runs import begin, corpus_of, elman, prose, tiny

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")

MAIN = "from elman.cli import main\nmain()"
# A process that does something else once a step is counted.
AT_A_STEP = """
import os, signal
from elman.training.loop import Training
count = Training._count
def counted(self, value, advance):
    count(self, value, advance)
    if self.place.step == {step} and self.team.rank == {rank}:
        {does}
Training._count = counted
"""
LM = ("--hidden-size", 6, "--embedding-size", 4, "--window", 8, "--learning-rate", 0.02, "--evaluations", 4)


def processes(world: int, code: str, *arguments: object) -> list[Child]:
    """`elman ARGUMENTS` in each process, as torchrun starts it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    return [Child(code, tuple(map(str, arguments)), os.environ | shared | each) for each in own]


def metrics(run: Path) -> list[dict[str, float]]:
    """Returns the rows of metrics.csv, without what depends on the clock."""
    with (run / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def command_of(name: str, directory: Path) -> tuple[Any, ...]:
    if name == "lm":
        (directory / "text.txt").write_text(prose(3000))
        return "train", "lm", directory / "text.txt", *LM, "--batch-size", 6, "--dropout", 0, "--epochs", 2
    if name == "tag":
        tagged = write_sentences(directory / "tagged.txt", 41, 0)
        return "train", "tag", tagged, "--epochs", 2, *SMALL["tag"], "--dropout", 0, "--word-dropout", 0
    if name == "classify":
        waves = write_waves(directory / "waves.jsonl", 41, 0)
        plain = ("--dropout", 0, "--noise", 0, "--balanced")
        return "train", "classify", waves, "--epochs", 3, *SMALL["classify"], *plain
    write_series(directory / "series.csv")
    text = "".join(line + "\n" for line in (directory / "series.csv").read_text().split() if line[-1] != ",")
    (directory / "series.csv").write_text(text)
    columns = ("--group", "group", "--time", "hour", "--known", "push")
    return "train", "forecast", directory / "series.csv", "--epochs", 2, *columns, *SMALL["forecast"]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", ["lm", "tag", "forecast"])
def test_three_processes_have_the_curve_of_one(name: str, tmp_path: Path, forks: Forks) -> None:
    """Batches of six or eight are shared by three; the last batch of an epoch has fewer sequences than processes."""
    command = command_of(name, tmp_path)
    assert elman(*command, "--run", tmp_path / "one").status == 0
    first, *others = forks.run(*processes(3, MAIN, *command, "--run", tmp_path / "three"))
    assert first.returncode == 0, first.stderr[-2000:]
    assert "kept the parameters of step" in first.stderr
    for done in others:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    one, three = metrics(tmp_path / "one"), metrics(tmp_path / "three")
    assert len(one) == len(three)
    for mine, theirs in zip(three, one, strict=True):
        assert mine == pytest.approx(theirs, rel=2e-3, abs=1e-4)
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(
        p.name for p in (tmp_path / "three").iterdir()
    )


@pytest.mark.usefixtures("no_pictures")
def test_a_run_of_two_that_was_stopped_goes_on_to_the_bit_and_also_as_one(tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "text.txt").write_text(prose(3000))
    command = ("train", "lm", tmp_path / "text.txt", *LM, "--batch-size", 4, "--epochs", 1, "--dropout", 0.2)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert all(done.returncode == 0 for done in forks.run(*processes(2, MAIN, *command, "--run", whole)))
    code = AT_A_STEP.format(step=7, rank=1, does="os.kill(os.getpid(), signal.SIGTERM)") + MAIN
    first, second = forks.run(*processes(2, code, *command, "--run", stopped))
    assert (first.returncode, second.returncode) == (143, 143), first.stderr[-2000:]
    assert "interrupted at step 7, everything is saved" in first.stderr
    copy = tmp_path / "copy"
    (copy / "checkpoint").mkdir(parents=True)
    for path in stopped.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(stopped)).write_bytes(path.read_bytes())
    assert all(done.returncode == 0 for done in forks.run(*processes(2, MAIN, "train", "lm", "--resume", stopped)))
    assert metrics(stopped) == metrics(whole)
    for name in ("model.safetensors", "checkpoint/state.safetensors"):
        mine, _ = Run(stopped).load_tensors(name)
        theirs, _ = Run(whole).load_tensors(name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())
    assert elman("train", "lm", "--resume", copy).status == 0
    assert [row["step"] for row in metrics(copy)] == [row["step"] for row in metrics(whole)]


@pytest.mark.usefixtures("no_pictures")
def test_a_process_that_is_lost(tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "text.txt").write_text(prose(3000))
    command = ("train", "lm", tmp_path / "text.txt", *LM, "--batch-size", 4, "--epochs", 1)
    code = AT_A_STEP.format(step=9, rank=1, does="os._exit(9)") + MAIN
    first, second = forks.run(*processes(2, code, *command, "--run", tmp_path / "run"))
    assert second.returncode == 9
    assert first.returncode == 2
    assert re.search(r"^elman: another process was lost .* resume with --resume$", first.stderr, re.MULTILINE)
    assert "Traceback" not in first.stderr
    assert elman("train", "lm", "--resume", tmp_path / "run").status == 0


def test_what_several_processes_cannot_do(tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text(prose(3000))
    command = ("train", "lm", tmp_path / "text.txt", *LM, "--epochs", 1, "--batch-size")
    for done in forks.run(*processes(2, MAIN, *command, 5, "--run", tmp_path / "run")):
        assert done.returncode == 2
        assert "elman: --batch-size 5 cannot be divided evenly among 2 processes; give a multiple of 2\n" in done.stderr
    assert not (tmp_path / "run").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    for done in forks.run(*processes(2, MAIN, *command, 4, "--run", tmp_path / "full")):
        assert done.returncode == 2
        assert "is not empty and holds no run of elman; choose another directory" in done.stderr
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for arguments in (("train", "lm", "--find-lr"), ("tune", "lm"), ("cross-validate", "classify")):
        outcome = elman(*arguments, tmp_path / "text.txt")
        assert outcome.status == 2
        assert outcome.err.endswith("runs in one process; start it without torchrun\n")


def test_a_task_without_parts_is_refused(tmp_path: Path) -> None:
    task: Any = type("Plain", (), {"name": "plain", "model": nn.Linear(1, 1), "options": tiny()})()
    with pytest.raises(ValueError, match="the task plain has no method `share`"):
        Training(Run(tmp_path), task, Team(0, 2))


def test_bfloat16_is_for_gpus(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(prose(3000))
    outcome = elman("train", "lm", tmp_path / "text.txt", "--precision", "bf16", "--run", tmp_path / "run")
    assert outcome.status == 2
    assert "--precision bf16 is for GPUs" in outcome.err


def test_the_model_runs_in_the_precision_that_was_asked_for(tmp_path: Path) -> None:
    training = begin(tmp_path / "run", corpus_of(tmp_path, prose(3000), tiny()), tiny())
    seen: list[bool] = []

    def loss() -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return next(training.model.parameters()).sum()

    for precision in ("float32", "bf16"):
        training.options = tiny(precision=precision)
        update(training._in_precision(Batch(loss, 1, 1)), training.optimizer, 0.0, 1.0)
    assert seen == [False, True]


class Alone(Team):
    """One of two processes that together have a batch of four; it does not hear the other one."""

    def total(self, *values: float) -> list[float]:
        return [4.0, 0.0]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        pass


def test_parts_of_a_batch_weigh_by_their_size() -> None:
    x, w = torch.tensor([1.0, 2, 3, 10]), nn.Parameter(torch.ones(()))
    for rows in (x[:3], x[3:]):
        _of_parts(Batch(lambda rows=rows: (w * rows).mean(), 1, len(rows)), [w], Alone(0, 2))
    assert w.grad is not None
    assert float(w.grad) == pytest.approx(float(x.mean()))  # what they would add up to


def test_frozen_parameters_do_not_decay_where_several_processes_train() -> None:
    task = Adding()
    task.options = replace(task.options, weight_decay=0.5)
    head = task.model.head.weight.requires_grad_(False)
    before = head.clone()
    update(next(task.batches(0, 0)), optimizer_of(task), 0.1, 1.0, Alone(0, 2))
    assert torch.equal(head, before)


def test_a_process_goes_on_with_random_numbers_of_its_own(tmp_path: Path) -> None:
    training = begin(tmp_path / "run", corpus_of(tmp_path, prose(3000), tiny()), tiny())
    own = torch.Generator().manual_seed(5).get_state()
    tensors, notes = training.run.load_tensors(CHECKPOINT)
    training.run.save_tensors(CHECKPOINT, tensors | {"random.cpu.1": own}, notes)
    Training(training.run, training.task, Team(1, 2)).restore()
    assert torch.equal(torch.get_rng_state(), own)


def test_each_process_begins_with_random_numbers_of_its_own(tmp_path: Path) -> None:
    """Else the same units would be dropped in every part of a batch."""
    training = begin(tmp_path / "run", corpus_of(tmp_path, prose(3000), tiny()), tiny())
    before = torch.get_rng_state()
    drawn = set[float]()
    for rank in range(4):
        torch.set_rng_state(before)
        Training(training.run, training.task, Team(rank, 4))
        drawn.add(float(torch.rand(())))
    assert len(drawn) == 4


class Deaf(Team):
    """One of several processes, which hears itself only."""

    def total(self, *values: float) -> list[float]:
        return list(values)


@pytest.mark.parametrize("rank", [0, 1])
def test_time_is_counted_once_for_all_processes(tmp_path: Path, rank: int) -> None:
    """Else a budget of minutes would end sooner the more processes there are."""
    training = begin(tmp_path / "run", corpus_of(tmp_path, prose(3000), tiny()), tiny())
    own = Training(training.run, training.task, Deaf(rank, 2))
    own._clock -= 100
    own._tick()
    assert (own.place.seconds >= 100) == (rank == 0)
    assert own.place.seconds == 0 or rank == 0


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The GPUs that the second of two processes makes its own, on a machine that seems to have some."""
    chosen = list[str]()
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(dist, "init_process_group", lambda backend: chosen.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    return chosen


@pytest.mark.parametrize(("device", "own"), [("cuda", "cuda:1"), ("cuda:1", "cuda:1"), ("cuda:3", "cuda:3")])
def test_a_process_talks_through_the_gpu_of_its_model(device: str, own: str, gpus: list[str]) -> None:
    """The command line gives "cuda", and `fit` the GPU that the model is on."""
    with joined(device) as (team, used):
        assert (team, used) == (Team(1, 2), own)
    assert gpus == [own, "nccl"]


@pytest.mark.usefixtures("gpus")
def test_one_gpu_for_the_models_of_two_processes() -> None:
    said = "NCCL error in: NCCLUtils.hpp:268, invalid usage\nLast error:\nDuplicate GPU detected : rank 1 and rank 0"
    with (
        pytest.raises(InputError, match="cuda:0 has the model of several processes; put each on a GPU of its own"),
        joined("cuda:0"),
    ):
        raise RuntimeError(said)


class Sequences(SeparateSequences):
    def __init__(self, count: int) -> None:
        self.lengths, self.options = np.arange(count) % 7 + 1, tiny(batch_size=5)
        self.seen: list[int] = []

    def loss(self, own: Any) -> Tensor:
        self.seen += own.tolist()
        return torch.zeros(())


def test_every_sequence_is_in_one_part() -> None:
    for world in (1, 2, 4):
        seen = []
        for rank in range(world):
            sequences = Sequences(23)
            sequences.share(rank, world)
            batches = list(sequences.batches(0, 0))
            assert len(batches) == 5
            for batch in batches:
                batch.loss()
                assert batch.size in (5 // world, 5 // world + 1, 3 // world, 3 // world + 1)
            seen += sequences.seen
        assert sorted(seen) == list(range(23))


def test_every_stream_is_in_one_part(tmp_path: Path) -> None:
    options = tiny(batch_size=6)
    corpus = corpus_of(tmp_path, prose(3000), options)
    model = language_model.LanguageModel(corpus.vocabulary.size, options)
    x, _ = language_model.streams(corpus.train, options, 0)
    found = []
    for rank in range(3):
        task = language_model.LanguageModelling(model, corpus, options)
        task.share(rank, 3)
        assert next(iter(task.batches(0, 0))).size == 2 * options.window
        found.append(x[:, task.columns])
    assert torch.equal(torch.cat(found, 1), x)
