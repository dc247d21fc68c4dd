"""A label or a number for each step of a sequence of numbers: how it is read, learned, judged, told, explained and exported."""

from __future__ import annotations

import csv
import io
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.datasets import examples, sequences, tables
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns, Labelled
from elman.errors import InputError
from elman.explain import directions
from elman.tasks import classification, linear, regression, whole
from elman.tasks.encoded import Encoded, Inputs
from elman.tasks.gathered import Gathered
from elman.tasks.options import ClassificationOptions, RegressionOptions
from elman.tasks.parts import Parts, columns_of
from elman.tasks.pieces import Pieces
from elman.tasks.scores import segment_f1
from elman.tasks.separate import padded
from elman.tasks.tallies import Units
from elman.training import fit
from test_scores import macro_f1
from tiny_runs import elman, interval_by_hand, lines, scores_of, without_pictures

ROOT = Path(__file__).parent.parent
Options = {"classify": ClassificationOptions, "regress": RegressionOptions}
SMALL = ("--each-step", "--hidden-size", 8, "--batch-size", 8, "--dropout", 0, "--noise", 0, "--window", 20)


def figures(text: str) -> dict[str, str]:
    return dict(re.findall(r"^ {0,2}(\S.*?) {2,}(\S.*)$", scores_of(text), re.MULTILINE))


def options_of(task: str, **changes: Any) -> Any:
    own = {"each_step": True, "hidden_size": 5, "epochs": 1.0, "dropout": 0.0, "noise": 0.0, "window": 20}
    return Options[task](**own | changes)


def recording(path: Path, sequences: int, steps: int, task: str, delay: int = 2, seed: int = 0) -> Path:
    """What is said of a step is whether the number was positive some steps before, or the number itself, far from zero.

    The number of the table's rows where the label is missing is about a fifth.
    """
    draw = np.random.default_rng(seed)
    rows = []
    for k in range(sequences):
        x = draw.normal(size=steps + k)
        late = np.roll(x, delay)
        for t in range(len(x)):
            label = ("up" if late[t] > 0 else "down") if task == "classify" else f"{late[t] * 30 + 500:.4f}"
            known = draw.random() > 0.2 and (t >= delay if delay > 0 else t < len(x) + delay)
            rows.append(f"{'abcdefghijklmnopqrstuvwxyz'[k]},{x[t]:.4f},{draw.normal():.4f},{label if known else ''}\n")
    path.write_text("id,x,noise,label\n" + "".join(rows))
    return path


class Made:
    """Data, and a run of each task in each way of reading. Each is trained for the first test that asks for it."""

    def __init__(self, directory: Path):
        self.directory, self._said = directory, dict[tuple[str, str], str]()
        for task, delay in (("classify", 2), ("regress", -2)):
            recording(directory / f"{task}.csv", 12, 61, task, delay)
            recording(directory / f"{task}-new.csv", 3, 61, task, delay, seed=1)

    def said(self, task: str, way: str) -> str:
        """What its training printed."""
        if (task, way) not in self._said:
            given = [*SMALL, "--sequence", "id", "--epochs", 30, "--learning-rate", 0.03, "--evaluations", 2]
            given += ["--causal"] * (way == "causal") + ["--cell", "lstm"] * (task == "classify")
            run = self.directory / f"{task}-{way}"
            with without_pictures():
                outcome = elman("train", task, self.directory / f"{task}.csv", *given, "--run", run)
            assert outcome.status == 0, outcome.err
            self._said[task, way] = outcome.err + outcome.out
        return self._said[task, way]

    def run(self, task: str, way: str) -> Path:
        self.said(task, way)
        return self.directory / f"{task}-{way}"

    def file(self, task: str, way: str, *options: str) -> Path:
        """The run as an ONNX file, which is exported for the first test that asks for it."""
        path = self.directory / f"{task}-{way}{''.join(options)}.onnx"
        if not path.exists():
            outcome = elman("export", self.run(task, way), path, *options)
            assert outcome.status == 0, outcome.err
        return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("steps"))


# Reading

LABELLED = "id,label,x,y\na,up,1,4\na,down,2,5\na,,3,6\nb, up ,7,9\nb,nan,8,10\n"


def read(path: Path, **columns: Any) -> list[tuple[str, list[list[float]], Any]]:
    every = sequences.sequences(path, Columns(each_step=True, **columns))
    return [(each.name, np.asarray(each.content).tolist(), list(each.labels or ())) for each in every]


@pytest.mark.parametrize("rows", [1, 2, 50])  # a sequence may lie in several pieces
def test_every_step_has_its_label_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int):
    whole = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, *columns, **given: whole(path, *columns, rows=rows, **given))
    path = tmp_path / "a.csv"
    path.write_text(LABELLED)
    first, second = [[1, 4], [2, 5], [3, 6]], [[7, 9], [8, 10]]
    of_both = [("a", first, ["up", "down", None]), ("b", second, ["up", "nan"])]
    assert read(path, sequence="id") == of_both
    pl.read_csv(path).write_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", sequence="id") == of_both
    # Without a column that tells sequences apart, the table is one.
    assert read(path, channels=("y",)) == [("1", [[4], [5], [6], [9], [10]], ["up", "down", None, "up", "nan"])]
    (tmp_path / "a.jsonl").write_text(
        lines(
            json.dumps({"id": "a", "values": first, "label": ["up", "down", None]}),
            json.dumps({"id": "b", "values": second, "label": [" up ", "nan"]}),
        )
    )
    assert read(tmp_path / "a.jsonl") == of_both
    # Of numbers, NaN is a missing one.
    path.write_text(LABELLED.replace("up", "1").replace("down", "-2.5"))
    assert read(path, sequence="id", numeric=True)[1][2] == ["1", None]
    bare = sequences.sequences(path, Columns(each_step=True, label="none", channels=("x",)), labelled=False)
    assert [each.labels for each in bare] == [[None] * 5]


@pytest.mark.parametrize("numeric", [False, True])
def test_nan_among_numbers_is_no_label(tmp_path: Path, numeric: bool):
    """As a table has it whose labels became floats because some are missing."""
    file = tmp_path / "a.parquet"
    pl.DataFrame({"label": [1.0, np.nan, None], "x": [1, 2, 3]}).write_parquet(file)
    assert read(file, numeric=numeric) == [("1", [[1], [2], [3]], ["1.0" if numeric else "1", None, None])]
    (tmp_path / "a.jsonl").write_text('{"values": [1, 2, 3], "label": [1, NaN, null]}\n')
    assert read(tmp_path / "a.jsonl", numeric=numeric) == [("1", [[1], [2], [3]], ["1", None, None])]


def test_whole_numbers_are_the_same_classes_with_a_point_and_without(tmp_path: Path):
    """As pandas writes them where some are missing."""
    (tmp_path / "a.csv").write_text("label,x\n1.0,1\n,2\n-20.0,3\n3,4\n1.50,5\n")
    (tmp_path / "a.jsonl").write_text('{"values": [1, 2, 3, 4], "label": [1.0, null, -20.0, 3]}\n')
    pl.DataFrame({"label": [1.0, None, -20.0, 3.0], "x": [1, 2, 3, 4]}).write_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.csv")[0][2] == ["1", None, "-20", "3", "1.50"]
    for name in ("a.jsonl", "a.parquet"):
        assert read(tmp_path / name)[0][2] == ["1", None, "-20", "3"]


WRONG = {
    "a word for a number": ("a.csv", "label,x\n1,1\nup,2\n", True, "line 3: column 'label' should be a finite number, at most 3.4e+38 from zero, but is 'up'; correct it, or skip"),
    "one label": ("a.jsonl", '{"values": [1, 2], "label": "up"}\n', False, "line 1: 'label' should be a list of 2 labels, one for each step, but is up"),
    "a label too few": ("a.jsonl", '{"values": [1, 2], "label": ["up"]}\n', False, "line 1: 'label' should be a list of 2 labels, one for each step, but has 1"),
    "a list for a label": ("a.jsonl", '{"values": [1, 2], "label": ["up", []]}\n', False, "line 1: step 2 of 'label' should be a label but is []"),
    "digits in groups": ("a.csv", "label,x\n1,1\n1_000,2\n", True, "line 3: column 'label' should be a finite number, at most 3.4e+38 from zero, but is '1_000'"),
    "a word in JSON": ("a.jsonl", '{"values": [1, 2], "label": [3, "up"]}\n', True, "line 1: step 2 of 'label' should be a finite number"),
    "one label for all": ("a.ts", "@data\n1,2:up\n", False, "has a label for each sequence, but --each-step wants one for each step; give a table or JSON lines, or leave --each-step out"),
    "a time": ("a.csv", "time,label,x\n2026-01-01,up,1\n", False, "line 2: column 'time' should be a number but is '2026-01-01'; correct it, name the columns of numbers with --columns and those of words with --categories, or skip such rows with --skip-bad"),
    "a missing number": ("a.csv", "label,x\nup,1\nup,\n", False, "line 3: column 'x' should be a number but is nothing"),
    "no number at all": ("a.csv", "label,x\nup,\nup,\n", False, "line 2: the table has no number in column 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_labels_that_make_no_sense(tmp_path: Path, case: str):
    name, content, numeric, message = WRONG[case]
    (tmp_path / name).write_text(content)
    columns = Columns(each_step=True, numeric=numeric, fill=case == "no number at all")
    with pytest.raises(InputError, match=re.escape(message)):
        list(sequences.sequences(tmp_path / name, columns))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["classify", "--causal"], "--causal is for labels of each step; give --each-step, or leave it out"),
        (["regress", "--window", 30], "--window is for labels of each step; give --each-step, or leave it out"),
        (["classify", "a.csv", "--each-step", "--text", "x"], "--each-step is for numbers, and --text reads texts; learn labels of words with elman train tag"),
        (["classify", "--each-step", "--window", 1], "--window must be 2 or more, got 1"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(given: list[Any], message: str):
    assert elman("train", *given) == (2, "", f"elman: {message}\n")


# What is learned from, and what is judged


def sequence_of(values: Any, labels: Sequence[str | None], name: str = "1") -> Labelled:
    return Labelled(name, np.asarray(values, np.float64), None, labels=labels)


def test_the_end_of_the_only_sequence_is_for_validation(tmp_path: Path):
    rows = [f"{'up' if k % 3 else 'down'},{k}\n" for k in range(50)]
    (tmp_path / "a.csv").write_text("label,x\n" + "".join(rows))
    task = classification.begin(tmp_path / "a.csv", options_of("classify", held_out=0.3), "cpu", BadRows())
    assert [task.encoded.rows[k][:, 0].tolist() for k in (0, 1)] == [list(range(35)), list(range(35, 50))]
    assert (task.train.tolist(), task.validation.tolist()) == ([0], [1])
    assert task.trained.reading.mean == [17]  # of the beginning alone
    said = dict(task.introduction())["sequences"]
    assert "one, of which the first 35 steps are for training and the last 15 for validation, 1 channel: x" in said
    # Two are drawn as whole ones, and a validation file leaves all for training.
    (tmp_path / "b.csv").write_text("id,label,x\n" + "".join(f"{k // 25},{row}" for k, row in enumerate(rows)))
    for given, counts in (({"sequence": "id"}, [25, 25]), ({"sequence": "id", "validation": str(tmp_path / "b.csv")}, [25] * 4)):  # fmt: skip
        found, *_ = classification.read(tmp_path / "b.csv", options_of("classify", **given), BadRows())
        assert found.rows.lengths.tolist() == counts
    found, train, *_ = classification.read(
        tmp_path / "a.csv", options_of("classify", validation=str(tmp_path / "a.csv")), BadRows()
    )
    assert found.rows.lengths[train].tolist() == [50]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("up,1\n", "leaves 1 sequence for training and 0 for validation; give at least two sequences, or one of at least two steps"),
        ("up,1\n" * 9, "the training part of {} has only one class, 'up'; give steps of at least two classes"),
        ("up,1\ndown,2\n" * 9 + ",3\n" * 7, "no step that {} leaves for validation has a label; give at least one there"),
        (",1\n" * 20 + "up,2\ndown,2\n", "no step that {} leaves for training has a label; give at least one there"),
    ],
)  # fmt: skip
def test_too_few_labels(tmp_path: Path, rows: str, message: str):
    file = tmp_path / "a.csv"
    file.write_text("label,x\n" + rows)
    with pytest.raises(InputError, match=re.escape(message.format(file))):
        classification.begin(file, options_of("classify"), "cpu", BadRows())


def test_it_says_what_was_skipped_where_nothing_is_left(tmp_path: Path):
    file = tmp_path / "a.csv"
    file.write_text("label,x\nup,1\ndown,?\n")
    said = f"{file} leaves 0 sequences for training and 0 for validation, with 1 malformed skipped, the first: {file}, line 3: column 'x' should be a number but is '?'; give at least two sequences, or one of at least two steps"
    for module, task in ((classification, "classify"), (regression, "regress")):
        with pytest.raises(InputError, match=re.escape(said)):
            module.begin(file, options_of(task, skip_bad=True), "cpu", BadRows(True))


def test_times_are_no_numbers(tmp_path: Path):
    file = tmp_path / "a.parquet"
    pl.DataFrame({"time": [1, 2], "label": ["a", "b"], "x": [1, 2]}).cast({"time": pl.Datetime}).write_parquet(file)
    said = "convert it, or name the columns of numbers with --columns and those of words with --categories"
    with pytest.raises(InputError, match=f"column 'time' should have numbers, but has the type Datetime.*; {said}$") as at:  # fmt: skip
        read(file)
    assert at.value.elsewhere == str(at.value).replace(said, "convert it")
    assert read(file, channels=("x",)) == [("1", [[1], [2]], ["a", "b"])]


def test_labels_of_one_sequence_are_on_one_side(tmp_path: Path):
    rows = [{"values": [1, 2], "label": label} for label in (["up", "down"], [None, None])]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    message = r"no step that .* leaves for (training|validation) has a label; give labels in more sequences, or another --seed"  # fmt: skip
    with pytest.raises(InputError, match=message):
        classification.begin(tmp_path / "a.jsonl", options_of("classify"), "cpu", BadRows())


def test_pieces_are_elsewhere_in_each_epoch(tmp_path: Path):
    """Each keeps its length, stays within its sequence and near its place, and has a label."""
    draw = np.random.default_rng(0)
    labels = [["a", "b"][k % 2] if k in (3, 4, 60, 61, 62, 90) else None for k in range(100)]
    every = [(draw.normal(size=(100, 1)), labels), (draw.normal(size=(19, 1)), ["a"] * 19)]
    (tmp_path / "a.jsonl").write_text(lines(*(json.dumps({"values": x.tolist(), "label": y}) for x, y in every)))
    options = options_of("classify", batch_size=2, validation=str(tmp_path / "a.jsonl"))
    made = classification.begin(tmp_path / "a.jsonl", options, "cpu", BadRows())
    cut, found = made.pieces, list[list[int]]()
    assert [tuple(each) for each in zip(*cut, strict=True)] == [(0, 0, 20), (0, 60, 80), (0, 80, 100), (1, 0, 19)]
    for epoch in range(400):
        for batch in made.batches(epoch, 0):
            assert batch.weight
        assert torch.isfinite(made.loss(np.arange(4)))
        pieces = made.pieces
        assert pieces.of.tolist() == cut.of.tolist()
        assert pieces.lengths.tolist() == cut.lengths.tolist()
        assert (np.abs(pieces.begin - cut.begin) <= cut.lengths // 2).all()
        assert (pieces.begin >= 0).all() and (pieces.end <= np.array([100, 100, 100, 19])).all()  # noqa: PT018
        counts = [sum(each is not None for each in every[k][1][a:b]) for k, a, b in zip(*pieces, strict=True)]
        assert counts == made.labels.tolist()
        assert min(counts) > 0
        found.append(pieces.begin.tolist())
    starts = [{each[k] for each in found} for k in range(4)]
    assert starts[0] == {*range(5)}  # further on, it would have no label
    assert starts[1] == {*range(50, 63)}
    assert starts[2] == {*range(71, 81)}
    assert starts[3] == {0}
    list(made.batches(7, 1))
    assert made.pieces.begin.tolist() == found[7]  # so does a training that goes on there


def test_numbers_need_to_differ(tmp_path: Path):
    (tmp_path / "a.csv").write_text("label,x\n" + "7,1\n" * 9)
    with pytest.raises(InputError, match=r"the training steps of .* have only one value, 7; give steps of different"):
        regression.begin(tmp_path / "a.csv", options_of("regress"), "cpu", BadRows())


@pytest.mark.parametrize("task", ["classify", "regress"])
def test_the_loss_is_the_mean_over_the_steps_that_have_a_label(tmp_path: Path, task: str):
    """Over all batches of an epoch, and over the shares of several processes, each labelled step counts once."""
    draw = np.random.default_rng(0)
    every, labels = list[dict[str, Any]](), ("a", "b", "c") if task == "classify" else (1, -4.5, 2)
    for k in range(9):
        own = [None if draw.random() < 0.3 else labels[int(draw.integers(3))] for _ in range(int(draw.integers(1, 70)))]
        own = [None] * len(own) if k == 4 else own
        every.append({"values": draw.normal(size=(len(own), 2)).tolist(), "label": own})
    every.append({"values": draw.normal(size=(45, 2)).tolist(), "label": [None] * 22 + [labels[0]] * 22 + [labels[1]]})
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, every)))
    module = {"classify": classification, "regress": regression}[task]
    given = {"smoothing": 0.0} if task == "classify" else {"loss": "mse"}
    options = options_of(task, batch_size=4, validation=str(tmp_path / "a.jsonl"), **given)
    made = module.begin(tmp_path / "a.jsonl", options, "cpu", BadRows())
    wanted, count, before = 0.0, 0, made.pieces
    assert sum(each is not None for one in every for each in one["label"]) == made.labels.sum()
    assert len(list(made.batches(3, 0))) == made.steps_per_epoch
    assert made.pieces.lengths.tolist() == before.lengths.tolist()
    assert made.pieces.begin.tolist() != before.begin.tolist()
    for of, begin, end in zip(*made.pieces, strict=True):
        each = every[of]
        x = (np.array(each["values"]) - made.trained.reading.mean) / made.trained.reading.deviation
        part = torch.tensor(x[begin:end, None], dtype=torch.float32)
        y = made.model(part, torch.tensor([end - begin]))[:, 0].detach()
        for row, label in zip(y, each["label"][begin:end], strict=True):
            if label is None:
                continue
            if task == "classify":
                wanted -= float(row.log_softmax(-1)[labels.index(label)])
            else:
                wanted += float((row[0] * made.trained.reading.spread[0] + made.trained.reading.center[0] - label) ** 2)
            count += 1
    if task == "regress":
        wanted /= made.trained.reading.spread[0] ** 2
    for parts in (1, 3):
        total, weight, sizes = 0.0, 0.0, 0
        for rank in range(parts):
            made.share(rank, parts)
            for batch in made.batches(3, 0):
                if batch.size:
                    assert batch.weight is not None
                    total, weight = total + float(batch.loss().detach()) * batch.weight, weight + batch.weight
                    sizes += batch.size
        assert weight == count
        assert total / weight == pytest.approx(wanted / count, rel=1e-4)
        assert (
            sizes == sum(len(each["label"]) for k, each in enumerate(every) if k != 4) - 15
        )  # and the first of three pieces
    made.share(0, 1)


def test_rare_classes_of_steps_weigh_as_much_when_balanced():
    labels = ["rare", None, *["usual"] * 6]
    every = [sequence_of(np.arange(8)[:, None], labels)] * 2
    gathered = Gathered(None, each_step=True)
    gathered.add(every, Path("none"))
    options = options_of("classify", balanced=True, smoothing=0.0)
    reading = classification.Reading.learn(gathered, np.arange(1), options)
    assert reading.classes == ["rare", "usual"]
    model = classification.ClassificationModel(reading, 2, options)
    task = classification.Classification(classification.Classifier(model, reading, options), Parts(gathered, np.arange(1), np.arange(1, 2), np.arange(0)), None)  # fmt: skip
    assert np.asarray(task.weights).tolist() == pytest.approx([7 / 2, 7 / 12])
    assert task.weight(np.arange(1)) == pytest.approx(7)
    (batch,) = task.batches(0, 0)
    x, lengths = task.encoded.batch(task.pieces)
    nats = -model(x, lengths)[:, 0].log_softmax(-1)
    by_hand = 7 / 2 * nats[0, 0] + 7 / 12 * nats[2:, 1].sum()
    assert float(batch.loss().detach()) == pytest.approx(float(by_hand.detach()) / 7)


# Windows


class Probe(torch.nn.Module):
    """In place of a model: says of each step the first and the last number that it has read with it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.read_at_once: list[int] = []

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        self.read_at_once += lengths.tolist()
        last = x[lengths - 1, torch.arange(x.shape[1])]
        return torch.cat([x[:1].expand_as(x), x, last[None].expand_as(x)], -1)


class Numbers(Encoded):
    """Numbers as they are."""

    def batch(self, pieces: Pieces) -> tuple[Tensor, Tensor]:
        return padded([self.rows[k][begin:end] for k, begin, end in zip(*pieces, strict=True)])


def encoded_of(lengths: list[int]) -> Encoded:
    gathered = Gathered(None, each_step=True)
    every = [sequence_of(np.arange(n)[:, None] + 1000.0 * k, ["a"] * n) for k, n in enumerate(lengths)]
    gathered.add(every, Path("none"))
    return Numbers(gathered, Inputs([0.0], [1.0], []))


def probing(options: Any) -> whole.Trained[Any, Any]:
    class Probing(whole.Trained[Any, Any]):
        @property
        def width(self) -> int:
            return 3

    return Probing(Probe(), Inputs([], [], []), options)


@pytest.mark.parametrize("window", [2, 3, 16, 17, 50])
def test_a_step_is_read_with_what_is_around_it(monkeypatch: pytest.MonkeyPatch, window: int):
    monkeypatch.setattr(whole, "STEPS", 100)  # so that there are several batches
    lengths = [1, window - 1, window, window + 1, 3 * window + 2, 5 * window, 40, 7]
    model = probing(options_of("classify", window=window))
    own = np.array([4, 0, 7, 3, 6, 2, 5, 1])
    found = model.outputs(encoded_of(lengths), own).numpy()
    steps = np.concatenate([np.arange(lengths[k]) + 1000 * k for k in own])
    assert found[:, 1].tolist() == steps.tolist()
    assert max(model.model.read_at_once) <= window  # pyright: ignore[reportArgumentType]
    n = np.concatenate([[lengths[k]] * lengths[k] for k in own])
    before, after = steps - found[:, 0], found[:, 2] - steps
    at = steps % 1000
    # All of a sequence that a window holds; else a quarter of a window on both sides, as far as there is so much.
    least = np.where(n <= window, window, (window - window // 2) // 2)
    assert (before >= np.minimum(at, least)).all()
    assert (after >= np.minimum(n - 1 - at, least)).all()


def test_pieces_of_a_sequence():
    lengths = np.array([7, 1, 12, 10])
    pieces = Pieces.cut(np.array([2, 0, 1, 3]), lengths, 5)
    told = list(zip(*(each.tolist() for each in pieces), strict=True))
    assert told == [(2, 0, 4), (2, 4, 8), (2, 8, 12), (0, 0, 3), (0, 3, 7), (1, 0, 1), (3, 0, 5), (3, 5, 10)]
    wider = pieces.take(np.array([0, 1, 5])).widened(lengths, 3)
    assert list(zip(*(each.tolist() for each in wider), strict=True)) == [(2, 0, 7), (2, 1, 11), (1, 0, 1)]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_causal_model_goes_on_from_piece_to_piece(monkeypatch: pytest.MonkeyPatch, cell: str):
    monkeypatch.setattr(whole, "STEPS", 90)  # three sequences side by side
    draw = np.random.default_rng(0)
    gathered = Gathered(None, each_step=True)
    every = [sequence_of(draw.normal(size=(n, 2)), ["a", "b"] * (n // 2) + ["a"] * (n % 2)) for n in (5, 95, 30, 31, 1, 64, 90)]  # fmt: skip
    gathered.add(every, Path("none"))
    options = options_of("classify", causal=True, window=30, cell=cell, num_layers=2)
    reading = classification.Reading.learn(gathered, np.arange(len(gathered)), options)
    model = classification.ClassificationModel(reading, 2, options)
    classifier = classification.Classifier(model, reading, options)
    encoded = classification.Classes(gathered, reading)
    own = np.array([3, 1, 0, 6, 2, 5, 4])
    found = classifier.outputs(encoded, own)
    with torch.no_grad():
        wanted = []
        for k in own:
            x, lengths = encoded.batch(Pieces.whole(np.array([k]), encoded.rows.lengths))
            wanted.append(model(x, lengths)[:, 0])
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-4, atol=1e-6)
    # No step knows a later one.
    late = [each._replace(content=np.concatenate([np.asarray(each.content)[:-1], [[9.0, -9.0]]])) for each in every]
    other = classifier.outputs(classifier.encode(late, Path("none")))
    ends = np.cumsum([len(each.content) for each in every]) - 1
    same = np.ones(len(other), bool)
    same[ends] = False
    before = classifier.outputs(encoded)
    assert (other[same] == before[same]).all()
    assert (other[ends] != before[ends]).any(-1).all()


# Baselines


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("task", ["classify", "regress"])
def test_baselines_by_hand(tmp_path: Path, task: str, causal: bool):
    file = recording(tmp_path / "a.csv", 6, 31, task, delay=1)
    module = {"classify": classification, "regress": regression}[task]
    made = module.begin(file, options_of(task, sequence="id", causal=causal), "cpu", BadRows())
    table = pl.read_csv(file, schema_overrides={"label": pl.String})
    x, y, learned, judged = [], [], [], []
    names = sorted(set(table["id"]))
    wanted = [table.filter(pl.col("id") == name) for name in names]
    content = [each.select("x", "noise").to_numpy() for each in wanted]
    steps = np.concatenate([content[k] for k in made.train])
    for k, each in enumerate(wanted):
        scaled = (content[k] - steps.mean(0)) / steps.std(0)
        for t, label in enumerate(each["label"]):
            if label is None:
                continue
            near = [min(max(t + j, 0), len(scaled) - 1) for j in range(-8, 1 if causal else 9)]
            x.append(scaled[near].reshape(-1))
            y.append([label == "down", label == "up"] if task == "classify" else [float(label)])
            (learned if k in made.train else judged).append(len(x) - 1)
    x, y = np.array(x), np.array(y, np.float64)
    center, spread = x[learned].mean(0), x[learned].std(0)
    x, mean = (x - center) / spread, y[learned].mean(0)
    rows = np.concatenate([x[learned], np.eye(x.shape[1])])
    weights = np.linalg.lstsq(rows, np.concatenate([y[learned] - mean, np.zeros((x.shape[1], y.shape[1]))]))[0]
    said, truth = x[judged] @ weights + mean, y[judged]
    found = made.about()["baselines"]
    if task == "classify":
        most = y[learned].sum(0).argmax()
        assert found == {
            "largest class": pytest.approx((truth.argmax(-1) == most).mean()),
            "linear": pytest.approx((said.argmax(-1) == truth.argmax(-1)).mean()),
        }
        assert found["linear"] > 0.8
    else:
        unit = y[learned].std()
        assert found == {
            "constant": pytest.approx(np.sqrt(((truth - mean) ** 2).mean()) / unit),
            "linear": pytest.approx(np.sqrt(((truth - said) ** 2).mean()) / unit),
        }


@pytest.mark.parametrize(
    ("channels", "causal", "features", "said"),
    [
        (7, False, 7 * 17, "a step and of the 8 steps before it, and after it"),
        (100, False, 100 * 9, "a step and of the 4 steps before it, and after it"),
        (500, True, 500 * 2, "a step and of the 1 step before it"),
        (500, False, 500, "a step"),
        (1100, True, 1100, "a step"),
    ],
)
def test_many_channels_are_read_of_fewer_steps(channels: int, causal: bool, features: int, said: str):
    """Or the linear function would take minutes, and gigabytes, where the network trains in seconds."""
    gathered = Gathered(None, each_step=True)
    content = np.random.default_rng(0).normal(size=(40, channels))
    gathered.add([sequence_of(content, ["a", "b"] * 20)], Path("none"))
    options = ClassificationOptions(each_step=True, causal=causal)
    reading = classification.Reading.learn(gathered, np.arange(len(gathered)), options)
    encoded = classification.Classes(gathered, reading)
    found = linear.of_steps(encoded, np.arange(40), causal)
    assert found.shape == (40, features)
    scaled, most = (content - content.mean(0)) / content.std(0), (features // channels - 1) // (1 if causal else 2)
    np.testing.assert_allclose(found[20], scaled[20 - most : 21 if causal else 21 + most].reshape(-1))
    assert (
        linear.in_words(options_of("classify", causal=causal), reading) == f"a linear function of the numbers of {said}"
    )


def test_a_linear_function_of_means_is_a_baseline_of_whole_sequences(tmp_path: Path):
    """Two of three classes differ in the mean of a channel, which the largest class says nothing of."""
    draw = np.random.default_rng(0)
    rows = [
        {"values": np.add(draw.normal(size=(8, 2)), [k % 3 == 1, 0]).tolist(), "label": "abc"[k % 3]} for k in range(90)
    ]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    options = ClassificationOptions(validation=str(tmp_path / "a.jsonl"), best_by="macro_f1")
    task = classification.begin(tmp_path / "a.jsonl", options, "cpu", BadRows())
    found = task.about()["baselines"]
    x = np.array([row["values"] for row in rows])
    x = (x - x.mean((0, 1))) / x.std((0, 1))
    table = np.concatenate([x.mean(1), x.std(1), x.min(1), x.max(1), x[:, 0], x[:, -1]], 1)
    table = (table - table.mean(0)) / table.std(0)
    y = np.eye(3)[[k % 3 for k in range(90)]] - 1 / 3
    weights = np.linalg.lstsq(np.concatenate([table, np.eye(12)]), np.concatenate([y, np.zeros((12, 3))]))[0]
    guess = ["abc"[k] for k in (table @ weights).argmax(-1)]
    assert found["linear"] == pytest.approx(macro_f1([row["label"] for row in rows], guess))
    assert found["largest class"] == pytest.approx(2 * 30 / (90 + 30) / 3)
    assert task.baseline("linear") == "a linear function of means, extremes and ends"


# Runs


def test_it_learns_what_was_before_and_what_comes_after(made: Made):
    """Two steps before are known to both; two steps ahead only to the one that reads in both directions."""
    for way in ("both", "causal"):
        found = figures(made.said("classify", way))
        assert float(found["validation"].split()[1].rstrip(",")) > 0.95
        assert "accuracy (a linear function of the numbers of a step and of the 8 steps before it" in found["linear"]
    r2 = {way: float(figures(made.said("regress", way))["R²"]) for way in ("both", "causal")}
    assert r2["both"] > 0.9
    assert r2["causal"] < 0.1
    assert re.fullmatch(r"[\d,]+ of [\d,]+ training steps have one; only these are learned", figures(made.said("classify", "both"))["labels"])  # fmt: skip


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("way", ["both", "causal"])
@pytest.mark.parametrize("task", ["classify", "regress"])
def test_rows_of_steps_have_the_scores(made: Made, tmp_path: Path, task: str, way: str):
    run, file = made.run(task, way), made.directory / f"{task}-new.csv"
    data = rows_of(file.read_text())
    predicted = rows_of(elman("predict", run, file).out)
    places = [(each["id"], sum(d["id"] == each["id"] for d in data[: k + 1])) for k, each in enumerate(data)]
    assert [(row["sequence"], int(row["step"])) for row in predicted] == places
    outcome = elman("evaluate", run, file, "--output", tmp_path / "rows.csv")
    assert outcome.status == 0, outcome.err
    judged, said = rows_of((tmp_path / "rows.csv").read_text()), figures(outcome.out)
    known = [k for k, row in enumerate(data) if row["label"]]
    assert [(row["sequence"], int(row["step"])) for row in judged] == [places[k] for k in known]
    assert said["steps"] == f"{len(data)}, {len(known)} of them with a label"
    if task == "classify":
        truth, guess = [data[k]["label"] for k in known], [predicted[k]["class"] for k in known]
        assert [row["class"] for row in judged] == guess
        nats = [-np.log(float(predicted[k][f"p_{data[k]['label']}"])) for k in known]
        assert [float(row["nats"]) for row in judged] == pytest.approx(nats, rel=1e-3, abs=1e-5)
        assert f"{np.mean([a == b for a, b in zip(truth, guess, strict=True)]):.4f}" == said["accuracy"]
        assert f"{macro_f1(truth, guess):.4f}" == said["macro f1"]
        numbers = [np.array([("down", "up").index(label) for label in each]) for each in (truth, guess)]
        of = np.array(["abc".index(data[k]["id"]) for k in known])
        assert f"{segment_f1(numbers[0], numbers[1], of, Units(of, 3)).value:.4f}" == said["segment f1"]
        assert float(said["nats per step"]) == pytest.approx(np.mean(nats), abs=2e-4)
        assert f"steps {truth.count('up')}" in said["up"]
    else:
        truth, guess = (np.array([float(row[name]) for row in judged]) for name in ("label", "value"))
        assert guess.tolist() == [float(predicted[k]["value"]) for k in known]
        assert truth.tolist() == [float(data[k]["label"]) for k in known]
        assert float(said["RMSE"].split(",")[0]) == pytest.approx(np.sqrt(((truth - guess) ** 2).mean()), rel=1e-4)
    assert [name for name in said if ", a baseline" in said[name]] == (["largest class", "linear"] if task == "classify" else ["constant", "linear"])  # fmt: skip
    # In the other form the same, and without labels, too.
    elman("predict", run, file, "--output", tmp_path / "p.jsonl")
    other = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    key = "class" if task == "classify" else "value"
    assert [str(row[key]) if task == "classify" else row[key] for row in other] == [
        row[key] if task == "classify" else float(row[key]) for row in predicted
    ]
    (tmp_path / "bare.csv").write_text(
        "noise,x,id\n" + "".join(f"{r['noise']},{r['x']},{r['id']}\n" for r in data)  # in any order
    )
    assert rows_of(elman("predict", run, tmp_path / "bare.csv").out) == predicted


def test_memory_holds_few_long_sequences_at_a_time(made: Made, monkeypatch: pytest.MonkeyPatch):
    run, file = made.run("classify", "both"), made.directory / "classify-new.csv"

    def steps(k: int) -> list[Labelled]:
        return [sequence_of(np.zeros((n, 1)), [None] * n) for n in (3, 5, 9, 30, 1, 1)][:k]

    monkeypatch.setattr(whole, "MANY", 10)
    monkeypatch.setattr(whole, "CHUNK", 2)
    for k, wanted in ((0, []), (1, [[3]]), (4, [[3, 5], [9, 30]]), (6, [[3, 5], [9, 30], [1, 1]])):
        assert [[len(each.content) for each in group] for group in whole.in_groups(steps(k))] == wanted
    monkeypatch.setattr(whole, "CHUNK", 9)
    assert [len(group) for group in whole.in_groups(steps(6))] == [3, 1, 2]
    whole_ones = [Labelled(str(k), np.zeros((50, 1)), "a") for k in range(20)]
    assert [len(group) for group in whole.in_groups(whole_ones)] == [9, 9, 2]
    # What is said does not depend on it.
    few = elman("predict", run, file).out
    monkeypatch.undo()
    assert elman("predict", run, file).out == few


def test_a_file_without_any_label_is_not_judged(made: Made, tmp_path: Path):
    (tmp_path / "a.csv").write_text("id,x,noise,label\na,1,2,\na,2,3,\n")
    status, out, err = elman("evaluate", made.run("classify", "both"), tmp_path / "a.csv")
    assert (status, out, err) == (2, "", f"elman: {tmp_path / 'a.csv'} has no label; give at least one\n")


def test_a_class_that_the_training_lacks_counts_as_a_mistake(made: Made, tmp_path: Path):
    text = (made.directory / "classify-new.csv").read_text()
    (tmp_path / "a.csv").write_text(re.sub(r"^(a,.*),up$", r"\1,strange", text, flags=re.MULTILINE))
    before, after = (
        figures(elman("evaluate", made.run("classify", "both"), file).out)
        for file in (made.directory / "classify-new.csv", tmp_path / "a.csv")
    )
    strange = (tmp_path / "a.csv").read_text().count("strange")
    assert after["unknown label"] == f"{strange}, counted as mistakes: 'strange'"
    assert float(after["accuracy"]) < float(before["accuracy"]) - 0.1
    elman("evaluate", made.run("classify", "both"), tmp_path / "a.csv", "--output", tmp_path / "rows.csv")
    rows = rows_of((tmp_path / "rows.csv").read_text())
    assert [row["nats"] == "" for row in rows] == [row["label"] == "strange" for row in rows]


def test_a_run_goes_on_and_is_started_from(made: Made, tmp_path: Path, no_pictures: None):
    file, options = made.directory / "regress.csv", options_of("regress", sequence="id", causal=True)
    fit(regression.begin(file, options, "cpu", BadRows()), tmp_path / "first")
    assert elman("train", "regress", "--resume", tmp_path / "first", "--epochs", 2).status == 0
    given = ("--start-from", tmp_path / "first", "--epochs", 0.5, "--run", tmp_path / "next")
    started = elman("train", "regress", file, *given)
    assert started.status == 0, started.err
    kept = json.loads((tmp_path / "next" / "config.json").read_text())["options"]
    assert (kept["each_step"], kept["causal"], kept["window"]) == (True, True, 20)
    assert "start" in figures(started.out)


def test_it_is_tuned_and_draws(tmp_path: Path):
    recording(tmp_path / "a.csv", 1, 90, "regress")
    given = [*SMALL, "--label", "label", "--columns", "x,noise", "--epochs", 1, "--quantiles", "0.2,0.8"]
    outcome = elman("train", "regress", tmp_path / "a.csv", *given, "--run", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert {"values.png", "steps.png", "loss.png"} <= {path.name for path in (tmp_path / "run").iterdir()}
    tuned = elman("tune", "regress", tmp_path / "a.csv", *given, "--trials", 2, "--directory", tmp_path / "t")
    assert tuned.status == 0, tuned.err


# Explaining


@pytest.mark.parametrize("way", ["both", "causal"])
@pytest.mark.parametrize("task", ["classify", "regress"])
def test_a_page_says_of_each_step_what_the_model_does(made: Made, task: str, way: str):
    run, file = made.run(task, way), made.directory / f"{task}-new.csv"
    explain: Callable[..., Any] = {"classify": directions.classifier, "regress": directions.regressor}[task]
    module: Any = {"classify": classification, "regress": regression}[task]
    contents = explain(run, None, file)
    assert contents.data["each_step"]
    assert contents.data["causal"] == (way == "causal")
    trained = module.load(run)
    trained.options = options_of(task, causal=way == "causal", window=1000)  # a page reads what it shows at once
    every = list(sequences.sequences(file, columns_of(module.load(run).options, trained.reading)))
    for each, own in zip(every, contents.data["sequences"], strict=True):
        outputs = trained.outputs(trained.encode([each], file)).double()
        data = list(each.labels or ())
        for t, shares in enumerate(own["shares"]):
            for share in shares:
                total = share["forward"] + share["backward"] + share["bias"]
                if task == "classify":
                    assert total == pytest.approx(float(outputs[t, trained.reading.classes.index(share["name"])]), abs=0.02)  # fmt: skip
                else:
                    value = float(outputs[t, 0]) * trained.reading.spread[0] + trained.reading.center[0]
                    assert total == pytest.approx(value, abs=0.2)
                assert way == "both" or share["backward"] == 0
        if task == "classify":
            assert own["truth"] == data
            assert own["predicted"] == [trained.reading.classes[k] for k in outputs.argmax(-1).tolist()]
        else:
            assert own["truth"] == [None if v is None else pytest.approx(float(v), abs=0.01) for v in data]
            assert own["predicted"] == pytest.approx([float(v) * trained.reading.spread[0] + trained.reading.center[0] for v in outputs[:, 0]], abs=0.05)  # fmt: skip
        look = np.array(own["look"])
        assert look.shape == (len(data),) * 2
        assert (np.triu(look, 1) == 0).all() == (way == "causal")
    # One row of the last one by hand.
    encoded, t = trained.encode([every[-1]], file), 7
    x, lengths = encoded.batch(Pieces.whole(np.arange(1), encoded.rows.lengths))
    x = x.double().requires_grad_()
    y = trained.model.double().eval()(x, lengths)[t, 0]
    y = y.log_softmax(-1).max() if task == "classify" else y[0]
    (d_x,) = torch.autograd.grad(y, x)
    assert contents.data["sequences"][-1]["look"][t] == pytest.approx(d_x[:, 0].norm(dim=1).tolist(), rel=0.06)


def test_a_page_shows_the_beginning_of_long_sequences(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    run = made.run("classify", "both")
    monkeypatch.setattr(directions, "EVERY", 10)
    contents = directions.classifier(run, None, None)  # its held-out part
    assert [len(each["predicted"]) for each in contents.data["sequences"]] == [10, 10]
    assert all("shows and reads the first 10 of " in remark for remark in contents.remarks)
    assert len(contents.remarks) == 2


# Files of ONNX


def check_same(run: Path, path: Path, file: Path) -> None:
    of_run, of_file = (rows_of(elman("predict", each, file).out) for each in (run, path))
    assert len(of_run) == len(of_file) == 186
    for a, b in zip(of_run, of_file, strict=True):
        for name, value in a.items():
            assert b[name] == value or float(b[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("task", "way"), [("classify", "both"), ("regress", "causal")])
def test_a_file_says_what_the_run_says(made: Made, task: str, way: str):
    check_same(made.run(task, way), made.file(task, way), made.directory / f"{task}-new.csv")


def test_a_file_for_steps_is_none_for_whole_sequences(made: Made, tmp_path: Path):
    import onnx

    path, file = tmp_path / "a.onnx", onnx.load(made.file("classify", "both"))
    config = next(each for each in file.metadata_props if each.key == "elman.config")
    config.value = config.value.replace('"each_step": true', '"each_step": false')
    onnx.save(file, path)
    said = f"elman: {path} does not fit its elman.config: its logits has 3 axes, but that of the model has 2; export the run again\n"
    assert elman("predict", path, made.directory / "classify-new.csv") == (2, "", said)


def test_what_reads_in_both_directions_cannot_be_streamed(made: Made, tmp_path: Path):
    refused = elman("export", made.run("classify", "both"), tmp_path / "no.onnx", "--streaming")
    assert refused.status == 2
    assert "reads the end of a sequence first, so it cannot be streamed; leave --streaming out" in refused.err


def test_a_step_at_a_time_is_the_whole_sequence(made: Made):
    """As a program would use the file: a row of numbers at a time, and the states that came out."""
    import onnxruntime

    run, path = made.run("classify", "causal"), made.file("classify", "causal", "--streaming")
    check_same(run, path, made.directory / "classify-new.csv")
    session = onnxruntime.InferenceSession(path)
    assert [each.name for each in session.get_inputs()] == ["x", "h_0", "c_0"]
    trained = classification.load(run)
    (only, *_) = sequences.sequences(made.directory / "classify-new.csv", columns_of(trained.options))
    wanted = trained.outputs(trained.encode([only], path)).numpy()
    states, found = [np.zeros((1, 1, 8), np.float32)] * 2, list[NDArray[Any]]()
    scaled = (np.asarray(only.content) - trained.reading.mean) / trained.reading.deviation
    for row in scaled.astype(np.float32):
        logits, *states = session.run(None, {"x": row[None], "h_0": states[0], "c_0": states[1]})
        found.append(np.asarray(logits)[0])
    np.testing.assert_allclose(np.array(found), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", ["classify", "regress"])
def test_the_example_says_it_row_by_row(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], task: str):  # fmt: skip
    """examples/watch.py, which knows nothing of elman."""
    import onnx

    run, path, script = made.run(task, "causal"), made.file(task, "causal", "--streaming"), ROOT / "examples" / "watch.py"  # fmt: skip
    if task == "regress":  # as earlier versions wrote it, which knew nothing of gaps and times
        file, path = onnx.load(path), tmp_path / "step.onnx"
        (note,) = (each for each in file.metadata_props if each.key == "elman.vocabulary")
        known = json.loads(note.value)
        note.value = json.dumps({name: known[name] for name in known if name not in ("marked", "time", "interval")})
        onnx.save(file, path)
    rows = [row for row in rows_of((made.directory / f"{task}-new.csv").read_text()) if row["id"] == "a"]
    text = "noise,x\n" + "".join(f"{row['noise']},{row['x']}\n" for row in rows)
    monkeypatch.setattr(sys, "argv", ["watch.py", str(path)])
    odd = ["7,", "nan,7", "7,inf", "1e39,7", "x,7"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeff" + text.replace("\n", "\n\n" + lines(*odd), 1).rstrip()))
    capsys.readouterr()
    runpy.run_path(str(script), run_name="__main__")
    said, left_out = capsys.readouterr()
    assert left_out == lines(
        *(f"line {k} is left out, because it lacks a number: {row}" for k, row in enumerate(odd, 3))
    )
    wanted = [row for row in rows_of(elman("predict", run, made.directory / f"{task}-new.csv").out) if row["sequence"] == "a"]  # fmt: skip
    for line, row in zip(said.splitlines(), wanted, strict=True):
        found = line.split("\t")
        if task == "classify":
            assert found[0] == row["class"]
            assert float(found[1]) == pytest.approx(float(row[f"p_{row['class']}"]), abs=1e-3)
        else:
            assert float(found[0]) == pytest.approx(float(row["value"]), rel=1e-4)
    monkeypatch.setattr(sys, "stdin", io.StringIO("x,y\n1,2\n"))
    with pytest.raises(SystemExit, match="the rows have no column 'noise', which the model reads; their columns are 'x', 'y': rename or add it"):  # fmt: skip
        runpy.run_path(str(script), run_name="__main__")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit, match="there is no header; give rows of CSV below one, on standard input"):
        runpy.run_path(str(script), run_name="__main__")

    def interrupted() -> Iterator[str]:
        yield from text.splitlines(keepends=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", interrupted())
    with pytest.raises(SystemExit, match="130"):
        runpy.run_path(str(script), run_name="__main__")
    command = [sys.executable, str(script), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:  # fmt: skip
        assert program.stdout is not None
        program.stdout.close()
        assert program.communicate(text)[1] == ""
    monkeypatch.setattr(sys, "argv", ["watch.py", str(script)])
    with pytest.raises(SystemExit, match=r"cannot open .*watch.py: .*; give a file that elman export wrote"):
        runpy.run_path(str(script), run_name="__main__")


# The data without a file


def test_the_built_in_numbers_consist_of_digits():
    drawn = [np.asarray(steps).tobytes() for steps, _, _ in examples.digits()]
    known = set(drawn)
    for parts, _ in islice(examples.numbers(), 20):
        assert 4 <= len(parts) <= 8
        assert all(part.tobytes() in known for part, _ in parts)


def test_the_built_in_sums_rise_at_the_marks():
    options = options_of("regress")
    found, train, validation, _ = regression.read(None, options, BadRows())
    assert len(train) + len(validation) == len(found)
    values = regression.numbers_of(found, 1)[: len(found.rows[0]), 0]
    steps = found.rows[0]
    assert values == pytest.approx((steps[:, 0] * steps[:, 1]).cumsum(), abs=1e-4)


def test_steps_of_a_sequence_are_judged_together(made: Made, tmp_path: Path):
    run = made.run("classify", "causal")
    for count, steps, of in ((14, 20, "14 sequences"), (1, 300, "20 parts of the only sequence")):
        file = recording(tmp_path / f"{count}.csv", count, steps, "classify", seed=7)
        out = elman("evaluate", run, file, "--output", tmp_path / "rows.csv").out
        rows = rows_of((tmp_path / "rows.csv").read_text())
        units = [row["sequence"] if count > 1 else k * 20 // len(rows) for k, row in enumerate(rows)]
        nats = interval_by_hand(units, [float(row["nats"]) for row in rows], share=False)
        assert re.search(rf"^nats per step +[\d.]+ {re.escape(nats)}$", out, re.MULTILINE)
        assert f"\nintervals            95%, in brackets: how sure the figures are after {of}\n" in out
    slow = [
        f"a,{k % 7 / 7},0.5,{'up' if k // 40 % 2 else 'down'}" for k in range(600)
    ]  # whose errors would come in long runs
    (tmp_path / "slow.csv").write_text(lines(file.read_text().splitlines()[0], *slow))
    few = recording(tmp_path / "few.csv", 1, 60, "classify", seed=7)
    why = "none: the only sequence is too short to say how sure the figures are; give a longer one"
    for file in (few, tmp_path / "slow.csv"):
        assert figures(elman("evaluate", run, file).out)["intervals"] == why
    few = recording(tmp_path / "few.csv", 3, 60, "classify", seed=7)
    why = "none: 3 sequences are too few to say how sure the figures are; give at least 10"
    assert figures(elman("evaluate", run, few).out)["intervals"] == why
