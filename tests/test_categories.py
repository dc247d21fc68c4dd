"""Columns of words or codes, which are read beside numbers or without any: `--categories`."""

from __future__ import annotations

import io
import json
import re
import runpy
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from elman import charts
from elman.datasets import sequences, tables
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns, Labelled
from elman.errors import InputError
from elman.explain import directions
from elman.onnx.ports import Draw
from elman.tasks import classification, linear, regression
from elman.tasks.encoded import Encoded, Inputs
from elman.tasks.gathered import Gathered
from elman.tasks.options import ClassificationOptions, RegressionOptions
from elman.tasks.parts import columns_of, gathered
from elman.tasks.pieces import Pieces
from elman.tasks.words import Categories
from elman.training import fit
from test_page import OpenPage
from tiny_runs import elman, lines

ROOT = Path(__file__).parent.parent
SMALL = ("--hidden-size", 8, "--batch-size", 8, "--dropout", 0, "--noise", 0)
SEQUENCE = ("--sequence", "id")


@pytest.fixture(autouse=True)
def only_numbers(no_pictures: None) -> None:
    """No test here looks at pictures."""


def of_words(*rows: tuple[str, ...]) -> NDArray[Any]:
    return np.array(rows, dtype=object)


def spoken(content: NDArray[Any], *rows: tuple[str, ...], name: str = "1", **given: Any) -> Labelled:
    return Labelled(name, content, given.pop("label", "a"), words=of_words(*rows), **given)


# Reading

ROWS = [("a", 1.5, " up", "1.0", "x"), ("a", 2.5, "down ", "2", "x"), ("a", 3.5, "", "", "x"), ("b", 4.5, "Up", "2.5", "y")]  # fmt: skip
WANTED = {"a": [["up", "1"], ["down", "2"], ["", ""]], "b": [["Up", "2.5"]]}
COLUMNS = Columns(label="kind", sequence="id", categories=("way", "code"))


def written(path: Path) -> Path:
    frame = pl.DataFrame(ROWS, schema=["id", "v", "way", "code", "kind"], orient="row")
    if path.suffix == ".parquet":
        code = pl.col("code").cast(pl.Float64, strict=False)  # as tables have whole numbers of which some are missing
        frame.with_columns(code, pl.col("way").cast(pl.Categorical)).write_parquet(path)
    elif path.suffix == ".jsonl":
        rows = []
        for name, kind in (("a", "x"), ("b", "y")):
            own = [row for row in ROWS if row[0] == name]
            codes = [float(row[3]) if row[3] else None for row in own]
            rows.append({"id": name, "values": [row[1] for row in own], "way": [row[2] for row in own], "code": codes, "kind": kind})  # fmt: skip
        path.write_text(lines(*map(json.dumps, rows)))
    else:
        frame.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("rows", [1, 2, 50])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_words_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, rows: int):
    whole_one = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, *columns, **given: whole_one(path, *columns, rows=rows, **given))
    columns = COLUMNS._replace(sequence=None) if ending == ".jsonl" else COLUMNS
    every = list(sequences.sequences(written(tmp_path / f"a{ending}"), columns))
    assert {each.name: np.asarray(each.words).tolist() for each in every} == WANTED
    assert [np.asarray(each.content).ravel().tolist() for each in every] == [[1.5, 2.5, 3.5], [4.5]]
    assert [each.label for each in every] == ["x", "y"]
    assert every[0].channels in (("v",), ())


def test_switches_and_numbers_are_words_as_a_table_has_them(tmp_path: Path):
    """The same values as JSON and as a table give the same words, so that a run reads both."""
    values = [True, False, 3, 0.5, None, "a b", "7.0", -0.0, float("nan")]
    (tmp_path / "a.jsonl").write_text(json.dumps({"code": values, "label": "x"}) + "\n")
    (tmp_path / "a.csv").write_text("id,code,label\n" + "".join(f"1,{each},x\n" for each in ("true", "false", 3, 0.5, "", "a b", "7.0", -0.0, "NaN")))  # fmt: skip
    (one,) = sequences.sequences(tmp_path / "a.jsonl", Columns(categories=("code",)))
    wanted = ["true", "false", "3", "0.5", "", "a b", "7", "-0"]
    assert np.asarray(one.words).ravel().tolist() == [*wanted, ""]
    assert np.asarray(one.content).shape == (9, 0)
    (two,) = sequences.sequences(tmp_path / "a.csv", Columns(sequence="id", categories=("code",)))
    assert np.asarray(two.words).ravel().tolist() == [*wanted, "NaN"]
    assert np.asarray(two.content).shape == (9, 0)
    frame = pl.DataFrame({"id": [1, 1], "code": [True, None], "label": ["x", "x"]})
    frame.write_parquet(tmp_path / "a.parquet")
    (three,) = sequences.sequences(tmp_path / "a.parquet", Columns(sequence="id", categories=("code",)))
    assert np.asarray(three.words).ravel().tolist() == ["true", ""]


@pytest.mark.parametrize(("said", "channels"), [("way,code", None), ("way", ()), ("way", ("code",)), ("way", None)])
def test_a_row_without_any_value_is_a_step_of_words(tmp_path: Path, said: str, channels: tuple[str, ...] | None):
    """But not where a number must be there. At the end, nothing may follow."""
    (tmp_path / "a.csv").write_text("way,code\nup,1\n,\ndown,2\n,\n")
    columns = Columns(each_step=True, categories=tuple(said.split(",")), channels=channels)
    (one,) = sequences.sequences(tmp_path / "a.csv", columns, labelled=False)
    number = channels == ("code",) or (said == "way" and channels is None)
    assert np.asarray(one.words)[:, 0].tolist() == ["up", *[""] * (not number), "down"]


def test_numbers_that_are_not_named_are_not_read(tmp_path: Path):
    """`--columns ""`, or a run without numbers, reads none of JSON lines, as of tables."""
    (tmp_path / "a.jsonl").write_text('{"values": [[1], [2]], "way": ["up", ""], "label": "x"}\n')
    for channels, count in (((), 0), (None, 1)):
        (one,) = sequences.sequences(tmp_path / "a.jsonl", Columns(categories=("way",), channels=channels))
        assert np.asarray(one.content).shape == (2, count)
        assert np.asarray(one.words).ravel().tolist() == ["up", ""]


TABLE = "id,v,way,label\na,1,up,x\na,2,down,x\nb,3,up,y\n"


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", TABLE, ("--sequence", "id", "--categories", "way,where"), "{path} has no column 'where'; its columns are 'id', 'v', 'way', 'label': choose one of them"),
        ("a.csv", TABLE, ("--sequence", "id"), "{path}, line 2: column 'way' should be a number but is 'up'; correct it, name the columns of numbers with --columns and those of words with --categories, or skip such rows with --skip-bad"),
        ("a.csv", TABLE, ("--sequence", "id", "--categories", ", "), "--categories names no column; name one, or leave it out"),
        ("a.csv", TABLE, ("--sequence", "id", "--categories", "way,way"), "--categories names the column 'way' twice; name it once"),
        ("a.csv", TABLE, ("--sequence", "id", "--categories", "way", "--columns", "v,way"), "--columns and --categories both name the column 'way'; name another one in one of them"),
        ("a.csv", TABLE, ("--sequence", "id", "--categories", "label"), "--label and --categories both name the column 'label'; name another one in one of them"),
        ("a.csv", TABLE, ("--sequence", "id", "--categories", "id"), "--sequence and --categories both name the column 'id'; name another one in one of them"),
        ("a.csv", TABLE, ("--sequence", "id", "--categories", "way", "--time", "way"), "--time and --categories both name the column 'way'; name another one in one of them"),
        ("a.csv", TABLE, ("--sequence", "id", "--categories", "way", "--group", "way"), "--group and --categories both name the column 'way'; name another one in one of them"),
        ("a.csv", TABLE, ("--text", "way", "--categories", "v"), "--categories is for steps of numbers, but --text reads texts; leave it out"),
        ("a.csv", TABLE, ("--sequence", "id", "--columns", "v", "--embedding-size", 3), "--embedding-size is for --text and for --categories, but neither is given; leave it out"),
        ("a.csv", "id,label\na,x\nb,y\n", ("--sequence", "id"), "{path} has no column of numbers besides 'id', 'label'; add one, or name columns of words with --categories"),
        ("a.ts", "@problemName x\n@classLabel true x y\n@data\n1,2:x\n", ("--categories", "way"), "{path} is not a table, so --categories selects nothing in it; leave it out"),
        ("a.jsonl", '{"values": [1, 2], "label": "x"}\n', ("--categories", "way"), "{path}, line 1: 'way' should be a list of 2 words or codes, one for each step, but is None; correct it, or skip such rows with --skip-bad"),
        ("a.jsonl", '{"values": [1, 2], "way": ["up"], "label": "x"}\n', ("--categories", "way"), "{path}, line 1: 'way' should be a list of 2 words or codes, one for each step, but has 1; correct it, or skip such rows with --skip-bad"),
        ("a.jsonl", '{"way": [], "label": "x"}\n', ("--categories", "way"), "{path}, line 1: 'way' should be a list of 1 words or codes, one for each step, but has 0; correct it, or skip such rows with --skip-bad"),
        ("a.jsonl", '{"way": ["a"], "code": ["b", "c"], "label": "x"}\n', ("--categories", "way,code"), "{path}, line 1: 'code' should be a list of 1 words or codes, one for each step, but has 2; correct it, or skip such rows with --skip-bad"),
        ("a.jsonl", '{"way": ["a", ["b"]], "label": "x"}\n', ("--categories", "way"), "{path}, line 1: step 2 of 'way' should be a word or a code but is ['b']; correct it, or skip such rows with --skip-bad"),
        ("a.jsonl", '{"values": [1], "way": ["a"], "label": "x"}\n{"way": ["a"], "label": "y"}\n', ("--categories", "way"), "{path}, line 2: the sequence has 0 channels, but those before it have 1; correct it, or skip such rows with --skip-bad"),
        ("a.csv", "way,label\n" + "".join(f"{k},{k % 2}\n" for k in range(9)), ("--each-step", "--categories", "way"), "no word in 'way' occurs at two of the steps to learn from, so nothing can be learned of it; leave it out"),
        ("a.csv", "id,way,label\na,only-a,x\nb,only-b,y\nc,only-c,x\nd,only-d,y\n", ("--sequence", "id", "--categories", "way"), "no word in 'way' occurs in two of the sequences to learn from, so nothing can be learned of it; leave it out"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, name: str, content: str, options: tuple[Any, ...], message: str):
    path = tmp_path / name
    path.write_text(content)
    wanted = f"elman: {message.format(path=path)}\n"
    assert elman("train", "classify", path, *options, "--run", tmp_path / "run") == (2, "", wanted)
    assert not (tmp_path / "run").exists()


def test_a_row_that_is_too_long_is_named_beside_a_long_word(tmp_path: Path):
    (tmp_path / "a.csv").write_text(f"way,label\n{'long' * 40_000},x\nup,x,more\n")
    with pytest.raises(InputError, match="line 3 has 3 values, but the header names 2 columns; correct it"):
        list(sequences.sequences(tmp_path / "a.csv", Columns(each_step=True, categories=("way",))))


def test_the_built_in_data_have_none():
    assert "no FILE is given" in elman("train", "classify", "--categories", "way").err


def test_a_column_of_lists_is_refused(tmp_path: Path):
    pl.DataFrame({"id": [1], "way": [["a"]], "label": ["x"]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        InputError, match=r"column 'way' should have texts, but has the type List\(String\); convert it"
    ):
        list(sequences.sequences(tmp_path / "a.parquet", Columns(sequence="id", categories=("way",))))


# What a network reads


@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.integers(0, 2), st.integers(1, 3))
def test_what_is_kept_of_a_sequence(seed: int, mark: bool, timed: bool, channels: int, count: int):
    """Numbers, times and words come back, whatever stands beside them."""
    draw = np.random.default_rng(seed)
    names = [f"c{k}" for k in range(count)]
    found, every = Gathered(None, mark_gaps=mark, time="t" if timed else None, categories=names), list[Labelled]()
    for k in range(3):
        steps = int(draw.integers(1, 8))
        values = draw.normal(size=(steps, channels))
        values[draw.random(values.shape) < 0.3 * mark] = np.nan
        times = draw.integers(0, 4, steps).cumsum() * 0.5 if timed else None
        every.append(Labelled(str(k), values, "a", times=times, words=draw.choice(["", "u", "v", "w"], (steps, count)).astype(object)))  # fmt: skip
    found.add(every, Path("none"))
    for k, (kept, own) in enumerate(zip(found.labelled(range(3)), every, strict=True)):
        assert np.asarray(kept.words).tolist() == np.asarray(own.words).tolist()
        np.testing.assert_array_equal(np.asarray(kept.content), np.asarray(own.content))
        if own.times is not None:
            np.testing.assert_array_equal(np.asarray(kept.times), own.times - own.times[0])
        np.testing.assert_array_equal(found.missing([k]), np.isnan(np.asarray(own.content)).mean(0))


def test_what_a_network_reads_of_a_step(monkeypatch: pytest.MonkeyPatch):
    """Frequent words have small codes; those of a single sequence, and those that come later, have the code 0."""
    learned = [
        spoken(np.array([[0.0], [2.0], [4.0]]), ("up", "x"), ("down", ""), ("down", "x"), times=np.array([0.0, 1, 2])),
        spoken(np.array([[2.0], [2.0]]), ("down", ""), ("up", "x"), times=np.array([5.0, 6])),
        spoken(np.array([[2.0], [2.0]]), ("alone", "x"), ("alone", "x"), times=np.array([0.0, 1])),
    ]
    other = spoken(np.array([[4.0], [4.0]]), ("new", ""), ("up", "y"), times=np.array([0.0, 3]))
    found = Gathered(None, time="t", categories=("way", "code"))
    found.add([*learned, other], Path("none"))
    inputs = Inputs.of(found, range(3))
    assert inputs.categories == {"way": ["down", "up"], "code": ["x", ""]}
    assert (inputs.width, inputs.mean) == (4, [2])
    encoded = Encoded(found, inputs)
    x, lengths = encoded.batch(Pieces.whole(np.arange(4), found.rows.lengths))
    assert (tuple(x.shape), lengths.tolist()) == ((3, 4, 4), [3, 2, 2, 2])
    assert x[:, 0, 2:].tolist() == [[2, 1], [1, 2], [1, 1]]
    assert x[:2, 2, 2:].tolist() == [[0, 1], [0, 1]]
    assert x[:2, 3, 2:].tolist() == [[0, 2], [2, 0]]
    torch.testing.assert_close(x[:2, 3, 1], torch.tensor([0.0, 3.0]).log1p())
    monkeypatch.setattr("elman.tasks.gathered.STEPS", 1)  # worked on at once
    assert encoded.strange(range(4)) == {"way": (3, 2), "code": (1, 1)}
    assert encoded.strange([0]) == {"way": (0, 0), "code": (0, 0)}


def test_a_word_of_one_recording_needs_two_steps():
    found = Gathered(None, each_step=True, categories=("way",))
    words = of_words(("a",), ("b",), ("a",), ("c",), ("b",), ("b",))
    found.add([Labelled("1", np.empty((6, 0)), None, labels=list("xyxyxy"), words=words)], Path("none"))
    assert Inputs.of(found, [0]).categories == {"way": ["b", "a"]}


def test_a_validation_file_is_read_as_the_training_is(tmp_path: Path):
    """Where training has no numbers, other columns are left alone."""
    (tmp_path / "a.csv").write_text("id,way,label\na,up,x\nb,up,y\n")
    (tmp_path / "b.csv").write_text("note,id,way,label\nwords,a,down,x\n")
    options = ClassificationOptions(sequence="id", categories="way", validation=str(tmp_path / "b.csv"))
    found, count = gathered(tmp_path / "a.csv", options, BadRows(), [], None)
    assert (found.channels, count, len(found)) == (0, 2, 3)
    assert [np.asarray(each.words).tolist() for each in found.labelled(range(3))] == [[["up"]], [["up"]], [["down"]]]


def test_embeddings_stand_in_the_places_of_codes():
    torch.manual_seed(0)
    layer = Categories([2, 40], 8)
    assert [tuple(weight.shape) for weight in layer.parameters()] == [(3, 3), (41, 8)]
    assert not any(weight[0].any() for weight in layer.parameters())
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn_like(weight))
    few, many = layer.parameters()
    x = torch.tensor([[7.0, -7.0, 2, 40], [1.5, 0, 1, 0], [3, 3, 3, 41], [3, 3, -1, torch.nan]])
    wanted = [(few[2], many[40]), (few[1], many[0]), (few[0], many[0]), (few[0], many[0])]
    for row, out, parts in zip(x, layer(x), wanted, strict=True):
        torch.testing.assert_close(out, torch.cat([row[:2], *parts]), rtol=0, atol=0)
    assert layer(x).shape[1] == 2 + layer.more + 2
    assert torch.equal(layer(x[None, :2])[0], layer(x[:2]))


@pytest.mark.parametrize("marked", [False, True])
def test_a_model_reads_numbers_and_the_embeddings_of_words(marked: bool):
    """Beside PyTorch's own layer, which is given numbers and rows of embeddings that were put together by hand."""
    draw, found = np.random.default_rng(0), Gathered(None, mark_gaps=marked, categories=("way", "code"))
    every = [
        Labelled(str(k), draw.normal(size=(n, 2)), "ab"[k % 2], words=draw.choice(["u", "v", "w"], (n, 2)).astype(object))
        for k, n in enumerate((5, 3, 4, 6))
    ]  # fmt: skip
    found.add(every, Path("none"))
    options = ClassificationOptions(hidden_size=6, mark_gaps=marked, embedding_size=3, categories="way,code")
    reading = classification.Reading.learn(found, np.arange(len(found)), options)
    torch.manual_seed(0)
    model = classification.ClassificationModel(reading, 2, options).eval()
    assert model.categories is not None
    encoded = classification.Classes(found, reading)
    peer = torch.nn.GRU(model.recurrent.input_size, 6, bidirectional=True)
    peer.load_state_dict(model.recurrent.state_dict())
    for k, one in enumerate(every):
        numbers = (np.asarray(one.content) - reading.mean) / reading.deviation
        parts = [torch.from_numpy(numbers).float(), *[torch.zeros(len(numbers), 2)] * marked]
        for column, embedding, (_, known) in zip(np.asarray(one.words).T, model.categories.embeddings.parameters(), reading.categories.items(), strict=True):  # fmt: skip
            parts.append(torch.stack([embedding[list(known).index(word) + 1] for word in column]))
        h, _ = peer(torch.cat(parts, 1))
        last = torch.cat([h[-1, :6], h[0, 6:]])
        wanted = model.output(torch.cat([h.mean(0), h.amax(0), last]))
        x, lengths = encoded.batch(Pieces.whole(np.array([k, 3]), found.rows.lengths))
        x[lengths[0] :, 0] = torch.nan  # past the end nothing is read
        torch.testing.assert_close(model(x, lengths)[0], wanted)


def test_without_numbers_nothing_fades_and_nothing_is_drawn():
    reading = classification.Reading([], [], [], marked=[], categories={"way": ["u", "v"]}, classes=["a", "b"])
    options = ClassificationOptions(categories="way", mark_gaps=True, hidden_size=4)
    assert classification.ClassificationModel(reading, 2, options).fading is None
    every = np.array([0, 1, 0])
    for figure in (
        charts.labelled_steps(np.empty((3, 0)), every, every, ["a", "b"], 0),
        charts.valued_steps(np.empty((3, 0)), every[:, None], every[:, None, None], every[:, None], [""], 0),
    ):
        figure.draw_without_rendering()
        assert len(figure.axes) == 1


def test_noise_is_for_numbers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = orders(tmp_path / "a.csv", 20)
    task = classification.begin(file, ClassificationOptions(sequence="id", categories="event", noise=1.0), "cpu", BadRows())  # fmt: skip
    read = list[torch.Tensor]()
    monkeypatch.setattr(task.model, "forward", lambda x, lengths: read.append(x) or x[0, :, :2])
    task.outputs(np.arange(8))
    plain, lengths = task.encoded.batch(task.pieces.take(np.arange(8)))
    noise = (read[0] - plain)[torch.arange(len(plain))[:, None] < lengths]
    assert 0.7 < float(noise[:, 0].std()) < 1.3
    assert not noise[:, 1:].any()


def test_the_digest_knows_words():
    digests = set[str]()
    for words in (("u", "vw"), ("u", "w"), ("uv", "w")):
        found = Gathered(None, categories=("way", "code"))
        found.add([spoken(np.ones((1, 1)), words)], Path("none"))
        digests.add(found.digest)
    assert len(digests) == 3


def test_a_part_of_a_recording_has_its_words():
    whole_one = spoken(np.ones((3, 1)), ("u",), ("v",), ("w",), labels=["a", "b", "c"])
    assert np.asarray(whole_one.part(1, 3, "its end").words).tolist() == [["v"], ["w"]]


def test_the_linear_function_counts_words(monkeypatch: pytest.MonkeyPatch):
    every = [
        spoken(np.array([[1.0], [3.0]]), ("up",), ("down",), labels=["a", "b"]),
        spoken(np.array([[2.0], [2.0], [5.0]]), ("down",), ("down",), ("up",), labels=["a", "b", "b"]),
    ]
    for each_step in (False, True):
        found = Gathered(None, each_step=each_step, categories=("way",))
        own = every if each_step else [each._replace(labels=None) for each in every]
        found.add([*own, spoken(np.zeros((1, 1)), ("new",), labels=["a"] if each_step else None)], Path("none"))
        encoded = Encoded(found, Inputs.of(found, range(2)))
        assert encoded.inputs.categories == {"way": ["down", "up"]}
        if not each_step:
            features = linear.of_sequences(encoded, np.arange(3), np.empty(0, np.int64))
            assert features.shape == (3, 6 + 2 + 1)
            np.testing.assert_allclose(features[:, 6:8], np.log1p([[1, 1], [2, 1], [0, 0]]))
            with monkeypatch.context() as fewer:
                fewer.setattr(linear, "FREQUENT", 1)
                features = linear.of_sequences(encoded, np.arange(3), np.empty(0, np.int64))
            np.testing.assert_allclose(features[:, 6:], np.array([[np.log(2), 2], [np.log(3), 3], [0, 1]]))
            continue
        encoded.told = np.ones(6, bool)
        features = linear.of_steps(encoded, np.arange(6), causal=True).reshape(6, 9, 3)
        assert features[2:5, -1, 1:].tolist() == [[1, 0], [1, 0], [0, 1]]
        assert features[4, -2, 1:].tolist() == [1, 0]
        assert features[5, :, 1:].any() == 0


def test_the_linear_function_tells_categories_apart():
    """way: down has the code 1 and up has 2. code: x has 1 and y has 2."""
    every = [spoken(np.empty((3, 0)), ("up", "x"), ("down", "x"), ("down", "y"), name=name) for name in "ab"]
    found = Gathered(None, categories=("way", "code"))
    found.add(every, Path("none"))
    encoded = Encoded(found, Inputs.of(found, range(2)))
    features = linear.of_sequences(encoded, np.arange(1), np.empty(0, np.int64))
    np.testing.assert_allclose(features, [[*np.log1p([2, 1, 2, 1]), 3]])
    numbers, words = linear.told_apart(encoded, encoded.scaled(found.rows[0]))
    assert numbers.shape == (3, 0)
    assert words.tolist() == [[0, 1, 1, 0], [1, 0, 1, 0], [1, 0, 0, 1]]


def test_many_words_are_read_of_fewer_steps():
    words = of_words(*((f"w{k // 2}",) for k in range(1200)))
    found = Gathered(None, each_step=True, categories=("way",))
    found.add([Labelled("1", np.empty((1200, 0)), None, labels=["a", "b"] * 600, words=words)], Path("none"))
    options = ClassificationOptions(each_step=True, categories="way", causal=True)
    reading = classification.Reading.learn(found, np.arange(len(found)), options)
    encoded = classification.Classes(found, reading)
    assert linear.width(reading) == 600
    several = replace(reading, categories=dict.fromkeys("abc", reading.categories["way"]))
    assert linear.width(several) == 3 * 333  # so that many categories take no longer
    assert linear.of_steps(encoded, np.arange(5), causal=False).shape == (5, 600)
    assert linear.in_words(options, reading) == "a linear function of the words of a step"


# Learning from them


def orders(path: Path, count: int, seed: int = 0, bad: str = "bad", columns: str = "id,event,seconds,label") -> Path:
    """Sequences of events whose class is in their order alone: whether a write follows an error."""
    draw, rows = np.random.default_rng(seed), list[str]()
    for k in range(count):
        steps = int(draw.integers(6, 12))
        events = draw.choice(["read", "open"], steps).tolist()
        at = int(draw.integers(steps - 1))
        events[at : at + 2] = ("error", "write") if k % 2 else ("write", "error")
        kind = bad if k % 2 else "good"
        for event in events:
            row = {"id": f"{seed}-{k}", "event": event, "seconds": f"{draw.normal():.4f}", "label": kind}
            rows.append(",".join(row[name] for name in columns.split(",")))
    path.write_text(lines(columns, *rows))
    return path


@pytest.mark.parametrize("numbers", [True, False])
def test_it_learns_what_only_the_order_of_words_shows(tmp_path: Path, numbers: bool):
    columns = "id,event,seconds,label" if numbers else "id,event,label"
    train, new = orders(tmp_path / "a.csv", 80, columns=columns), orders(tmp_path / "b.csv", 40, 1, columns=columns)
    done = elman("train", "classify", train, *SEQUENCE, "--categories", "event", *SMALL, "--epochs", 20, "--learning-rate", 0.02, "--evaluations", 4, "--run", tmp_path / "run")  # fmt: skip
    assert done.status == 0, done.err
    assert re.search(r"^words +4 in 'event'$", done.err, re.MULTILINE)
    assert ("1 channel: seconds" if numbers else "no channel of numbers") in done.err
    # A run without numbers reads none, whatever other columns a table has.
    new.write_text(new.read_text().replace("open", "never-seen"))
    if not numbers:
        head, *rows = new.read_text().splitlines()
        new.write_text(lines(f"other,{head}", *(f"{k},{row}" for k, row in enumerate(rows))))
    found = elman("evaluate", tmp_path / "run", new).out
    accuracy, least = (float(re.findall(rf"^{name} +(\S+)", found, re.MULTILINE)[0]) for name in ("accuracy", "linear"))
    assert accuracy > 0.9 > 0.75 > least, found
    assert re.search(r"^unknown +1 word in 'event', at \d+ steps, \d\d\.\d%: the network reads one stand-in for all$", found, re.MULTILINE)  # fmt: skip


def steps_of_events(path: Path, steps: int, seed: int = 0) -> Path:
    """One recording: a step is bad after an error, until something is opened. Some events have no name."""
    draw, rows, bad = np.random.default_rng(seed), list[str](), False
    for k, event in enumerate(draw.choice(["read", "open", "error", ""], steps)):
        bad = event == "error" or (bad and event != "open")
        host = f"h{k // 9 % 3 + seed}"
        rows.append(f"{draw.normal():.4f},{host},{event},{'bad' if bad else 'good'},{k * 2}")
    path.write_text(lines("x,host,event,label,at", *rows))
    return path


def rows_said(out: str) -> list[tuple[str, float]]:
    _, *rows = [line.split(",") for line in out.splitlines()]
    return [(row[2], max(map(float, row[3:]))) for row in rows]


def test_a_stream_with_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A model in ONNX Runtime says the same, and so does examples/watch.py, row by row. One host of the new rows is not known.

    Here a host is a whole number. What stands in no cell is missing.
    """
    train, new, run = steps_of_events(tmp_path / "a.csv", 300), steps_of_events(tmp_path / "b.csv", 60, 1), tmp_path / "run"  # fmt: skip
    for file in (train, new):
        file.write_text(re.sub(r"\bh(\d)", r"\1", file.read_text()))
    new.write_text(new.read_text().replace(",3,", f",{'long' * 40_000},", 1))
    done = elman("train", "classify", train, "--each-step", "--causal", "--categories", "event,host", "--time", "at", "--mark-gaps", "--window", 20, *SMALL, "--epochs", 6, "--run", run)  # fmt: skip
    assert done.status == 0, done.err
    assert re.search(r"^words +4 in 'event', 3 in 'host'$", done.err, re.MULTILINE)
    wanted = rows_said(elman("predict", run, new).out)
    assert len({name for name, _ in wanted}) == 2
    assert elman("export", run, tmp_path / "run.onnx").status == 0
    assert elman("export", run, tmp_path / "step.onnx", "--streaming").status == 0
    for name in ("run.onnx", "step.onnx"):
        found = rows_said(elman("predict", tmp_path / name, new).out)
        assert [each for each, _ in found] == [each for each, _ in wanted]
        assert [p for _, p in found] == pytest.approx([p for _, p in wanted], abs=1e-5)
    _, *rows = [line.split(",") for line in new.read_text().splitlines()]
    turned = [f"{at},{x},{host}.0" + f",{event} " * bool(event) for x, host, event, _, at in rows]
    monkeypatch.setattr(sys, "argv", ["watch.py", str(tmp_path / "step.onnx")])
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines("at,x,host,event", *turned)))
    capsys.readouterr()
    runpy.run_path(str(ROOT / "examples" / "watch.py"), run_name="__main__")
    told = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in told] == [name for name, _ in wanted]
    assert [float(p) for _, p in told] == pytest.approx([p for _, p in wanted], abs=6e-4)


def test_a_stream_finds_numbers_beside_words():
    """Where channels have no names, the first columns that are nothing else are read."""
    rows = runpy.run_path(str(ROOT / "examples" / "watch.py"))["rows"]
    model = SimpleNamespace(
        channels=[], mean=np.zeros(1), codes={"event": {}, "host": {}}, time="at", gaps=False, dates=None
    )
    given = ["host,at,event,v,label\n", "h,1,up,2.5,a\n", "h,2,,3\n"]
    assert list(rows(iter(given), model)) == [(1, [2.5], 1.0, ["up", "h"]), (2, [3.0], 2.0, ["", "h"])]
    with pytest.raises(SystemExit, match="the rows have no column 'event', which the model reads"):
        next(rows(iter(["host,at,v\n"]), model))


def test_an_export_is_checked_with_every_kind_of_word():
    reading = classification.Reading(
        [0.0], [1.0], [], categories={"way": ["u", "v"], "code": ["x"]}, classes=["a", "b"]
    )
    model = classification.ClassificationModel(reading, 2, ClassificationOptions(categories="way,code", hidden_size=4))
    for drawn in (Draw().steps(model, 50, 3), Draw().steps(model, 150)):
        assert drawn.shape[-1] == 3
        assert [drawn[..., k].unique().tolist() for k in (1, 2)] == [[0, 1, 2], [0, 1]]


def test_a_model_that_goes_on_elsewhere(tmp_path: Path):
    """--start-from keeps the words of the old run; those that it lacks are unknown. So are those of a table in another order."""
    train, other = orders(tmp_path / "a.csv", 40), orders(tmp_path / "b.csv", 40, 1, columns="seconds,label,event,id")
    other.write_text(other.read_text().replace("read", "fetch"))
    options = (*SEQUENCE, "--categories", "event", *SMALL)
    assert elman("train", "classify", train, *options, "--epochs", 3, "--run", tmp_path / "run").status == 0
    done = elman("train", "classify", other, *SEQUENCE, "--epochs", 2, "--start-from", tmp_path / "run", "--run", tmp_path / "on")  # fmt: skip
    assert done.status == 0, done.err
    assert re.search(r"^unknown +1 word in 'event', at \d+ of the validation steps, \d\d\.\d%: the network reads one stand-in for all$", done.err, re.MULTILINE)  # fmt: skip
    old, new = (classification.load(tmp_path / name) for name in ("run", "on"))
    assert new.reading == old.reading
    assert list(old.reading.categories) == ["event"]
    assert {*old.reading.categories["event"]} == {"read", "open", "error", "write"}
    refused = elman("train", "classify", other, *SEQUENCE, "--categories", "event", "--start-from", tmp_path / "run")
    assert (refused.status, refused.out) == (2, "")
    assert "--start-from keeps the model of" in refused.err


@pytest.mark.parametrize(
    ("key", "value"), [("categories", {"event": ["up", "up"]}), ("categories", {"event": []}), ("categories", 3)]
)
def test_a_damaged_vocabulary(tmp_path: Path, key: str, value: Any):
    options = ClassificationOptions(hidden_size=4, epochs=1.0, sequence="id", categories="event")
    fit(classification.begin(orders(tmp_path / "a.csv", 20), options, "cpu", BadRows()), tmp_path / "run")
    path = tmp_path / "run" / "vocabulary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=re.escape(f"{path} is damaged: ")):
        classification.load(tmp_path / "run")


@pytest.mark.parametrize("task", ["classify", "regress"])
def test_a_cross_validation_with_words(tmp_path: Path, task: str):
    file = orders(tmp_path / "a.csv", 24, bad="1", columns="id,event,label")
    file.write_text(file.read_text().replace("good", "0"))
    done = elman("cross-validate", task, file, *SEQUENCE, "--categories", "event", "--folds", 2, *SMALL, "--epochs", 2, "--directory", tmp_path / "folds", "--output", tmp_path / "rows.csv")  # fmt: skip
    assert done.status == 0, done.err
    rows = pl.read_csv(tmp_path / "rows.csv")
    assert rows["sequence"].to_list() == [f"0-{k}" for k in range(24)]


# Pages


@pytest.mark.parametrize("each_step", [False, True])
def test_the_page_says_what_the_model_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each_step: bool):
    monkeypatch.setattr(directions, "DRAWN", 4)  # steps of a whole sequence; of more, some are left out
    file = steps_of_events(tmp_path / "a.csv", 40) if each_step else orders(tmp_path / "a.csv", 20)
    own: dict[str, Any] = {"columns": "x"} if each_step else {"sequence": "id"}
    options = ClassificationOptions(hidden_size=4, epochs=1.0, each_step=each_step, categories="event", **own)
    fit(classification.begin(file, options, "cpu", BadRows()), tmp_path / "run")
    trained = classification.load(tmp_path / "run")
    file.write_text(file.read_text().replace("open", "new"))
    wanted = trained.outputs(trained.read(file)[0]).softmax(-1)
    page = directions.classifier(tmp_path / "run", None, file).data
    shown = page["sequences"]
    found = [[p for _, p in sorted(step)] for step in shown[0]["likeliest"]] if each_step else [each["probabilities"] for each in shown]  # fmt: skip
    torch.testing.assert_close(torch.tensor(found), wanted[: len(found)], rtol=0, atol=6e-4)
    known = trained.reading.categories["event"]
    assert page["categories"] == ["event"]
    for each, one in zip(shown, sequences.sequences(file, columns_of(options, trained.reading)), strict=False):
        (row,) = each["words"]
        stride = 1 if each_step else -(-len(one.content) // 4)
        assert row["words"] == np.asarray(one.words)[::stride, 0].tolist()
        assert row["codes"] == [0 if word == "new" else list(known).index(word) + 1 for word in row["words"]]


def test_a_page_shows_words(tmp_path: Path, open_page: OpenPage):
    file = steps_of_events(tmp_path / "a.csv", 40)
    options = RegressionOptions(
        label="at", hidden_size=4, epochs=1.0, each_step=True, categories="event,host", columns=""
    )
    fit(regression.begin(file, options, "cpu", BadRows()), tmp_path / "run")
    run = regression.load(tmp_path / "run")
    assert run.reading.mean == []
    file.write_text(file.read_text().replace("h0", "h9"))
    assert elman("explain", tmp_path / "run", "--data", file, "--output", tmp_path / "page.html").status == 0
    opened = open_page(tmp_path / "page.html")
    events = [line.split(",")[2] for line in file.read_text().splitlines()[1:]]
    for t in (0, events.index("")):
        opened.page.evaluate(f"elman.choose({{t: {t}}})")
        text = opened.page.inner_text("#text")
        host = "h9 (not known to the network)" if t // 9 % 3 == 0 else f"h{t // 9 % 3}"
        assert f"step {t + 1}: event {events[t] or '(none)'}, host {host}" in text
    assert "A row of colours shows the words of each category" in opened.page.inner_text("#text")
    runs = 1 + sum(a != b for a, b in pairwise(events))
    lanes = opened.page.evaluate("[...document.querySelectorAll('#text svg rect[height=\"17\"]')].map((r) => +r.getAttribute('y'))")  # fmt: skip
    assert [lanes.count(y) for y in sorted(set(lanes))] == [runs, 5]
    assert not opened.errors


def test_the_options_of_a_run_say_what_is_read():
    given = ClassificationOptions(categories=" way , code", columns="x")
    assert given.category_list == ("way", "code")
    assert (given.column_list, replace(given, columns=None).column_list, replace(given, columns="").column_list) == (("x",), None, ())  # fmt: skip
    assert ClassificationOptions(columns="").column_list is None  # as in earlier versions
