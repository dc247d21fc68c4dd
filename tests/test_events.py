"""Labels of moments in recordings: how they are read, learned and said, by every command."""

from __future__ import annotations

import csv
import io
import json
import runpy
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from numpy.typing import NDArray

import elman as package
from browser import Opened, settled
from elman import charts
from elman.datasets.audio import Hearing
from elman.datasets.events import BETWEEN, Event, Events, event, of_steps
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns, Labelled, sequences
from elman.errors import InputError
from elman.explain import directions
from elman.tasks import classification, multilabel
from elman.tasks.options import ClassificationOptions, MultilabelOptions, RegressionOptions
from elman.training.run import Run
from tiny_runs import elman, lines

pytestmark = pytest.mark.usefixtures("no_pictures")

RATE = 8000
PITCHES = {"high": 2500, "low": 400}  # hertz
SMALL = ("--hidden-size", 8, "--batch-size", 4, "--sample-rate", RATE, "--bands", 12, "--learning-rate", 0.02)
CLASSES = ("--audio", "file", "--each-step", "--elsewhere", "none")
Row = dict[str, Any]


def how(**changes: Any) -> Events:
    return Events("begin", "end", None, 0.01, False, False)._replace(**changes)


def recordings(folder: Path, count: int = 8, seed: int = 0) -> list[Row]:
    """Tones of two pitches in noise, and when each of them sounds: as tables, JSON lines, and texts beside the recordings."""
    draw, rows = np.random.default_rng(seed), list[Row]()
    folder.mkdir(parents=True)
    for k in range(count):
        times = np.arange(draw.integers(5000, 9000)) / RATE
        samples, at, own = 0.05 * draw.normal(size=len(times)), 0.1, list[Row]()
        while at < times[-1] - 0.25:
            label, end = sorted(PITCHES)[draw.integers(2)], at + draw.uniform(0.1, 0.2)
            inside = (times >= at) & (times < end)
            samples[inside] += 0.5 * np.sin(2 * np.pi * PITCHES[label] * times[inside])
            own.append({"file": f"{k}.wav", "begin": round(at, 3), "end": round(end, 3), "label": label, "who": k // 2})
            at = end + draw.uniform(0.05, 0.3)
        soundfile.write(folder / f"{k}.wav", samples, RATE)
        track = (f"{row['begin']:.6f}\t{row['end']:.6f}\t{row['label']}\n" for row in own)
        (folder / f"{k}.txt").write_text("\\\t300.0\t500.0\n".join(track))
        rows += own
    pl.DataFrame(rows).with_columns(hertz=pl.col("label").replace_strict(PITCHES)).write_csv(folder / "events.csv")
    (folder / "events.jsonl").write_text(lines(*map(json.dumps, by_recording(rows))))
    return rows


def by_recording(rows: list[Row]) -> list[Row]:
    """A row for each recording, with lists."""
    found = dict[str, Row]()
    for row in rows:
        own = found.setdefault(row["file"], {"file": row["file"], "begin": [], "end": [], "label": []})
        for name in ("begin", "end", "label"):
            own[name].append(row[name])
    return [*found.values()]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("moments") / "recordings"
    rows = recordings(folder)
    run, causal = folder.parent / "run", folder.parent / "causal"
    given = (folder / "events.csv", *CLASSES, *SMALL, "--epochs", 12)
    assert elman("train", "classify", *given, "--run", run).status == 0
    assert elman("train", "classify", *given, "--causal", "--window", 20, "--run", causal).status == 0
    return SimpleNamespace(folder=folder, rows=rows, run=run, causal=causal, table=folder / "events.csv")


@pytest.fixture(scope="module")
def several(heard: SimpleNamespace) -> Path:
    run = heard.folder.parent / "several"
    given = ("--each-step", "--run", run, "--epochs", 12, *SMALL)
    assert elman("train", "multilabel", heard.folder, *given).status == 0
    return run


# Events as labels of steps


EVENTS = st.lists(
    st.tuples(st.floats(0, 0.999), st.one_of(st.none(), st.floats(0, 1.0)), st.sampled_from(["a", "b", "c", ""])),
    max_size=6,
)


@settings(max_examples=200)
@given(events=EVENTS, steps=st.integers(1, 40))
def test_sets_are_those_of_the_middle_of_each_step(events: list[Any], steps: int):
    seconds = 1 / steps
    made = [Event(begin, None if long is None else begin + long, label, "here") for begin, long, label in events]
    wanted = list[set[str]]()
    for step in range(steps):
        middle, own = (step + 0.5) * seconds, set[str]()
        for each in made:
            assert each.begin is not None
            end = np.inf if each.end is None else each.end
            middles = (np.arange(steps) + 0.5) * seconds
            alone = not ((each.begin <= middles) & (middles < end)).any() and step == int(each.begin / seconds)
            if each.label and (each.begin <= middle < end or alone):
                own.add(each.label)
        wanted.append(own)
    found = of_steps(made, steps, 1.0, how(seconds=seconds, sets=True))
    assert [set((label or "").split(BETWEEN)) - {""} for label in found] == wanted
    assert all(label == BETWEEN.join(sorted(own)) for label, own in zip(found, wanted, strict=True))


@settings(max_examples=100)
@given(cuts=st.lists(st.floats(0, 1), max_size=9).map(sorted), steps=st.integers(1, 40), filled=st.booleans())
def test_labels_are_those_of_the_middle_of_each_step(cuts: list[float], steps: int, filled: bool):
    bounds = [*zip(cuts[::2], cuts[1::2], strict=False)]
    bounds = [(begin, end) for begin, end in bounds if end - begin > 1 / steps]  # no short ones
    events = [Event(begin, end, "ab"[n % 2], "here") for n, (begin, end) in enumerate(bounds)]
    found = of_steps(events[::-1], steps, 1.0, how(seconds=1 / steps, elsewhere="x" if filled else None))
    for step, label in enumerate(found):
        own = [each.label for each in events if (each.begin or 0) <= (step + 0.5) / steps < (each.end or 0)]
        assert [label] == (own or ["x" if filled else None])


def test_short_events_take_what_is_left():
    assert of_steps([Event(0.29, 0.29, "a", "")], 31, 0.31, how()) == [None] * 29 + ["a", None]
    many = [Event(0.0, 0.02, "a", "1"), Event(0.021, 0.022, "b", "2"), Event(0.03, 0.03, "c", "3")]
    many += [Event(0.001, 0.002, "d", "4"), Event(0.047, None, "e", "5"), Event(0.0301, 0.0302, "f", "6")]
    assert of_steps(many, 6, 0.06, how()) == ["a", "a", "b", "c", None, "e"]
    for begin in (0.058, 0.06):
        assert of_steps([Event(begin, None, "e", "5")], 6, 0.06, how()) == [None] * 5 + ["e"]
    assert of_steps([Event(None, 0.03, "a", ""), Event(0.02, 0.04, "a", "")], 5, 0.05, how()) == ["a"] * 4 + [None]
    assert of_steps([], 2, 0.02, how(sets=True)) == ["", ""]


def test_the_last_step_has_the_label_of_the_samples_that_it_has():
    """All of a recording is labelled, whose last step has a third of its samples."""
    assert of_steps([Event(0, 0.0233, "a", "")], 3, 0.0233, how(elsewhere="x")) == ["a"] * 3
    assert of_steps([Event(0, 0.021, "a", "")], 3, 0.0233, how(elsewhere="x")) == ["a", "a", "x"]
    assert of_steps([Event(0, 0.024, "a", "")], 3, 0.03, how(elsewhere="x")) == ["a", "a", "x"]


def test_an_event_without_a_label_is_a_part_of_which_nothing_is_known():
    events = [Event(0.01, 0.03, None, ""), Event(0.02, 0.04, "a", ""), Event(None, None, None, "")]
    assert of_steps(events, 5, 0.05, how(elsewhere="x")) == ["x", None, "a", "a", "x"]
    assert of_steps(events, 5, 0.05, how(sets=True)) == ["", None, None, "a", ""]


def test_numbers_that_are_equal_do_not_clash():
    own = how(numbers=True, elsewhere="0")
    label = f"{BETWEEN}2.50"
    events = [Event(0, 0.02, "1", ""), Event(0.01, 0.03, "1.0", ""), Event(0.03, 0.04, label, "")]
    assert of_steps(events, 5, 0.05, own) == ["1", "1", "1", f"{BETWEEN}2.5", "0"]
    with pytest.raises(
        ValueError, match=r"here: ', 2\.5' overlaps '1' at 0\.01 seconds, and .* one label; change one of them$"
    ):
        of_steps([Event(0, 0.02, "1", ""), Event(0.01, 0.03, label, "here")], 5, 0.05, own)


@pytest.mark.parametrize(
    ("begin", "end", "message"),
    [
        ("x", None, "here: the event begins at 'x', which is no number of seconds from 0 on, such as 1.25"),
        ("0,5", None, "begins at '0,5', which is no number of seconds"),
        (0, True, "the event ends at 'True'"),
        (-0.1, 1, "the event begins at '-0.1'"),
        (0, [1], r"the event ends at '\[1\]'"),
        (0, "inf", "the event ends at 'inf'"),
        ("1.5", 1, "ends at 1 seconds, before it begins, at 1.5"),
        (0.07, 0.08, "begins at 0.07 seconds, but the recording ends at 0.06"),
        (0.01, 1.07, "ends at 1.07 seconds, but the recording ends at 0.06"),
        (0.04, 1, "here: 'b' overlaps 'a' at 0.04 seconds, and a moment has one label; .* elman train multilabel"),
    ],
)
def test_events_that_cannot_be_are_refused(begin: Any, end: Any, message: str):
    with pytest.raises(ValueError, match=message):
        of_steps([Event(0.0, 0.05, "a", "there"), event(begin, end, "b", "here")], 6, 0.06, how())


def test_many_events_of_a_long_recording():
    """Each is looked up in the steps, and not compared with all of them: this would take minutes."""
    count = 50_000
    events = [Event(k / 10, k / 10 + 0.05, str(k % 9), "") for k in range(count)]
    found = of_steps(events, 10 * count, count / 10, how())
    assert found[::10] == [str(k % 9) for k in range(count)]
    assert set(found[7::10]) == {None}


# Files


def read(
    path: Path, task: type[Any] = ClassificationOptions, bad: BadRows | None = None, **changes: Any
) -> list[Labelled]:
    o = task(audio="file", each_step=True, sample_rate=RATE, bands=12, **changes)
    own = how(elsewhere=getattr(o, "elsewhere", None), sets=o.between_classes is not None, numbers=o.numeric)
    found = Columns(
        label=o.label,
        each_step=True,
        audio=Hearing("file", RATE, 12, 10),
        events=own,
        between=o.between_classes,
        numeric=o.numeric,
        group=o.group,
    )
    return [*sequences(path, found, bad=bad)]


def by_hand(rows: list[Row], file: str, steps: int) -> list[str | None]:
    """The labels of the steps of a recording."""
    own = [row for row in rows if row["file"] == file]
    middles = [(step + 0.5) * 0.01 for step in range(steps)]
    return [next((r["label"] for r in own if r["begin"] <= middle < r["end"]), None) for middle in middles]


def test_tables_json_lines_and_texts_beside_recordings_say_the_same(heard: SimpleNamespace):
    for path in (heard.table, heard.folder / "events.jsonl", heard.folder):
        found = read(path)
        assert [each.name for each in found] == [f"{k}.wav" for k in range(8)]
        for k, each in enumerate(found):
            assert each.label is None
            assert list(each.labels or ()) == by_hand(heard.rows, f"{k}.wav", len(each.content))
    (one,) = read(heard.folder / "3.wav")
    assert list(one.labels or ()) == by_hand(heard.rows, "3.wav", len(one.content))


def test_numbers_and_sets_of_classes(heard: SimpleNamespace, tmp_path: Path):
    (first, *_) = read(heard.table, RegressionOptions, label="hertz", elsewhere="0")
    wanted = by_hand(heard.rows, "0.wav", len(first.content))
    assert list(first.labels or ()) == [str(PITCHES.get(each or "", 0)) for each in wanted]
    path = tmp_path / "sets.jsonl"
    clip = str(heard.folder / "0.wav")
    row = {"file": clip, "begin": [0, 0.01, 0.5], "end": [0.02, 0.03, 0.5], "label": [["b", "a"], "c;a", None]}
    none = {"file": clip, "begin": [], "end": [], "label": []}
    nothing = {"file": clip, "begin": None, "end": None, "label": None}
    path.write_text(lines(*map(json.dumps, (row, none, nothing))))
    found, without, neither = read(path, MultilabelOptions)
    assert neither.labels == without.labels
    assert [set((label or "").split(BETWEEN)) for label in (found.labels or ())[:4]] == [
        {*"ab"},
        {*"abc"},
        {*"ac"},
        {""},
    ]
    assert set(without.labels or ()) == {""}


def test_a_recording_without_an_event_has_a_row(heard: SimpleNamespace, tmp_path: Path):
    path = tmp_path / "events.csv"
    whole = heard.folder / "1.wav"
    path.write_text(
        f"file,begin,end,label\n{heard.folder / '0.wav'},,,\n{whole},,,b\n{heard.folder / '2.wav'},0.1,?,b\n"
    )
    none, all_of_it, end = read(path, elsewhere="x")
    assert [set(each.labels or ()) for each in (none, all_of_it)] == [{"x"}, {"b"}]
    assert list(end.labels or ()) == ["x"] * 10 + ["b"] * (len(end.content) - 10)
    assert set(read(path)[0].labels or ()) == {None}
    assert set(read(path, MultilabelOptions)[0].labels or ()) == {""}


@pytest.mark.parametrize(
    ("content", "message", "left"),
    [
        ("0.wav,0.1,0.2,a\n0.wav,0.3,x,b\n1.wav,0.1,0.2,b\n", "line 3: the event ends at 'x'", ["1.wav"]),
        ("0.wav,0.3,0.2,a\n1.wav,0.1,0.2,b\n", "line 2: the event ends at 0.2 seconds, before", ["1.wav"]),
        ("0.wav,0.1,0.2,a\n1.wav,0.1,0.2,a\n1.wav,0.15,0.3,b\n", "line 4: 'b' overlaps 'a' at 0.15 seconds", ["0.wav"]),
        ("0.wav,7,8,a\n1.wav,0.1,0.2,b\n", "line 2: the event begins at 7 seconds, but the recording ends", ["1.wav"]),
        ("9.wav,0,1,a\n9.wav,2,3,b\n1.wav,0.1,0.2,b\n", "line 2: column 'file' is '9.wav', but there is no", ["1.wav"]),
        (",0,1,a\n1.wav,0.1,0.2,b\n", "line 2: column 'file' has no value", ["1.wav"]),
        (f"{'x' * 999},0,1,a\n1.wav,0.1,0.2,b\n", "line 2: column 'file' is 'xx.* cannot be read as audio", ["1.wav"]),
    ],
)
def test_what_is_wrong_is_named_and_may_be_skipped(heard: SimpleNamespace, content: str, message: str, left: list[str]):
    path = heard.folder / "wrong.csv"
    path.write_text("file,begin,end,label\n" + content)
    with pytest.raises(InputError, match=message):
        read(path)
    bad = BadRows(skip=True)
    assert [each.name for each in read(path, bad=bad)] == left
    assert bad.count == 1
    path.unlink()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"begin": 1, "end": [2], "label": ["a"]},
            "'begin' should be a list of seconds, one for each event and empty if there is none, but is 1",
        ),
        ({"begin": [0.1], "label": ["a"]}, "'end' should be a list of seconds"),
        ({"begin": [0.1], "end": [0.2, 0.3], "label": ["a"]}, "'begin' has 1 seconds, and 'end' has 2"),
        (
            {"begin": [0.1], "end": [0.2], "label": []},
            "'label' should be a list of 1 labels, one for each event, but has 0",
        ),
        ({"begin": [0.1], "end": [0.2], "label": [1.5]}, "event 1 of 'label' should be a label but is 1.5"),
        ({"begin": [0, 0.2], "end": [0.1, 0.1], "label": "ab"}, "'label' should be a list of 2 labels"),
        ({"begin": [0, 0.2], "end": [0.1, 0.1], "label": ["a", "b"]}, "line 1: event 2: the event ends at 0.1"),
    ],
)
def test_wrong_json_lines_are_named(heard: SimpleNamespace, tmp_path: Path, row: Row, message: str):
    path = tmp_path / "wrong.jsonl"
    path.write_text(json.dumps({"file": str(heard.folder / "0.wav")} | row) + "\n")
    with pytest.raises(InputError, match=message):
        read(path)


def test_wrong_texts_and_numbers_are_named(heard: SimpleNamespace, tmp_path: Path):
    clip = tmp_path / "a.wav"
    clip.write_bytes((heard.folder / "0.wav").read_bytes())
    with pytest.raises(InputError, match=r"a\.wav: there is no a\.txt beside it with its labels"):
        read(clip)
    (tmp_path / "a.txt").write_text("0.1 0.2 a\n")
    with pytest.raises(
        InputError, match=r"a\.txt, line 1: '0\.1 0\.2 a' should be a begin, an end and a label, with tabs"
    ):
        read(tmp_path)
    (tmp_path / "a.txt").write_text("\n0,01\t0,02\t a \n0.03\t0.04\t\n")
    (found,) = read(tmp_path)
    assert list(found.labels or ())[:4] == [None, "a", None, None]
    (tmp_path / "a.txt").rename(tmp_path / "a.TXT")
    (tmp_path / "a.TXT").write_text("0\t0.01\t1.0\n0.03\t0.04\t\n")
    (found,) = read(tmp_path, elsewhere="x")
    assert list(found.labels or ())[:5] == ["1", "x", "x", None, "x"]
    (tmp_path / "a.TXT").rename(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("\n0,01\t0,02\ta\n")
    with pytest.raises(InputError, match=r"a\.txt, line 2: the label should be a finite number, .* but is 'a'"):
        read(tmp_path, RegressionOptions)
    (tmp_path / "a.csv").write_text("file,begin,end,label\na.wav,0,0.1,1\na.wav,0.1,0.2,?\na.wav,0.3,0.4,loud\n")
    with pytest.raises(InputError, match=r"line 4: column 'label' should be a finite number, .* but is 'loud'"):
        read(tmp_path / "a.csv", RegressionOptions)


def test_rows_of_a_recording_follow_each_other_and_are_of_one_group(heard: SimpleNamespace, tmp_path: Path):
    first, second = (str(heard.folder / name) for name in ("0.wav", "1.wav"))
    path = tmp_path / "a.csv"
    path.write_text(f"file,begin,end,label\n{first},0,0.1,a\n{second},0,0.1,a\n{first},0.2,0.3,b\n")
    with pytest.raises(
        InputError, match=r"line 4: recording .* continues after another one began; sort the rows by 'file'"
    ):
        read(path)
    again = f"{heard.folder}/../{heard.folder.name}/0.wav"
    path.write_text(f"file,begin,end,label\n{first},0,0.1,a\n{again},0.2,0.3,b\n")
    (one,) = read(path)
    assert {*(one.labels or ())} == {"a", "b", None}
    path.write_text(f"file,begin,end,label,who\n{first},0,0.1,a,x\n{first},0.2,0.3,b,y\n")
    with pytest.raises(InputError, match=r"line 3: recording .* is of 'y' here but of 'x' before"):
        read(path, group="who")
    path.write_text(f"file,begin,end,label,who\n{first},0,0.1,a,\n")
    with pytest.raises(InputError, match="line 2: column 'who' has no value"):
        read(path, group="who")
    path.write_text(f"file,begin,stop,label\n{first},0,0.1,a\n")
    with pytest.raises(InputError, match="has no column 'end'"):
        read(path)


# Commands


def csv_rows(told: str | Path) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(told if isinstance(told, str) else told.read_text()))]


def test_it_learns_what_sounds_when(heard: SimpleNamespace, tmp_path: Path):
    scores = elman("evaluate", heard.run, heard.table, "--output", tmp_path / "rows.csv").out
    accuracy = next(line for line in scores.splitlines() if line.startswith("accuracy"))
    assert float(accuracy.split()[1]) > 0.9
    rows = csv_rows(tmp_path / "rows.csv")
    (first, *_) = read(heard.table, elsewhere="none")
    trained = classification.load(heard.run)
    said, _ = trained.classify(trained.encode([first], heard.table))
    own = [row for row in rows if row["sequence"] == "0.wav"]
    assert own[0]["begin"] == "0"
    assert [row["end"] for row in own[:-1]] == [row["begin"] for row in own[1:]]
    assert float(own[-1]["end"]) == pytest.approx(0.01 * len(first.content))
    for row in own:  # each of which has one label and one class
        begin, end = (round(float(row[side]) / 0.01) for side in ("begin", "end"))
        assert set((first.labels or ())[begin:end]) == {row["label"]}
        assert set(said[begin:end]) == {row["class"]}
    assert all(a["label"] != b["label"] or a["class"] != b["class"] for a, b in pairwise(own))
    nats = next(line for line in scores.splitlines() if line.startswith("nats per step"))
    steps = next(line for line in scores.splitlines() if line.startswith("steps"))
    total = sum(float(row["nats"]) for row in rows)
    assert total / int(steps.split()[1].strip(",")) == pytest.approx(float(nats.split()[3]), abs=1e-4)


def test_seconds_of_long_recordings_are_exact(heard: SimpleNamespace):
    trained = classification.load(heard.run)
    encoded = trained.encode(read(heard.folder / "0.wav"), heard.folder)
    assert encoded.sequences.events is not None
    encoded.sequences.events = encoded.sequences.events._replace(seconds=1000.01)
    named = [name for _, name, *_ in encoded.named(np.arange(1))]
    assert (named[13]["begin"], named[13]["end"]) == (13000.13, 14000.14)


def test_predictions_are_events_that_can_be_learned(heard: SimpleNamespace, several: Path):
    """In what a model says itself, it is right about everything."""
    for run, score in ((heard.run, "accuracy"), (several, "exact match")):
        said = heard.folder / "said.csv"
        assert elman("predict", run, heard.folder, "--output", said).status == 0
        rows = pl.read_csv(said, infer_schema=False)
        assert rows.columns[:4] == ["sequence", "begin", "end", "class"]
        names = ("file", "label") if run == heard.run else ("audio", "label")
        rows.rename(dict(zip(("sequence", "class"), names, strict=True))).write_csv(said)
        scores = elman("evaluate", run, said).out
        assert next(line for line in scores.splitlines() if line.startswith(score)).startswith(f"{score:<21}1.0000")
        said.unlink()


def test_predictions_of_a_recording_are_a_text_beside_it(heard: SimpleNamespace, several: Path, tmp_path: Path):
    clip = tmp_path / "a.wav"
    clip.write_bytes((heard.folder / "3.wav").read_bytes())
    for run in (heard.run, several):
        assert elman("predict", run, clip, "--output", tmp_path / "a.txt").status == 0
        made = (tmp_path / "a.txt").read_text()
        told = elman("predict", run, clip, "--output", tmp_path / "a.txt")
        assert told.status == 2
        assert "may have labels made by hand; give another name, or remove it first" in told.err
        assert (tmp_path / "a.txt").read_text() == made
        said = [(row["class"], row["begin"], row["end"]) for row in csv_rows(elman("predict", run, clip).out)]
        found = [line.split("\t") for line in (tmp_path / "a.txt").read_text().splitlines()]
        assert [(c, f"{float(b):g}", f"{float(e):g}") for b, e, c in found] == [s for s in said if s[0] != "none"]
        scores = elman("evaluate", run, tmp_path).out.splitlines()
        score = "accuracy" if run == heard.run else "exact match"
        assert next(line for line in scores if line.startswith(score)).startswith(f"{score:<21}1.0000")
        (tmp_path / "a.txt").unlink()
    (tmp_path / "only.csv").write_text(f"audio\n{clip}\n")
    told = [elman("predict", several, each).out for each in (clip, tmp_path / "only.csv")]
    assert told[0].replace("a.wav", str(clip)) == told[1]
    told = elman("predict", heard.run, heard.folder, "--output", tmp_path / "b.txt")
    assert told.status == 2
    assert (
        "these predictions are not written as .txt; choose one of .csv, .jsonl, .ndjson, for a single recording .txt"
        in told.err
    )


def test_events_overlap_and_a_recording_may_have_none(
    heard: SimpleNamespace, several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trained = multilabel.load(several)
    there: NDArray[np.bool_] = np.zeros((0, 2), bool)
    monkeypatch.setattr(multilabel.Multilabeler, "said", lambda _, logits: there[: len(logits)])
    there = np.zeros((2000, 2), bool)
    there[3:9, 0] = there[5:7, 1] = there[11, 1] = True
    rows = csv_rows("".join(trained.predict(heard.folder / "0.wav", ".csv")))
    found = [(row["class"], row["begin"], row["end"]) for row in rows]
    assert found == [("high", "0.03", "0.09"), ("low", "0.05", "0.07"), ("low", "0.11", "0.12")]
    chances = trained.outputs(trained.encode(read(heard.folder / "0.wav", MultilabelOptions), Path("a"))).sigmoid()
    assert float(rows[1]["probability"]) == pytest.approx(float(chances[5:7, 1].mean()), rel=1e-5)
    there = np.zeros((2000, 2), bool)
    (only,) = map(json.loads, trained.predict(heard.folder / "0.wav", ".jsonl"))
    assert only == {"sequence": "0.wav", "begin": None, "end": None, "class": None, "probability": None}


def test_onnx_files_say_the_same(heard: SimpleNamespace, tmp_path: Path):
    forms = (".csv", ".jsonl", ".csv")
    for form, run, more in zip(forms, (heard.run, heard.causal, heard.causal), ((), (), ("--streaming",)), strict=True):
        assert elman("export", run, tmp_path / "a.onnx", *more).status == 0
        said = list[list[tuple[Any, ...]]]()
        for model in (run, tmp_path / "a.onnx"):
            out = tmp_path / f"out{form}"
            assert elman("predict", model, heard.folder, "--output", out).status == 0
            rows = csv_rows(out) if form == ".csv" else [*map(json.loads, out.read_text().splitlines())]
            said.append([(row["sequence"], row["begin"], row["end"], row["class"]) for row in rows])
        assert said[0] == said[1]
        assert len(said[0]) > 8


def test_the_example_of_onnx_says_when_what_is_heard_changes(
    heard: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    module = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "listen.py"))
    several = tmp_path / "several"
    given = ("--each-step", "--causal", "--run", several, "--epochs", 8, *SMALL)
    assert elman("train", "multilabel", heard.folder, *given).status == 0
    clip = heard.folder / "3.wav"
    for run in (heard.causal, several):
        assert elman("export", run, tmp_path / "live.onnx", "--streaming").status == 0
        monkeypatch.setattr(sys, "argv", ["listen.py", str(tmp_path / "live.onnx")])
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(clip.read_bytes())))
        capsys.readouterr()
        module["main"]()
        told = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        rows = csv_rows(elman("predict", run, clip).out)
        events = [(float(row["begin"]), float(row["end"]), row["class"]) for row in rows]
        for second, classes in told:
            there = sorted(name for begin, end, name in events if begin <= float(second) + 0.005 < end)
            assert sorted(filter(None, classes.split(", "))) == there
        assert len(told) >= len({begin for begin, _, _ in events})
    rows = [row | {"hertz": [PITCHES[each] for each in row["label"]]} for row in by_recording(heard.rows)]
    (heard.folder / "hertz.jsonl").write_text(lines(*map(json.dumps, rows)))
    regress = ("--audio", "file", "--label", "hertz", "--each-step", "--causal", "--epochs", 1, *SMALL)
    assert elman("train", "regress", heard.folder / "hertz.jsonl", *regress, "--run", tmp_path / "hertz").status == 0
    assert elman("export", tmp_path / "hertz", tmp_path / "live.onnx", "--streaming").status == 0
    with pytest.raises(SystemExit, match="this model says numbers"):
        module["main"]()
    first, second, *_ = csv_rows(elman("predict", tmp_path / "hertz", clip).out)
    (tmp_path / "a.jsonl").write_text(lines(*['{"values": [[0], [1]], "label": ["a", "b"]}'] * 4))
    numbers = ("--each-step", "--causal", "--epochs", 1, "--run", tmp_path / "numbers")
    assert elman("train", "classify", tmp_path / "a.jsonl", *numbers).status == 0
    assert elman("export", tmp_path / "numbers", tmp_path / "live.onnx", "--streaming").status == 0
    with pytest.raises(SystemExit, match="this model reads numbers and no audio"):
        module["main"]()
    assert (first["begin"], first["end"], second["begin"]) == ("0", "0.01", "0.01")


def test_a_single_recording_is_judged_by_its_end(heard: SimpleNamespace, tmp_path: Path):
    told = elman(
        "train", "classify", heard.folder / "3.wav", *CLASSES[2:], "--epochs", 1, *SMALL, "--run", tmp_path / "run"
    )
    assert told.status == 0, told.err
    assert "one, of which the first" in told.err + told.out


def test_who_is_heard_is_held_out(heard: SimpleNamespace, tmp_path: Path):
    given = (heard.table, *CLASSES, *SMALL, "--group", "who", "--epochs", 1, "--run", tmp_path / "run")
    told = elman("train", "classify", *given)
    assert told.status == 0, told.err
    assert "held out    1 of 4 values of 'who'" in told.err + told.out
    assert elman("train", "classify", "--resume", tmp_path / "run", "--epochs", 2).status == 0
    rows = heard.folder / "events.jsonl"
    given = ("--validation", rows, "--audio", "file", "--each-step", "--epochs", 1, "--run", tmp_path / "other")
    assert elman("train", "classify", heard.table, *given, *SMALL).status == 0


def test_all_recordings_are_judged_by_models_that_do_not_know_them(heard: SimpleNamespace, tmp_path: Path):
    given = ("--folds", 2, "--epochs", 1, *CLASSES[2:], *SMALL, "--directory", tmp_path / "folds")
    rows = list[str]()
    for again in range(2):  # the second time it goes on with runs that are finished
        told = elman("cross-validate", "classify", heard.folder, *given, "--output", tmp_path / f"{again}.csv")
        assert told.status == 0, told.err
        rows.append((tmp_path / f"{again}.csv").read_text())
    assert rows[0] == rows[1]
    found, ends = csv_rows(rows[0]), dict[str, float]()
    for row in found:  # in the order of the files, without holes
        assert float(row["begin"]) == ends.get(row["sequence"], 0)
        ends[row["sequence"]] = float(row["end"])
    assert [*ends] == [f"{k}.wav" for k in range(8)]
    lengths = {each.name: 0.01 * len(each.content) for each in read(heard.folder)}
    assert ends == pytest.approx(lengths)


def test_studies_from_python_go_on(heard: SimpleNamespace, tmp_path: Path):
    given: Any = {"sample_rate": RATE, "bands": 12, "hidden_size": 4, "epochs": 1, "each_step": True}
    found = [
        package.cross_validate("classify", heard.folder, tmp_path, folds=2, elsewhere=label, **given)
        for label in (7, np.float32(7))
    ]
    assert found[0].scores == found[1].scores
    assert "7" in Run(tmp_path / "fold-1").json("vocabulary.json")["classes"]


def test_from_python(heard: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(heard.folder)
    small: Any = {"sample_rate": RATE, "bands": 12, "hidden_size": 6, "epochs": 1, "audio": "file", "each_step": True}
    frame = pd.DataFrame(heard.rows).drop(columns="who")
    of_frame = package.train("classify", frame, tmp_path / "frame", elsewhere="none", **small)
    rows = [row | {"file": soundfile.read(row["file"])[0]} for row in by_recording(heard.rows)]
    of_rows = package.train("classify", rows, tmp_path / "rows", elsewhere="none", **small)
    assert of_frame.evaluate(frame) == pytest.approx(of_rows.evaluate(rows), abs=1e-3)
    said = [[*of_frame.predict(each)] for each in (frame, [{"file": name} for name in dict.fromkeys(frame["file"])])]
    assert [(row["begin"], row["class"]) for row in said[0]] == [(row["begin"], row["class"]) for row in said[1]]
    assert next(iter(of_rows.predict([{"file": heard.folder / "0.wav"}])))["begin"] == 0


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        (ClassificationOptions, {"begin": "audio"}, "--audio and --begin both name the column 'audio'"),
        (ClassificationOptions, {"begin": "end"}, "--begin and --end both name the column 'end'"),
        (ClassificationOptions, {"end": "label"}, "--label and --end both name the column 'label'"),
        (ClassificationOptions, {"group": "begin"}, "--group and --begin both name the column 'begin'"),
        (ClassificationOptions, {"end": ""}, "--end names no column; name one"),
        (
            MultilabelOptions,
            {"label": "a,b"},
            "--label names 2 columns, but an event in a recording has its classes in one",
        ),
        (ClassificationOptions, {"elsewhere": " "}, "--elsewhere is no label; give one, such as silence"),
        (
            RegressionOptions,
            {"elsewhere": "x"},
            "--elsewhere should be the number of --label, .* got 'x'; give one number",
        ),
        (RegressionOptions, {"elsewhere": "1e39"}, r"at most 3\.4e\+38 from zero, got '1e39'"),
        (RegressionOptions, {"elsewhere": "1", "label": "a,b"}, "--elsewhere should be the number of --label, .* '1'"),
    ],
)
def test_options_that_do_not_fit_are_refused(task: type[Any], given: Row, message: str):
    with pytest.raises(InputError, match=message):
        task(audio="audio", each_step=True, epochs=1, **given).check()


def test_options_of_no_use_are_refused(heard: SimpleNamespace):
    own, table, folder = ClassificationOptions(each_step=True), Path("a.csv"), heard.folder
    assert {"begin", "end", "elsewhere"} <= own.useless(table).keys()
    assert {"begin", "end", "elsewhere"} <= ClassificationOptions(audio="file").useless(table).keys()
    assert not {"begin", "end", "elsewhere"} & ClassificationOptions(audio="file", each_step=True).useless(table).keys()
    assert {"begin", "end", "label"} <= own.useless(folder).keys()
    assert "elsewhere" not in own.useless(folder)
    assert "in text files beside its recordings" in own.useless(folder)["label"]
    assert "give --each-step, or" in ClassificationOptions().useless(folder)["begin"]
    told = elman("train", "classify", table, "--begin", "onset", "--sequence", "id")
    assert told.status == 2
    assert "--begin is for labels of moments; give --audio and --each-step, or leave it out" in told.err


# Pictures and pages


def test_pages_say_seconds(heard: SimpleNamespace, tmp_path: Path, open_page: Callable[..., Opened]):
    content = directions.classifier(heard.run, None, None)
    assert content.data["audio"] == 0.01
    assert {*content.data["sequences"][0]["truth"]} <= {"high", "low", "none"}
    assert elman("explain", heard.run, "--output", tmp_path / "page.html").status == 0
    shown = open_page(tmp_path / "page.html", locale="en-US")
    settled(shown.page)
    assert not shown.errors
    steps = len(content.data["sequences"][0]["truth"])
    assert f"{steps * 0.01:g} s" in (shown.page.locator("svg:has(image)").text_content() or "")


def test_pictures_say_seconds(heard: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).normal(size=(300, 12))
    truth, names = np.arange(300) // 100, ["a", "b", "c"]
    for figure in (
        charts.labelled_steps(values, truth, truth, names, 100, 0.01),
        charts.overlapping_steps(values, np.eye(3)[truth], np.eye(3)[truth], names, 100, 0.01),
        charts.valued_steps(values, truth[:, None], truth[:, None, None], truth[:, None], names, 100, 0.01),
    ):
        below = figure.axes[-1]
        ticks = {
            each.get_text(): place for each, place in zip(below.get_xticklabels(), below.get_xticks(), strict=True)
        }
        assert ticks["2"] == pytest.approx(200.5)  # between steps 200 and 201
        assert below.get_xlabel() == "second"
        assert below.get_xlim() == (100.5, 400.5)
    drawn = list[float | None]()
    for task, label, name in (
        ("classify", "label", "labelled_steps"),
        ("multilabel", "label", "overlapping_steps"),
        ("regress", "hertz", "valued_steps"),
    ):
        monkeypatch.setattr(charts, name, lambda *given: (drawn.append(given[-1]), Figure())[1])
        given = (heard.table, "--audio", "file", "--each-step", "--label", label, "--epochs", 1, *SMALL)
        assert elman("train", task, *given, "--run", tmp_path / task).status == 0
    assert drawn == [0.01, 0.01, 0.01]
