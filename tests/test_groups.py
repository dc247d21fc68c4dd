"""`--group`: sequences of one person, or machine, are not both learned and judged."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from elman.datasets import sequences, tables
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns
from elman.errors import InputError
from elman.tasks import classification, regression
from elman.tasks.options import ClassificationOptions, RegressionOptions
from elman.tasks.separate import held_out_groups
from tiny_runs import elman, interval_by_hand, lines, scores_of

pytestmark = pytest.mark.usefixtures("no_pictures")

LONG = "id,who,label,x\na,Ann,up,1\na,Ann,up,2\nb,Bob,down,3\nc,Ann,up,4\n"


def test_the_group_of_each_sequence_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, *columns, **given: whole(path, *columns, rows=1, **given))
    (tmp_path / "a.csv").write_text(LONG)
    found = list(sequences.sequences(tmp_path / "a.csv", Columns(sequence="id", group="who")))
    assert [(each.name, each.label, each.group) for each in found] == [("a", "up", "Ann"), ("b", "down", "Bob"), ("c", "up", "Ann")]  # fmt: skip
    assert [each.channels for each in found] == [("x",)] * 3
    (tmp_path / "b.csv").write_text("text,who,label\nhi,7,up\nho,8,down\n")
    found = list(sequences.sequences(tmp_path / "b.csv", Columns(text="text", group="who")))
    assert [(each.content, each.label, each.group) for each in found] == [("hi", "up", "7"), ("ho", "down", "8")]
    rows = [{"values": [1], "label": "up", "who": 7}, {"values": [1], "label": "up", "who": "Ann"}]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    assert [each.group for each in sequences.sequences(tmp_path / "a.jsonl", Columns(group="who"))] == ["7", "Ann"]


def test_groups_are_the_same_however_they_are_written(tmp_path: Path):
    (tmp_path / "a.csv").write_text("id,who,label,x\na, 7,up,1\na,7 ,up,2\nb,7.0,down,3\nc,Ann ,up,4\n")
    (tmp_path / "b.csv").write_text("text,who,label\nhi, 7,up\nho,7.0,down\nha,Ann ,up\n")
    rows = [{"values": [1], "label": "up", "who": who} for who in (7, " 7", 7.0, "Ann ")]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    for name, columns in {
        "a.csv": Columns(sequence="id", group="who"),
        "b.csv": Columns(text="text", group="who"),
        "a.jsonl": Columns(group="who"),
    }.items():
        found = [each.group for each in sequences.sequences(tmp_path / name, columns)]
        assert found == ["7"] * (len(found) - 1) + ["Ann"]
    for values in ([1.0, float("nan")], ["Ann", " "]):
        table = pl.DataFrame({"id": ["a", "b"], "who": values, "label": ["up", "down"], "x": ["1", "2"]})
        table.write_parquet(tmp_path / "a.parquet")
        for columns in (Columns(sequence="id", group="who"), Columns(text="x", group="who")):
            with pytest.raises(InputError, match="line 2: column 'who' has no value; correct it"):
                list(sequences.sequences(tmp_path / "a.parquet", columns))


@pytest.mark.parametrize("column", ["id", "who", "label"])
def test_bytes_that_are_no_text(tmp_path: Path, column: str):
    table = pl.DataFrame({"id": ["a"], "who": ["Ann"], "label": [b"up"], "x": [1]})
    table.with_columns(pl.lit(b"\xff").alias(column)).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=f"column '{column}' should have texts, but has bytes that are not UTF-8; convert it"):  # fmt: skip
        list(sequences.sequences(tmp_path / "a.parquet", Columns(sequence="id", group="who")))


WRONG = {
    "two groups": ("a.csv", LONG + "c,Bob,up,5\n", "line 6: sequence 'c' is of 'Bob' here but of 'Ann' before; correct it, or skip"),
    "no group": ("a.csv", LONG + "d,,up,5\n", "line 6: column 'who' has no value; correct it, or skip"),
    "no column": ("a.csv", LONG.replace("who", "name"), "has no column 'who'; its columns are 'id', 'name', 'label', 'x'"),
    "none in JSON": ("a.jsonl", '{"values": [1], "label": "up"}\n', "line 1: 'who' should be a name or a number but is None"),
    "a blank in JSON": ("a.jsonl", '{"values": [1], "label": "up", "who": " "}\n', "line 1: 'who' should be a name or a number but is ' '"),
    "NaN in JSON": ("a.jsonl", '{"values": [1], "label": "up", "who": NaN}\n', "line 1: 'who' should be a name or a number but is nan"),
    "a list in JSON": ("a.jsonl", '{"values": [1], "label": "up", "who": [1]}\n', "line 1: 'who' should be a name or a number but is [1]"),
    "an archive": ("a.ts", "@data\n1,2:up\n", "is not a table, so --group selects nothing in it; leave it out"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_groups_that_make_no_sense(tmp_path: Path, case: str):
    name, content, message = WRONG[case]
    (tmp_path / name).write_text(content)
    columns = Columns(sequence="id" if name == "a.csv" else None, group="who")
    with pytest.raises(InputError, match=re.escape(message)):
        list(sequences.sequences(tmp_path / name, columns))
    if "line 6" in message:
        bad = BadRows(skip=True)
        kept = [each.name for each in sequences.sequences(tmp_path / name, columns, bad=bad)]
        assert (kept, bad.count) == (["a", "b"] if case == "two groups" else ["a", "b", "c"], 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--group", "who"], "--group says how to read FILE, but no FILE is given; give one, or leave the option out"),
        (["a.csv", "--sequence", "id", "--group", "id"], "--sequence and --group both name the column 'id'; name another one in one of them"),
        (["a.csv", "--sequence", "id", "--group", "x", "--columns", "x"], "--group and --columns both name the column 'x'; name another one in one of them"),
        (["a.csv", "--sequence", "id", "--group", "who", "--validation", "b.csv"], "--group holds out a part of FILE, but --validation names another file; leave it out"),
        (["a.csv", "--each-step", "--group", "who"], "a.csv is one sequence, so --group who has nothing to put together; name the column that identifies the sequence with --sequence, or leave --group out"),
        (["two.csv", "--sequence", "id", "--group", "who"], ", because --group who holds the others out; give more values of 'who' for each class, or another --seed"),
        (["one.csv", "--sequence", "id", "--group", "who"], "all sequences have 'Ann' in 'who'; give those of several, or leave --group out"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], message: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text(LONG)
    (tmp_path / "one.csv").write_text(LONG.replace("Bob", "Ann"))
    (tmp_path / "two.csv").write_text(LONG)  # of whom each has one class
    status, out, err = elman("train", "classify", *given)
    assert (status, out) == (2, "")
    assert err.startswith("elman: ")
    assert message in err


def rows_of(task: str, each_step: bool) -> list[dict[str, Any]]:
    """Sequences of twelve people, of whom each has five or six."""
    draw, rows = np.random.default_rng(0), []
    for k in range(66):
        label: Any = k % 2 if task == "classify" else float(draw.normal())
        rows.append({"values": draw.normal(size=(4, 1)).tolist(), "label": [label] * 4 if each_step else label, "who": f"p{k % 12}"})  # fmt: skip
    return rows


@pytest.mark.parametrize("each_step", [False, True])
@pytest.mark.parametrize("task", ["classify", "regress"])
def test_nobody_is_both_learned_and_judged(tmp_path: Path, task: str, each_step: bool):
    rows = rows_of(task, each_step)
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    module: Any = {"classify": classification, "regress": regression}[task]
    of: Any = {"classify": ClassificationOptions, "regress": RegressionOptions}[task]
    options = of(group="who", each_step=each_step, held_out=0.25, hidden_size=3)
    first, seen = module.begin(tmp_path / "a.jsonl", options, "cpu", BadRows()), set[str]()
    for seed in range(4):
        options = replace(options, seed=seed)
        made = module.begin(tmp_path / "a.jsonl", options, "cpu", BadRows())
        learned, judged = ({rows[k]["who"] for k in own} for own in (made.train, made.validation))
        assert not learned & judged
        assert sorted([*made.train, *made.validation]) == list(range(66))
        assert len(judged) == 3
        names = ", ".join(sorted(judged, key=lambda name: int(name[1:])))
        assert dict(made.introduction())["held out"] == f"3 of 12 values of 'who': {names}"
        again = module.begin(tmp_path / "a.jsonl", options, "cpu", BadRows())
        assert again.validation.tolist() == made.validation.tolist()
        assert again.digest == made.digest
        seen |= judged
    assert len(seen) > 3
    without = module.begin(tmp_path / "a.jsonl", of(each_step=each_step, hidden_size=3), "cpu", BadRows())
    assert "held out" not in dict(without.introduction())
    # Another person: the data are not the same.
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, [{**rows[0], "who": "p1"}, *rows[1:]])))
    assert module.begin(tmp_path / "a.jsonl", options, "cpu", BadRows()).digest != first.digest
    assert module.begin(tmp_path / "a.jsonl", of(each_step=each_step, hidden_size=3), "cpu", BadRows()).digest == without.digest  # fmt: skip


def test_about_the_share_is_held_out():
    random = np.random.default_rng(0)
    for seed in range(50):
        of = np.repeat(np.arange(20), random.integers(1, 30, 20))
        held = held_out_groups(of, 0.3, seed)
        assert abs(np.isin(of, held).mean() - 0.3) < 0.15
    # A group that has nearly all is for training, and the smallest of two large ones for validation.
    for seed in range(9):
        assert held_out_groups(np.array([0] * 97 + [1] * 3), 0.1, seed).tolist() == [1]
        assert held_out_groups(np.array([0] * 60 + [1] * 40), 0.1, seed).tolist() == [1]
        assert len(held_out_groups(np.array([0, 1]), 0.9, seed)) == 1
    assert held_out_groups(np.zeros(5, int), 0.2, 0).tolist() == []
    assert len(held_out_groups(np.arange(100_000), 0.2, 0)) == 20_000


def test_a_run_needs_the_column_for_its_training_only(tmp_path: Path):
    table = "".join(f"{k},p{k % 6},{'ab'[k % 2]},{k % 7}\n" for k in range(60))
    (tmp_path / "a.csv").write_text("id,who,label,x\n" + table)
    given = ("--sequence", "id", "--group", "who", "--epochs", 1, "--hidden-size", 3, "--run", tmp_path / "run")
    outcome = elman("train", "classify", tmp_path / "a.csv", *given)
    assert outcome.status == 0, outcome.err
    assert "held out" in outcome.err
    (tmp_path / "b.csv").write_text("id,label,x\n" + re.sub(r"p\d,", "", table))
    assert elman("evaluate", tmp_path / "run", tmp_path / "b.csv").status == 0
    assert ", a baseline" in elman("evaluate", tmp_path / "run", tmp_path / "a.csv").out
    assert elman("train", "classify", "--resume", tmp_path / "run", "--epochs", 1.5).status == 0


def test_sequences_of_a_person_are_judged_together(tmp_path: Path):
    draw = np.random.default_rng(0)
    rows = [
        {
            "values": (draw.normal(size=(4, 1)) + (k % 2) + k % 12 / 6).tolist(),
            "label": "ab"[k % 2],
            "who": f"p{k % 12}",
        }
        for k in range(90)
    ]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    given = ("--hidden-size", 4, "--epochs", 3, "--group", "who", "--run", tmp_path / "run")
    assert elman("train", "classify", tmp_path / "a.jsonl", *given).status == 0
    alone = elman("evaluate", tmp_path / "run", tmp_path / "a.jsonl").out
    told = "95%, in brackets: how sure the figures are after 90 sequences, if each is of another 'who'; else give --group who"
    assert f"\nintervals            {told}\n" in alone
    by_who = ("--group", "who", "--output", tmp_path / "rows.csv")
    out = elman("evaluate", tmp_path / "run", tmp_path / "a.jsonl", *by_who).out
    assert "\nintervals            95%, in brackets: how sure the figures are after 12 values of 'who'\n" in out
    assert scores_of(out).splitlines()[:4] == scores_of(alone).splitlines()[:4]
    found = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text())))
    assert [row["label"] for row in found] == [row["label"] for row in rows]
    nats = interval_by_hand([row["who"] for row in rows], [float(row["nats"]) for row in found], share=False)
    assert re.search(rf"^nats per sequence +[\d.]+ {re.escape(nats)}$", out, re.MULTILINE)
    (tmp_path / "few.jsonl").write_text(lines(*map(json.dumps, rows[:5] + rows[12:16])))
    few = elman("evaluate", tmp_path / "run", tmp_path / "few.jsonl", "--group", "who").out
    assert "none: 5 values of 'who' are too few to say how sure the figures are; give at least 10\n" in few


def test_groups_that_cannot_be_judged(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(lines(*(json.dumps({"values": [[k]], "label": k}) for k in range(12))))
    small = ("--hidden-size", 4, "--epochs", 1)
    assert elman("train", "regress", tmp_path / "a.jsonl", *small, "--run", tmp_path / "run").status == 0
    lacks = elman("evaluate", tmp_path / "run", tmp_path / "a.jsonl", "--group", "who")
    assert (lacks.status, lacks.out) == (2, "")
    assert (
        lacks.err
        == f"elman: {tmp_path / 'a.jsonl'}, line 1: 'who' should be a name or a number but is None; correct it\n"
    )
    archive = "@problemName a\n@targetLabel true\n@data\n1,2:3\n2,3:4\n"
    (tmp_path / "a.ts").write_text(archive)
    table = elman("evaluate", tmp_path / "run", tmp_path / "a.ts", "--group", "who")
    assert table.err == f"elman: {tmp_path / 'a.ts'} is not a table, so --group selects nothing in it; leave it out\n"
    (tmp_path / "a.txt").write_text("abc " * 900)
    assert elman("train", "lm", tmp_path / "a.txt", *small, "--run", tmp_path / "lm").status == 0
    of_text = elman("evaluate", tmp_path / "lm", tmp_path / "a.txt", "--group", "who")
    runs = "elman train classify, multilabel, regress, transcribe and translate"
    assert of_text.err == f"elman: --group who is for runs of {runs}, and {tmp_path / 'lm'} is none; leave it out\n"
