"""`elman.train` and `elman.load`: what the commands do, with data that a program holds."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import elman as package
from elman.datasets.given import as_file
from elman.errors import InputError
from elman.training.run import Run
from tiny_runs import elman, lines, prose

pytestmark = pytest.mark.usefixtures("no_pictures")
SMALL = {"epochs": 1.0, "hidden_size": 6}
OPTIONS = ("--epochs", 1.0, "--hidden-size", 6)
TABLE = {"sequence": "id", "label": "kind"}


def sequences(count: int = 40) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    return [
        {"values": draw.normal(size=(5 + k % 3, 2)).round(3), "label": "ab"[k % 2], "who": k // 4} for k in range(count)
    ]


def as_lines(rows: list[dict[str, Any]]) -> str:
    return lines(*(json.dumps(row | {"values": row["values"].tolist()}) for row in rows))


def columns() -> dict[str, Any]:
    """The same sequences as a table with a row for each step."""
    rows = sequences()
    lengths = [len(row["values"]) for row in rows]
    values = np.concatenate([row["values"] for row in rows])
    return {
        "id": np.repeat(np.arange(len(rows)), lengths),
        "x": values[:, 0],
        "y": values[:, 1],
        "kind": [row["label"] for row, length in zip(rows, lengths, strict=True) for _ in range(length)],
    }


class Arrow:
    """A table of a library that elman does not know."""

    def __init__(self, frame: pl.DataFrame):
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._frame.__arrow_c_stream__(requested_schema)


def of_pandas(table: Mapping[str, Any]) -> pd.DataFrame:
    """Whose index has a column, and which has columns of types of its own."""
    frame = pd.DataFrame(dict(table))
    frame["kind"] = frame["kind"].astype("category")
    return frame.set_index("id")


FORMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "columns": lambda table: table,
    "polars": pl.DataFrame,
    "lazy": lambda table: pl.DataFrame(table).lazy(),
    "pandas": of_pandas,
    "arrow": lambda table: Arrow(pl.DataFrame(table)),
}


def parameters(run: Path) -> dict[str, torch.Tensor]:
    return Run(run).load_tensors("model.safetensors")[0]


def same(run: Path, other: Path) -> bool:
    a, b = parameters(run), parameters(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, package.models.Model]:
    """A model of sequences in memory, and a file of them."""
    d = tmp_path_factory.mktemp("models")
    (d / "data.jsonl").write_text(as_lines(sequences()))
    return d, package.train("classify", sequences(), d / "run", **SMALL)


def test_a_call_is_the_command(trained: tuple[Path, package.models.Model]) -> None:
    d, model = trained
    done = elman("train", "classify", d / "data.jsonl", *OPTIONS, "--run", d / "command")
    assert done.status == 0, done.err
    assert same(d / "run", d / "command")
    found = model.evaluate(iter(sequences()), examples=True)
    command = elman("evaluate", d / "run", d / "data.jsonl", "--output", d / "rows.jsonl")
    assert f"{found}\n" == command.out
    assert found.examples == [json.loads(row) for row in (d / "rows.jsonl").read_text().splitlines()]
    assert list(found.scores) == ["nats per sequence", "accuracy", "macro f1"] == list(found.intervals)
    for name, value in found.scores.items():
        low, high = found.intervals[name] or (0, 0)
        assert re.search(rf"^{name} +{value:.4f} \({low:.4f} to {high:.4f}\)$", found.text, re.MULTILINE)
    assert model.evaluate(str(d / "data.jsonl")).examples is None
    unknown = [{"values": row["values"]} for row in sequences()]
    elman("predict", d / "run", d / "data.jsonl", "--output", d / "said.jsonl")
    assert model.predict(unknown) == [json.loads(row) for row in (d / "said.jsonl").read_text().splitlines()]
    assert repr(model) == f"<elman model of {d / 'run'}, task 'classify'>"


def test_baselines_are_known_for_data_of_a_program(trained: tuple[Path, package.models.Model]) -> None:
    d, model = trained
    assert re.search(r"^linear +0\.\d{4} accuracy, a baseline", model.evaluate(d / "data.jsonl").text, re.MULTILINE)
    kept = [each.name for each in (d / "run").iterdir() if each.name.startswith("data")]
    assert len(kept) == 1
    assert (d / "run" / kept[0]).read_text() == (d / "data.jsonl").read_text()


@pytest.mark.parametrize("form", FORMS)
def test_tables(tmp_path: Path, form: str) -> None:
    table = columns()
    pl.DataFrame(table).write_csv(tmp_path / "table.csv")
    done = elman("train", "classify", tmp_path / "table.csv", *OPTIONS, "--sequence", "id", "--label", "kind", "--run", tmp_path / "command")  # fmt: skip
    assert done.status == 0, done.err
    model = package.train("classify", FORMS[form](table), tmp_path / "run", **TABLE, **SMALL)
    assert same(tmp_path / "run", tmp_path / "command")
    assert f"{model.evaluate(FORMS[form](table))}\n" == elman("evaluate", tmp_path / "run", tmp_path / "table.csv").out


def test_texts_in_memory(tmp_path: Path) -> None:
    text, small = prose(3000), {"epochs": 0.5, "hidden_size": 6, "embedding_size": 4, "batch_size": 4, "window": 8}
    (tmp_path / "a.txt").write_text(text)
    model = package.train("lm", io.StringIO(text), tmp_path / "run", **small)
    again = package.train("lm", tmp_path / "a.txt", tmp_path / "again", **small)
    assert same(tmp_path / "run", tmp_path / "again")
    with (tmp_path / "a.txt").open("rb") as file:
        assert str(model.evaluate(file)) == str(again.evaluate(tmp_path / "a.txt"))
    assert [row["text"] for row in model.predict(io.StringIO("the cat\nis\n"))] == ["the cat", "is"]


def test_sentences_and_labels(tmp_path: Path) -> None:
    given = [{"words": ["the", "cat"], "tags": ["D", "N"]}, {"words": ["cats", "run"], "tags": ["N", "V"]}] * 12
    model = package.train("tag", pl.DataFrame(given), tmp_path / "tag", **SMALL)  # lists in a frame
    package.train("tag", given, tmp_path / "again", **SMALL)
    assert same(tmp_path / "tag", tmp_path / "again")
    assert [row["words"] for row in model.predict([{"words": ["a", "cat"]}])] == [["a", "cat"]]
    numbers = [{"values": torch.tensor([k % 3, 1.0, np.nan]), "label": np.float32(k % 3)} for k in range(30)]
    found = package.train("regress", numbers, tmp_path / "regress", mark_gaps=True, **SMALL).evaluate(numbers)
    assert list(found.scores) == ["RMSE", "MAE"]
    assert f"which is {found.scores['RMSE']:.4f}" in found.text


@pytest.mark.parametrize("form", ["columns", "polars", "pandas", "index"])
def test_times(tmp_path: Path, form: str) -> None:
    """As dates of each library, and as an index."""
    begin = datetime(2026, 1, 1)
    dates, y = [begin + timedelta(hours=k) for k in range(200)], np.sin(np.arange(200) / 4)
    if form == "columns":
        data: Any = {"t": np.array(dates, dtype="datetime64[h]"), "y": y}
    elif form == "polars":
        data = pl.DataFrame({"t": dates, "y": y})
    else:
        data = pd.DataFrame({"t": pd.to_datetime(pd.Series(dates)), "y": y})
        data = data.set_index("t") if form == "index" else data
    small = {"horizon": 2, "lookback": 6, "segment": 2, "period": 4, "time": "t", **SMALL}
    rows = package.train("forecast", data, tmp_path / "run", **small).predict(data)
    assert [row["t"] for row in rows] == ["2026-01-09 08:00:00", "2026-01-09 09:00:00"]
    (tmp_path / "a.csv").write_text(lines("t,y", *(f"{t},{value}" for t, value in zip(dates, y.tolist(), strict=True))))
    again = package.train("forecast", tmp_path / "a.csv", tmp_path / "again", **small)
    assert same(tmp_path / "run", tmp_path / "again")
    assert again.predict(tmp_path / "a.csv") == rows


def test_what_is_missing_in_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "whole": pd.array([1, None, 3], dtype="Int64"),
            "word": pd.Series(["a", None, "ü"]),
            "object": pd.Series([True, None, False], dtype=object),
            "zone": pd.to_datetime(["2026-01-01", None, "2026-01-02"]).tz_localize("UTC"),
            "number": [1.5, np.nan, 2.0],
        }
    )
    found = pl.read_parquet(as_file(frame, tmp_path, "data", "forecast")).to_dicts()
    assert [row["whole"] for row in found] == [1, None, 3]
    assert [row["word"] for row in found] == ["a", None, "ü"]
    assert [row["object"] for row in found] == [True, None, False]
    assert [row["zone"] for row in found] == [datetime(2026, 1, 1, tzinfo=UTC), None, datetime(2026, 1, 2, tzinfo=UTC)]
    assert [row["number"] for row in found] == [1.5, None, 2.0]


def test_rows_become_json(tmp_path: Path) -> None:
    given = {
        "values": np.array([[1.5, np.nan], [np.float64(2), 3]]),
        "words": ("a", "b"),
        "label": np.int64(3),
        "when": [datetime(2026, 1, 1, 5), pd.NaT, np.datetime64("2026-01-02")],
        "missing": [None, float("nan"), pd.Timestamp("2026-01-03")],
        "gap": timedelta(seconds=90),
        "series": pl.Series([1, None]),
        "more": {"of": {2}},
        "grad": torch.ones(2, requires_grad=True),
        "exact": np.array(["2026-01-01T00:00:00.5"], dtype="datetime64[ns]"),
        "none": pd.NA,
        "frame": pl.DataFrame({"a": [1, 2], "b": [3, 4]}),
        "other": pd.DataFrame({0: [1.0, None], 1: [3.0, 4.0]}),
        "mask": np.ma.array([1.0, 2.0], mask=[False, True]),
        "extension": pd.array([1, None], dtype="Int64"),
        "long": np.longdouble(0.5),
    }
    path = as_file([given], tmp_path, "data", "classify")
    assert json.loads(path.read_text()) == {
        "values": [[1.5, None], [2, 3]],
        "words": ["a", "b"],
        "label": 3,
        "when": ["2026-01-01T05:00:00", None, "2026-01-02T00:00:00"],
        "missing": [None, None, "2026-01-03T00:00:00"],
        "gap": 90.0,
        "series": [1, None],
        "more": {"of": [2]},
        "grad": [1, 1],
        "exact": ["2026-01-01T00:00:00.500000"],
        "none": None,
        "frame": [[1, 3], [2, 4]],
        "other": [[1, 3], [None, 4]],
        "mask": [1, None],
        "extension": [1, None],
        "long": 0.5,
    }


def test_columns_of_a_program(tmp_path: Path) -> None:
    seconds = np.array([1, 2], "datetime64[25s]")
    columns = {
        "mixed": [1, 2.5],
        "missing": ["a", float("nan")],
        "object": np.array([np.int64(1), None], dtype=object),
        "mask": np.ma.array([1, 2], mask=[False, True]),
        "tensor": torch.ones(2, requires_grad=True),
        "when": seconds,
        "span": np.array([1, 2], "timedelta64[s]"),
    }
    found = pl.read_parquet(as_file(columns, tmp_path, "data", "forecast"))
    assert found.to_dicts()[0]["when"] == datetime(1970, 1, 1, 0, 0, 25)
    assert found.drop("when").to_dicts() == [
        {"mixed": 1, "missing": "a", "object": 1, "mask": 1, "tensor": 1, "span": timedelta(seconds=1)},
        {"mixed": 2.5, "missing": None, "object": None, "mask": None, "tensor": 1, "span": timedelta(seconds=2)},
    ]
    uneven = {"values": [np.ones((1, 2)), np.zeros((2, 2))], "label": ["a", "b"]}
    rows = [json.loads(row) for row in as_file(uneven, tmp_path, "data", "classify").read_text().splitlines()]
    assert rows == [{"values": [[1, 1]], "label": "a"}, {"values": [[0, 0], [0, 0]], "label": "b"}]
    half = pd.DataFrame({"y": [1, 2]}, index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["t", None]))
    assert pl.read_parquet(as_file(half, tmp_path, "data", "forecast")).to_dict(as_series=False) == {"t": ["a", "b"], "y": [1, 2]}  # fmt: skip
    twice = pd.DataFrame({"read": [3, 4]}, index=pd.Index([1, 2], name="read"))
    assert pl.read_parquet(as_file(twice, tmp_path, "data", "forecast"))["read"].to_list() == [3, 4]


def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    """Its data are in the run."""
    steps = 0

    def show(report: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt

    small = {"epochs": 4.0, "hidden_size": 6, "batch_size": 8}
    with pytest.raises(KeyboardInterrupt):
        package.train("classify", sequences(), tmp_path / "run", show=show, **small)
    shutil.copytree(tmp_path / "run", tmp_path / "call")
    done = elman("train", "classify", "--resume", tmp_path / "run")
    assert done.status == 0, done.err
    package.train("classify", sequences(), tmp_path / "whole", **small)
    assert same(tmp_path / "run", tmp_path / "whole")
    seen = list[int]()
    model = package.resume(tmp_path / "call", show=lambda report: seen.append(report.place.step))
    assert seen == [*range(seen[0], 17)]
    assert same(tmp_path / "call", tmp_path / "whole")
    assert str(model.evaluate(sequences())) == str(package.load(tmp_path / "whole").evaluate(sequences()))
    # What has come to its end needs more.
    package.resume(tmp_path / "call", epochs=5, show=lambda report: seen.append(report.place.step))
    assert seen[-1] == 20
    assert json.loads((tmp_path / "call" / "config.json").read_text())["options"]["epochs"] == 5
    with pytest.raises(InputError, match=r"call has trained for 5\.00 epochs already, so nothing is left to train with epochs 4; give more"):  # fmt: skip
        package.resume(tmp_path / "call", epochs=4)


def test_what_cannot_be_resumed(trained: tuple[Path, package.models.Model], tmp_path: Path) -> None:
    given: dict[str, Any]
    for run, given, message in (
        (3, {}, "run is 3; give the directory of a run"),
        (tmp_path / "none", {}, "none does not exist; give the directory of a run"),
        (trained[1].path, {"epochs": "3"}, "epochs is '3' but should be float"),
        (trained[1].path, {"show": 5}, "show is 5; give a function of a report, or leave it out"),
        (trained[1].path, {"epochs": -1.0}, "epochs must be greater than 0, got -1.0"),
        (trained[1].path, {"device": "none"}, "device none cannot be used"),
    ):
        with pytest.raises(InputError, match=message):
            package.resume(cast("Any", run), **given)


def given_files(run: Path) -> list[str]:
    return sorted(each.name.split("-")[0] for each in run.iterdir() if re.match("(data|validation)-", each.name))


def test_a_relative_run_that_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its data are found where it is, and a call that is refused leaves them there."""
    monkeypatch.chdir(tmp_path)
    said = str(package.train("classify", sequences(), "run", validation=sequences()[:9], **SMALL).evaluate(sequences()))
    assert given_files(tmp_path / "run") == ["data", "validation"]
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    assert str(package.load(tmp_path / "moved").evaluate(sequences())) == said
    with pytest.raises(InputError, match="hidden_size must be 1"):
        package.train("classify", sequences(), tmp_path / "moved", overwrite=True, hidden_size=0)
    assert given_files(tmp_path / "moved") == ["data", "validation"]
    assert elman("train", "classify", "--resume", tmp_path / "moved", "--epochs", 1.5).status == 0
    monkeypatch.chdir(tmp_path / "moved")
    with pytest.raises(InputError) as found:
        package.train("classify", sequences(), ".", validation=[{"values": [1]}], overwrite=True)
    assert str(found.value).startswith("the validation data, line 1: ")


def test_files_of_a_user_are_no_data_of_a_run(tmp_path: Path) -> None:
    for name in ("data-20240115.jsonl", "data-0123abcd.jsonl"):
        (tmp_path / name).write_text(as_lines(sequences()))
    for options in ({}, {"overwrite": True}):
        with pytest.raises(InputError, match="is not empty and holds no run of elman"):
            package.train("classify", tmp_path / "data-20240115.jsonl", tmp_path, **options, **SMALL)
    assert elman("train", "classify", tmp_path / "data-20240115.jsonl", "--run", tmp_path).status == 2
    assert given_files(tmp_path) == ["data", "data"]


def test_a_run_that_is_replaced(tmp_path: Path) -> None:
    run, rows = tmp_path / "run", sequences()
    package.train("classify", rows[:30], run, validation=rows[30:], **SMALL)
    assert given_files(run) == ["data", "validation"]
    before = {each.name: each.read_bytes() for each in run.iterdir() if each.is_file()}
    with pytest.raises(InputError, match="replace it with overwrite=True, or choose another directory"):
        package.train("classify", rows, run, **SMALL)
    with pytest.raises(InputError, match="the validation data"):
        package.train("classify", rows, run, validation=[{"values": [1, 2]}], overwrite=True, **SMALL)
    assert {each.name: each.read_bytes() for each in run.iterdir() if each.is_file()} == before
    package.train("classify", rows, run, overwrite=True, **SMALL)
    assert given_files(run) == ["data"]
    (own,) = run.glob("data-*")
    package.train("classify", own, run, overwrite=True, **SMALL)  # the data of the run that is replaced
    assert given_files(run) == ["data"]
    assert "linear  " in str(package.load(run).evaluate(rows))
    (tmp_path / "a.jsonl").write_text(as_lines(rows))
    assert elman("train", "classify", tmp_path / "a.jsonl", *OPTIONS, "--run", run, "--overwrite").status == 0
    assert given_files(run) == []


def test_files_of_somebody_else_stay(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data-notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run of elman"):
        package.train("classify", sequences(), tmp_path, **SMALL)
    assert sorted(os.listdir(tmp_path)) == ["data", "data-notes.txt"]


def test_models_beside_each_other(trained: tuple[Path, package.models.Model], tmp_path: Path) -> None:
    d, model = trained
    other = package.train("classify", sequences(), tmp_path / "other", cell="lstm", **SMALL)
    out = elman("evaluate", d / "run", d / "data.jsonl", "--compare", tmp_path / "other").out
    assert f"{model.evaluate(sequences(), compare=[other])}\n" == out


def test_persons_of_one_call_are_not_those_of_the_next(trained: tuple[Path, package.models.Model]) -> None:
    _, model = trained
    alone = str(model.evaluate(sequences()))
    assert "after 10 values of 'who'" in str(model.evaluate(sequences(), group="who"))
    assert str(model.evaluate(sequences())) == alone


def test_an_onnx_file(trained: tuple[Path, package.models.Model], tmp_path: Path) -> None:
    d, model = trained
    assert elman("export", d / "run", tmp_path / "model.onnx").status == 0
    file = package.load(tmp_path / "model.onnx")
    assert [row["class"] for row in file.predict(sequences())] == [row["class"] for row in model.predict(sequences())]
    assert file.evaluate(sequences()).scores == pytest.approx(model.evaluate(sequences()).scores, abs=1e-5)


def test_a_language_model_helps(tmp_path: Path) -> None:
    rows = [{"values": np.eye(3)[[0, 1 + k % 2, 0, 1, 0]], "label": "ab"[k % 2] + "a"} for k in range(30)]
    package.train("transcribe", rows, tmp_path / "run", **SMALL)
    text = io.StringIO("aa\nba\n" * 300)
    package.train("lm", text, tmp_path / "lm", embedding_size=4, batch_size=4, window=8, **SMALL)
    found = package.load(tmp_path / "run", language_model=tmp_path / "lm", language_weight=1.0).evaluate(rows)
    assert f"language model       {tmp_path / 'lm'}, weight 1" in found.text
    with pytest.raises(InputError, match="language_weight 1 is for a language model; give language_model, or leave it"):
        package.load(tmp_path / "run", language_weight=1)


def test_values_that_options_may_have(tmp_path: Path) -> None:
    """Of NumPy, and columns in a list. Without a budget, it is that of the command."""
    wave = {"x": np.sin(np.arange(60.0)), "y": np.cos(np.arange(60.0))}
    small = {
        "horizon": np.int64(2),
        "lookback": 6,
        "segment": 2,
        "period": 4,
        "hidden_size": 4,
        "epochs": np.float32(0.5),
    }
    package.train("forecast", wave, tmp_path / "run", columns=["y", "x"], **small)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["options"]["columns"] == "y,x"
    assert config["options"]["horizon"] == 2
    made = package.models.options_of(package.models.tasks.module("lm").Options, {"epochs": None, "minutes": None}, 3.0)
    assert (made.epochs, made.minutes) == (None, 3.0)


def test_scores_of_nothing(trained: tuple[Path, package.models.Model]) -> None:
    _, model = trained
    found = model.evaluate([{"values": [[1, 2]], "label": "new"}] * 3).scores
    assert math.isnan(found["nats per sequence"])
    assert found["accuracy"] == 0


def test_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package.models, "started_together", lambda: True)
    with pytest.raises(InputError, match="several processes cannot share data that each of them holds; give a file"):
        package.train("classify", sequences(), tmp_path / "run", **SMALL)


def test_it_starts_from_a_run(trained: tuple[Path, package.models.Model], tmp_path: Path) -> None:
    d, _ = trained
    package.train("classify", sequences(), tmp_path / "next", start_from=d / "run", epochs=0.5)
    config = json.loads((tmp_path / "next" / "config.json").read_text())
    assert config["start"] == str((d / "run").resolve())
    assert config["options"]["hidden_size"] == 6
    with pytest.raises(InputError, match=r"start_from keeps the model of .*, so hidden_size cannot be given"):
        package.train("classify", sequences(), tmp_path / "wider", start_from=d / "run", hidden_size=7)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    rows = [*sequences(), {"values": [[1, 2, 3]], "label": "a"}]
    model = package.train("classify", rows, tmp_path / "run", skip_bad=True, **SMALL)
    said = r"skipped +1 malformed, the first: the data, line 41: "
    assert re.match(said, model.remarks[0])
    assert "skipped              1, the first: the data, line 41" in str(model.evaluate(rows))
    model.predict(rows)
    assert re.match(said, model.remarks[0])
    assert model.predict(sequences()[:1])
    assert model.remarks == []


def test_torch_keeps_its_threads(trained: tuple[Path, package.models.Model], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        package.train("classify", sequences(), tmp_path / "run", **SMALL).evaluate(sequences())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def generated() -> Iterator[dict[str, Any]]:
    yield from sequences()


def refused() -> dict[str, tuple[tuple[Any, Any], dict[str, Any], str]]:
    """Task and data, options, and the message."""
    short, good = {"x": [1, 2, 3], "y": [1, 2]}, sequences()
    what = "give a path, a frame of pandas, polars or Arrow, a mapping of columns, or rows as mappings in a list"
    twice = pd.DataFrame([[1, 2]], columns=["x", "x"])
    return {
        "task": (("clasify", good), {}, "unknown task 'clasify'; choose one of lm, tag, classify, multilabel, regress, transcribe, translate, forecast"),
        "option": (("classify", good), {"hiden_size": 3}, "elman train classify has no option hiden_size; did you mean hidden_size?"),
        "strange option": (("lm", None), {"zzz": 3}, "elman train lm has no option zzz; those of the task are batch_size, "),
        "type": (("classify", good), {"epochs": "2"}, "epochs is '2' but should be float | None"),
        "value": (("classify", good), {"hidden_size": 0}, "hidden_size must be 1 or more, got 0"),
        "useless": (("classify", good), {"sequence": "id"}, "the data is not a table, so sequence selects nothing in it; leave it out"),
        "device": (("classify", good), {"device": "gpu9"}, "device gpu9 cannot be used: "),
        "numpy": (("classify", good), {"hidden_size": np.float64(8)}, "hidden_size is 8.0 but should be int"),
        "show": (("classify", good), {"show": 5}, "show is 5; give a function of a report, or leave it out"),
        "one row": (("classify", {"values": np.ones((5, 1)), "label": "a"}), {}, "column 'values' has 2 dimensions; give one, or rows as mappings in a list"),
        "a label": (("classify", {"values": [1, 2], "label": "up"}), {}, "column 'label' is str; give columns of values, or rows as mappings in a list"),
        "a column": (("forecast", {"y": None}), {}, "column 'y' is NoneType; give columns of values"),
        "series": (("forecast", pd.Series([1.0])), {}, "row 1 of the data is float, and no mapping"),
        "binary": (("classify", b"abc"), {}, f"the data are bytes; {what}"),
        "rows of a text": (("lm", [{"text": "a"}]), {}, "the data are list; give a path, or an open text, such as io.StringIO(text)"),
        "flat words": (("tag", pl.DataFrame({"word": ["a"], "tag": ["b"]})), {}, "the data are a table without lists; give rows of words and tags, which are lists"),
        "an open table": (("classify", io.StringIO("a,b")), {}, "row 1 of the data is str, and no mapping"),
        "no text": (("lm", io.BytesIO), {}, "the text cannot be read: "),
        "surrogates": (("lm", io.StringIO("a\ud800")), {}, "the text cannot be read: 'utf-8' codec can't encode"),
        "huge": (("classify", [{"values": [10**5000], "label": "a"}]), {}, "row 1 of the data cannot be written: Exceeds the limit"),
        "periods": (("forecast", {"y": pd.period_range("2026", periods=2, freq="M")}), {}, "column 'y' cannot be kept, with values of Period"),
        "dashes": (("classify", "my--own/data--set.csv"), {"sequence": "id"}, "cannot read my--own/data--set.csv"),
        "a number": (("classify", 5), {}, f"the data are int; {what}"),
        "rows of numbers": (("classify", [1]), {}, f"row 1 of the data is int, and no mapping; {what}"),
        "a function": (("classify", [{"values": len}]), {}, "row 1 of the data has a builtin_function_or_method; give numbers, texts, or lists of them"),
        "bytes": (("classify", [{"values": b"abc"}]), {}, "row 1 of the data has a bytes; give numbers, texts, or lists of them"),
        "no rows": (("classify", []), {}, "the data leaves 0 sequences for training and 0 for validation"),
        "no-label": (("classify", [{"values": [1, 2]}]), {}, "the data, line 1: there is no 'label'"),
        "lengths": (("forecast", short), {}, "the columns have different lengths: 'x' has 3, 'y' has 2; give columns of the same length"),
        "kinds": (("forecast", {"x": [1, "a"]}), {}, "column 'x' cannot be kept, with values of int, str; give one kind of numbers, texts or times"),
        "one name": (("forecast", twice), {}, "two columns are called 'x'; rename one of them"),
        "no name": (("classify", pd.DataFrame({"id": [1.0, np.nan], "x": [1, 2], "kind": ["a", "b"]})), TABLE, "the data, line 2: column 'id' has no value"),
        "no such column": (("classify", columns()), {"sequence": "id", "label": "knd"}, "the data has no column 'knd'; its columns are 'id', 'x', 'y', 'kind': choose one"),
        "no file": (("classify", "none.csv"), {"sequence": "id"}, "cannot read none.csv: "),
    }  # fmt: skip


@pytest.mark.parametrize("name", refused())
def test_what_is_refused_leaves_nothing(tmp_path: Path, name: str) -> None:
    (task, data), options, message = refused()[name]
    given: dict[str, Any] = {"epochs": 1.0} | options
    with pytest.raises(InputError) as found:
        package.train(task, data, tmp_path / "run", **given)
    assert str(found.value).startswith(message), found.value
    assert "--" not in str(found.value).replace("my--own/data--set", "")
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_a_model(trained: tuple[Path, package.models.Model], tmp_path: Path) -> None:
    d, model = trained
    other = package.train("forecast", {"y": np.sin(np.arange(200.0))}, tmp_path / "f", horizon=2, lookback=6, segment=2, period=4, **SMALL)  # fmt: skip
    for call, message in (
        (lambda: model.predict([{"values": [1, 2]}]), "the data: sequence 1 has 1 channels, but the run was trained on 2"),
        (lambda: model.evaluate([{"values": [[1, 2]]}]), "the data, line 1: there is no 'label'"),
        (lambda: model.evaluate(sequences(), compare=["runs/b"]), "compare has 'runs/b'; give models, such as elman.load('runs/b')"),
        (lambda: model.evaluate(sequences(), compare=other), f"{tmp_path / 'f'} has another task than {d / 'run'}; compare runs of the same task"),
        (lambda: other.evaluate({"y": [1.0]}, group="who"), "group who is for runs of elman train classify, multilabel, regress, transcribe and translate, and "),
        (lambda: package.train("classify", sequences(), cast(Any, None)), "run is None; give the directory of a run"),
        (lambda: package.load(d / "none"), f"{d / 'none'} does not exist; give the directory of a run"),
        (lambda: package.load(d / "run", device="gpu9"), "device gpu9 cannot be used"),
    ):  # fmt: skip
        with pytest.raises(InputError) as found:
            call()
        assert str(found.value).startswith(message), found.value
    shutil.rmtree(d / "run" / "checkpoint")  # which nobody needs for predictions
    assert len(package.load(d / "run").predict(generated())) == 40
