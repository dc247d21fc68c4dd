"""`elman evaluate --output`: a row for each example, whose means are the scores beside them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from elman.datasets import series
from elman.datasets.reading import BadRows
from elman.tasks import forecasting, regression, whole
from elman.training.run import Run
from test_tasks import figures
from tiny_runs import elman, interval_by_hand, lines, of_every_task

DATA = {
    "tag": "tagged.txt",
    "numbers": "numbers.jsonl",
    "texts": "texts.jsonl",
    "regress": "valued.jsonl",
    "forecast": "series.csv",
    "recursive": "series.csv",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return of_every_task(tmp_path_factory.mktemp("examples"))


def judged(run: Path, data: Path, to: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """What `elman evaluate` says, without intervals, and the rows that it writes, the same in both forms."""
    out, rows = judged_surely(run, data, to)
    return figures(out), rows


def judged_surely(run: Path, data: Path, to: Path) -> tuple[str, list[dict[str, Any]]]:
    outcome = elman("evaluate", run, data, "--output", to / "rows.csv")
    assert outcome.status == 0, outcome.err
    with (to / "rows.csv").open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert elman("evaluate", run, data, "--output", to / "rows.jsonl").out == outcome.out
    rows = [json.loads(line) for line in (to / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [
        {k: "" if v is None else repr(v).removesuffix(".0") if isinstance(v, float) else str(v) for k, v in r.items()}
        for r in rows
    ]
    assert texts == written
    return outcome.out, rows


@pytest.mark.parametrize("name", ["numbers", "texts"])
def test_rows_of_sequences_have_the_scores(made: SimpleNamespace, tmp_path: Path, name: str) -> None:
    data = made.directory / DATA[name]
    said, rows = judged(getattr(made, name), data, tmp_path)
    given = [json.loads(line)["label"] for line in data.read_text().splitlines()]
    assert [row["label"] for row in rows] == given
    assert [row["sequence"] for row in rows] == [str(k) for k in range(1, len(given) + 1)]
    assert f"{np.mean([row['nats'] for row in rows]):.4f}" == said["nats per sequence"]
    assert f"{np.mean([row['label'] == row['class'] for row in rows]):.4f}" == said["accuracy"]
    predicted = [row.split(",")[1] for row in elman("predict", getattr(made, name), data).out.splitlines()[1:]]
    assert [row["class"] for row in rows] == predicted


def test_a_label_that_the_training_lacks_has_no_nats(made: SimpleNamespace, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (made.directory / "numbers.jsonl").read_text().splitlines()]
    rows[2]["label"] = 'new, "odd"'
    (tmp_path / "new.jsonl").write_text(lines(*map(json.dumps, rows)))
    said, found = judged(made.numbers, tmp_path / "new.jsonl", tmp_path)
    assert found[2]["label"] == 'new, "odd"'
    assert found[2]["nats"] is None
    assert f"{np.mean([row['nats'] for row in found if row['nats'] is not None]):.4f}" == said["nats per sequence"]


def test_rows_of_values_have_the_errors(made: SimpleNamespace, tmp_path: Path) -> None:
    data = made.directory / DATA["regress"]
    said, rows = judged(made.regress, data, tmp_path)
    given = [json.loads(line)["label"] for line in data.read_text().splitlines()]
    assert [row["label"] for row in rows] == given
    assert list(rows[0]) == ["sequence", "label", "value_q0.1", "value_q0.5", "value_q0.9", "error"]
    for row in rows:
        assert row["error"] == pytest.approx(row["value_q0.5"] - row["label"], abs=1e-4)
    assert float(re.findall(r"[\d.]+", said["MAE"])[0]) == pytest.approx(
        np.mean([abs(row["error"]) for row in rows]), rel=1e-4
    )


def test_rows_of_words_have_the_scores(made: SimpleNamespace, tmp_path: Path) -> None:
    text = (made.directory / "tagged.txt").read_text()
    (tmp_path / "some.txt").write_text(text.replace("sat\tX", "sat\tNEW", 1))
    said, rows = judged(made.tag, tmp_path / "some.txt", tmp_path)
    sentences = [each.splitlines() for each in (tmp_path / "some.txt").read_text().strip().split("\n\n")]
    expected = [[n, k, *w.split("\t")] for n, each in enumerate(sentences, 1) for k, w in enumerate(each, 1)]
    assert [[row[name] for name in ("sentence", "place", "word", "tag")] for row in rows] == expected
    assert f"{np.mean([row['nats'] for row in rows if row['nats'] is not None]):.4f}" == said["nats per word"]
    assert f"{np.mean([row['tag'] == row['predicted'] for row in rows]):.4f}" == said["accuracy"]
    assert [row["tag"] for row in rows if row["nats"] is None] == ["NEW"]


@pytest.mark.parametrize("name", ["forecast", "recursive"])
def test_rows_of_windows_have_the_errors(made: SimpleNamespace, tmp_path: Path, name: str) -> None:
    run, data = getattr(made, name), made.directory / DATA[name]
    said, rows = judged(run, data, tmp_path)
    mae = float(re.findall(r"MAE ([\d.]+)", said["the model"])[0])
    assert np.mean([row["mae_in_deviations"] for row in rows]) == pytest.approx(mae, abs=1e-4)
    trained = forecasting.load(run)
    o = trained.options
    for column in trained.scales.targets:
        own = [row for row in rows if row["column"] == column]
        assert [row["t"] for row in own] == list(range(o.lookback, 120 - o.horizon + 1))
        told = float(re.findall(r"MAE ([\d.]+)", said[column])[0])
        assert np.mean([row["mae"] for row in own]) == pytest.approx(told, rel=1e-4)
    # The forecast from the end of a shorter file is the one that the row of its next time judges.
    table = data.read_text().splitlines()
    cut = 70
    known = [f"{row.split(',')[0]},{row.split(',')[1]},," for row in table[1 + cut : 1 + cut + o.horizon]]
    (tmp_path / "cut.csv").write_text(lines(*table[: 1 + cut], *(known if name == "forecast" else ())))
    ahead = list(csv.DictReader(elman("predict", run, tmp_path / "cut.csv").out.splitlines()))
    truth = list(csv.DictReader(table))[cut : cut + o.horizon]
    column = trained.scales.targets[-1]
    value = column + ("_q0.5" if name == "forecast" else "")
    error = np.mean([abs(float(a[value]) - float(b[column])) for a, b in zip(ahead, truth, strict=True)])
    (row,) = [row for row in rows if (row["column"], row["t"]) == (column, cut)]
    assert row["mae"] == pytest.approx(error, rel=1e-3)


@pytest.mark.usefixtures("no_pictures")
def test_windows_of_several_series_and_of_rows_that_were_filled_in(tmp_path: Path) -> None:
    rows = [f"2026-01-{1 + t // 24:02} {t % 24:02}:00,{g},{np.sin(t / 3):.3f}" for g in "ab" for t in range(60)]
    (tmp_path / "a.csv").write_text(lines("hour,who,y", *rows))
    small = ("--lookback", 6, "--segment", 3, "--horizon", 3, "--period", 2, "--hidden-size", 4, "--epochs", 0.1)
    given = ("--time", "hour", "--group", "who", "--fill-gaps", "--split", "0.5,0.2,0.3", *small)
    assert elman("train", "forecast", tmp_path / "a.csv", *given, "--run", tmp_path / "run").status == 0
    gap = [row for row in rows if not re.search(r"01-02 0[1-7]:00,a", row)]
    (tmp_path / "gap.csv").write_text(lines("hour,who,y", *gap))
    _, found = judged(tmp_path / "run", tmp_path / "gap.csv", tmp_path)
    assert [row["who"] for row in found] == ["a"] * 52 + ["b"] * 52
    assert found[0] | {"mae": 0, "mae_in_deviations": 0} == {
        "who": "a",
        "column": "y",
        "hour": "2026-01-01 06:00:00",
        "mae": 0,
        "mae_in_deviations": 0,
    }
    lacking = [row["hour"] for row in found if row["mae"] is None]
    assert lacking == [f"2026-01-02 0{h}:00:00" for h in range(1, 6)]  # windows of nothing but filled rows
    every, _ = series.read(tmp_path / "gap.csv", forecasting.load(tmp_path / "run").scales.columns(forecasting.load(tmp_path / "run").options), BadRows(), fill_gaps=True)  # fmt: skip
    assert [one.filled for one in every] == [7, 0]


@pytest.mark.usefixtures("no_pictures")
def test_a_language_model_writes_what_predict_does(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat\nof the cat\n" * 40)
    small = ("--hidden-size", 4, "--embedding-size", 3, "--batch-size", 2, "--window", 8, "--epochs", 0.1)
    assert elman("train", "lm", tmp_path / "a.txt", *small, "--run", tmp_path / "run").status == 0
    assert elman("evaluate", tmp_path / "run", tmp_path / "a.txt", "--output", tmp_path / "rows.csv").status == 0
    assert (tmp_path / "rows.csv").read_text() == elman("predict", tmp_path / "run", tmp_path / "a.txt").out


REFUSED = {
    "rows.txt": "rows.txt: examples are written as .csv, .jsonl, .ndjson; choose one of these endings",
    "rows": "rows: examples are written as .csv, .jsonl, .ndjson; choose one of these endings",
    "none/rows.csv": "none",
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_nothing_can_be_written(made: SimpleNamespace, tmp_path: Path, name: str) -> None:
    outcome = elman("evaluate", made.numbers, made.directory / "numbers.jsonl", "--output", tmp_path / name)
    assert (outcome.status, outcome.out) == (2, "")
    assert REFUSED[name] in outcome.err
    assert list(tmp_path.iterdir()) == []


SCORE = {  # that is compared with baselines, and whether more of it is better
    "tag": (r"^entity f1 +(\S+)|^accuracy +(\S+)", True),
    "numbers": (r"^accuracy +(\S+)", True),
    "texts": (r"^accuracy +(\S+)", True),
    "regress": (r"^pinball .*which is (\S+)", False),
    "labels": (r"^accuracy +(\S+)", True),
    "levels": (r"^pinball .*which is (\S+)", False),
    "spoken": (r"^character error rate (\S+)", False),
    "translated": (r"^character error rate (\S+)", False),
    "forecast": (r"^the model .*MAE (\S+)", False),
    "recursive": (r"^the model .*MAE (\S+)", False),
}


@pytest.mark.parametrize("name", SCORE)
def test_what_is_said_of_baselines_is_so(made: SimpleNamespace, tmp_path: Path, name: str) -> None:
    """Of those that are better, and of those that are worse, on the score that decides."""
    pattern, higher = SCORE[name]
    data = {
        "labels": "steps.jsonl",
        "levels": "steps.jsonl",
        "spoken": "spoken.jsonl",
        "translated": "turned.jsonl",
    } | DATA
    file = made.directory / data[name]
    if file.name == "series.csv":  # as many parts of the time as it takes to say something
        header, *given = file.read_text().splitlines()
        draw = np.random.default_rng(0)
        more = [f"{t},{t % 4},{np.sin(t / 3) + draw.normal() / 9:.4f},{t % 5}" for t in range(len(given), 400)]
        file = tmp_path / "long.csv"
        file.write_text(lines(header, *given, *more))
    out = elman("evaluate", getattr(made, name), file).out
    assert "\nintervals            95%, in brackets" in out, out
    score = float(next(filter(None, re.findall(pattern, out, re.MULTILINE)[0]))) if "|" in pattern else float(re.findall(pattern, out, re.MULTILINE)[0])  # fmt: skip
    found = re.findall(r"^(?:\S.*?) {2,}(?:MSE .* MAE )?([\d.]+).*(?:a baseline|MASE [\d.]+); the model is (\w+) by ([\d.]+)(?: \((\S+) to (\S+)\))?(, perhaps by chance)?", out, re.MULTILINE)  # fmt: skip
    assert found, out
    for baseline, word, by, low, high, chance in found:
        better = score - float(baseline) if higher else float(baseline) - score
        assert word == ("better" if better > 0 else "worse"), out
        assert float(by) == pytest.approx(abs(better), abs=1.1e-4)
        if low:
            assert float(low) <= float(by) <= float(high)
            assert bool(chance) == (float(low) <= 0)


def test_rows_of_more_sequences_than_are_read_at_a_time(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, file in (("numbers", "numbers.jsonl"), ("labels", "steps.jsonl"), ("spoken", "spoken.jsonl")):
        monkeypatch.undo()
        _, rows = judged(getattr(made, name), made.directory / file, tmp_path)
        assert len({json.dumps(row) for row in rows}) == len(rows) > 10
        monkeypatch.setattr(whole, "CHUNK", 3)
        assert judged(getattr(made, name), made.directory / file, tmp_path)[1] == rows
        monkeypatch.setattr(whole, "CHUNK", 256)
        monkeypatch.setattr(whole, "MANY", 25)  # steps
        assert judged(getattr(made, name), made.directory / file, tmp_path)[1] == rows


def test_steps_of_a_sequence_are_judged_together(made: SimpleNamespace, tmp_path: Path) -> None:
    out, rows = judged_surely(made.levels, made.directory / "steps.jsonl", tmp_path)
    loss = [
        float(np.mean([max(q * e, (q - 1) * e) for q, e in ((0.1, row["label"] - row["value_q0.1"]), (0.9, row["label"] - row["value_q0.9"]))]))
        / regression.Reading.load(Run(made.levels)).spread[0]
        for row in rows
    ]  # fmt: skip
    told = interval_by_hand([row["sequence"] for row in rows], loss, share=False)
    assert f" which is {np.mean(loss):.4f} {told} standard deviations" in out


@pytest.mark.parametrize("name", ["numbers", "texts"])
def test_intervals_of_sequences(made: SimpleNamespace, tmp_path: Path, name: str) -> None:
    out, rows = judged_surely(getattr(made, name), made.directory / DATA[name], tmp_path)
    units = [row["sequence"] for row in rows]
    nats = interval_by_hand(units, [row["nats"] for row in rows], share=False)
    assert re.search(rf"^nats per sequence +[\d.]+ {re.escape(nats)}$", out, re.MULTILINE)
    right = [float(row["label"] == row["class"]) for row in rows]
    assert 0 < np.mean(right) < 1
    accuracy = interval_by_hand(units, right, share=True)
    assert re.search(rf"^accuracy +[\d.]+ {re.escape(accuracy)}$", out, re.MULTILINE)
    assert f"\nintervals            95%, in brackets: how sure the figures are after {len(rows)} sequences\n" in out
    assert re.search(r"^largest class +[\d.]+ accuracy, a baseline; the model is \w+ by [\d.]+ \(\S+ to \S+\)", out, re.MULTILINE)  # fmt: skip


def test_words_of_a_sentence_are_judged_together(made: SimpleNamespace, tmp_path: Path) -> None:
    out, rows = judged_surely(made.tag, made.directory / DATA["tag"], tmp_path)
    units, nats = [row["sentence"] for row in rows], [row["nats"] for row in rows]
    assert len(set(units)) < len(units)
    told = interval_by_hand(units, nats, share=False)
    assert re.search(rf"^nats per word +[\d.]+ {re.escape(told)}$", out, re.MULTILINE)
    assert f"how sure the figures are after {len(set(units))} sentences\n" in out


def test_windows_of_a_time_are_judged_together(made: SimpleNamespace, tmp_path: Path) -> None:
    """Their forecasts are of the same steps, and columns may go up and down together."""
    header, *given = (made.directory / DATA["forecast"]).read_text().splitlines()
    draw = np.random.default_rng(0)
    more = [
        ",".join([str(t), *(f"{x:.3f}" for x in draw.normal(size=header.count(",")))]) for t in range(len(given), 250)
    ]
    (tmp_path / "long.csv").write_text(lines(header, *given, *more))
    out, rows = judged_surely(made.forecast, tmp_path / "long.csv", tmp_path)
    columns = list(dict.fromkeys(row["column"] for row in rows))
    windows = len(rows) // len(columns)
    places = [k % windows for k in range(len(rows))]  # one column after the other
    parts = int(re.findall(r"how sure the figures are after (\d+) parts of the time", out)[0])
    assert 10 <= parts <= 20
    told = interval_by_hand(
        [k * parts // windows for k in places], [row["mae_in_deviations"] for row in rows], share=False
    )
    assert f", MAE {np.mean([row['mae_in_deviations'] for row in rows]):.4f} {told}, MASE " in out
    assert re.search(
        r"^naive +MSE .*; the model is \w+ by \S+ \(\S+ to \S+\)(, perhaps by chance)? in MAE$", out, re.MULTILINE
    )


def test_many_short_series_are_units(tmp_path: Path) -> None:
    """Each is too short to be cut into parts of the time."""
    draw = np.random.default_rng(0)
    rows = [f"{g},{t},{np.sin(t / 2) + g / 3 + draw.normal() / 5:.4f}" for g in range(14) for t in range(30)]
    (tmp_path / "a.csv").write_text(lines("g,t,y", *rows))
    given = ("--time", "t", "--group", "g", "--horizon", 4, "--segment", 2, "--lookback", 8, "--period", 4)
    small = ("--hidden-size", 6, "--epochs", 1, "--split", "0.5,0.5,0")
    done = elman("train", "forecast", tmp_path / "a.csv", *given, *small, "--run", tmp_path / "run")
    assert done.status == 0, done.err
    out, found = judged_surely(tmp_path / "run", tmp_path / "a.csv", tmp_path)
    assert "\nintervals            95%, in brackets: how sure the figures are after 14 series\n" in out
    told = interval_by_hand([row["g"] for row in found], [row["mae_in_deviations"] for row in found], share=False)
    assert f", MAE {np.mean([row['mae_in_deviations'] for row in found]):.4f} {told}, MASE " in out
    (tmp_path / "few.csv").write_text(lines("g,t,y", *rows[:120]))
    few = elman("evaluate", tmp_path / "run", tmp_path / "few.csv").out
    assert "none: the time is too short to say how sure the figures are; give a longer one\n" in few
