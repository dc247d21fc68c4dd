"""Several numbers for each sequence, or each step, of which some may be missing: how they are read, learned, judged and told."""

from __future__ import annotations

import io
import json
import math
import runpy
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import elman as package
from elman import charts, models
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns, Labelled, numbers_in, sequences
from elman.errors import InputError
from elman.explain import directions
from elman.tasks import regression
from elman.tasks.gathered import Gathered
from elman.tasks.options import RegressionOptions, quoted
from elman.tasks.parts import columns_of
from elman.tasks.regression import Reading, Values, baselines
from elman.tasks.scores import compared
from elman.tasks.tallies import Units, student, values
from elman.tasks.values import Criterion
from elman.training import fitting
from elman.training.loop import MODEL
from elman.training.run import Run
from test_compared import by_hand, lines_of
from tiny_runs import elman, interval_by_hand, lines, scores_of

ROOT = Path(__file__).parent.parent
SMALL = ("--hidden-size", 6, "--batch-size", 8, "--dropout", 0, "--noise", 0)
BOTH = ("--label", "load,heat")
NAN = math.nan


def numbers(each: Labelled, count: int = 2) -> Any:
    labels = [each.label] if each.labels is None else each.labels
    return [numbers_in(label, count) for label in labels]


def written(path: Path, steps: bool, sequences: int = 40, seed: int = 0) -> Path:
    """Sequences of two channels as a table: the sum of one so far, and a thousand times the other, each where it is known."""
    draw = np.random.default_rng(seed)
    rows = list[str]()
    for k in range(sequences):
        x = draw.normal(size=(int(draw.integers(4, 12)), 2)).round(3)
        heat, load = (1000 * x[:, 1] + 5000).round(1), x[:, 0].cumsum().round(3)
        if not steps:
            heat[:], load[:] = heat.max(), load[-1]
        lacks = draw.random((2, len(x))) < 0.3 if steps else np.repeat([[k % 4 == 1], [k % 8 == 3]], len(x), 1)
        cells = [["" if lack else str(v) for lack, v in zip(*each, strict=True)] for each in zip(lacks, (heat, load), strict=True)]  # fmt: skip
        rows += [f"s{k},{a},{h},{b},{y}" for (a, b), h, y in zip(x, *cells, strict=True)]
    path.write_text(lines("id,a,heat,b,load", *rows))
    return path


def options_of(**changes: Any) -> RegressionOptions:
    own = {"label": "load,heat", "sequence": "id", "hidden_size": 5, "epochs": 1.0, "dropout": 0.0, "noise": 0.0}
    return RegressionOptions(**own | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Runs of random weights, whole and of each step, and their data."""
    d = tmp_path_factory.mktemp("several")
    kinds = {
        "whole": options_of(),
        "bands": options_of(quantiles="0.1,0.5,0.8"),
        "steps": options_of(each_step=True, causal=True, quantiles="0.2,0.9"),
    }
    for name, options in kinds.items():
        file = written(d / f"{name}.csv", options.each_step)
        task = regression.begin(file, options, "cpu", BadRows())
        training, _ = fitting.begin(task, d / name)
        torch.manual_seed(1)
        weights = {key: 0.6 * torch.randn_like(value) for key, value in task.model.state_dict().items()}
        training.run.save_tensors(MODEL, weights, {"step": 0})
    return SimpleNamespace(directory=d, **{name: d / name for name in kinds})


# Reading


def read_all(path: Path, **columns: Any) -> list[Labelled]:
    return list(sequences(path, Columns("load,heat", numeric=True, several=("load", "heat"), **columns)))


def test_all_forms_say_the_same(tmp_path: Path) -> None:
    wanted = [[[1.5, -2e3]], [[NAN, 7.0]], [[0.25, NAN]]]
    table = "id,heat,x,load\na,-2000,1,1.5\na,-2e3,2,1.50\nb,7,3,N/A\nc,nan,4,0.25\n"
    (tmp_path / "a.csv").write_text(table)
    pl.read_csv(table.encode()).write_parquet(tmp_path / "a.parquet")
    rows = [{"load": 1.5, "heat": "-2000"}, {"heat": 7}, {"load": 0.25, "heat": NAN}]
    (tmp_path / "a.jsonl").write_text(lines(*(json.dumps(row | {"values": [1]}) for row in rows)))
    (tmp_path / "t.csv").write_text("heat,body,load\n-2000,so,1.5\n7,so,\nNaN,so,0.25\n")
    for name, columns in {
        "a.csv": {"sequence": "id"},
        "a.parquet": {"sequence": "id"},
        "a.jsonl": {},
        "t.csv": {"text": "body"},
    }.items():
        found = read_all(tmp_path / name, **columns)
        np.testing.assert_array_equal([numbers(each) for each in found], wanted)
        assert all(each.channels in ((), ("x",)) for each in found)
    (one,) = read_all(tmp_path / "a.csv", each_step=True, channels=("x",))
    assert one.labels is not None
    np.testing.assert_array_equal(numbers(one), [[1.5, -2e3], [1.5, -2e3], [NAN, 7], [0.25, NAN]])
    row = {"values": [1, 2, 3], "load": [1, None, NAN], "heat": [None, None, 2]}
    (tmp_path / "s.jsonl").write_text(lines(json.dumps(row), '{"values": [1], "heat": [3]}'))
    one, two = read_all(tmp_path / "s.jsonl", each_step=True)
    np.testing.assert_array_equal(numbers(one), [[1, NAN], [NAN, NAN], [NAN, 2]])
    assert one.labels is not None
    assert one.labels[1] is None
    np.testing.assert_array_equal(numbers(two), [[NAN, 3]])
    (tmp_path / "bare.csv").write_text("id,x\na,1\n")
    bare = sequences(tmp_path / "bare.csv", Columns("load,heat", "id", numeric=True, several=("load", "heat")), False)
    assert [each.label for each in bare] == [None]


WRONG: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "a word": ("a.csv", "id,x,load,heat\na,1,2,3\nb,1,2,hot\n", {"sequence": "id"}, "line 3: column 'heat' should be a finite number, at most 3.4e+38 from zero, but is 'hot'"),
    "a decimal comma": ("a.csv", 'id,x,load,heat\na,1,"2,5",3\n', {"sequence": "id"}, "line 2: column 'load' should be a finite number, at most 3.4e+38 from zero, but is '2,5'"),
    "the sign between": ("a.csv", "id,x,load,heat\na,1,2\x1f5,3\n", {"sequence": "id"}, "line 2: column 'heat' should be a finite number"),
    "too far": ("a.csv", "id,x,load,heat\na,1,1e39,3\n", {"sequence": "id"}, "column 'load' should be a finite number"),
    "neither": ("a.csv", "id,x,load,heat\na,1,,\n", {"sequence": "id"}, "line 2: there is no number in 'load' or 'heat', and at least one is needed"),
    "another one": ("a.csv", "id,x,load,heat\na,1,2,3\na,1,2,4\n", {"sequence": "id"}, "line 3: sequence 'a' has 4 in column 'heat' here but 3 before; write the same in all of its rows"),
    "one that ends": ("a.csv", "id,x,load,heat\na,1,2,3\na,1,2.0,\n", {"sequence": "id"}, "line 3: sequence 'a' has nothing in column 'heat' here but 3 before"),
    "no column": ("a.csv", "id,x,load\na,1,2\n", {"sequence": "id"}, "has no column 'heat'"),
    "beside a text": ("a.csv", "t,load,heat\nso,1,2\nup,,soon\n", {"text": "t"}, "line 3: column 'heat' should be a finite number, at most 3.4e+38 from zero, but is 'soon'"),
    "neither beside a text": ("a.csv", "t,load,heat\nso,1,2\nup,,\n", {"text": "t"}, "line 3: there is no number in 'load' or 'heat', and at least one is needed"),
    "of a step": ("a.csv", "x,load,heat\n1,,\n1,2,hot\n", {"each_step": True}, "line 3: column 'heat' should be a finite number"),
    "in JSON": ("a.jsonl", '{"values": [1], "load": true, "heat": 2}\n', {}, "line 1: 'load' should be a finite number, at most 3.4e+38 from zero, but is 'True'"),
    "a list in JSON": ("a.jsonl", '{"values": [1], "load": [1], "heat": 2}\n', {}, "'load' should be a finite number, at most 3.4e+38 from zero, but is '[1]'"),
    "neither in JSON": ("a.jsonl", '{"values": [1], "load": null, "heat": null}\n', {}, "line 1: there is no number in 'load' or 'heat', and"),
    "no name in JSON": ("a.jsonl", '{"values": [1], "lod": 2}\n', {}, "line 1: there is no 'load' or 'heat'; the names are 'values', 'lod'"),
    "no list in JSON": ("a.jsonl", '{"values": [1], "load": null}\n', {"each_step": True}, "line 1: 'load' should be a list of 1 labels, one for each step, but is None"),
    "no list": ("a.jsonl", '{"values": [1], "load": [2], "heat": 2}\n', {"each_step": True}, "line 1: 'heat' should be a list of 1 labels, one for each step, but is 2"),
    "too few": ("a.jsonl", '{"values": [1], "load": [], "heat": [2]}\n', {"each_step": True}, "line 1: 'load' should be a list of 1 labels, one for each step, but has 0"),
    "a word in a list": ("a.jsonl", '{"values": [1, 2], "load": [1, 2], "heat": [2, "hot"]}\n', {"each_step": True}, "line 1: step 2 of 'heat' should be a finite number, at most 3.4e+38 from zero, but is 'hot'"),
    "an archive": ("a.ts", "@data\n1:2:3\n", {}, "a.ts has one number for each sequence, but --label names 2 columns; give a table or JSON lines, or leave --label out"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told(tmp_path: Path, case: str) -> None:
    name, content, columns, message = WRONG[case]
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as found:
        read_all(tmp_path / name, **columns)
    assert message in str(found.value)


@pytest.mark.parametrize(
    ("label", "others", "message"),
    [
        (",", {}, "--label names no column; name one"),
        ("", {}, "--label names no column; name one"),
        ("a,a", {}, "--label names the column 'a' twice; name it once"),
        ("a,id", {}, "--sequence and --label both name the column 'id'"),
        ("a,b", {"columns": "x,b"}, "--label and --columns both name the column 'b'"),
        ("a,b", {"categories": "b"}, "--label and --categories both name the column 'b'"),
    ],
)
def test_names_that_make_no_sense(label: str, others: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        options_of(label=label, **others).check()


def test_names_with_commas() -> None:
    for label, wanted in {
        "load, heat": ("load", "heat"),
        '"load, kW",heat': ("load, kW", "heat"),
        '"load, kW"': ("load, kW",),
        'a "b" c, d': ('a "b" c', "d"),
        '"the ""b"" one", d': ('the "b" one', "d"),
        '"two\nlines", d': ("two\nlines", "d"),
    }.items():
        options = options_of(label=label, columns=label, sequence=None)
        assert options.label_columns == options.column_list == wanted
        assert options_of(label=quoted(wanted)).label_columns == wanted
    assert options_of(label='a\nb,"c, d"').label_columns == ("a", "b", "c, d")  # which no quotes keep together
    given = {"label": ["a,b", "c"], "columns": ["x,y"], "sequence": ["i,d"], "group": ["g", "h"]}
    made = models.options_of(RegressionOptions, given, 1.0)
    assert (made.label_columns, made.column_list, made.sequence, made.group) == (("a,b", "c"), ("x,y",), "i,d", "g,h")


def test_one_name_may_end_with_a_comma() -> None:
    columns = columns_of(options_of(label="load,"))
    assert (columns.label, columns.several, columns.of_label) == ("load", (), ("load",))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,1,2,", "b,1,3,", "c,1,4,"], "sequences of {path} have no number in 'heat'; give some, or leave it out"),
        (["a,1,2,5", "b,1,3,5", "c,1,4,5"], "have only one value in 'heat', 5; give sequences of different values"),
        (["a,1,2,1e-200", "b,1,3,2e-200", "c,1,4,5e-200"], "in {path}, column 'heat', are at most"),
    ],
)
def test_a_value_that_nothing_can_be_learned_of(tmp_path: Path, rows: Sequence[str], message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(lines("id,x,load,heat", *rows))
    outcome = elman("train", "regress", path, "--sequence", "id", *BOTH, *SMALL, "--run", tmp_path / "run")
    assert (outcome.status, outcome.out) == (2, "")
    assert message.replace("{path}", str(path)) in outcome.err
    assert not (tmp_path / "run").exists()


# Learning


def test_moments_are_those_of_each_column(made: SimpleNamespace) -> None:
    trained = regression.load(made.whole)
    found, train, *_ = trained.read_again()
    table = np.array([numbers_in(list(found.different)[found.labels[k][0]], 2) for k in train])
    assert np.isnan(table).any(0).all()
    np.testing.assert_allclose(trained.reading.center, np.nanmean(table, 0))
    np.testing.assert_allclose(trained.reading.spread, np.nanstd(table, 0))
    assert trained.reading.labels == ["load", "heat"]


@pytest.mark.parametrize("each_step", [False, True])
@pytest.mark.parametrize("loss", ["mse", "huber", "quantiles"])
def test_the_loss_weighs_all_values_alike(tmp_path: Path, each_step: bool, loss: str) -> None:
    """Over an epoch it is the mean over values of the mean of each over the steps that have it, however batches are shared."""
    own = {"quantiles": "0.1,0.7"} if loss == "quantiles" else {"loss": loss}
    file = written(tmp_path / "a.csv", each_step)
    task = regression.begin(file, options_of(each_step=each_step, batch_size=4, **own), "cpu", BadRows())
    quantiles = (0.1, 0.7) if loss == "quantiles" else (0.5,)

    def one(e: float, q: float) -> float:
        return {"mse": e**2, "huber": 0.5 * e**2 if abs(e) < 1 else abs(e) - 0.5, "quantiles": max(q * e, (q - 1) * e)}[loss]  # fmt: skip

    task.model.eval()
    places = task.encoded.all_places(task.train)
    said = task.trained.outputs(task.encoded, task.train).reshape(len(places), 2, -1).tolist()
    losses = list[list[float]]()
    for k in range(2):
        truth = task.encoded.values[places, k].tolist()
        every = [[one(y - p, q) for p, q in zip(row[k], quantiles, strict=True)] for row, y in zip(said, truth, strict=True)]  # fmt: skip
        losses.append([float(np.mean(each)) for each in every if not np.isnan(each).any()])
    assert len(losses[0]) != len(losses[1])
    wanted = np.mean([np.mean(each) for each in losses])
    for parts in (1, 3):
        total = weight = 0.0
        for rank in range(parts):
            task.share(rank, parts)
            for batch in task.batches(0, 0):
                if batch.size:
                    size = batch.weight or batch.size
                    total += float(batch.loss().detach()) * size
                    weight += size
        assert total / weight == pytest.approx(wanted, rel=1e-4)


def test_missing_values_have_no_gradient(tmp_path: Path) -> None:
    """A sequence that lacks one of two values teaches nothing of it, and nothing turns into NaN."""
    (tmp_path / "a.jsonl").write_text(
        lines(*(json.dumps({"values": [k, 1], "load": k if k % 2 else None, "heat": k}) for k in range(8)))
    )
    options = options_of(sequence=None, batch_size=8, held_out=0.2)
    task = regression.begin(tmp_path / "a.jsonl", options, "cpu", BadRows())
    without = [n for n, k in enumerate(task.train) if task.encoded.values[int(k), 0].isnan()]
    task.loss(np.array(without)).backward()
    gradient = task.model.output.weight.grad
    assert gradient is not None
    assert gradient[0].abs().max() == 0 < gradient[1].abs().max()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.model.parameters())


def test_both_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "save", lambda figure, path: path.touch())
    file = written(tmp_path / "a.csv", True, 60)
    command = ("train", "regress", file, "--sequence", "id", "--each-step", *BOTH, *SMALL)
    outcome = elman(*command, "--epochs", 25, "--learning-rate", 0.03, "--run", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    said = scores_of(elman("evaluate", tmp_path / "run", written(tmp_path / "b.csv", True, 12, seed=1)).out)
    for name in ("load", "heat"):
        (r2,) = (float(row.split()[-1]) for row in said.splitlines() if row.startswith(f"R² of {name}"))
        assert r2 > 0.8
        assert f"values of {name} " in outcome.err + outcome.out
    assert {"steps.png", "values.png"} <= {path.name for path in (tmp_path / "run").iterdir()}


# Judging


def pieces_of(name: str, made: SimpleNamespace) -> tuple[Any, list[dict[str, Any]]]:
    run, file = getattr(made, name), made.directory / f"{name}.csv"
    outcome = elman("evaluate", run, file, "--output", made.directory / "rows.jsonl")
    assert outcome.status == 0, outcome.err
    return outcome.out, [json.loads(row) for row in (made.directory / "rows.jsonl").read_text().splitlines()]


def test_scores_of_each_value_and_of_all(made: SimpleNamespace) -> None:
    said, rows = pieces_of("whole", made)
    spread, squares = dict(zip(("load", "heat"), Reading.load(Run(made.whole)).spread, strict=True)), []
    for name in spread:
        own = [row for row in rows if row[f"label_{name}"] is not None]
        assert 0 < len(own) < len(rows)
        e = np.array([row[f"value_{name}"] - row[f"label_{name}"] for row in own])
        np.testing.assert_allclose(e, [row[f"error_{name}"] for row in own], rtol=1e-5)
        assert all(row[f"error_{name}"] is None for row in rows if row not in own)
        rmse, truth = np.sqrt((e**2).mean()), np.array([row[f"label_{name}"] for row in own])
        squares.append((rmse / spread[name]) ** 2)
        mae = np.abs(e).mean()
        interval = interval_by_hand([row["sequence"] for row in own], np.abs(e / spread[name]).tolist(), share=False)
        (of_mae,) = (row for row in said.splitlines() if row.startswith(f"MAE of {name} "))
        assert of_mae.split(maxsplit=3)[3] == f"{mae:.6g}, which is {mae / spread[name]:.4f} {interval} standard deviations of the training values"  # fmt: skip
        assert f"R² of {name}           {1 - rmse**2 / truth.var():.4f}\n" in said
    overall = f"RMSE                 {np.sqrt(np.mean(squares)):.4f} "
    assert overall in said
    assert " standard deviations of the training values, over 2 values\n" in said.partition(overall)[2]
    # The interval of the mean of two ratios, by leaving out one sequence after the other.
    table = np.array([[NAN if row[f"error_{n}"] is None else (row[f"error_{n}"] / spread[n]) ** 2 for n in spread] for row in rows])  # fmt: skip
    left = [np.sqrt(np.nanmean(np.delete(table, k, 0), 0).mean()) for k in range(len(rows))]
    whole, n = np.sqrt(np.mean(squares)), len(rows)
    error = np.sqrt((n - 1) ** 2 / n) * np.std(left, ddof=1)
    half = (
        student((~np.isnan(table)).sum(0).min() - 1) * error / whole
    )  # as sure as the value that is there least often
    assert f"{overall}({whole * np.exp(-half):.4f} to {whole * np.exp(half):.4f})" in said


def test_baselines_are_those_of_each_value_alone(made: SimpleNamespace) -> None:
    """One of the values, learned and judged on its own, has the scores that it has beside the others."""
    options = options_of()
    every = list(sequences(made.directory / "whole.csv", columns_of(options)))
    train, held = np.arange(24), np.arange(24, 40)

    def found(which: Sequence[int], criterion: Criterion) -> dict[str, float]:
        labels = [[numbers(each)[0][k] for k in which] for each in every]
        texts = ["\x1f".join("" if math.isnan(v) else repr(v) for v in row) or None for row in labels]
        gathered = Gathered(None)
        gathered.add([each._replace(label=text) for each, text in zip(every, texts, strict=True)], Path("none"))
        names = [("load", "heat")[k] for k in which]
        encoded = Values(gathered, Reading.learn(gathered, train, replace(options, label=",".join(names))))
        learn, judge = (encoded.told_places(part) for part in (train, held))
        return values(baselines(encoded, learn, encoded, judge, criterion, False))

    for criterion in (Criterion("mse"), Criterion("mae"), Criterion("mse", (0.1, 0.6))):
        both, apart = found((0, 1), criterion), [found((k,), criterion) for k in range(2)]
        for name in ("constant", "linear"):
            each = np.array([scores[name] for scores in apart])
            wanted = np.sqrt((each**2).mean()) if criterion.squared else each.mean()
            assert both[name] == pytest.approx(wanted, rel=1e-9)


def test_bands_are_told_of_each_value(made: SimpleNamespace) -> None:
    for name in ("bands", "steps"):
        said, rows = pieces_of(name, made)
        quantiles = regression.load(getattr(made, name)).criterion.quantiles
        for value in ("load", "heat"):
            own = [row for row in rows if row[f"label_{value}"] is not None]
            shares = [np.mean([row[f"label_{value}"] <= row[f"value_{value}_q{q:g}"] for row in own]) for q in quantiles]  # fmt: skip
            told = ", ".join(f"{share:.1%} for {q:g}" for share, q in zip(shares, quantiles, strict=True))
            assert f"quantiles of {value}    {told} of {len(own):,} true values\n" in said
            assert all(
                row[f"value_{value}_q{a:g}"] <= row[f"value_{value}_q{b:g}"]
                for row in rows
                for a, b in pairwise(quantiles)
            )


def test_predictions_are_named_by_value_and_quantile(made: SimpleNamespace) -> None:
    predicted = elman("predict", made.bands, made.directory / "bands.csv").out.splitlines()
    names = [f"value_{value}_q{q}" for value in ("load", "heat") for q in (0.1, 0.5, 0.8)]
    assert predicted[0] == ",".join(["sequence", *names])
    _, rows = pieces_of("bands", made)
    for line, row in zip(predicted[1:], rows, strict=True):
        assert [float(cell) for cell in line.split(",")[1:]] == [row[name] for name in names]
    assert elman("predict", made.whole, made.directory / "whole.csv").out.startswith("sequence,value_load,value_heat\n")


def test_two_models_are_compared_value_by_value(made: SimpleNamespace, tmp_path: Path) -> None:
    """In the units of the first one, whatever the other one has learned by."""
    import shutil

    file, other = made.directory / "whole.csv", shutil.copytree(made.whole, tmp_path / "other")
    known = json.loads((other / "vocabulary.json").read_text())
    known["spread"] = [2 * known["spread"][0], 0.7 * known["spread"][1]]
    (other / "vocabulary.json").write_text(json.dumps(known))
    told = lines_of(elman("evaluate", made.whole, file, "--compare", other).out)
    both = []
    for run in (made.whole, other):
        assert elman("evaluate", run, file, "--output", tmp_path / "rows.jsonl").status == 0
        both.append([json.loads(row) for row in (tmp_path / "rows.jsonl").read_text().splitlines()])
    for name, spread in zip(("load", "heat"), Reading.load(Run(made.whole)).spread, strict=True):
        errors = [[abs(row[f"error_{name}"]) / spread for row in rows if row[f"error_{name}"] is not None] for rows in both]  # fmt: skip
        units = [row["sequence"] for row in both[0] if row[f"error_{name}"] is not None]
        assert told[f"MAE of {name}"] == by_hand(units, errors)
    assert list(told) == ["RMSE", "MAE", *(f"{score} of {name}" for name in ("load", "heat") for score in ("RMSE", "MAE"))]  # fmt: skip


def test_a_file_that_has_only_one_of_them(made: SimpleNamespace, tmp_path: Path) -> None:
    rows = (made.directory / "whole.csv").read_text().splitlines()
    kept = [rows[0], *(",".join([*row.split(",")[:4], ""]) for row in rows[1:] if row.split(",")[2])]
    (tmp_path / "a.csv").write_text(lines(*kept))
    said = elman("evaluate", made.whole, tmp_path / "a.csv").out
    assert "RMSE of heat" in said
    assert "of load" not in said
    scaled = said.partition("RMSE of heat")[2].partition("which is ")[2].split()[0]
    assert said.partition("RMSE ")[2].split()[0] == scaled
    assert said.count("over 1 value\n") == 2
    assert "not judged           load: there is no number to judge by\n" in said


def test_what_the_validation_lacks_is_told(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(charts, "save", lambda figure, path: path.touch())
    rows = (made.directory / "whole.csv").read_text().splitlines()
    kept = [rows[0], *(",".join([*row.split(",")[:4], ""]) for row in rows[1:] if row.split(",")[2])]
    (tmp_path / "a.csv").write_text(lines(*kept))
    command = ("train", "regress", made.directory / "whole.csv", "--sequence", "id", *BOTH, *SMALL, "--epochs", 1)
    done = elman(*command, "--validation", tmp_path / "a.csv", "--run", tmp_path / "run")
    assert "not judged  load: no validation sequence has one, so the parameters are chosen without\n" in done.err
    assert "over 1 value\n" in done.out


def recording(path: Path, heat: Sequence[float | str]) -> Path:
    """One sequence, with a load that changes at every step."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(len(heat), 2)).round(3)
    path.write_text(lines("a,load,heat", *(f"{a},{b},{h}" for (a, b), h in zip(x, heat, strict=True))))
    return path


def score_lines(said: str) -> dict[str, str]:
    return {name: row.partition(name)[2].strip() for row in said.splitlines() for name in (row[:21].strip(),)}


def test_parts_of_a_recording_are_those_of_each_value(tmp_path: Path) -> None:
    """A value that changes slowly, or is rarely there, says how sure it is itself, and nothing of the others."""
    slow = [f"{np.sin(t / 90):.4f}" if t % 10 == 0 else "" for t in range(3000)]
    once = ["" if t not in (5, 50, 2000) else str(t) for t in range(3000)]
    said = dict[str, dict[str, str]]()
    for name, heat, label in (("slow", slow, "load,heat"), ("alone", slow, "heat"), ("once", once, "load,heat")):
        file = recording(tmp_path / f"{name}.csv", heat)
        options = options_of(label=label, sequence=None, each_step=True, columns="a", held_out=0.4)
        task = regression.begin(file, options, "cpu", BadRows())
        training, _ = fitting.begin(task, tmp_path / name)
        state = {key: torch.zeros_like(value) for key, value in task.model.state_dict().items()}
        training.run.save_tensors(MODEL, state, {"step": 0})
        said[name] = score_lines(elman("evaluate", tmp_path / name, file).out)
    assert " to " not in said["alone"]["RMSE"]
    assert said["slow"]["RMSE of heat"] == said["alone"]["RMSE"]
    for name in ("slow", "once"):
        assert " to " in said[name]["RMSE of load"]
        assert " to " not in said[name]["RMSE"]
        assert "after 20 parts of the only sequence" in said[name]["intervals"]
    assert " to " not in said["once"]["RMSE of heat"]


def test_all_are_as_sure_as_the_one_that_is_there_least_often() -> None:
    draw = torch.Generator().manual_seed(0)
    truth = torch.randn(200, 2, generator=draw, dtype=torch.float64)
    units = Units(np.arange(200), 200)
    predicted = torch.zeros(200, 2, 1)
    both_tally = regression.scored(Criterion("mse"), predicted, truth, units)["rmse"]
    both = both_tally.interval
    truth[4:, 1] = NAN
    assert both is not None
    rare = regression.scored(Criterion("mse"), predicted, truth, units)["rmse"]
    assert rare.interval is None
    other = rare._replace(sums=rare.sums * np.array([2, 2, 1, 1]))
    assert rare.minus(other)[1] is None
    assert compared(rare, other).endswith(" perhaps by chance")
    sure = both_tally._replace(sums=both_tally.sums * np.array([2, 2, 1, 1]))
    assert not compared(both_tally, sure).endswith("chance")
    truth[4:6, 1] = 1.0
    low, high = regression.scored(Criterion("mse"), predicted, truth, units)["rmse"].interval or (0, 0)
    assert high / low > (both[1] / both[0]) ** 2


def test_cross_validation_has_no_unit_for_all(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(charts, "save", lambda figure, path: path.touch())
    given = ("--sequence", "id", *BOTH, *SMALL, "--epochs", 1, "--folds", 2, "--directory", tmp_path / "folds")
    done = elman("cross-validate", "regress", made.directory / "whole.csv", *given, "--output", tmp_path / "rows.csv")
    assert done.status == 0, done.err
    assert "\nin unit " not in done.out
    table = pl.read_csv(tmp_path / "rows.csv")
    assert table.columns == ["sequence", "label_load", "value_load", "error_load", "label_heat", "value_heat", "error_heat", "fold"]  # fmt: skip
    assert len(table) == 40
    assert table["label_load"].null_count() == 5


def test_folds_have_their_share_of_what_is_rare(tmp_path: Path) -> None:
    rows = [{"values": [k, 1], "load": k} | ({"heat": k} if k % 10 == 3 else {}) for k in range(40)]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    for k in range(1, 5):
        options = options_of(sequence=None, fold=f"{k}/4", held_out=0.001)
        found, *_, test = regression.read(tmp_path / "a.jsonl", options, BadRows())
        assert sum(not math.isnan(numbers(each)[0][1]) for each in found.labelled(test)) == 1
    rows = [row if k in (3, 33) else {name: row[name] for name in ("values", "load")} for k, row in enumerate(rows)]
    (tmp_path / "b.jsonl").write_text(lines(*map(json.dumps, rows)))
    message = r"the training sequences of .*b\.jsonl that --fold 1/2 leaves have only one value in 'heat', \d+; give"
    with pytest.raises(InputError, match=message):
        regression.read(tmp_path / "b.jsonl", options_of(sequence=None, fold="1/2", held_out=0.001), BadRows())


# Runs


def test_runs_of_earlier_versions_have_one_number(tmp_path: Path) -> None:
    rows = [{"values": [k, k * k % 5], "label": 3 * k + 7} for k in range(20)]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    options = options_of(label="label", sequence=None)
    task = regression.begin(tmp_path / "a.jsonl", options, "cpu", BadRows())
    training, _ = fitting.begin(task, tmp_path / "run")
    training.run.save_tensors(MODEL, task.model.state_dict(), {"step": 0})
    before = elman("predict", tmp_path / "run", tmp_path / "a.jsonl").out
    known = json.loads((tmp_path / "run" / "vocabulary.json").read_text())
    assert known.pop("labels") == ["label"]
    known |= {name: known[name][0] for name in ("center", "spread")}
    (tmp_path / "run" / "vocabulary.json").write_text(json.dumps(known))
    assert elman("predict", tmp_path / "run", tmp_path / "a.jsonl").out == before
    assert before.startswith("sequence,value\n")


def test_runs_of_earlier_versions_may_have_a_comma_in_their_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(charts, "save", lambda figure, path: path.touch())
    rows = [f"{k},{k % 4},{3 * k + 7}" for k in range(20)]
    (tmp_path / "a.csv").write_text(lines('id,x,"load, kW"', *rows))
    task = regression.begin(tmp_path / "a.csv", options_of(label='"load, kW"'), "cpu", BadRows())
    training, _ = fitting.begin(task, tmp_path / "run")
    training.run.save_tensors(MODEL, task.model.state_dict(), {"step": 0})
    said = elman("evaluate", tmp_path / "run", tmp_path / "a.csv").out
    for name, change in (
        ("vocabulary.json", lambda own: {k: v[0] if k in ("center", "spread") else v for k, v in own.items() if k != "labels"}),
        ("config.json", lambda own: own | {"options": own["options"] | {"label": "load, kW"}}),
    ):  # fmt: skip
        path = tmp_path / "run" / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert elman("evaluate", tmp_path / "run", tmp_path / "a.csv").out == said
    assert elman("predict", tmp_path / "run", tmp_path / "a.csv").out.startswith("sequence,value\n")
    more = elman("train", "regress", "--resume", tmp_path / "run", "--epochs", 2)
    assert more.status == 0, more.err
    command = ("train", "regress", tmp_path / "a.csv", "--start-from", tmp_path / "run", "--epochs", 1)
    for k, label in enumerate(([], ["--label", "load, kW"], ["--label", '"load, kW"'])):
        assert elman(*command, *label, "--run", tmp_path / f"next-{k}").status == 0
        told = elman("evaluate", tmp_path / f"next-{k}", tmp_path / "a.csv")
        assert (told.status, told.err) == (0, "")
        assert json.loads((tmp_path / f"next-{k}" / "vocabulary.json").read_text())["labels"] == ["load, kW"]


def test_a_model_goes_on_with_as_many_values(made: SimpleNamespace, tmp_path: Path) -> None:
    command = ("train", "regress", made.directory / "whole.csv", "--start-from", made.whole, "--epochs", 1)
    outcome = elman(*command, "--label", "load", "--run", tmp_path / "run")
    assert outcome.status == 2
    assert (
        outcome.err == "elman: the model predicts 2 values, but --label names 1; name as many, or train a new model\n"
    )
    outcome = elman(*command, "--label", "heat,load", "--run", tmp_path / "run")
    assert outcome.err == "elman: the model predicts load,heat, but --label names heat,load; name them in the order of the model, or train a new one\n"  # fmt: skip
    # Those of other data may have other names.
    renamed = (made.directory / "whole.csv").read_text().replace("heat", "warmth").replace("load", "burden")
    (tmp_path / "a.csv").write_text(renamed)
    made_from = Run(made.whole)
    options = options_of(label="burden,warmth")
    assert regression.begin(tmp_path / "a.csv", options, "cpu", BadRows(), made_from).trained.values == ("burden", "warmth")  # fmt: skip


def test_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "save", lambda figure, path: path.touch())
    rows = [{"values": [k % 5, 1, k % 3], "up": k % 5, "down": -(k % 3) if k % 4 else None} for k in range(60)]
    model = package.train("regress", rows, tmp_path / "run", label=["up", "down"], hidden_size=6, epochs=1)
    judged = model.evaluate(rows, examples=True)
    assert {"RMSE", "RMSE of up", "MAE of down"} <= judged.scores.keys()
    assert judged.examples is not None
    assert (judged.examples[0]["label_up"], judged.examples[0]["label_down"]) == (0, None)
    with pytest.raises(InputError, match="the data has no column 'down, up'"):
        package.train("regress", {"id": [1], "x": [2]}, tmp_path / "no", label=["down, up"], sequence="id", epochs=1)
    (row,) = model.predict([{"values": [1, 2, 3]}])
    assert row.keys() == {"sequence", "value_up", "value_down"}


def test_an_onnx_file_says_the_same(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    for name in ("bands", "steps"):
        assert elman("export", getattr(made, name), tmp_path / f"{name}.onnx").status == 0
        both = [elman("predict", each, made.directory / f"{name}.csv").out for each in (getattr(made, name), tmp_path / f"{name}.onnx")]  # fmt: skip
        tables = [np.array([[*map(float, line.split(",")[2:])] for line in each.splitlines()[1:]]) for each in both]
        np.testing.assert_allclose(*tables, rtol=1e-4, atol=1e-3)
    # And so does a program that knows nothing of elman, step by step.
    assert elman("export", made.steps, tmp_path / "step.onnx", "--streaming").status == 0
    given = [line.split(",") for line in (made.directory / "steps.csv").read_text().splitlines()]
    first = [row for row in given[1:] if row[0] == "s0"]
    monkeypatch.setattr(sys, "argv", ["watch.py", str(tmp_path / "step.onnx")])
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines("a,b", *(f"{row[1]},{row[3]}" for row in first))))
    capsys.readouterr()
    runpy.run_path(str(ROOT / "examples" / "watch.py"), run_name="__main__")
    said = [[*map(float, line.split("\t"))] for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose(said, tables[0][: len(first), :], rtol=1e-4, atol=1e-3)


# Pages


def test_a_page_of_data_that_have_one_of_them(made: SimpleNamespace, tmp_path: Path) -> None:
    rows = (made.directory / "whole.csv").read_text().splitlines()
    (tmp_path / "a.csv").write_text(lines(*(",".join(row.split(",")[k] for k in (0, 1, 3, 4)) for row in rows)))
    shown = directions.regressor(made.whole, None, tmp_path / "a.csv").data["sequences"]
    assert [each["truth"] is None for each in shown] == [k % 2 == 1 or k == 6 for k in range(8)]


@pytest.mark.parametrize("name", ["whole", "bands", "steps"])
def test_pages_show_each_value(made: SimpleNamespace, name: str) -> None:
    run, file = getattr(made, name), made.directory / f"{name}.csv"
    shown = directions.regressor(run, None, file).data["sequences"]
    _, rows = pieces_of(name, made)
    sequences_shown = 2 if name == "steps" else 4
    assert [(each["name"], each["group"], each["column"]) for each in shown] == [
        (f"s{k}", str(k + 1), value) for k in range(sequences_shown) for value in ("load", "heat")
    ]
    spread = dict(zip(("load", "heat"), Reading.load(Run(run)).spread, strict=True))
    trained = regression.load(run)
    middle = f"_q{trained.criterion.middle(torch.tensor(trained.criterion.quantiles)):g}" if trained.criterion.quantiles else ""  # fmt: skip
    predicted = [json.loads(row) for row in trained.predict(file, ".jsonl")]
    for each in shown:
        value, own = each["column"], [row for row in predicted if row["sequence"] == each["name"]]
        wanted = [row[f"value_{value}{middle}"] for row in own]
        close: Any = {"abs": 0.01 * spread[value]}
        if name == "steps":
            assert each["predicted"] == pytest.approx(wanted, **close)
            totals = [share["forward"] + share["backward"] + share["bias"] for (share,) in each["shares"]]
            assert totals == pytest.approx(wanted, **close)
            truth = [row[f"label_{value}"] for row in rows if row["sequence"] == each["name"]]
            # Rows of `evaluate` are about steps that have at least one of the values.
            there = [v for v in each["truth"] if v is not None]
            assert there == pytest.approx([v for v in truth if v is not None], **close)
        else:
            (share,) = each["shares"]
            assert each["predicted"] == pytest.approx(wanted[0], **close)
            assert share["bias"] + sum(share["forward"]) + sum(share["backward"]) == pytest.approx(wanted[0], **close)
            (row,) = (row for row in rows if row["sequence"] == each["name"])
            truth = row[f"label_{value}"]
            assert each["truth"] == (None if truth is None else pytest.approx(truth, **close))
