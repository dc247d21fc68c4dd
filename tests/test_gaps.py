"""Numbers that are missing, and steps at uneven times: `--mark-gaps` and `--time`, and `--fill-gaps` of forecasts."""

from __future__ import annotations

import io
import json
import math
import re
import runpy
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from elman.datasets import gaps, sequences, series, tables
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns, Labelled
from elman.errors import InputError
from elman.explain import directions, past
from elman.tasks import classification, forecasting, linear, regression
from elman.tasks.encoded import Encoded, Inputs
from elman.tasks.gathered import Gathered
from elman.tasks.options import ClassificationOptions, ForecastingOptions, RegressionOptions
from elman.tasks.pieces import Pieces
from elman.tasks.separate import moments
from elman.tasks.sequence_model import Fading
from elman.tasks.windows import Scaled, Windows
from elman.training import fit
from test_page import OpenPage
from tiny_runs import elman, lines

ROOT = Path(__file__).parent.parent
GONE = math.nan
ONCE = "2026-03-01T00:00:{:02}"
SMALL = ("--hidden-size", 8, "--batch-size", 8, "--dropout", 0, "--noise", 0)


@pytest.fixture(autouse=True)
def only_numbers(no_pictures: None) -> None:
    """No test here looks at pictures."""


def patchy(draw: np.random.Generator, steps: int, channels: int, share: float = 0.4) -> NDArray[np.float64]:
    values = draw.normal(size=(steps, channels))
    values[draw.random((steps, channels)) < share] = np.nan
    return values


def by_hand(values: NDArray[Any], times: NDArray[Any], causal: bool) -> tuple[list[list[float]], list[list[float]]]:
    """What stands in for each number, and how far away that was measured, one by one."""
    shown, old = list[list[float]](), list[list[float]]()
    for t, row in enumerate(values):
        shown.append([])
        old.append([])
        for k in range(len(row)):
            before = [s for s in range(t + 1) if not np.isnan(values[s, k])]
            after = [s for s in range(t, len(values)) if not np.isnan(values[s, k])]
            own = before[-1] if before else after[0] if after and not causal else None
            shown[-1].append(GONE if own is None else values[own, k])
            age = times[t] - times[0] if own is None else abs(times[t] - times[own])
            old[-1].append(-1.0 if own == t else age)
    return shown, old


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 4), st.booleans(), st.booleans())
def test_what_stands_in_and_how_old_it_is(seed: int, steps: int, channels: int, causal: bool, timed: bool):
    draw = np.random.default_rng(seed)
    values = patchy(draw, steps, channels, draw.choice([0.0, 0.5, 0.9]))
    times = draw.integers(0, 4, steps).cumsum() * 0.5 + 100
    shown, old = by_hand(values, times if timed else np.arange(steps), causal)
    np.testing.assert_array_equal(gaps.filled(values, causal), shown)
    np.testing.assert_array_equal(gaps.ages(values, times if timed else None, causal), old)
    found = Gathered(None, mark_gaps=True, causal=causal, time="t" if timed else None)
    found.add([Labelled("1", values, "a", times=times if timed else None)], Path("none"))
    np.testing.assert_array_equal(found.values(0)[0], values)
    np.testing.assert_array_equal(found.missing([0]), np.isnan(values).mean(0))
    if timed:
        np.testing.assert_array_equal(found.values(0)[1], times - 100 - times[0] + 100)


@given(st.integers(0, 10**6))
def test_numbers_that_are_missing_have_no_part_in_the_moments(seed: int):
    draw = np.random.default_rng(seed)
    x = patchy(draw, 60, 3) * [1, 1e-6, 0] + [0, 1e3, 7]
    mean, deviation = moments(np.split(x, sorted({*draw.integers(1, 60, 3)})), 3)
    np.testing.assert_allclose(mean, np.nanmean(x, 0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(deviation[:2], np.nanstd(x, 0)[:2], rtol=1e-5)
    assert (mean[2], deviation[2]) == (7, 1)  # a channel that never changes
    assert [each.tolist() for each in moments([x * GONE], 3)] == [[0, 0, 0], [1, 1, 1]]


# Reading

ROWS = [(ONCE.format(0), "1", ""), (ONCE.format(3), "", "5"), (ONCE.format(3), "2", "6")]
WANTED = [[1, GONE], [GONE, 5], [2, 6]]
START = datetime(2026, 3, 1, tzinfo=UTC).timestamp()


def forms(directory: Path, rows: list[tuple[str, str, str]] = ROWS) -> list[Path]:
    """The same sequence in every form that may have times."""
    table = "".join(f"a,{when},{x},{y},up\n" for when, x, y in rows)
    (directory / "a.csv").write_text("id,when,x,y,label\n" + table)
    values = [[float(v) if v else None for v in row[1:]] for row in rows]
    content = {"values": values, "when": [row[0] for row in rows], "label": "up"}
    (directory / "a.jsonl").write_text(json.dumps(content) + "\n")
    frame = pl.DataFrame(values, schema=["x", "y"], orient="row").with_columns(
        pl.lit("a").alias("id"), pl.lit("up").alias("label"), pl.Series("when", [row[0] for row in rows])
    )
    as_dates = pl.col("when").str.to_datetime(time_unit="ns", strict=False) if rows[0][0] == ONCE.format(0) else pl.col("when").cast(pl.Float32)  # fmt: skip
    frame.with_columns(as_dates).write_parquet(directory / "a.parquet")
    return [directory / name for name in ("a.csv", "a.jsonl", "a.parquet")]


COLUMNS = Columns(sequence="id", mark=True, time="when")


@pytest.mark.parametrize("rows", [1, 2, 50])
@pytest.mark.parametrize("numbers", [False, True])
def test_times_and_gaps_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, numbers: bool):
    whole_one = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, *columns, **given: whole_one(path, *columns, rows=rows, **given))
    given = [(str(k / 2), *row[1:]) for k, row in zip((0, 6, 6), ROWS, strict=True)] if numbers else ROWS
    for path in forms(tmp_path, given):
        columns = COLUMNS._replace(sequence=None if path.suffix == ".jsonl" else "id")
        (one,) = sequences.sequences(path, columns)
        np.testing.assert_array_equal(np.asarray(one.content), WANTED)
        assert one.times is not None
        assert one.times.tolist() == [t + (0 if numbers else START) for t in (0, 3, 3)]
        assert one.channels in (("x", "y"), ())


@pytest.mark.parametrize("rows", [1, 2, 50])
def test_a_row_of_nothing_is_a_step_of_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int):
    whole_one = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, **given: whole_one(path, rows=rows, **given))
    (tmp_path / "a.csv").write_text("x,y,label\n1,2,up\n,,\n,,\n3,4,down\n,,\n")
    (one,) = sequences.sequences(tmp_path / "a.csv", Columns(mark=True, each_step=True))
    np.testing.assert_array_equal(np.asarray(one.content), [[1, 2], [GONE, GONE], [GONE, GONE], [3, 4]])
    assert one.labels == ["up", None, None, "down"]
    (one,) = sequences.sequences(tmp_path / "a.csv", Columns(fill=True, each_step=True))
    assert np.asarray(one.content).tolist() == [[1, 2], [1, 2], [1, 2], [3, 4]]


def test_offsets_from_utc_count(tmp_path: Path):
    times = ["2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00"]  # half an hour later, in another summer
    (tmp_path / "a.jsonl").write_text(json.dumps({"values": [1, 2], "when": times, "label": "up"}) + "\n")
    (tmp_path / "a.csv").write_text(f"id,when,x,label\na,{times[0]},1,up\na,{times[1]},2,up\n")
    for name in ("a.jsonl", "a.csv"):
        columns = COLUMNS._replace(sequence=None if name == "a.jsonl" else "id")
        (one,) = sequences.sequences(tmp_path / name, columns)
        assert np.diff(np.asarray(one.times)).tolist() == [1800]


def test_an_archive_may_have_gaps(tmp_path: Path):
    (tmp_path / "a.ts").write_text("@data\n1,?,3:?,?,?:up\n4:5:down\n")
    one, two = sequences.sequences(tmp_path / "a.ts", Columns(mark=True))
    np.testing.assert_array_equal(np.asarray(one.content), [[1, GONE], [GONE, GONE], [3, GONE]])
    np.testing.assert_array_equal(np.asarray(two.content), [[4, 5]])


HEAD = "id,when,x,label\n"
LATE = "; correct it, or skip such rows with --skip-bad"
WRONG = {
    "an earlier time": ("a.csv", HEAD + "a,3,1,up\na,2,1,up\n", "line 3: the time in 'when' is earlier than that of the step before it" + LATE),
    "no time": ("a.csv", HEAD + "a,3,1,up\na,,1,up\n", "line 3: column 'when' should be a number but is nothing" + LATE),
    "no date": ("a.csv", HEAD + "a,2026-01-01,1,up\na,soon,1,up\n", "line 3: column 'when' should be a time such as 2026-01-31 12:00:00 or a number, but is 'soon'" + LATE),
    "a time that is too far from zero": ("a.csv", HEAD + "a,-1e308,1,up\na,1e308,1,up\n", "line 2: column 'when' should be a number of at most 3.4e+38 but is '-1e308'"),
    "no column": ("a.csv", HEAD.replace("when", "then") + "a,3,1,up\n", "has no column 'when'; its columns are 'id', 'then', 'x', 'label': choose one of them"),
    "a text": ("a.csv", HEAD + "a,3,much,up\n", "line 2: column 'x' should be a number but is 'much'"),
    "an endless number": ("a.csv", HEAD + "a,3,inf,up\n", "line 2: column 'x' should be a number but is 'inf'"),
    "an earlier time in JSON": ("a.jsonl", '{"values": [1, 2], "when": [3, 2.5], "label": "up"}\n', "line 1: step 2 of 'when', 2.5, is earlier than the step before it, 3" + LATE),
    "an earlier date in JSON": ("a.jsonl", '{"values": [1, 2], "when": ["2026-01-02", "2026-01-01"], "label": "up"}\n', "line 1: step 2 of 'when', 2026-01-01, is earlier than the step before it, 2026-01-02"),
    "a text in JSON": ("a.jsonl", '{"values": [1, 2], "when": ["2026-01-02", "soon"], "label": "up"}\n', "line 1: step 2 of 'when' should be a time such as 2026-01-31 12:00:00 or a number, but is 'soon'"),
    "nothing in JSON": ("a.jsonl", '{"values": [1, 2], "when": [1, null], "label": "up"}\n', "line 1: step 2 of 'when' should be a time such as 2026-01-31 12:00:00 or a number, but is 'None'"),
    "both in JSON": ("a.jsonl", '{"values": [1, 2], "when": [1, "2026-01-02"], "label": "up"}\n', "line 1: step 2 of 'when' should be a time such as 2026-01-31 12:00:00 or a number, but is '2026-01-02'"),
    "too few in JSON": ("a.jsonl", '{"values": [1, 2], "when": [1], "label": "up"}\n', "line 1: 'when' should be a list of 2 times, one for each step, but has 1"),
    "one in JSON": ("a.jsonl", '{"values": [1, 2], "when": 7, "label": "up"}\n', "line 1: 'when' should be a list of 2 times, one for each step, but is 7"),
    "none in JSON": ("a.jsonl", '{"values": [1, 2], "label": "up"}\n', "line 1: 'when' should be a list of 2 times, one for each step, but is None"),
    "an endless one in JSON": ("a.jsonl", '{"values": [1, 2], "when": [1, Infinity], "label": "up"}\n', "line 1: step 2 of 'when' should be a time such as"),
    "an archive": ("a.ts", "@data\n1,2:up\n", "has no times, so --time selects nothing in it; leave it out"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_times_that_make_no_sense(tmp_path: Path, case: str):
    name, content, message = WRONG[case]
    (tmp_path / name).write_text(content)
    columns = COLUMNS._replace(sequence="id" if name == "a.csv" else None)
    with pytest.raises(InputError, match=re.escape(message)):
        list(sequences.sequences(tmp_path / name, columns))
    if LATE not in message:
        return
    good = {"a.csv": "b,1,1,up\nb,1,2,up\n", "a.jsonl": '{"values": [1, 2], "when": [1, 1], "label": "up"}\n'}[name]
    (tmp_path / name).write_text(content + good.replace("b,1,1", "b,2026-01-01,1").replace("b,1,2", "b,2026-01-01,2") if case == "no date" else content + good)  # fmt: skip
    bad = BadRows(skip=True)
    (one,) = sequences.sequences(tmp_path / name, columns, bad=bad)
    assert (bad.count, np.asarray(one.content).tolist(), np.diff(np.asarray(one.times)).tolist()) == (1, [[1], [2]], [0])  # fmt: skip


def test_a_time_that_is_earlier_than_the_one_in_the_piece_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole_one = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, *columns, **given: whole_one(path, *columns, rows=1, **given))
    (tmp_path / "a.csv").write_text(HEAD + "a,3,1,up\na,2,1,up\n")
    with pytest.raises(InputError, match="line 3: the time in 'when' is earlier"):
        list(sequences.sequences(tmp_path / "a.csv", COLUMNS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--each-step", "--causal", "--fill-gaps"), "--fill-gaps fills in the beginning with numbers of later steps, which --causal must not read; give --mark-gaps instead"),
        (("--mark-gaps", "--fill-gaps"), "--fill-gaps has no effect with --mark-gaps, which fills gaps in its own way; leave it out"),
        (("--text", "x", "--mark-gaps"), "--mark-gaps is for numbers, but --text reads texts; leave it out"),
        (("--text", "x", "--time", "when"), "--time is for numbers, but --text reads texts; leave it out"),
        (("--time", "x", "--columns", "x,y"), "--time and --columns both name the column 'x'; name another one in one of them"),
        (("--time", "id", "--sequence", "id"), "--sequence and --time both name the column 'id'; name another one in one of them"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(tmp_path: Path, options: tuple[str, ...], message: str):
    (tmp_path / "a.csv").write_text(HEAD + "a,3,1,up\n")
    assert elman("train", "classify", tmp_path / "a.csv", *options) == (2, "", f"elman: {message}\n")


def test_runs_that_filled_gaps_and_were_causal_go_on(tmp_path: Path):
    """Earlier versions trained such runs."""
    options = ClassificationOptions(hidden_size=4, epochs=1.0, each_step=True, causal=True, fill_gaps=True)
    file = recording(tmp_path / "a.csv", 40)
    task = classification.begin(file, replace(options, columns="x,y"), "cpu", BadRows())
    fit(task, tmp_path / "run")
    assert classification.load(tmp_path / "run").options.fill_gaps
    done = elman("train", "classify", "--resume", tmp_path / "run", "--epochs", 2)
    assert done.status == 0, done.err


@pytest.mark.parametrize("option", [("--mark-gaps",), ("--time", "when")])
def test_the_built_in_data_have_neither(option: tuple[str, ...]):
    assert "no FILE is given" in elman("train", "classify", *option).err


def test_dates_are_no_numbers(tmp_path: Path):
    """A run that has learned from seconds between dates would read hours as seconds."""
    rows = [
        {"values": [k, 1.0, k % 3], "when": [f"2026-01-0{t}" for t in (1, 2, 4)], "label": k % 2} for k in range(12)
    ]
    file, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    file.write_text(lines(*map(json.dumps, rows)))
    other.write_text(lines(*(json.dumps(row | {"when": [1, 2, 4]}) for row in rows)))
    run = tmp_path / "run"
    fit(
        classification.begin(file, ClassificationOptions(hidden_size=4, epochs=1.0, time="when"), "cpu", BadRows()), run
    )
    assert classification.load(run).reading.dates is True
    said = (
        f"elman: {other}: the times of sequence 1 are numbers, but those learned from are dates; give dates in 'when'\n"
    )
    for command in ("evaluate", "predict"):
        assert elman(command, run, other).err == said
    # So are those of a single file, or of a table in pieces.
    other.write_text(lines(json.dumps(rows[0] | {"when": [1, 2, 4]}), *map(json.dumps, rows[1:])))
    refused = elman("train", "classify", other, "--time", "when").err
    assert refused == f"elman: {other}: the times of sequence 2 are dates, but those learned from are numbers; give numbers in 'when'\n"  # fmt: skip
    # Those of earlier versions did not say it.
    path = run / "vocabulary.json"
    path.write_text(
        json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "dates"})
    )
    assert elman("predict", run, file).status == 0


def test_dates_and_numbers_in_pieces_of_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole_one = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, *columns, **given: whole_one(path, *columns, rows=1, **given))
    (tmp_path / "a.csv").write_text(HEAD + "a,2026-01-01,1,up\na,2000000000,1,up\n")
    with pytest.raises(
        InputError, match="column 'when' has dates in some rows and numbers in others; write all in one form"
    ):
        list(sequences.sequences(tmp_path / "a.csv", COLUMNS))


def test_times_that_stand_still(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(lines(*(json.dumps({"values": [k, 1], "when": [k, k], "label": k % 2}) for k in range(9))))  # fmt: skip
    task = classification.begin(tmp_path / "a.jsonl", ClassificationOptions(time="when"), "cpu", BadRows())
    assert dict(task.introduction())["times"] == "all steps of a sequence have the same in 'when', so nothing is learned of them"  # fmt: skip


def test_a_channel_without_numbers(tmp_path: Path):
    rows = [f"{k},{'' if k < 8 else 1},{k % 2}\n" for k in range(10)]
    (tmp_path / "a.csv").write_text("x,y,label\n" + "".join(rows))
    given: dict[str, Any] = {"each_step": True, "mark_gaps": True}
    with pytest.raises(InputError, match="column 'y' has no number in the sequences to learn from; leave it out"):
        classification.begin(tmp_path / "a.csv", ClassificationOptions(**given), "cpu", BadRows())
    # One that lacks them in some sequences only is learned from.
    (tmp_path / "a.jsonl").write_text(lines(*(json.dumps({"values": [[k, 1 if k % 2 else None]], "label": k}) for k in range(9))))  # fmt: skip
    task = regression.begin(tmp_path / "a.jsonl", RegressionOptions(mark_gaps=True), "cpu", BadRows())
    assert task.trained.reading.marked == [1]
    assert task.trained.reading.mean[1] == 1


# What a network reads


def test_what_a_network_reads_of_a_step():
    """Channel 1 lacks numbers in training and channel 0 does not; the usual time from step to step is that of the training."""
    times = np.array([0.0, 2.0, 2.0, 10.0])
    learned = Labelled("1", np.array([[1.0, GONE], [3.0, 4.0], [5.0, GONE], [7.0, 8.0]]), "a", times=times + 5)
    other = Labelled("2", np.array([[GONE, GONE], [9.0, GONE], [GONE, 8.0], [GONE, GONE]]), "b", times=times * 100 - 7)
    for causal in (False, True):
        found = Gathered(None, mark_gaps=True, causal=causal, time="t")
        found.add([learned, other], Path("none"))
        inputs = Inputs.of(found, [0])
        assert (inputs.marked, inputs.time, inputs.width) == ([1], "t", 5)
        assert inputs.interval == pytest.approx(4)  # the geometric mean of 2 and 8
        assert (inputs.mean, inputs.deviation) == ([4, 6], [pytest.approx(math.sqrt(5)), 2])
        encoded = Encoded(found, inputs)
        x, lengths = encoded.batch(Pieces.whole(np.arange(2), found.rows.lengths))
        assert (tuple(x.shape), lengths.tolist()) == ((4, 2, 5), [4, 4])
        one, two = x.unbind(1)
        scaled = (torch.tensor([1.0, 3, 5, 7]) - 4) / math.sqrt(5)
        torch.testing.assert_close(one[:, 0], scaled)
        torch.testing.assert_close(one[:, 1], torch.tensor([0.0 if causal else -1.0, -1, -1, 1]))
        torch.testing.assert_close(one[:, 2], -torch.ones(4))
        torch.testing.assert_close(one[:, 3], torch.tensor([0.0 if causal else 0.5, -1, 0, -1]))
        torch.testing.assert_close(one[:, 4], torch.tensor([0, 0.5, 0, 2]).log1p())
        assert two[:, 2].tolist() == [-1] * 4  # nothing was learned of its gaps
        torch.testing.assert_close(two[:, 0], torch.tensor([0.0 if causal else math.sqrt(5), *[math.sqrt(5)] * 3]))
        torch.testing.assert_close(two[:, 3], torch.tensor([0.0, 50, -1, 200] if causal else [50.0, 0, -1, 200]))
        old = found.rows[1] * [1, 1, 1, 1e6, 1]
        assert encoded.scaled(old)[:, 3].max() == 1e4
        features = linear.of_sequences(encoded, np.arange(2), np.empty(0, np.int64))
        assert features.shape == (2, 6 * 5 + 1)
        np.testing.assert_allclose(features[:, 4], x[..., 4].mean(0))


def test_noise_is_for_numbers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task = classification.begin(
        write(tmp_path / "a.jsonl", 20, "gaps"),
        ClassificationOptions(mark_gaps=True, time="when", noise=1.0),
        "cpu",
        BadRows(),
    )
    read = list[torch.Tensor]()
    monkeypatch.setattr(task.model, "forward", lambda x, lengths: read.append(x) or x[0, :, :2])
    own = np.arange(8)
    task.outputs(own)
    plain, lengths = task.encoded.batch(task.pieces.take(own))
    inside = torch.arange(len(plain))[:, None] < lengths
    noise = (read[0] - plain)[inside]
    assert 0.7 < float(noise[:, :2].std()) < 1.3
    assert not noise[:, 2:].any()


def test_numbers_fade_while_they_grow_old():
    fading = Fading(2)
    with torch.no_grad():
        fading.rate.copy_(torch.tensor([0.5, -3.0]))
    x = torch.tensor([[[2.0, 2, -1, -1, 9], [2, 2, 0, 4, 9], [2, 2, 3, 1e4, 9]]])
    wanted = [[2.0, 2, 0, 0, 9], [2, 2, 1, 1, 9], [2 * math.exp(-1.5), 2, 1, 1, 9]]
    torch.testing.assert_close(fading(x)[0], torch.tensor(wanted))
    assert torch.equal(fading(x[0, 2]), fading(x)[0, 2])
    fading(x)[..., 0].sum().backward()
    assert fading.rate.grad is not None
    torch.testing.assert_close(fading.rate.grad, torch.tensor([2 * -3 * math.exp(-1.5), 0]))


@pytest.mark.parametrize("each_step", [False, True])
def test_the_page_says_what_the_model_says(tmp_path: Path, each_step: bool):
    """Of a sequence with gaps, where the model makes its numbers fade."""
    file = recording(tmp_path / "a.csv", 40) if each_step else write(tmp_path / "a.jsonl", 20, "gaps")
    options = ClassificationOptions(hidden_size=4, epochs=1.0, mark_gaps=True, each_step=each_step, columns="x,y" if each_step else None)  # fmt: skip
    task = classification.begin(file, options, "cpu", BadRows())
    assert task.model.fading is not None
    fit(task, tmp_path / "run")
    trained = classification.load(tmp_path / "run")
    wanted = trained.outputs(trained.read(file)[0]).softmax(-1)
    shown = directions.classifier(tmp_path / "run", None, file).data["sequences"]
    if each_step:
        found = [[p for _, p in sorted(step)] for step in shown[0]["likeliest"]]
    else:
        found = [each["probabilities"] for each in shown]
    torch.testing.assert_close(torch.tensor(found), wanted[: len(found)], rtol=0, atol=6e-4)


@pytest.mark.parametrize("each_step", [False, True])
def test_without_gaps_and_times_all_is_as_before(each_step: bool):
    """A channel that lacks no numbers in training reads the same with --mark-gaps, whatever it lacks later."""
    draw = np.random.default_rng(0)
    own = [Labelled(str(k), draw.normal(size=(5, 2)), "ab"[k % 2], labels=["a", "b"] * 2 + ["a"] if each_step else None) for k in range(4)]  # fmt: skip
    plain, marked = Gathered(None, each_step=each_step), Gathered(None, each_step=each_step, mark_gaps=True)
    for found in (plain, marked):
        found.add(own, Path("none"))
    inputs = Inputs.of(marked, range(4))
    assert replace(inputs, marked=None) == Inputs.of(plain, range(4))
    assert (inputs.marked, inputs.width) == ([], 4)
    later = Gathered(None, mark_gaps=True)
    later.add([Labelled("1", np.array([[1, GONE], [GONE, 2]]), "a")], Path("none"))
    assert np.unique(Encoded(later, inputs).scaled(later.rows[0])[:, 2:]).tolist() == [-1]


@pytest.mark.parametrize("change", ["a time", "a gap", "the zero of the times"])
def test_the_digest_knows_times_and_gaps(change: str):
    values, times = np.array([[1.0], [2.0], [3.0]]), np.array([0.0, 1.0, 2.0])
    digests = []
    for changed in (False, True):
        found = Gathered(None, mark_gaps=True, time="t")
        v, t = values.copy(), times.copy()
        v[1] = GONE if changed and change == "a gap" else v[1]
        t[1] = 1.5 if changed and change == "a time" else t[1]
        found.add([Labelled("1", v, "a", times=t + (changed and change == "the zero of the times"))], Path("none"))
        digests.append(found.digest)
    assert digests[0] != digests[1]


# Learning from them


def write(path: Path, count: int, of: str, seed: int = 0) -> Path:
    """Sequences whose class shows in nothing but when their steps are, or in which numbers are missing."""
    draw, rows = np.random.default_rng(seed), []
    for k in range(count):
        label, steps = k % 2, int(draw.integers(6, 12))
        values: NDArray[Any] = draw.normal(size=(steps, 2))
        times = draw.uniform(1, 2, steps).cumsum()
        if of == "times":
            times = (times.cumsum() if label else times * 3) + draw.normal() * 1000
            times = np.concatenate([times[:1], times[0] + np.diff(times).cumsum()])
        else:
            values[:] = values[0]  # so that what is filled in does not show
            values[draw.random(steps) < 0.4, label] = np.nan
        rows.append({"values": [[None if np.isnan(v) else v for v in row] for row in values.tolist()], "when": times.tolist(), "label": label})  # fmt: skip
    path.write_text(lines(*map(json.dumps, rows)))
    return path


@pytest.mark.parametrize(("of", "option"), [("times", ("--time", "when")), ("gaps", ("--mark-gaps",))])
def test_it_learns_what_only_they_show(tmp_path: Path, of: str, option: tuple[str, ...]):
    train, new = write(tmp_path / "a.jsonl", 80, of), write(tmp_path / "b.jsonl", 40, of, seed=1)
    without = () if of == "times" else ("--fill-gaps",)
    for name, own, good in (("with", option, True), ("without", without, False)):
        done = elman("train", "classify", train, *own, *SMALL, "--epochs", 18, "--learning-rate", 0.02, "--evaluations", 6, "--run", tmp_path / name)  # fmt: skip
        assert done.status == 0, done.err
        found = elman("evaluate", tmp_path / name, new).out
        accuracy = float(re.findall(r"^accuracy +(\S+)", found, re.MULTILINE)[0])
        assert (accuracy > 0.9) if good else (accuracy < 0.75), found
        if good and of == "times":
            usual, before = map(float, re.findall(r"^times +(\S+) is usual from a step to the next, and (\S+) in training$", found, re.MULTILINE)[0])  # fmt: skip
            assert usual != before
            assert usual == pytest.approx(before, rel=0.1)
            assert before == float(f"{classification.load(tmp_path / name).reading.interval:.6g}")
        if good and of == "gaps":
            assert re.search(r"^missing +channel \d at [12]\d\.\d% of the steps, channel \d at [12]\d\.\d% of the steps$", found, re.MULTILINE)  # fmt: skip


def recording(path: Path, steps: int, seed: int = 0) -> Path:
    draw = np.random.default_rng(seed)
    values, when = patchy(draw, steps, 2, 0.3), draw.exponential(30, steps).cumsum()
    values[: 3 + seed, 1] = np.nan
    moments = [datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=float(t)) for t in when]
    rows = [
        f"{moment.isoformat()},{','.join('' if np.isnan(v) else f'{v:.6f}' for v in row)},{'' if k % 7 == 3 else 'ab'[int(k // 9 % 2)]}\n"
        for k, (moment, row) in enumerate(zip(moments, values, strict=True))
    ]
    path.write_text("at,x,y,label\n" + "".join(rows))
    return path


def rows_said(out: str) -> list[tuple[str, float]]:
    _, *rows = [line.split(",") for line in out.splitlines()]
    return [(row[2], max(float(row[3]), float(row[4]))) for row in rows]


def test_a_stream_with_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A causal model says of a step what it says of it when nothing comes after; so does its file, and examples/watch.py."""
    train, new, run = recording(tmp_path / "a.csv", 300), recording(tmp_path / "b.csv", 60, seed=1), tmp_path / "run"
    train.write_text(train.read_text().replace("+00:00,,", "+00:00,0.5,"))  # nothing is learned of gaps in x
    done = elman("train", "classify", train, "--each-step", "--causal", "--mark-gaps", "--time", "at", "--window", 20, *SMALL, "--epochs", 4, "--run", run)  # fmt: skip
    assert done.status == 0, done.err
    said = re.findall(r"^missing +(.*)\n^times +(.*)$", done.err, re.MULTILINE)
    assert re.fullmatch(r"y at \d\d\.\d% of the steps", said[0][0])
    assert re.fullmatch(r"\d\d\.\d+ seconds are usual from a step to the next in 'at'", said[0][1])
    wanted = rows_said(elman("predict", run, new).out)
    assert len(wanted) == 60
    for steps in (1, 2, 5, 30):
        head = new.read_text().splitlines()[: steps + 1]
        (tmp_path / "c.csv").write_text(lines(*head))
        assert rows_said(elman("predict", run, tmp_path / "c.csv").out) == wanted[:steps]
    assert elman("export", run, tmp_path / "run.onnx").status == 0
    found = rows_said(elman("predict", tmp_path / "run.onnx", new).out)
    assert [name for name, _ in found] == [name for name, _ in wanted]
    assert [p for _, p in found] == pytest.approx([p for _, p in wanted], abs=1e-5)
    path = tmp_path / "step.onnx"
    assert elman("export", run, path, "--streaming").status == 0
    head, *rows = [line.split(",") for line in new.read_text().splitlines()]
    turned = [f"{y},{at},{x}" for at, x, y, _ in [head, *rows]]
    lacks = "it lacks a number or a time"
    odd = [("7,,7", lacks), ("7,12,7", "its time is not a date"), ("7,nan,7", lacks), ("7,2026-01-01,7", "it is earlier than one before it"), (f"x,{rows[30][0]},7", lacks), (f"inf,{rows[30][0]},7", lacks)]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["watch.py", str(path)])
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines(*turned[:31], *(row for row, _ in odd), *turned[31:])))
    capsys.readouterr()
    runpy.run_path(str(ROOT / "examples" / "watch.py"), run_name="__main__")
    out, err = capsys.readouterr()
    told = [line.split("\t") for line in out.splitlines()]
    assert [name for name, _ in told] == [name for name, _ in wanted]
    assert [float(p) for _, p in told] == pytest.approx([p for _, p in wanted], abs=6e-4)
    assert err == lines(*(f"line {k} is left out, because {why}: {row}" for k, (row, why) in enumerate(odd, 32)))


def test_a_run_goes_on_and_others_start_from_it(tmp_path: Path):
    file = write(tmp_path / "a.jsonl", 30, "gaps")
    options = ClassificationOptions(hidden_size=4, epochs=4.0, mark_gaps=True, time="when", evaluations=4)
    task = classification.begin(file, options, "cpu", BadRows())
    fit(task, tmp_path / "whole")
    settings = (file, "--mark-gaps", "--time", "when", "--epochs", 4, "--hidden-size", 4, "--evaluations", 4)
    assert elman("train", "classify", *settings, "--epochs", 2, "--run", tmp_path / "run").status == 0
    loaded = classification.load(tmp_path / "run")
    assert vars(loaded.reading) == vars(task.trained.reading)
    for name in ("--mark-gaps", "--time=when"):
        given = elman("train", "classify", file, "--start-from", tmp_path / "run", name)
        assert f"so {name.split('=')[0]} cannot be given" in given.err
    started = elman("train", "classify", file, "--start-from", tmp_path / "run", "--epochs", 1, "--run", tmp_path / "next")  # fmt: skip
    assert started.status == 0, started.err
    assert vars(classification.load(tmp_path / "next").reading) == vars(loaded.reading)
    assert "not known" not in elman("evaluate", tmp_path / "run", file).out
    changed = (
        file.read_text().replace('"when": [', '"when": [-1, ', 1).replace('"values": [[', '"values": [[0, 0], [', 1)
    )
    file.write_text(changed)
    assert "not known" in elman("evaluate", tmp_path / "run", file).out  # the baselines: the data have changed


def test_vocabulary_that_was_tampered_with(tmp_path: Path):
    file = write(tmp_path / "a.jsonl", 20, "gaps")
    fit(classification.begin(file, ClassificationOptions(hidden_size=4, epochs=1.0, mark_gaps=True), "cpu", BadRows()), tmp_path / "run")  # fmt: skip
    path = tmp_path / "run" / "vocabulary.json"
    content = json.loads(path.read_text())
    for wrong in ({"marked": [2]}, {"interval": 0}, {"interval": "1"}, {"marked": None}):
        path.write_text(json.dumps(content | wrong))
        with pytest.raises(InputError, match=r"is damaged|does not fit its config"):
            classification.load(tmp_path / "run")


# Looking at them


def test_the_page_shows_where_numbers_are_missing(open_page: OpenPage, tmp_path: Path):
    train, new, run = recording(tmp_path / "a.csv", 80), recording(tmp_path / "b.csv", 40, seed=1), tmp_path / "run"
    assert elman("train", "classify", train, "--each-step", "--mark-gaps", "--time", "at", *SMALL, "--epochs", 1, "--run", run).status == 0  # fmt: skip
    assert elman("explain", run, "--data", new, "--output", tmp_path / "page.html").status == 0
    page = open_page(tmp_path / "page.html").page
    text = page.locator("#text").inner_text()
    assert "A line is broken where a number is missing." in text
    assert [name in text for name in ("x\n", "y\n", "time since the step before")] == [True] * 3
    _, *rows = [line.split(",") for line in new.read_text().splitlines()]
    values: NDArray[Any] = np.array([[float(v) if v else GONE for v in row[1:3]] for row in rows])
    paths = [each.get_attribute("d") or "" for each in page.locator("#text path.curve").all()]
    assert len(paths) == 3
    there = ~np.isnan(values)
    for k in range(2):
        begins = there[:, k] & ~np.append(False, there[:-1, k])
        assert (paths[k].count("M"), paths[k].count("L")) == (begins.sum(), there[:, k].sum() - begins.sum())
    lonely = there & ~np.vstack([[[False] * 2], there[:-1]]) & ~np.vstack([there[1:], [[False] * 2]])
    assert page.locator("#text circle.lonely").count() == lonely.sum()
    assert (paths[2].count("M"), paths[2].count("L")) == (1, 39)
    # A channel that has no numbers has no extremes.
    _, *said = new.read_text().splitlines()
    (tmp_path / "c.csv").write_text("at,x,y\n" + lines(*(",".join(row.split(",")[:2]) + "," for row in said)))
    assert elman("explain", run, "--data", tmp_path / "c.csv", "--output", tmp_path / "c.html").status == 0
    page = open_page(tmp_path / "c.html").page
    numbers = [text for text in page.locator("#text text.note.end").all_text_contents() if text[-1:].isdigit()]
    assert len(numbers) == 2 * 2 + 1  # those of two lines, and the number of steps
    # Of the held-out part, the numbers are those of the file, too.
    (sequence,) = directions.classifier(run, None, None).data["sequences"]
    held = [line.split(",") for line in train.read_text().splitlines()][65:]
    for k, own in enumerate(sequence["series"][:2], 1):
        assert own == [pytest.approx(float(row[k]), abs=1e-3) if row[k] else None for row in held]
    at = np.array([datetime.fromisoformat(row[0]).timestamp() for row in held])
    np.testing.assert_allclose(sequence["series"][2], np.diff(at, prepend=at[0]), atol=0.01)


# Forecasts


def table_of(path: Path, rows: int, seed: int, groups: int = 2) -> dict[str, list[dict[str, float]]]:
    """Writes series by turns in which numbers and whole rows are missing, and returns the rows that are there, with NaN."""
    draw, written = np.random.default_rng(seed), []
    every: dict[str, list[dict[str, float]]] = {}
    for t in range(rows):
        for g in range(groups):
            if t % 11 == 5 + g:
                continue
            row = {"t": float(t), "y": 10 * g + draw.normal(), "z": draw.normal(), "push": draw.normal()}
            for name in ("y", "z", "push"):
                early, late = name == "z" and t < 4 + g, name != "push" and t > rows - (3 if name == "z" else 2)
                if draw.random() < 0.3 or early or late:
                    row[name] = GONE
            every.setdefault(f"g{g}", []).append(row)
            written.append(f"g{g}," + ",".join("" if np.isnan(v) else repr(v) for v in row.values()))
    path.write_text("group,t,y,z,push\n" + lines(*written))
    return every


def by_row(rows: list[dict[str, float]], name: str) -> tuple[list[float], list[bool]]:
    """A column with what stands at every time, and whether it was measured then."""
    given = {row["t"]: row[name] for row in rows if not np.isnan(row[name])}
    first = given[min(given)]
    times = np.arange(rows[0]["t"], rows[-1]["t"] + 1)
    return [given[max((s for s in given if s <= t), default=min(given))] if given else first for t in times], [t in given for t in times]  # fmt: skip


@pytest.mark.parametrize(("seed", "rows"), [(0, 7), (0, 10**6), (1, 1), (1, 7)])
def test_forecasts_read_the_last_number_of_each_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, seed: int):  # fmt: skip
    monkeypatch.setattr(series, "BLOCK", 5)
    whole_one = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, **given: whole_one(path, rows=rows, **given))
    columns = series.Columns(("y", "z"), ("push",), "t", "group")
    wanted = table_of(tmp_path / "a.csv", 60, seed)
    found, _ = series.read(tmp_path / "a.csv", columns, BadRows(), fill_gaps=True)
    for tail in (None, 15):
        found, _ = series.read(tmp_path / "a.csv", columns, BadRows(), fill_gaps=True, tail=tail)
        assert [one.group for one in found] == list(wanted)
        for one in found:
            own = wanted[one.group]
            ends = [k for k, row in enumerate(own) if not (np.isnan(row["y"]) and np.isnan(row["z"]))][-1] + 1
            own = own if tail is None else own[:ends]
            for k, name in enumerate(("y", "z")):
                values, given = by_row(own, name)
                assert one.targets[:, k].tolist() == values[-len(one.targets) :]
                assert one.given is not None
                assert one.given[:, k].tolist() == given[-len(one.targets) :]
            values, _ = by_row(wanted[one.group], "push")
            assert one.known[:, 0].tolist() == values[-len(one.known) :]
            assert len(one.targets) >= 15


def options_of(**changes: Any) -> ForecastingOptions:
    own: dict[str, Any] = {"horizon": 4, "lookback": 6, "segment": 2, "period": 3, "hidden_size": 4, "epochs": 0.2}
    return ForecastingOptions(**own | {"time": "t", "group": "group", "known": "push", "fill_gaps": True} | changes)


def test_no_window_reads_a_number_that_it_is_judged_by(tmp_path: Path):
    """A column whose numbers begin late has windows from its second number on; what was filled in is not judged."""
    table_of(tmp_path / "a.csv", 60, 0)
    task = forecasting.begin(tmp_path / "a.csv", options_of(split="0.6,0.2,0.2"), "cpu", BadRows())
    every = task.forecaster.read_again()
    scales = task.forecaster.scales
    windows = Windows(Scaled.of(every, scales, task.options), [(0, len(one.targets)) for one in every], 6, 4)
    past, column, _, truth = windows.take(np.arange(len(windows)))
    at = 0
    for one in every:
        assert one.given is not None
        scale = scales.of_series(one, task.options)
        for k in range(2):
            told, values = one.given[:, k], (one.targets[:, k] - scale.mean[k]) / scale.deviation[k]
            for start in range(max(6, int(told.argmax()) + 1), len(values) - 3):
                assert int(column[at]) == k
                np.testing.assert_allclose(past[:, at], values[start - 6 : start], rtol=1e-5, atol=1e-6)
                wanted = np.where(told[start : start + 4], values[start : start + 4], np.nan)
                np.testing.assert_allclose(truth[:, at], wanted, rtol=1e-5, atol=1e-6)
                at += 1
    assert at == len(windows)
    for k in range(2):
        train = [one.targets[: round(0.6 * len(one.targets)), k][one.given[: round(0.6 * len(one.targets)), k]] for one in every if one.given is not None]  # fmt: skip
        assert scales.mean[k] == pytest.approx(np.concatenate(train).mean())
        assert scales.series["g1"][0][k] == pytest.approx(train[1].mean())
        assert scales.series["g1"][1][k] == pytest.approx(train[1].std())
        values = [np.where(one.given, one.targets, GONE)[: round(0.6 * len(one.targets)), k] for one in every if one.given is not None]  # fmt: skip
        changes = np.nanmean(np.abs(values[1][3:] - values[1][:-3]))  # between numbers that are both there
        assert scales.series["g1"][2][k] == pytest.approx(changes / train[1].std())


def test_forecasts_from_tables_with_gaps(tmp_path: Path):
    table_of(tmp_path / "a.csv", 80, 0)
    command = ("train", "forecast", tmp_path / "a.csv", "--time", "t", "--group", "group", "--horizon", 4, "--lookback", 6, "--segment", 2, "--period", 3, "--hidden-size", 4, "--epochs", 0.2)  # fmt: skip
    refused = elman(*command, "--run", tmp_path / "run")
    assert (refused.status, refused.out) == (2, "")
    assert re.search(r"line \d: column '[yz]' should be a number but is nothing; correct it, fill in missing numbers with --fill-gaps, or skip such rows with --skip-bad", refused.err)  # fmt: skip
    done = elman(*command, "--fill-gaps", "--run", tmp_path / "run")
    assert done.status == 0, done.err
    filled, of = map(int, re.findall(r"(\d+) of the values filled in", done.err) + re.findall(r"series, (\d+) rows of 3 col", done.err))  # fmt: skip
    assert 0.3 * 3 * of < filled < 0.5 * 3 * of
    found = elman("evaluate", tmp_path / "run", tmp_path / "a.csv").out
    assert f"filled in            {filled} of {3 * of} values, which are not scored\n" in found
    # A column without a number is neither judged nor forecast, and the others are as before.
    text = (tmp_path / "a.csv").read_text()
    said = elman("predict", tmp_path / "run", tmp_path / "a.csv").out
    without = lines("group,t,y,z,push", *(",".join([*row.split(",")[:3], "", row.split(",")[4]]) for row in text.splitlines()[1:]))  # fmt: skip
    (tmp_path / "b.csv").write_text(without)
    other = elman("predict", tmp_path / "run", tmp_path / "b.csv").out
    blank = [",".join([*row.split(",")[:3], "", row.split(",")[4]]) for row in said.splitlines()[1:]]
    assert other == lines(said.splitlines()[0], *blank)
    (tmp_path / "b.jsonl").write_text(lines(*(json.dumps({n: None if v == "" else v if n == "group" else float(v) for n, v in zip(("group", "t", "y", "z", "push"), row.split(","), strict=True)}) for row in without.splitlines()[1:])))  # fmt: skip
    as_json = elman("predict", tmp_path / "run", tmp_path / "b.jsonl", "--output", tmp_path / "c.jsonl")
    assert as_json.status == 0, as_json.err
    assert {json.loads(row)["z"] for row in (tmp_path / "c.jsonl").read_text().splitlines()} == {None}
    assert "z                  has no number to be scored\n" in elman("evaluate", tmp_path / "run", tmp_path / "b.csv").out  # fmt: skip
    assert elman("explain", tmp_path / "run", "--data", tmp_path / "b.csv", "--output", tmp_path / "p.html").status == 0
    # Nor is a column shown whose first number comes after the forecast begins: it would stand in the past.
    (tmp_path / "d.csv").write_text(without + "g0,80,1,5,1\ng1,80,1,5,1\n")
    shown = past.forecaster(tmp_path / "run", None, tmp_path / "d.csv").data["windows"]
    assert {(window["group"], window["column"]) for window in shown} == {(g, c) for g in ("g0", "g1") for c in ("y", "push")}  # fmt: skip
    (tmp_path / "e.csv").write_text(
        "group,t,y,z,push\n" + lines(*(f"g0,{t},,,{'' if t < 29 else 1}" for t in range(30)))
    )
    for action, reason in (("explain", "has no number before its last 4 rows, so a forecast has nothing to read; give more"), ("evaluate", "lacks too many numbers: no forecast has one to read and one to be judged by; give more")):  # fmt: skip
        given = ("--data", tmp_path / "e.csv", "--output", tmp_path / "q.html") if action == "explain" else (tmp_path / "e.csv",)  # fmt: skip
        assert f"e.csv {reason}\n" in elman(action, tmp_path / "run", *given).err
    refused = elman("train", "forecast", tmp_path / "b.csv", *command[3:], "--fill-gaps", "--run", tmp_path / "no")
    assert "column 'z' has no number in the training part; name the other columns with --columns" in refused.err


def test_a_series_may_lack_what_is_known_of_others(tmp_path: Path):
    """The mean of the others stands for it, and nothing becomes NaN."""
    table_of(tmp_path / "a.csv", 80, 0)
    cut = [row.rpartition(",")[0] + "," if row.startswith("g1") else row for row in (tmp_path / "a.csv").read_text().splitlines()]  # fmt: skip
    (tmp_path / "a.csv").write_text(lines(*cut))
    task = forecasting.begin(tmp_path / "a.csv", options_of(), "cpu", BadRows())
    _, _, known, _ = task.train.take(np.arange(len(task.train)))
    assert known.isfinite().all()
    assert (known[:, -1] == 0).all()  # of g1
    assert math.isfinite(float(task.loss(np.arange(len(task.train))).detach()))
    (tmp_path / "a.csv").write_text(lines(cut[0], *(row.rpartition(",")[0] + "," for row in cut[1:])))
    with pytest.raises(InputError, match="column 'push' has no number in the training part; leave it out of --known"):
        forecasting.begin(tmp_path / "a.csv", options_of(), "cpu", BadRows())


def test_tables_without_times_may_have_gaps(tmp_path: Path):
    words = ['""', "NA", " ", "n/a"]
    (tmp_path / "a.csv").write_text("y\n" + "".join(f"{k}\n" if k % 3 else f"{words[k // 3]}\n" for k in range(10)))
    (one,), _ = series.read(tmp_path / "a.csv", series.Columns(), BadRows(), fill_gaps=True)
    assert one.targets[:, 0].tolist() == [1, 1, 2, 2, 4, 5, 5, 7, 8, 8]
    pl.DataFrame({"y": [1.0, GONE, None, 3.0]}).write_parquet(tmp_path / "a.parquet")
    (one,), _ = series.read(tmp_path / "a.parquet", series.Columns(), BadRows(), fill_gaps=True)
    assert one.targets[:, 0].tolist() == [1, 1, 1, 3]


@pytest.mark.parametrize("rows", [1, 3, 10**6])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_row_of_nothing_is_a_step_where_there_are_no_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rows: int):  # fmt: skip
    """Left out, it would move all that follows. At the end it may be an empty line."""
    whole_one = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, **given: whole_one(path, rows=rows, **given))
    table = pl.DataFrame({"y": [None, 1, None, None, 4, None], "z": [None, None, 2, None, 3, None]})
    table.write_csv(tmp_path / "a.csv")
    table.write_ndjson(tmp_path / "a.jsonl")
    table.write_parquet(tmp_path / "a.parquet")
    for tail in (None, 5):
        (one,), _ = series.read(tmp_path / name, series.Columns(), BadRows(), fill_gaps=True, tail=tail)
        assert one.targets.T.tolist() == [[1, 1, 1, 1, 4], [2, 2, 2, 2, 3]]
        assert one.given is not None
        assert one.given.T.tolist() == [[False, True, False, False, True], [False, False, True, False, True]]
