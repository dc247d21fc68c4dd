"""Several classes at once: how labels of them are read, learned, judged and told."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import elman as package
from browser import Opened
from elman import charts, explain
from elman.datasets.reading import BadRows
from elman.datasets.sequences import BETWEEN, Columns, sequences
from elman.errors import InputError
from elman.explain import directions
from elman.tasks import multilabel
from elman.tasks.linear import of_sequences
from elman.tasks.multilabel import Counts, Reading, Sets, average_precision, baselines, members, scored, thresholds
from elman.tasks.options import MultilabelOptions
from elman.tasks.parts import columns_of
from elman.tasks.tallies import Units, student
from elman.training import fitting
from elman.training.loop import MODEL
from tiny_runs import elman, lines

ROOT = Path(__file__).parent.parent
SMALL = ("--hidden-size", 6, "--batch-size", 8, "--dropout", 0, "--noise", 0)
NAN = math.nan
NONE = np.empty(0, int)  # no tokens
KINDS = ["dim", "high", "odd"]


def written(path: Path, steps: bool, flags: bool, count: int = 40, seed: int = 0) -> Path:
    """Sequences of two channels as a table, with the classes that they have: high, odd and dim, where that is known."""
    draw = np.random.default_rng(seed)
    rows = list[str]()
    for k in range(count):
        x = draw.normal(size=(int(draw.integers(4, 12)), 2)).round(3)
        there = np.stack([x[:, 1] < -1, x[:, 0].cumsum() > 1, np.full(len(x), k % 2 == 1)], 1)
        there = there if steps else np.broadcast_to(there.any(0), there.shape)
        for t, row in enumerate(there.tolist()):
            if flags:
                lacks = k % 5 == 4 if not steps else t % 3 == 2
                cells = ",".join(["" if lacks else str(int(row[0])), *(str(int(v)) for v in row[1:])])
            else:
                cells = "|".join(name for name, v in zip(KINDS, row, strict=True) if v)
            rows.append(f"s{k},{x[t, 0]},{x[t, 1]},{cells}")
    path.write_text(lines("id,a,b," + (",".join(KINDS) if flags else "kinds"), *rows))
    return path


def options_of(flags: bool = False, **changes: Any) -> MultilabelOptions:
    label: Any = {"label": ",".join(KINDS)} if flags else {"label": "kinds", "separator": "|"}
    own: Any = {"sequence": "id", "hidden_size": 5, "epochs": 1.0, "dropout": 0.0, "noise": 0.0}
    return MultilabelOptions(**label | own | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Runs of random weights and thresholds: of sets and of flags, whole and of each step; and their data."""
    d = tmp_path_factory.mktemp("multilabel")
    kinds = {
        "sets": options_of(),
        "flags": options_of(True, best_by="macro_f1"),
        "steps": options_of(each_step=True, causal=True),
        "flags_of_steps": options_of(True, each_step=True),
    }
    for name, options in kinds.items():
        file = written(d / f"{name}.csv", options.each_step, options.between_classes is None)
        task = multilabel.begin(file, options, "cpu", BadRows())
        training, _ = fitting.begin(task, d / name)
        torch.manual_seed(1)
        weights = {key: 0.6 * torch.randn_like(value) for key, value in task.model.state_dict().items()}
        training.run.save_tensors(MODEL, weights, {"step": 0})
    return SimpleNamespace(directory=d, **{name: d / name for name in kinds})


def figures(out: str) -> dict[str, float]:
    """What `elman evaluate` prints, by the names of scores."""
    return {name: float(value) for name, value in re.findall(r"^(\S.*?)\s{2,}(\d[\d.]*)", out, re.MULTILINE)}


def table_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


# Reading


def labels_of(path: Path, **columns: Any) -> list[Any]:
    found = sequences(path, Columns("kinds", between=";", **columns))
    return [each.label if each.labels is None else list(each.labels) for each in found]


def sets(*labels: str | None) -> list[str | None]:
    """Labels as they are kept, given with a blank between the classes."""
    return [None if label is None else BETWEEN.join(label.split()) for label in labels]


def test_all_forms_of_a_set_are_the_same_label(tmp_path: Path) -> None:
    wanted = sets("a b", "", "7 b", "a; c")
    table = "id,kinds,x\n1,b; a,1\n1,a;b;a,2\n2,,3\n3,7;b,4\n"
    (tmp_path / "a.csv").write_text(table)
    pl.read_csv(table.encode()).write_parquet(tmp_path / "a.parquet")
    given = [["b", "a", "b"], [], [7, "b"], ["a;", " c "]]
    rows = [json.dumps({"values": [1], "kinds": each}) for each in given]
    (tmp_path / "a.jsonl").write_text(lines(*rows, json.dumps({"values": [1], "kinds": "b;a"})))
    body = pl.DataFrame({"body": ["so"] * 4, "kinds": [["b", "a"], [], ["7", "b"], ["a;", " c"]]})
    body.write_parquet(tmp_path / "t.parquet")
    for name, kind in (("i", pl.List(pl.Int64)), ("c", pl.List(pl.Categorical)), ("f", pl.Array(pl.Int8, 2))):
        values: Any = [["7", "1"], ["1", "3"]] if name == "c" else [[7, 1], [1, 3]]
        pl.DataFrame({"body": ["so"] * 2, "kinds": values}, schema_overrides={"kinds": kind}).write_parquet(tmp_path / f"{name}.parquet")  # fmt: skip
        assert labels_of(tmp_path / f"{name}.parquet", text="body") == sets("1 7", "1 3")
    none: Any = [["a", None], None]
    pl.DataFrame({"body": ["so"] * 2, "kinds": none}).write_parquet(tmp_path / "n.parquet")
    with pytest.raises(InputError, match="column 'kinds' has no value"):
        labels_of(tmp_path / "n.parquet", text="body")
    (tmp_path / "t.csv").write_text('body,kinds\nso,"a;b"\nso,\nso,b;7\n')
    (tmp_path / "a.ts").write_text("@classLabel true\n@data\n1,2:b;a\n1,2:\n1,2:7;b\n")
    assert labels_of(tmp_path / "a.csv", sequence="id") == wanted[:3]
    assert labels_of(tmp_path / "a.parquet", sequence="id") == wanted[:3]
    assert labels_of(tmp_path / "a.jsonl") == [*wanted, wanted[0]]
    assert labels_of(tmp_path / "t.parquet", text="body") == wanted
    assert labels_of(tmp_path / "t.csv", text="body") == wanted[:3]
    assert labels_of(tmp_path / "a.ts") == wanted[:3]


def test_sets_of_each_step(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("kinds,x\na;b,1\n,2\nb,3\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"values": [1, 2, 3, 4], "kinds": [["b", "a"], [], "b", None]}) + "\n")
    assert labels_of(tmp_path / "a.csv", each_step=True) == [sets("a b", "", "b")]
    assert labels_of(tmp_path / "a.jsonl", each_step=True) == [sets("a b", "", "b", None)]


def test_all_forms_of_flags_are_the_same_label(tmp_path: Path) -> None:
    columns = columns_of(MultilabelOptions(label="on,off"))
    wanted = [BETWEEN.join(each) for each in ("10", "01", ["", "1"], ["1", ""])]
    (tmp_path / "a.csv").write_text("id,off,x,on\n1,0,1,1\n1,no,1,1.0\n2,TRUE,1,false\n3,yes,1,NA\n4,,2,1\n")
    rows = [{"on": 1, "off": False}, {"on": "no", "off": True}, {"off": 1.0}, {"on": "Yes", "off": NAN}]
    (tmp_path / "a.jsonl").write_text(lines(*(json.dumps({"values": [1]} | row) for row in rows)))
    body = pl.DataFrame({"body": ["so"] * 4, "on": [True, False, None, True], "off": [0, 1, 1, None]})
    body.write_parquet(tmp_path / "t.parquet")
    for name, more in {"a.csv": {"sequence": "id"}, "a.jsonl": {}, "t.parquet": {"text": "body"}}.items():
        assert [each.label for each in sequences(tmp_path / name, columns._replace(**more))] == wanted, name


@pytest.mark.parametrize(
    ("name", "content", "columns", "said"),
    [
        ("a.csv", "id,kinds,x\n1,a;b,1\n1,b,2\n", {"sequence": "id"}, "sequence '1' is labelled 'b' here but 'a;b' before"),
        ("a.jsonl", '{"values": [1], "kinds": {"a": 1}}', {}, "'kinds' should be a list of classes, or a text with ';' between them, but is {'a': 1}"),
        ("a.jsonl", '{"values": [1], "kinds": null}', {}, "'kinds' should be a list of classes, or a text with ';' between them, but is None"),
        ("a.jsonl", '{"values": [1], "kinds": [["a"]]}', {}, "but is [['a']]"),
        ("a.jsonl", '{"values": [1]}', {}, "there is no 'kinds'; the names are 'values'"),
        ("a.jsonl", '{"values": [1, 2], "kinds": [["a"], 0.5]}', {"each_step": True}, "step 2 of 'kinds' should be a list of classes"),
        ("a.jsonl", '{"values": [1], "on": 2, "off": 0}', {"label": "on,off"}, "'on' should be 1 or 0, but is '2'"),
        ("a.jsonl", '{"values": [1], "on": null}', {"label": "on,off"}, "there is no 1 or 0 in 'on' or 'off', and at least one is needed"),
        ("a.csv", "id,on,off,x\n1,1,maybe,2\n", {"sequence": "id", "label": "on,off"}, "column 'off' should be 1 or 0, but is 'maybe'"),
        ("a.csv", "id,on,off,x\n1,1,,2\n1,1,0,2\n", {"sequence": "id", "label": "on,off"}, "sequence '1' has 0 in column 'off' here but nothing before"),
        ("a.ts", "@data\n1,2:a\n", {"label": "on,off"}, "has one label for each sequence, but --label names 2 columns"),
    ],
)  # fmt: skip
def test_wrong_labels_are_refused(tmp_path: Path, name: str, content: str, columns: Any, said: str) -> None:
    (tmp_path / name).write_text(content)
    options = MultilabelOptions(**{"label": "kinds"} | columns)
    with pytest.raises(InputError) as refused:
        list(sequences(tmp_path / name, columns_of(options)))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--separator", ""], "--separator is empty"),
        (["--label", "a,b", "--separator", "|"], "--separator is for a column of several classes, but --label names columns of 1 and 0"),
        (["--label", "a,b,a"], "--label names the column 'a' twice"),
        (["--best-by", "accuracy"], "micro_f1"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: list[str], said: str) -> None:
    (tmp_path / "a.jsonl").write_text("")
    done = elman("train", "multilabel", tmp_path / "a.jsonl", *options)
    assert done.status == 2
    assert said in done.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([[], []] * 5, "no label of the training part of {} has a class; give some that have"),
        ([["a"]] * 8, "all labels of the training part of {} have the same classes; give different ones"),
        ([["a"]], "leaves 1 sequence for training and 0 for validation"),
    ],
)
def test_labels_of_which_nothing_can_be_learned(tmp_path: Path, given: list[Any], said: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(lines(*(json.dumps({"values": [k], "label": own}) for k, own in enumerate(given))))
    done = elman("train", "multilabel", file, *SMALL, "--epochs", 1)
    assert done.status == 2
    assert said.format(file) in done.err


# Learning


def test_members_are_known_or_not() -> None:
    found, others = members([BETWEEN.join("ac"), "", "b"], ["a", "b"])
    assert np.array_equal(found, [[1, 0], [0, 0], [0, 1], [NAN, NAN]], equal_nan=True)
    assert others == [["c"], [], [], []]
    found, others = members(
        [BETWEEN.join(["1", "", "1"]), BETWEEN.join(["0", "1", "0"])], ["b", "z", "a"], ["a", "b", "c"]
    )
    assert np.array_equal(found, [[NAN, NAN, 1], [1, NAN, 0], [NAN] * 3], equal_nan=True)
    assert others == [["c"], [], []]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("kind", ["sets", "flags", "flags_of_steps"])
def test_the_loss_of_an_epoch_is_the_mean_over_classes(made: SimpleNamespace, kind: str, balanced: bool) -> None:
    """However often each class is known; balanced, those with it weigh as much as those without."""
    steps, flags = kind == "flags_of_steps", kind != "sets"
    options = options_of(flags, each_step=steps, balanced=balanced, separator="|")
    task = multilabel.begin(made.directory / f"{kind}.csv", options, "cpu", BadRows())
    logits = task.trained.outputs(task.encoded)[task.places]
    truth = torch.from_numpy(task.encoded.members(task.places))
    wanted = []
    for z, y in zip(logits.double().T, truth.double().T, strict=True):
        z, y = z[~y.isnan()], y[~y.isnan()]
        losses = binary_cross_entropy_with_logits(z, y, reduction="none")
        halves = (losses[y == 1].mean() + losses[y == 0].mean()) / 2
        wanted.append(float(halves if balanced else losses.mean()))
    sizes = np.array([task.weight(np.array([k])) or 1 for k in range(len(task.pieces.of))])
    every = [float(task.loss(np.array([k])).detach()) for k in range(len(sizes))]
    assert np.average(every, weights=sizes) == pytest.approx(np.mean(wanted), rel=1e-4)
    assert flags == bool(np.isnan(truth.numpy()).any())


def test_training_and_validation_share_rare_classes(tmp_path: Path) -> None:
    """A sequence counts as of its rarest class."""
    file = tmp_path / "a.jsonl"
    rows = [
        {"values": [k], "label": ["often"] + ["rare"] * (k % 10 == 3) + ["never alone"] * (k % 20 == 3)}
        for k in range(100)
    ]
    file.write_text(lines(*map(json.dumps, rows)))
    for seed in range(4):
        found, train, validation, _ = multilabel.read(file, MultilabelOptions(seed=seed), BadRows())
        names = list(found.different)
        counts = [sum("rare" in names[found.labels[k][0]] for k in own) for own in (train, validation)]
        assert (counts, len(validation)) == ([8, 2], 20)
    folds = [multilabel.read(file, MultilabelOptions(fold=f"{k}/5"), BadRows()) for k in range(1, 6)]
    for found, _, _, test in folds:
        names = list(found.different)
        assert sum("rare" in names[found.labels[k][0]] for k in test) == 2


def best_by_hand(values: Any, truth: Any) -> float:
    """The largest F1 that any threshold gives."""
    known = ~np.isnan(truth)
    values, truth = values[known], truth[known] == 1
    said = (values >= cut for cut in values)
    return max(2 * (own & truth).sum() / (own.sum() + truth.sum()) for own in said)


@pytest.mark.parametrize("seed", range(6))
def test_thresholds_give_the_best_f1(seed: int) -> None:
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(60, 3)).round(1)  # of which several are equal
    truth = (draw.random((60, 3)) < [0.5, 0.2, 0.04]).astype(float)
    truth[draw.random((60, 3)) < 0.1] = NAN
    truth[:, 2] = np.where(seed % 2, truth[:, 2], np.minimum(truth[:, 2], 0))  # in some cases never there

    def f1(found: Any, k: Any = slice(None)) -> float:
        counts = Counts.of((values >= found)[:, k].reshape(60, -1), truth[:, k].reshape(60, -1))
        return 2 * counts.right.sum() / (counts.said + counts.there).sum()

    together = thresholds(values, truth, False)
    assert len({*together.tolist()}) == 1
    assert f1(together) == pytest.approx(best_by_hand(values, truth))
    apart = thresholds(values, truth, True)
    for k in range(3):
        if (truth[:, k] == 1).any():
            assert f1(apart, k) == pytest.approx(best_by_hand(values[:, k], truth[:, k]))
        else:
            assert apart[k] == together[k]
    assert not np.isin(apart[(truth == 1).any(0)], values).all(), "between two values, and not at one"


def test_thresholds_of_nothing() -> None:
    assert thresholds(np.ones((3, 2)), np.zeros((3, 2)), True).tolist() == [0, 0]


def test_the_kept_model_has_the_thresholds_of_its_own_validation(tmp_path: Path) -> None:
    """And not those of the last validation, or of another part of the data."""
    file = written(tmp_path / "a.csv", False, False, 60)
    done = elman("train", "multilabel", file, "--sequence", "id", "--label", "kinds", "--separator", "|", *SMALL, "--epochs", 4, "--run", tmp_path / "run")  # fmt: skip
    assert done.status == 0, done.err
    model = multilabel.load(tmp_path / "run")
    found, _, validation, _ = model.read_again()
    encoded = Sets(found, model.reading)
    places, logits = model.judged(encoded, validation)
    assert model.model.threshold.numpy() == pytest.approx(thresholds(logits.numpy(), encoded.members(places), False))
    best = max(float(row["micro_f1"]) for row in table_of(tmp_path / "run" / "metrics.csv"))
    assert model.score(encoded, places, logits)["micro_f1"].value == pytest.approx(best)


def flags_of(path: Path, columns: Sequence[str], cells: Sequence[Sequence[object]]) -> Path:
    """Sequences of one step, whose number is that of the row, and their flags."""
    rows = (f"{k},{k % 5},{','.join(map(str, row))}" for k, row in enumerate(cells))
    path.write_text(lines(",".join(["id", "v", *columns]), *rows))
    return path


@pytest.mark.parametrize("best_by", ["micro_f1", "macro_f1"])
def test_a_class_of_which_nothing_is_known_is_never_said(tmp_path: Path, best_by: str) -> None:
    """Nor does it count in the loss, nor for the baseline; one that is always there has its whole weight."""
    file = flags_of(tmp_path / "a.csv", "abc", [("", k % 2, 1) for k in range(40)])
    given = ("--sequence", "id", "--label", "a,b,c", "--best-by", best_by, *SMALL)
    done = elman("train", "multilabel", file, *given, "--epochs", 1, "--balanced", "--run", tmp_path / "run")
    assert done.status == 0, done.err
    assert "nothing is known in training of 'a'" in done.err
    full = flags_of(tmp_path / "full.csv", "abc", [(1, k % 2, 1) for k in range(40)])
    rows = _predicted(tmp_path / "run", full, tmp_path / "said.jsonl")
    assert not any("a" in row["classes"] for row in rows)
    assert all("c" in row["classes"] for row in rows)
    told = elman("evaluate", tmp_path / "run", full).out
    assert re.search(r"^  a .*recall 0.0000", told, re.MULTILINE)
    options = MultilabelOptions(label="a,b,c", sequence="id", balanced=True, hidden_size=4, dropout=0.0, noise=0.0)
    task = multilabel.begin(file, options, "cpu", BadRows())
    n = len(task.places)
    logits = task.trained.outputs(task.encoded)[task.places].double()
    truth = task.encoded.members(task.places)
    b = binary_cross_entropy_with_logits(logits[:, 1], torch.from_numpy(truth[:, 1]).double(), reduction="none")
    wanted = (b[truth[:, 1] == 1].mean() + b[truth[:, 1] == 0].mean()) / 4 - logits[:, 2].sigmoid().log().mean() / 2
    assert float(task.loss(np.arange(n)).detach()) == pytest.approx(float(wanted), rel=1e-4)
    # Where a training starts from a run, such a class keeps the threshold that it has there.
    assert elman("train", "multilabel", full, *given, "--epochs", 1, "--run", tmp_path / "first").status == 0
    more = elman("train", "multilabel", file, "--start-from", tmp_path / "first", "--epochs", 1, "--run", tmp_path / "next")  # fmt: skip
    assert more.status == 0, more.err
    first, after = (multilabel.load(tmp_path / name).model.threshold for name in ("first", "next"))
    assert first[0] == after[0]


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([{"label": str(k % 2)} for k in range(9)], [], "column 'label' of {} has only '0' or '1'; learn whether a single class is there with elman train classify"),
        ([{"label": ["yes"] * (k % 2)} for k in range(9)], [], "has only 'yes'; learn whether"),
        ([{"label": ["red; hot"] + ["dry"] * (k % 2)} for k in range(9)], [], "{} has the class 'red; hot', which has the separator ';' in it; give another --separator"),
    ],
)  # fmt: skip
def test_labels_that_are_no_sets_of_classes(tmp_path: Path, rows: list[Any], options: list[str], said: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(lines(*(json.dumps({"values": [k]} | row) for k, row in enumerate(rows))))
    done = elman("train", "multilabel", file, *SMALL, "--epochs", 1, *options)
    assert done.status == 2
    assert said.format(file) in done.err


def test_a_validation_part_without_a_class(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        lines("x,kinds", *(f"{t % 9},{'on' if t % 3 and t < 50 else ''}" for t in range(100)))
    )
    done = elman("train", "multilabel", tmp_path / "a.csv", "--each-step", "--label", "kinds", *SMALL, "--epochs", 1, "--run", tmp_path / "run")  # fmt: skip
    assert done.status == 0, done.err
    assert "no validation step has a class, so F1 is 0 and no threshold is chosen; give some that have" in done.err


def test_a_threshold_between_neighbouring_numbers() -> None:
    """float32 has no number in the middle, and the lower one must not be taken in."""
    below = np.float32(0.3)
    for _ in range(50):
        above = np.nextafter(below, np.float32(1))
        (found,) = thresholds(np.array([[above], [below]]), np.array([[1.0], [0.0]]), False)
        assert below < found <= above
        below = above


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": 5},
        {"columns": []},
        {"columns": ["dim"]},
        {"columns": ["high", "dim", "odd"]},
        {"classes": "abc"},
        {"classes": ["dim", 1, None]},
        {"classes": ["dim", "dim", "odd"]},
        {"classes": []},
    ],
)
def test_a_damaged_vocabulary_is_refused(made: SimpleNamespace, tmp_path: Path, changes: dict[str, Any]) -> None:
    run = shutil.copytree(made.flags, tmp_path / "run")
    content = json.loads((run / "vocabulary.json").read_text())
    (run / "vocabulary.json").write_text(json.dumps(content | changes))
    done = elman("predict", run, made.directory / "flags.csv")
    assert done.status == 2
    assert "restore" in done.err


# Judging


def f1_by_hand(said: Any, truth: Any) -> float:
    return 2 * (said & truth).sum() / max(1, said.sum() + truth.sum())


def test_scores_by_hand() -> None:
    said = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0], [1, 0, 0]], bool)
    truth = np.array([[1, 0, 0], [0, 0, 0], [1, NAN, 0], [0, 0, 0]], np.float32)
    found = scored(said, truth, np.array([0, 0, 1, 0]), 1, Units(np.arange(4), 4))
    # Right: 2 of class 1. Said where known: 3 and 1. There: 2, and one unknown class.
    assert found["micro_f1"].value == pytest.approx(2 * 2 / (4 + 2 + 1))
    # F1 of class 1 is 4/5 and of class 3 zero; class 2 neither occurs nor is said; the unknown one is zero.
    assert found["macro_f1"].value == pytest.approx(0.8 / 3)
    assert found["exact_match"].value == 0.25


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_by_its_definition(seed: int) -> None:
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(40, 3)).round(1).astype(np.float32)
    truth = (draw.random((40, 3)) < 0.3).astype(np.float32)
    truth[draw.random((40, 3)) < 0.1] = NAN
    truth[:, 2] = 0
    found = average_precision(values, truth)
    for k in range(2):
        z, y = values[:, k][~np.isnan(truth[:, k])], truth[:, k][~np.isnan(truth[:, k])]
        assert found[k] == pytest.approx(np.mean([(y[z >= own] == 1).mean() for own in z[y == 1]]))
    assert np.isnan(found[2])


@pytest.mark.parametrize("kind", ["sets", "flags", "steps", "flags_of_steps"])
def test_evaluate_by_hand(made: SimpleNamespace, tmp_path: Path, kind: str) -> None:
    """From the rows of predictions and of labels alone, on data with a class that training lacks."""
    steps, flags = "steps" in kind, "flags" in kind
    file = written(tmp_path / "a.csv", steps, flags, 30, 7)
    if not flags:
        file.write_text(file.read_text().replace("|odd", "|odd|new"))
    said = elman("predict", getattr(made, kind), file, "--output", tmp_path / "said.jsonl")
    assert said.status == 0, said.err
    done = elman("evaluate", getattr(made, kind), file, "--output", tmp_path / "rows.jsonl")
    assert done.status == 0, done.err
    predicted = [json.loads(row) for row in (tmp_path / "said.jsonl").read_text().splitlines()]
    rows = [json.loads(row) for row in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["classes"] for row in rows] == [row["classes"] for row in predicted]
    model = multilabel.load(getattr(made, kind))
    least = model.model.threshold.sigmoid().tolist()
    for row in predicted:
        chances = row["probabilities"]
        assert row["classes"] == [name for name, p in zip(KINDS, least, strict=True) if chances[name] >= p]
    table = table_of(file)
    table = table if steps else list({row["id"]: row for row in reversed(table)}.values())[::-1]
    truth = [
        [None if row[name] == "" else row[name] == "1" for name in KINDS]
        if flags
        else [name in row["kinds"].split("|") for name in KINDS]
        for row in table
    ]
    more = [0 if flags else int("new" in row["kinds"].split("|")) for row in table]
    own = np.array([[name in row["classes"] for name in KINDS] for row in predicted])
    there = np.array([[v is True for v in row] for row in truth])
    known = np.array([[v is not None for v in row] for row in truth])
    found = figures(done.out)
    micro = 2 * (own & there).sum() / ((own & known).sum() + there.sum() + sum(more))
    assert found["micro f1"] == pytest.approx(micro, abs=6e-5)
    each = [f1_by_hand(own[:, k] & known[:, k], there[:, k]) for k in range(3)]
    assert found["macro f1"] == pytest.approx(sum(each) / (3 + (sum(more) > 0)), abs=6e-5)
    exact = [not extra and bool((~k | (a == b)).all()) for a, b, k, extra in zip(own, there, known, more, strict=True)]
    assert found["exact match"] == pytest.approx(np.mean(exact), abs=6e-5)
    p = np.array([[row["probabilities"][name] for name in KINDS] for row in predicted])
    nats = -np.log(np.where(there, p, 1 - p))
    by_class = [nats[known[:, k], k].mean() for k in range(3)]
    assert found["nats per class"] == pytest.approx(np.mean(by_class), abs=2e-4)
    for row, losses, k, extra in zip(rows, nats, known, more, strict=True):
        assert row["nats"] is None if extra else row["nats"] == pytest.approx(losses[k].sum(), abs=1e-3)
    for row, known_ones, extra in zip(rows, there, more, strict=True):
        assert row["label"] == sorted([*np.array(KINDS)[known_ones].tolist(), *["new"] * extra])
    assert ("unknown label" in done.out) == (sum(more) > 0)
    # Its interval is that over sequences.
    right, either = 2 * (own & there).sum(1), (own & known).sum(1) + there.sum(1) + more
    sums: dict[str, Any] = {}
    for name, *values in zip((row["id"] for row in table), right, either, strict=True):
        sums[name] = sums.get(name, 0) + np.array(values)
    every = np.array([own for own in sums.values() if own.any()])
    left, n = every.sum(0) - every, len(every)
    without = left[:, 0] / left[:, 1]
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()) / (micro * (1 - micro))
    half = student(every[:, 1].sum() ** 2 / (every[:, 1] ** 2).sum() - 1) * error
    low, high = (1 / (1 + math.exp(-math.log(micro / (1 - micro)) - way * half)) for way in (-1, 1))
    assert f"({low:.4f} to {high:.4f})" in next(line for line in done.out.splitlines() if line.startswith("micro f1"))


def test_rows_of_csv_have_the_separator(made: SimpleNamespace, tmp_path: Path) -> None:
    done = elman("predict", made.sets, made.directory / "sets.csv", "--output", tmp_path / "a.csv")
    assert done.status == 0, done.err
    rows = table_of(tmp_path / "a.csv")
    assert list(rows[0]) == ["sequence", "classes", *(f"p_{name}" for name in KINDS)]
    assert any("|" in row["classes"] for row in rows)
    assert elman("evaluate", made.sets, made.directory / "sets.csv", "--output", tmp_path / "b.csv").status == 0
    assert any("|" in row["label"] for row in table_of(tmp_path / "b.csv"))


@pytest.mark.parametrize("best_by", ["micro_f1", "macro_f1"])
@pytest.mark.parametrize("kind", ["sets", "flags"])
def test_baselines_by_hand(made: SimpleNamespace, kind: str, best_by: str) -> None:
    options = options_of(kind == "flags", best_by=best_by, separator="|")
    task = multilabel.begin(made.directory / f"{kind}.csv", options, "cpu", BadRows())
    encoded, places = task.encoded, task.encoded.told_places(task.validation)
    found = baselines(encoded, task.places, encoded, places, options)
    learned, truth = encoded.members(task.places), encoded.members(places)
    units = Units(np.arange(len(places)), len(places))

    def score(which: Sequence[int], of: Any) -> float:
        said = np.zeros(of.shape, bool)
        said[:, list(which)] = True
        return scored(said, of, np.zeros(len(of), int), 0, Units(np.arange(len(of)), len(of)))[best_by].value

    every = [[k for k in range(3) if n >> k & 1] for n in range(1, 8)]
    best = max(score(own, learned) for own in every)
    assert found["constant"].value in [pytest.approx(score(own, truth)) for own in every if score(own, learned) == best]
    # Ridge regression of the features on 1 and 0, with the thresholds that are best for what it was fitted to.
    values, fitted = np.empty(truth.shape), np.full(learned.shape, np.nan)
    for k in range(3):
        there = ~np.isnan(learned[:, k])
        x, y = of_sequences(encoded, task.places[there], NONE), learned[there, k].astype(float)
        mean, deviation = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1)
        x = (x - mean) / deviation
        weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ (y - y.mean()))
        fitted[there, k] = x @ weights + y.mean()
        values[:, k] = (of_sequences(encoded, places, NONE) - mean) / deviation @ weights + y.mean()
    cut = thresholds(fitted, learned, best_by == "macro_f1")
    wanted = scored(values >= cut, truth, np.zeros(len(truth), int), 0, units)[best_by].value
    assert found["linear"].value == pytest.approx(wanted)


def test_what_training_says(made: SimpleNamespace, tmp_path: Path) -> None:
    rows = [{"values": [k % 7, k % 3], "label": [*["x"] * (k % 2), *["y"] * (k % 3 == 0)]} for k in range(60)]
    judged = [*rows[:20], {"values": [1, 1], "label": ["z", "x"]}]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    (tmp_path / "b.jsonl").write_text(lines(*map(json.dumps, judged)))
    done = elman("train", "multilabel", tmp_path / "a.jsonl", "--validation", tmp_path / "b.jsonl", *SMALL, "--epochs", 1, "--run", tmp_path / "run")  # fmt: skip
    assert done.status == 0, done.err
    assert "2: x 50%, y 33%" in done.err
    assert "17% of the training sequences have several classes, 33% have none" in done.err
    assert "1 class of validation labels that training lacks, 1 time, counted as missed: 'z'" in done.err
    assert (tmp_path / "run" / "classes.png").exists()
    again = elman("train", "multilabel", tmp_path / "b.jsonl", "--start-from", tmp_path / "run", "--epochs", 1, "--run", tmp_path / "c")  # fmt: skip
    assert again.status == 2
    assert f"has classes that {tmp_path / 'run'} does not know: 'z'" in again.err
    (tmp_path / "c.csv").write_text(lines("id,v,y,x", *(f"{k},{k % 7},{int(k % 3 == 0)},{k % 2 if k % 4 else ''}" for k in range(60))))  # fmt: skip
    more = elman("train", "multilabel", tmp_path / "c.csv", "--sequence", "id", "--label", "y,x", "--validation", tmp_path / "c.csv", "--start-from", tmp_path / "run", "--epochs", 1, "--run", tmp_path / "d")  # fmt: skip
    assert more.status == 0, more.err
    assert "2: x 67%, y 33%" in more.err
    assert "1 class at some training sequences, which do not count there" in more.err
    assert multilabel.load(tmp_path / "d").reading.classes == ["x", "y"]


def test_a_single_recording_is_judged_in_parts(tmp_path: Path) -> None:
    """As long as the class that changes least often, of those that change at all."""
    rows = [f"{t % 9},{';'.join(['fast'] * (t % 4 < 2) + ['slow'] * (t % 40 < 20) + ['always'])}" for t in range(2000)]
    (tmp_path / "a.csv").write_text(lines("x,kinds", *rows))
    options = MultilabelOptions(label="kinds", each_step=True)
    found, *_ = multilabel.read(tmp_path / "a.csv", options, BadRows())
    encoded = Sets(found, Reading.learn(found, np.arange(1), options))
    units = encoded.units(encoded.told_places(np.arange(1)))
    # 1,600 steps, in which it changes 79 times: parts have five changes, which are 100 steps.
    assert units.total == 16
    fast = encoded.units(encoded.told_places(np.arange(1)), np.arange(1600) % 4 < 2)
    assert fast.total == 20


def test_flags_in_another_order_are_the_same_labels(made: SimpleNamespace, tmp_path: Path) -> None:
    given = ("--sequence", "id", "--label", "odd,dim,high", *SMALL, "--epochs", 1, "--run", tmp_path / "run")
    assert elman("train", "multilabel", made.directory / "flags.csv", *given).status == 0
    done = elman("evaluate", made.flags, made.directory / "flags.csv", "--compare", tmp_path / "run")
    assert done.status == 0, done.err
    assert re.search(r"^  micro f1 .*the model is (better|worse) by", done.out, re.MULTILINE)


def test_rows_say_of_which_classes_nothing_is_known(made: SimpleNamespace, tmp_path: Path) -> None:
    assert elman("evaluate", made.flags, made.directory / "flags.csv", "--output", tmp_path / "a.jsonl").status == 0
    rows = [json.loads(row) for row in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["unknown"] for row in rows] == [["dim"] * (k % 5 == 4) for k in range(len(rows))]


def test_models_compare_only_what_they_count_alike(made: SimpleNamespace, tmp_path: Path) -> None:
    done = elman("evaluate", made.sets, made.directory / "sets.csv", "--compare", made.sets)
    assert done.status == 0, done.err
    assert done.out.count("the model is as good") >= 4


# Use


@pytest.mark.parametrize(("kind", "streaming"), [("sets", False), ("steps", True), ("flags_of_steps", False)])
def test_an_onnx_file_says_what_the_run_does(made: SimpleNamespace, tmp_path: Path, kind: str, streaming: bool) -> None:
    file = tmp_path / "model.onnx"
    done = elman("export", getattr(made, kind), file, *["--streaming"] * streaming)
    assert done.status == 0, done.err
    data = made.directory / f"{kind}.csv"
    ours = _predicted(getattr(made, kind), data, tmp_path / "a.jsonl")
    theirs = _predicted(file, data, tmp_path / "b.jsonl")
    assert [row["classes"] for row in ours] == [row["classes"] for row in theirs]
    own, other = (figures(elman("evaluate", model, data).out) for model in (getattr(made, kind), file))
    assert own["micro f1"] == other["micro f1"]


def _predicted(model: Path, data: Path, output: Path) -> list[dict[str, Any]]:
    done = elman("predict", model, data, "--output", output)
    assert done.status == 0, done.err
    return [json.loads(row) for row in output.read_text().splitlines()]


def test_an_onnx_file_with_other_thresholds_is_refused(made: SimpleNamespace, tmp_path: Path) -> None:
    import onnx

    assert elman("export", made.sets, tmp_path / "model.onnx").status == 0
    model = onnx.load(tmp_path / "model.onnx")
    (thresholds,) = (each for each in model.metadata_props if each.key == "elman.thresholds")
    for given in ('{"logits": [0.5]}', '{"logits": ["a", 1, 2]}', '{"logits": [NaN, 1, 2]}', "{}"):
        thresholds.value = given
        onnx.save(model, tmp_path / "model.onnx")
        done = elman("evaluate", tmp_path / "model.onnx", made.directory / "sets.csv")
        assert done.status == 2, given
        assert f"thresholds in {tmp_path / 'model.onnx'} is damaged" in done.err


def test_rows_as_they_arrive_in_an_onnx_file(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert elman("export", made.steps, tmp_path / "step.onnx", "--streaming").status == 0
    first = (made.directory / "steps.csv").read_text().split("\ns1,")[0] + "\n"
    (tmp_path / "a.csv").write_text(first)
    wanted = _predicted(made.steps, tmp_path / "a.csv", tmp_path / "said.jsonl")
    monkeypatch.setattr(sys, "stdin", io.StringIO(first))
    monkeypatch.setattr(sys, "argv", ["watch.py", str(tmp_path / "step.onnx")])
    runpy.run_path(str(ROOT / "examples" / "watch.py"), run_name="__main__")
    said = [line.split("\t") if line else [] for line in capsys.readouterr().out.splitlines()]
    assert [line[::2] for line in said] == [row["classes"] for row in wanted]
    chances = [[float(p) for p in line[1::2]] for line in said]
    assert chances == [[pytest.approx(row["probabilities"][c], abs=6e-4) for c in row["classes"]] for row in wanted]
    assert any(chances)


@pytest.mark.parametrize("kind", ["sets", "flags", "steps", "flags_of_steps"])
def test_a_page_shows_each_class_of_a_sequence(made: SimpleNamespace, kind: str) -> None:
    """What directions and steps add up to is the logit of the class that is named."""
    data = made.directory / f"{kind}.csv"
    page = directions.multilabeler(getattr(made, kind), None, data).data
    model = multilabel.load(getattr(made, kind))
    assert page["thresholds"] == pytest.approx(model.model.threshold.sigmoid().tolist(), abs=1e-4)
    every = {each.name: each for each in sequences(data, columns_of(model.options, model.reading))}
    assert page["sequences"]
    for item in page["sequences"]:
        k, sequence = KINDS.index(item["column"]), every[item["name"]]
        encoded = model.encode([sequence], data)
        logits, truth = model.outputs(encoded).double(), encoded.members(encoded.all_places(np.arange(1)))
        if "steps" in kind:
            assert item["predicted"] == pytest.approx(logits[:, k].sigmoid().tolist(), rel=1e-3)
            known = [None if np.isnan(v) else v for v in truth[:, k].tolist()]
            assert item["truth"] == known
            for t, (share,) in enumerate(item["shares"]):
                assert share["name"] == item["column"]
                total = share["forward"] + share["backward"] + share["bias"]
                assert total == pytest.approx(float(logits[t, k]), abs=2e-3)
        else:
            assert item["probabilities"] == pytest.approx(logits[0].sigmoid().tolist(), rel=1e-3)
            assert item["truth"] == model.names(truth[0] == 1)
            assert item["predicted"] == model.names(model.said(logits)[0])
            (share,) = item["shares"]
            assert share["name"] == item["column"]
            total = sum(share["forward"]) + sum(share["backward"]) + share["bias"]
            assert total == pytest.approx(float(logits[0, k]), abs=2e-3)


def test_a_page_of_what_has_no_label(made: SimpleNamespace, tmp_path: Path) -> None:
    table = pl.read_csv(made.directory / "sets.csv").drop("kinds")
    table.write_csv(tmp_path / "a.csv")
    page = directions.multilabeler(made.sets, None, tmp_path / "a.csv").data
    assert {json.dumps(item["truth"]) for item in page["sequences"]} == {"null"}


@pytest.mark.parametrize("kind", ["flags", "flags_of_steps"])
def test_the_page_in_a_browser(
    made: SimpleNamespace, open_page: Callable[..., Opened], tmp_path: Path, kind: str
) -> None:
    path = explain.page(getattr(made, kind), data=made.directory / f"{kind}.csv").save(tmp_path / "page.html")
    page = open_page(path, locale="en-US").page
    page.wait_for_selector("#ribbon")
    item = page.evaluate("elman.items[0]")
    least = directions.multilabeler(getattr(made, kind), None, None).data["thresholds"]
    if kind == "flags":
        # Of each class a line at the threshold; true ones are marked.
        places = page.eval_on_selector_all("#chances .least", "all => all.map((each) => parseFloat(each.style.left))")
        assert sorted(places) == pytest.approx(sorted(100 * p for p in least), abs=1e-3)
        assert sorted(page.locator("#chances .key.right").all_inner_texts()) == item["truth"]
    else:
        page.evaluate("elman.choose({t: 1})")
        page.evaluate("elman.settled()")
        cells = page.locator("#value td").all_inner_texts()
        shown = [item["predicted"][1], least[KINDS.index(item["column"])], item["truth"][1]]
        assert [float(cell) for cell in cells] == pytest.approx(shown)


def test_from_python(tmp_path: Path) -> None:
    rows = [{"values": [k % 7, k % 3], "x": k % 2, "y": int(k % 3 == 0)} for k in range(60)]
    small: Any = {"hidden_size": 4, "epochs": 1, "run": tmp_path / "a"}
    model = package.train("multilabel", rows, small.pop("run"), label=["x", "y"], **small)
    assert {"micro f1", "macro f1", "exact match", "nats per class"} <= set(model.evaluate(rows).scores)
    (row,) = model.predict([{"values": [1, 2]}])
    assert set(row["probabilities"]) == {"x", "y"}
    assert isinstance(row["classes"], list)
    given = [{"values": row["values"], "label": [*["x"] * row["x"], *["y"] * row["y"]]} for row in rows]
    other = package.train("multilabel", given, tmp_path / "b", **small)
    assert other.evaluate(given).scores.keys() == model.evaluate(rows).scores.keys()
    found = package.cross_validate("multilabel", given, tmp_path / "c", folds=2, examples=True, **small)
    assert len(found.examples or []) == 60


# Pictures


def test_a_picture_of_classes_has_a_bar_for_each() -> None:
    precision, recall, count = np.array([0.5, 1.0, 0.0]), np.array([0.25, 0.75, 0.0]), np.array([3, 20, 0])
    (axis,) = charts.found(["a", "b", "c"], precision, recall, count, "sequences").axes
    widths = [[bar.get_width() for bar in bars] for bars in axis.containers]
    assert widths == [[1.0, 0.5, 0.0], [0.75, 0.25, 0.0]]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["b  20", "a  3", "c  0"]


def test_a_picture_of_steps_shows_where_classes_are() -> None:
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, NAN, 0], [1, 0, 0]], float)
    chances = np.array([[0.9, 0.01, 0.0]] * 4)
    _, axis = charts.overlapping_steps(np.zeros((4, 1)), truth, chances, ["a", "b", "c"], 10).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"], "c is nowhere"
    drawn: Any = axis.collections[1:]
    lines_of = [[segment[:, 0].tolist() for segment in each.get_segments()] for each in drawn]
    assert lines_of == [[[10.5, 12.5], [13.5, 14.5]], [[11.5, 12.5]]]
