"""The training loop: what it computes, that it resumes to the bit, and that a crash leaves files whole."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import elman as library
from elman import files
from elman.datasets.text import Corpus
from elman.errors import InputError
from elman.files import write_atomically
from elman.tasks.language_model import (
    LanguageModel,
    LanguageModelling,
    Options,
    evaluate,
    load,
    stream_length,
    streams,
)
from elman.training import loop
from elman.training.loop import CHECKPOINT, MODEL, Place, Training
from elman.training.run import FILES, Run
from forks import Child, Forks
from test_tasks import SMALL, data_of
from tiny_runs import begin, corpus_of, elman, metrics, prose, reopen, tiny


def small(tmp_path: Path, **changes: Any) -> tuple[Corpus, Options]:
    """A corpus of six steps to an epoch and two that do not fill a window, and options for it."""
    options = tiny(**changes)
    return corpus_of(tmp_path, prose(235), options), options


def tensors_of(training: Training[LanguageModelling]) -> dict[str, Tensor]:
    """Everything that training changes."""
    found = dict(training.task.model.state_dict())
    names = [name for name, _ in training.task.model.named_parameters()]
    for number, moments in training.optimizer.state_dict()["state"].items():
        found |= {f"{names[number]} {key}": value for key, value in moments.items()}
    return found | {"random": torch.get_rng_state()}


def step_of(directory: Path) -> int:
    """The step of a checkpoint. It is whole whenever it is looked at, also under a running writer."""
    content = (directory / CHECKPOINT).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    notes = json.loads(header.pop("__metadata__")["elman"])
    assert len(content) == end + max(entry["data_offsets"][1] for entry in header.values())
    return notes["place"]["step"]


# Streams


@given(
    window=st.integers(1, 20), batch=st.integers(1, 6), extra=st.integers(0, 300), epoch=st.integers(0, 9), seed=st.integers(0, 3)
)  # fmt: skip
def test_streams_are_the_text_and_the_same_one_token_later(window: int, batch: int, extra: int, epoch: int, seed: int):
    options = tiny(window=window, batch_size=batch, seed=seed)
    tokens = torch.arange(window * (batch + 1) + extra)  # a token is its place
    x, y = streams(tokens, options, epoch)
    length = stream_length(tokens, options)
    assert x.shape == y.shape == (length, batch)
    assert length >= window
    assert length % window == 0
    assert torch.equal(y, x + 1)
    whole = x.t().flatten()  # the streams one after another
    assert torch.equal(whole, torch.arange(len(whole)) + whole[0])
    assert 0 <= whole[0] < window
    assert whole[0] + len(tokens) - 1 - whole[-1] < window + window * batch + 1  # at most this is left out
    assert torch.equal(streams(tokens, options, epoch)[0], x)


def test_epochs_and_seeds_cut_the_text_elsewhere():
    tokens = torch.arange(5000, dtype=torch.int32)
    starts = [
        [int(streams(tokens, tiny(window=64, seed=seed), epoch)[0][0, 0]) for epoch in range(6)] for seed in (0, 50)
    ]
    assert all(len(set(row)) > 3 for row in starts)
    assert starts[0] != starts[1]


def test_streams_copy_nothing():
    tokens = torch.zeros(5000, dtype=torch.uint8)
    for part in streams(tokens, tiny(), 3):
        assert part.dtype == torch.uint8
        assert part.untyped_storage().data_ptr() == tokens.untyped_storage().data_ptr()


def test_text_shorter_than_the_windows():
    options = tiny(window=8, batch_size=4)
    assert stream_length(torch.zeros(40), options) == 8
    with pytest.raises(InputError, match=r"has 39 tokens, but 4 streams with a window of 8 need 40;.*--batch-size"):
        stream_length(torch.zeros(39), options)


@given(st.integers(2, 3000), st.integers(1, 400), st.integers(1, 400))
def test_advised_sizes_are_enough(count: int, batch_size: int, window: int):
    tokens = torch.zeros(count, dtype=torch.uint8)
    try:
        stream_length(tokens, Options(batch_size=batch_size, window=window))
    except InputError as error:
        found = re.search(r"give more text, or --batch-size (\d+) --window (\d+)$", str(error))
        assert found is not None
        advised = Options(batch_size=int(found[1]), window=int(found[2]))
        assert stream_length(tokens, advised) >= advised.window
        assert advised.batch_size <= batch_size
        assert advised.window <= window


# The loop


def by_hand(corpus: Corpus, options: Options, model: LanguageModel) -> tuple[list[float], dict[str, Tensor]]:
    """The same training with torch.nn.LSTM and a loop that has nothing but training in it."""
    recurrent = nn.LSTM(options.embedding_size, options.hidden_size, options.num_layers)
    recurrent.load_state_dict(model.recurrent.state_dict())
    parts = nn.ModuleDict({"embedding": model.embedding, "recurrent": recurrent, "output": model.output})
    optimizer = torch.optim.AdamW(parts.parameters(), betas=(0.9, 0.99), weight_decay=options.weight_decay)
    assert options.epochs is not None
    per_epoch = (len(corpus.train) - options.window) // options.batch_size // options.window
    length = per_epoch * options.window
    total, losses = round(options.epochs * per_epoch), []
    while True:
        state = None
        x, y = (part.long() for part in streams(corpus.train, options, len(losses) // per_epoch))
        for start in range(0, length, options.window):
            warm_up = min(1.0, max((len(losses) + 1) / 100, 10 * len(losses) / total))
            cosine = 0.5 * (1 + math.cos(math.pi * len(losses) / total))
            optimizer.param_groups[0]["lr"] = options.learning_rate * warm_up * cosine
            h, state = recurrent(parts["embedding"](x[start : start + options.window]), state)
            state = (state[0].detach(), state[1].detach())
            logits = parts["output"](h)
            loss = cross_entropy(logits.transpose(1, 2), y[start : start + options.window])
            optimizer.zero_grad()
            loss.backward()
            norm = torch.stack([p.grad.norm() for p in parts.parameters() if p.grad is not None]).norm()
            for p in parts.parameters():
                assert p.grad is not None
                p.grad *= min(1.0, options.clip / (norm + 1e-6))
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == total:
                return losses, parts.state_dict()


@pytest.mark.parametrize("clip", [0.3, 1000.0])
def test_training_is_what_it_says(tmp_path: Path, clip: float):
    """Truncated BPTT with the state carried, AdamW, warm-up, cosine and clipping: written a second time."""
    corpus, options = small(
        tmp_path, dropout=0.0, epochs=20.5, clip=clip, num_layers=2, weight_decay=0.1, learning_rate=0.05
    )
    training = begin(tmp_path / "run", corpus, options)
    exact, weights = by_hand(corpus, options, begin(tmp_path / "twin", corpus, options).task.model)
    assert len(exact) == 123
    found = [report.loss for report in training.steps()]
    assert found == pytest.approx(exact, rel=1e-4)
    for name, value in training.task.model.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-2, atol=1e-3)
    assert exact[0] - exact[-1] > 0.8  # far enough from where it began for a difference to show


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_state_is_carried_and_gradient_is_cut(tmp_path: Path, cell: str):
    corpus, options = small(tmp_path, cell=cell, num_layers=2, epochs=3.0)
    training = begin(tmp_path / "run", corpus, options)
    given: list[Any] = []
    returned: list[Any] = []

    def watch(model: nn.Module, arguments: tuple[Any, ...], result: tuple[Any, ...]) -> None:
        if model.training:
            given.append(arguments[1])
            returned.append(result[1])

    training.task.model.register_forward_hook(watch)
    places = [(report.place.epoch, report.place.at) for report in training.steps()]
    assert len(places) == len(given) == 18
    for k, (before, at) in enumerate(zip(returned, given[1:], strict=False), start=1):
        if places[k][0] != places[k - 1][0]:
            assert at is None  # a new epoch begins elsewhere in the text
            continue
        pairs = zip(before, at, strict=True) if isinstance(at, tuple) else [(before, at)]
        for old, new in pairs:
            assert torch.equal(old, new)
            assert new.abs().max() > 0
            assert old.requires_grad
            assert not new.requires_grad
    assert given[0] is None
    assert [epoch for epoch, _ in places] == [0] * 6 + [1] * 6 + [2] * 6
    assert [at for _, at in places[:6]] == [8, 16, 24, 32, 40, training.task.length]


def test_gradient_is_clipped(tmp_path: Path):
    corpus, options = small(tmp_path, clip=0.01)
    training = begin(tmp_path / "run", corpus, options)
    norms: list[float] = []

    def watch(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))

    training.optimizer.register_step_pre_hook(watch)
    rows = [report.row for report in training.steps() if report.row is not None]
    assert norms == pytest.approx([0.01] * 12, rel=1e-3)
    assert all(row["gradient_norm"] > 0.05 for row in rows)  # as it was before


def test_rows_of_metrics(tmp_path: Path):
    corpus, options = small(tmp_path, epochs=10.0, dropout=0.0)
    training = begin(tmp_path / "run", corpus, options)
    losses: list[float] = []
    rows: list[dict[str, Any]] = []
    rates = [
        0.5 * options.learning_rate * min(1.0, max((k + 1) / 100, k / 6)) * (1 + math.cos(math.pi * k / 60))
        for k in range(60)
    ]
    for report in training.steps():
        losses.append(report.loss)
        assert report.progress == pytest.approx(len(losses) / 60)
        if report.row is not None:
            rows.append(report.row)
            score = evaluate(training.task.model, corpus.validation, corpus.validation_characters)
            assert report.row["validation_nats"] == score.nats
            assert report.row["bits_per_character"] == score.bits_per_character
            assert report.row["perplexity"] == pytest.approx(math.exp(score.nats))
            assert report.row["train_nats"] == pytest.approx(sum(losses[-5:]) / 5)
            assert report.row["learning_rate"] == pytest.approx(rates[len(losses) - 1])
    assert [row["step"] for row in rows] == list(range(5, 61, 5))
    assert [row["epoch"] for row in rows] == pytest.approx([step / 6 for step in range(5, 61, 5)], abs=1e-4)
    written = metrics(tmp_path / "run")
    assert [float(row["validation_nats"]) for row in written] == pytest.approx(
        [r["validation_nats"] for r in rows], rel=1e-5
    )
    assert list(written[0]) == [key for key in rows[0] if key != "seconds"]


def test_the_parameters_kept_are_the_best(tmp_path: Path):
    """On a text that it can only learn by heart, the last parameters are not the best, also after a resumption."""
    options = tiny(hidden_size=32, epochs=60.0, dropout=0.0, learning_rate=0.05, held_out=0.4)
    corpus, run = corpus_of(tmp_path, prose(500), options), tmp_path / "run"
    training = begin(run, corpus, options)
    scores: list[float] = []
    best: dict[str, Tensor] = {}
    for report in training.steps():
        if report.row is not None:
            scores.append(report.row["validation_nats"])
            if scores[-1] == min(scores):
                best = {name: value.clone() for name, value in training.task.model.state_dict().items()}
            if len(scores) == 10:
                training.save()
                shutil.copytree(run, tmp_path / "saved")
    assert min(scores) + 0.01 < min(scores[-2:])
    for _ in reopen(tmp_path / "saved", corpus, options).steps():
        pass
    for directory in (run, tmp_path / "saved"):
        model, _, _ = load(directory)
        assert all(torch.equal(value, best[name]) for name, value in model.state_dict().items())


def test_schedule_and_progress(tmp_path: Path):
    corpus, options = small(tmp_path, epochs=1000.0)
    training = begin(tmp_path / "run", corpus, options)
    assert training.task.steps_per_epoch == 6
    for step, progress, rate in (
        (0, 0.0, 0.01),
        (49, 49 / 6000, 0.5 * 0.5 * (1 + math.cos(math.pi * 49 / 6000))),
        (99, 99 / 6000, 0.5 * (1 + math.cos(math.pi * 99 / 6000))),
        (3000, 0.5, 0.5),
        (6000, 1.0, 0.0),
        (7000, 1.0, 0.0),
    ):
        training.place.step = step
        assert training.progress() == pytest.approx(progress)
        assert training.schedule() == pytest.approx(rate, abs=1e-12)


def test_warm_up_takes_a_tenth_of_a_short_budget(tmp_path: Path):
    training = begin(tmp_path / "run", *small(tmp_path, epochs=10.0))
    for step, warm in ((0, 0.01), (3, 0.5), (6, 1.0), (9, 1.0)):
        training.place.step = step
        assert training.schedule() == pytest.approx(warm * 0.5 * (1 + math.cos(math.pi * step / 60)))


def test_whichever_budget_is_used_further_counts(tmp_path: Path):
    corpus, options = small(tmp_path, epochs=100.0, minutes=2.0)
    training = begin(tmp_path / "run", corpus, options)
    training.place = Place(step=60, seconds=30.0)
    assert training.progress() == pytest.approx(0.25)
    training.place = Place(step=300, seconds=30.0)
    assert training.progress() == pytest.approx(0.5)
    training.place = Place(step=1, seconds=500.0)
    assert training.progress() == 1.0


class Clock(SimpleNamespace):
    """Ticks a second whenever it is read."""

    now = 1000.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


def test_a_time_budget_ends_training_and_pauses_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    corpus, options = small(tmp_path, epochs=None, minutes=2.0)
    training = begin(tmp_path / "run", corpus, options)
    for report in training.steps():
        if report.place.seconds >= 60:
            break
    training.save()
    steps, seconds = training.place.step, training.place.seconds
    assert 10 < steps <= 60
    clock.now += 24 * 3600
    training = reopen(tmp_path / "run", corpus, options)
    assert training.place.seconds == seconds
    *_, last = training.steps()
    assert last.place.finished
    assert 120 <= last.place.seconds < 130
    assert steps + 10 < last.place.step <= 120
    assert 10 <= len(metrics(tmp_path / "run")) <= 13


def test_checkpoints_are_written_as_time_goes_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Besides those at every evaluation, of which there is one here, at the end."""
    corpus, options = small(tmp_path, evaluations=1)
    for seconds, every in ((-1.0, True), (1e9, False)):
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", seconds)
        directory = tmp_path / f"run {every}"
        training = begin(directory, corpus, options)
        saved = [step_of(directory) for _ in training.steps()]
        assert saved == (list(range(1, 13)) if every else [0] * 11 + [12])


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tmp_path: Path):
    corpus, options = small(tmp_path, learning_rate=0.125)
    training = begin(tmp_path / "run", corpus, options)
    steps = training.steps()
    for _ in range(4):
        next(steps)
    training.save()
    before = {name: (tmp_path / "run" / name).read_bytes() for name in (CHECKPOINT, MODEL, "metrics.csv")}
    with torch.no_grad():
        training.task.model.output.bias.fill_(math.nan)
    with pytest.raises(InputError, match=r"the loss became nan at step 5;.*--learning-rate below 0\.125"):
        next(steps)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before
    again = reopen(tmp_path / "run", corpus, options)
    assert again.place.step == 4
    *_, last = again.steps()
    assert last.place.finished


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_learning_rate_that_is_far_too_high(tmp_path: Path, rate: float):
    """Whether the loss becomes huge or no number at all, the command ends with a sentence or a result."""
    (tmp_path / "text.txt").write_text(prose(1500))
    size = ("--hidden-size", 8, "--batch-size", 4, "--window", 8)
    outcome = elman(
        "train", "lm", tmp_path / "text.txt", "--run", tmp_path / "run", "--epochs", 3, "--learning-rate", rate, *size
    )
    if rate > 1e20:
        assert outcome.status == 2
        assert f"--learning-rate below {rate}" in outcome.err.splitlines()[-1]
        assert outcome.err.splitlines()[-1].startswith("elman: the loss became ")
        assert outcome.out == ""
        assert (tmp_path / "run" / CHECKPOINT).exists()
    else:
        assert outcome.status in (0, 2)


# Resuming, to the bit


@pytest.fixture(scope="module", params=["lstm", "gru", "rnn"])
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of two and a half epochs with dropout, and a copy of its directory at every step."""
    directory = tmp_path_factory.mktemp(request.param)
    corpus, options = small(directory, cell=request.param, num_layers=2, dropout=0.3, epochs=2.5, seed=4)
    whole, watched = directory / "whole", directory / "watched"
    training = begin(whole, corpus, options)
    count = sum(1 for _ in training.steps())
    tensors = {name: value.clone() for name, value in tensors_of(training).items()}

    twin = begin(watched, corpus, options)
    for report in twin.steps():
        twin.save()
        shutil.copytree(watched, directory / f"step {report.place.step}")
    return SimpleNamespace(
        directory=directory, whole=whole, corpus=corpus, options=options, tensors=tensors, count=count
    )


def same(run: SimpleNamespace, training: Training[LanguageModelling], directory: Path) -> None:
    """Equal to the uninterrupted run to the last bit."""
    found = tensors_of(training)
    assert found.keys() == run.tensors.keys()
    assert [name for name, value in found.items() if not torch.equal(value, run.tensors[name])] == []
    assert metrics(directory) == metrics(run.whole)
    assert (directory / MODEL).read_bytes() == (run.whole / MODEL).read_bytes()


@pytest.mark.parametrize("step", range(1, 16))
def test_resumed_at_any_step_equals_never_interrupted(uninterrupted: SimpleNamespace, tmp_path: Path, step: int):
    run = uninterrupted
    assert run.count == 15  # crossing two epochs
    directory = shutil.copytree(run.directory / f"step {step}", tmp_path / "run")
    training = reopen(directory, run.corpus, run.options)
    assert training.place.step == step
    assert len(list(training.steps())) == run.count - step
    same(run, training, directory)


def test_what_is_restored_lies_where_torch_would_have_put_it(uninterrupted: SimpleNamespace, tmp_path: Path):
    """Products read memory that is not aligned in another order, and round otherwise in the last bit."""
    run = uninterrupted
    for step in range(1, run.count):
        directory = shutil.copytree(run.directory / f"step {step}", tmp_path / str(step))
        training = reopen(directory, run.corpus, run.options)
        states = training.task.state if isinstance(training.task.state, tuple) else (training.task.state,)
        values = (*states, *training.task.model.parameters())
        assert [value.data_ptr() % 64 for value in values] == [0] * len(values)


def test_killed_long_after_the_checkpoint(uninterrupted: SimpleNamespace, tmp_path: Path):
    """The steps after the checkpoint left rows and a model behind; they are taken again, and counted once."""
    run = uninterrupted
    for step in (1, 4, 7):
        directory = shutil.copytree(run.whole, tmp_path / str(step))
        shutil.copy(run.directory / f"step {step}" / CHECKPOINT, directory / CHECKPOINT)
        training = reopen(directory, run.corpus, run.options)
        assert all(int(row["step"]) <= step for row in Run(directory).metrics())
        for _ in training.steps():
            pass
        same(run, training, directory)


def test_resumed_again_and_again(uninterrupted: SimpleNamespace, tmp_path: Path):
    run = uninterrupted
    directory = tmp_path / "run"
    begin(directory, run.corpus, run.options)
    while True:
        training = reopen(directory, run.corpus, run.options)
        steps = training.steps()
        for _ in range(4):
            next(steps, None)
        if training.place.finished:
            break
        training.save()
    same(run, training, directory)


SIZES = ("--hidden-size", 8, "--embedding-size", 4, "--batch-size", 4, "--window", 8, "--num-layers", 2, "--dropout", 0.3)  # fmt: skip

EPOCHS = {"tag": 25, "classify": 30, "forecast": 60}  # more than a hundred steps each

# `python -m elman`, on one thread as this process
MAIN = "import torch; torch.set_num_threads(1); from elman.__main__ import main; main()"
# The same, writing a checkpoint after every step
BUSY = "import elman.training.loop as loop; loop.CHECKPOINT_SECONDS = -1.0; " + MAIN


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SimpleNamespace]:
    """Runs that nobody interrupts, one of each task, long enough for others like it to be."""

    @cache
    def run_of(name: str) -> SimpleNamespace:
        directory = tmp_path_factory.mktemp("reference")
        if name == "lm":
            (directory / "text.txt").write_text(prose(1500))
            arguments = ("train", "lm", directory / "text.txt", "--epochs", 10, *SIZES)
        else:
            data = data_of(name, directory)
            arguments = ("train", name, data, *SMALL[name], "--dropout", 0.3, "--epochs", EPOCHS[name])
        outcome = elman(*arguments, "--run", directory / "run")
        assert outcome.status == 0
        return SimpleNamespace(directory=directory / "run", arguments=arguments, out=outcome.out)

    return run_of


@pytest.fixture(scope="module")
def reference(references: Callable[[str], SimpleNamespace]) -> SimpleNamespace:
    return references("lm")


def equal_files(reference: SimpleNamespace, directory: Path) -> None:
    assert (directory / MODEL).read_bytes() == (reference.directory / MODEL).read_bytes()
    assert metrics(directory) == metrics(reference.directory)
    mine, theirs = (safetensors.torch.load_file(run / CHECKPOINT) for run in (directory, reference.directory))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(("name", "reaches"), [("lm", (20, 50)), ("forecast", (30,))])
def test_killed_at_random_moments(
    references: Callable[[str], SimpleNamespace], tmp_path: Path, forks: Forks, name: str, reaches: tuple[int, ...]
):
    """kill -9 while a checkpoint is being written after every step, a few times, then on to the end."""
    reference, directory, draw = references(name), tmp_path / "run", random.Random(0)
    command = (*reference.arguments, "--run", directory)
    for reach in reaches:
        with forks.begin(Child(BUSY, tuple(map(str, command)))) as child:
            until = reach + draw.randrange(20)
            while not (directory / CHECKPOINT).exists() or step_of(directory) < until:
                assert child.poll() is None, child.printed()
                time.sleep(0.003)
            time.sleep(draw.random() * 0.02)
            child.send_signal(signal.SIGKILL)
            assert child.end().returncode == -signal.SIGKILL
        assert until <= step_of(directory)
        command = ("train", name, "--resume", directory)
    assert step_of(directory) < step_of(reference.directory)

    outcome = elman("train", name, "--resume", directory)
    assert outcome.status == 0
    assert outcome.out == reference.out
    equal_files(reference, directory)
    assert sorted(p.name for p in directory.rglob("*")) == sorted(p.name for p in reference.directory.rglob("*"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_by_a_signal(reference: SimpleNamespace, tmp_path: Path, forks: Forks, number: int, status: int):
    """Ctrl-C, and what a cluster sends before it takes a machine away."""
    directory = tmp_path / "run"
    command = *reference.arguments, "--run", directory
    with forks.begin(Child(MAIN, tuple(map(str, command)))) as child:
        while "%  step" not in child.printed()[1]:  # the first evaluation; eleven more are to come
            assert child.poll() is None, child.printed()
            time.sleep(0.003)
        child.send_signal(number)
        done = child.end()
    assert done.returncode == status
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    said = re.search(
        r"interrupted at step (\d+), everything is saved; resume with: elman train lm --resume (.+)\n", done.stderr
    )
    assert said is not None
    assert int(said[1]) == step_of(directory)
    assert 0 < step_of(directory) < step_of(reference.directory)
    assert said[2] == str(directory)
    if number == signal.SIGTERM:
        return  # what is saved is the same

    outcome = elman("train", "lm", "--resume", directory)
    assert outcome.status == 0
    assert outcome.out == reference.out
    equal_files(reference, directory)


def test_samples_of_steps_that_are_done_again_are_forgotten(tmp_path: Path):
    run = Run(tmp_path)
    for step in (5, 10, 15):
        run.append_sample(step, f"written at {step}\nin two lines")
    run.forget_after(10)
    samples = "--- step 5\nwritten at 5\nin two lines\n--- step 10\nwritten at 10\nin two lines\n"
    assert (tmp_path / "samples.txt").read_text() == samples
    run.forget_after(10)
    assert (tmp_path / "samples.txt").read_text() == samples
    run.forget_after(4)
    assert (tmp_path / "samples.txt").read_text() == ""


@pytest.mark.parametrize("presses", [1, 2])
def test_a_second_control_c_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, presses: int):
    (tmp_path / "text.txt").write_text(prose(1500))
    count = Training._count

    def pressed(self: Training, loss: float, steps: int) -> None:
        if self.place.step == 2:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        count(self, loss, steps)

    monkeypatch.setattr(Training, "_count", pressed)
    before = signal.getsignal(signal.SIGINT)
    outcome = elman("train", "lm", tmp_path / "text.txt", "--epochs", 1, *SIZES, "--run", tmp_path / "run")
    assert outcome.status == 130
    assert outcome.out == ""
    assert step_of(tmp_path / "run") == (3 if presses == 1 else 0)
    assert ("interrupted at step 3" in outcome.err) == (presses == 1)
    assert signal.getsignal(signal.SIGINT) is before


def rewind(directory: Path, corpus: Corpus, options: Options, steps: int) -> bytes:
    """Put the checkpoint of an early step into the directory of a run. Returns its bytes."""
    torch.manual_seed(options.seed)
    training = Training(
        Run(directory), LanguageModelling(LanguageModel(corpus.vocabulary.size, options), corpus, options)
    )
    for report in training.steps():
        if report.place.step == steps:
            break
    training.save()
    return (directory / CHECKPOINT).read_bytes()


def test_the_disk_is_full(reference: SimpleNamespace, tmp_path: Path, forks: Forks):
    """One sentence; the checkpoint from before is whole, and training goes on from it once there is room."""
    directory = shutil.copytree(reference.directory, tmp_path / "run")
    for name in (MODEL, "metrics.csv", "loss.png"):
        (directory / name).unlink()
    corpus = corpus_of(tmp_path, prose(1500), tiny())
    options = Options.from_json(json.loads((directory / "config.json").read_text())["options"], "")
    before = rewind(directory, corpus, options, steps=30)

    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, 2 * ({len(before) // 2},)); "
    (done,) = forks.run(Child(limit + BUSY, ("train", "lm", "--resume", str(directory))))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    complaints = [line for line in done.stderr.splitlines() if line.startswith("elman: ")]
    assert complaints == done.stderr.splitlines()[-1:]
    assert f"cannot write {directory / CHECKPOINT}" in complaints[0]
    assert "File too large" in complaints[0]
    assert (directory / CHECKPOINT).read_bytes() == before
    assert not list((directory / "checkpoint").glob(".*"))

    assert elman("train", "lm", "--resume", directory).status == 0
    equal_files(reference, directory)


# Resuming with something else


@pytest.mark.usefixtures("no_pictures")
def test_resuming_a_finished_run_says_the_same_again(reference: SimpleNamespace, tmp_path: Path):
    directory = shutil.copytree(reference.directory, tmp_path / "run")
    outcome = elman("train", "lm", "--resume", directory)
    assert (outcome.status, outcome.out) == (0, reference.out)
    equal_files(reference, directory)


@pytest.mark.usefixtures("no_pictures")
def test_a_finished_run_goes_on_with_a_larger_budget(reference: SimpleNamespace, tmp_path: Path):
    directory = shutil.copytree(reference.directory, tmp_path / "run")
    before, steps = metrics(directory), step_of(directory)
    outcome = elman("train", "lm", "--resume", directory, "--epochs", 20)
    assert outcome.status == 0
    assert step_of(directory) == 2 * steps
    assert json.loads((directory / "config.json").read_text())["options"]["epochs"] == 20
    rows = metrics(directory)
    assert rows[: len(before)] == before
    added = [int(row["step"]) for row in rows[len(before) :]]
    assert added[-1] == 2 * steps
    assert all(b > a for a, b in pairwise(added))
    assert len(added) >= 5  # evaluated along the way, not only at the end


def test_a_smaller_budget_ends_a_run(tmp_path: Path):
    directory = tmp_path / "run"
    corpus, options = small(tmp_path, epochs=9.0)
    begin(directory, corpus, options)
    for report in (training := reopen(directory, corpus, options)).steps():
        if report.place.step == 20:
            break
    training.save()
    *_, last = reopen(directory, corpus, tiny(epochs=4.0)).steps()
    assert last.place.step == 24


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("change", [lambda text: text[:-1] + "!", lambda text: text + "a", lambda text: text[1:]])
def test_a_changed_text_is_refused(reference: SimpleNamespace, tmp_path: Path, change: Any):
    directory, path = tmp_path / "run", tmp_path / "text.txt"
    shutil.copytree(reference.directory, directory)
    config = json.loads((directory / "config.json").read_text())
    path.write_text(change(prose(1500)))
    config["data"]["path"] = str(path)
    (directory / "config.json").write_text(json.dumps(config))
    outcome = elman("train", "lm", "--resume", directory)
    assert outcome.status == 2
    assert f"elman: {directory} was begun with other text" in outcome.err
    path.write_text(prose(1500))
    assert elman("train", "lm", "--resume", directory).status == 0


@pytest.mark.parametrize(
    ("changes", "tensor", "theirs", "ours"),
    [
        ({"hidden_size": 12}, "output.weight", r"\(\d+, 12\)", r"\(\d+, 8\)"),
        ({"num_layers": 2}, "recurrent.bias_hh_l1", r"\(32,\)", "unknown to it"),
        ({"cell": "gru"}, "recurrent.bias_hh_l0", r"\(24,\)", r"\(32,\)"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    tmp_path: Path, changes: dict[str, Any], tensor: str, theirs: str, ours: str
):
    corpus, options = small(tmp_path)
    begin(tmp_path / "run", corpus, options)
    begin(tmp_path / "other", corpus, tiny(**changes))
    shutil.copy(tmp_path / "other" / CHECKPOINT, tmp_path / "run" / CHECKPOINT)
    complaint = f"does not fit its config.json: {re.escape(tensor)} is {theirs} in the file and {ours} in the model"
    with pytest.raises(InputError, match=complaint):
        reopen(tmp_path / "run", corpus, options)


def with_another_moment(tmp_path: Path, moment: str, value: torch.Tensor | None) -> tuple[Any, Any]:
    """Saves a run after its first step with another moment of a parameter, or without it. Returns its corpus and options."""
    corpus, options = small(tmp_path)
    training = begin(tmp_path / "run", corpus, options)
    next(training.steps())
    training.save()
    tensors, notes = training.run.load_tensors(CHECKPOINT)
    del tensors[name := f"optimizer.output.bias.{moment}"]
    training.run.save_tensors(CHECKPOINT, tensors if value is None else tensors | {name: value}, notes)
    return corpus, options


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq", "step"])
def test_moments_of_another_shape_are_refused(tmp_path: Path, moment: str):
    """The fused optimizer believes what it is given, and would write beyond the end of them."""
    corpus, options = with_another_moment(tmp_path, moment, torch.zeros(3))
    with pytest.raises(InputError, match=rf"output\.bias\.{moment}"):
        reopen(tmp_path / "run", corpus, options)


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq", "step"])
def test_a_checkpoint_that_lacks_a_moment_is_refused(tmp_path: Path, moment: str):
    """A parameter that was not used so far has none of them; one with some of them would be trained on without the rest."""
    corpus, options = with_another_moment(tmp_path, moment, None)
    with pytest.raises(InputError, match=rf"is damaged: 'optimizer\.output\.bias\.{moment}'"):
        reopen(tmp_path / "run", corpus, options)


def test_a_checkpoint_with_another_batch_size_is_refused(tmp_path: Path):
    """The state has one row for each stream."""
    corpus, options = small(tmp_path)
    training = begin(tmp_path / "run", corpus, options)
    next(training.steps())
    training.save()
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "run" / CHECKPOINT))):
        for _ in reopen(tmp_path / "run", corpus, tiny(batch_size=3)).steps():
            pass


def test_what_a_killed_writer_left_is_swept(tmp_path: Path):
    corpus, options = small(tmp_path)
    begin(tmp_path / "run", corpus, options)
    for name in FILES:
        path = tmp_path / "run" / name
        (path.parent / f".{path.name}.abc123").write_bytes(b"half")
    others = [tmp_path / "run" / name for name in ("notes.txt", ".hidden", "model.safetensors.old", ".git.config")]
    for other in others:
        other.write_text("mine")
    kept = {path for path in (tmp_path / "run").rglob("*") if not path.name.endswith(".abc123")}
    reopen(tmp_path / "run", corpus, options)
    assert set((tmp_path / "run").rglob("*")) == kept
    assert all(other.exists() for other in others)


# Files


def test_files_are_replaced_whole(tmp_path: Path):
    path = tmp_path / "file.json"
    previous = os.umask(0o027)
    try:
        write_atomically(path, b"one")
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o640)
        with path.open("rb") as reader:  # whoever reads the old file goes on reading it
            write_atomically(path, b"two and more")
            assert reader.read() == b"one"
        assert path.read_bytes() == b"two and more"
    finally:
        os.umask(previous)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, mode: int):
    path, seen = tmp_path / "file.json", list[int]()
    path.write_bytes(b"old")
    path.chmod(mode)

    def pieces() -> Iterator[bytes]:
        (temporary,) = set(tmp_path.iterdir()) - {path}
        seen.append(temporary.stat().st_mode & 0o777)
        yield b"new"

    write_atomically(path, pieces())
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", mode)
    assert seen == [mode]  # before anything stands in it


def test_files_are_on_disk_before_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[Any] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        calls.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    def watched_replace(old: Any, new: Any) -> None:
        calls.append("replace")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_atomically(tmp_path / "file", b"content")
    assert calls[:2] == [7, "replace"]


@pytest.mark.parametrize(
    ("call", "there"),
    [
        ("open", True),
        ("fsync", True),
        ("replace", True),
        ("chmod", True),
        ("open", False),
        ("fsync", False),
        ("replace", False),
    ],
)
def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, there: bool):
    path = tmp_path / "file"
    if there:
        path.write_bytes(b"old")

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(InputError, match=re.escape(f"cannot write {path} (3 bytes): No space left on device")):
        write_atomically(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == (["file"] if there else [])
    assert not there or path.read_bytes() == b"old"


def test_a_directory_that_is_not_there(tmp_path: Path):
    with pytest.raises(InputError, match=re.escape(f"cannot write {tmp_path / 'no' / 'file'}")):
        write_atomically(tmp_path / "no" / "file", b"")


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (os.mkfifo, "a pipe"),
    "directory": (os.mkdir, "a directory"),
    "socket": (lambda path: bind(path), "a socket"),
    "device": (lambda path: os.symlink(os.devnull, path), "a device"),
    "loop": (lambda path: os.symlink(path, path), "a link that leads back to itself"),
}


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # a whole path may be too long for it


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, odd: str):
    path = tmp_path / "file"
    make, what = ODD[odd]
    make(path)
    before = path.lstat()
    with pytest.raises(InputError, match=re.escape(f"cannot write {path}: it is {what}")):
        write_atomically(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.parametrize("there", [True, False], ids=["replacing", "new"])
def test_a_link_is_followed(tmp_path: Path, there: bool):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    link.symlink_to(Path("elsewhere") / "file")
    if there:
        target.write_bytes(b"old")
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert not target.is_symlink()


def test_every_file_of_a_run_is_of_an_open_format(reference: SimpleNamespace):
    kinds = {".json": b"{", ".csv": b"step,", ".png": b"\x89PNG", ".txt": b"--- step "}
    names = {str(path.relative_to(reference.directory)) for path in reference.directory.rglob("*") if path.is_file()}
    assert names == set(FILES) - {
        "tokenizer.json",
        "scales.json",
        "confusion.png",
        "calibration.png",
        "forecast.png",
        "gates.png",
        "page.html",
    }
    for name in names:
        content = (reference.directory / name).read_bytes()
        if name.endswith(".safetensors"):
            header = content[8 : 8 + int.from_bytes(content[:8], "little")]
            assert "__metadata__" in json.loads(header)
        else:
            assert content.startswith(kinds[Path(name).suffix])
        assert not content.startswith((b"\x80", b"PK"))  # pickle, or torch's archive of one


def test_no_pickle_is_read_or_written():
    sources = list(Path(library.__file__).parent.rglob("*.py"))
    assert len(sources) > 20
    pickling = re.compile(
        r"(?<!safetensors\.)\btorch\.(load|save)\b|\bimport (pickle|shelve|marshal|joblib|dill)\b|\bpickle\.(load|dump)|\bnp\.load\b"
    )
    assert pickling.search("x = torch.load(path)")
    assert [(path.name, found[0]) for path in sources for found in pickling.finditer(path.read_text("utf-8"))] == []


def test_a_directory_of_someone_elses_is_never_overwritten(tmp_path: Path):
    """Many programs leave a config.json."""
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    (tmp_path / "model.safetensors").write_bytes(b"theirs")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not empty and holds no run of elman"):
            Run(tmp_path).check_free(overwrite)
    assert (tmp_path / "model.safetensors").read_bytes() == b"theirs"


def test_the_best_model_and_the_checkpoint_are_of_one_moment(tmp_path: Path):
    """A run killed right after an evaluation must not go on with a worse model as its best."""
    corpus, options = small(tmp_path)
    training = begin(tmp_path / "run", corpus, options)
    for report in training.steps():
        if report.row is not None:
            assert step_of(tmp_path / "run") == report.place.step
            assert reopen(tmp_path / "run", corpus, options).place.best == training.place.best
            break
    else:
        pytest.fail("there was no evaluation")
