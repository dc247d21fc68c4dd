"""What forecasts read besides the series: columns that are observed, `--observed`, and words, `--categories`."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from elman.datasets import series, tables
from elman.datasets.codes import Codes, Growing
from elman.datasets.reading import BadRows
from elman.datasets.series import Columns
from elman.errors import InputError
from elman.explain import past
from elman.tasks import forecasting
from elman.tasks.options import ForecastingOptions
from elman.tasks.windows import Scaled, Scales, Windows
from elman.training import fit
from test_page import OpenPage
from tiny_runs import elman, lines

HEAD = "shop,day,sales,price,visits,event,weather"
EVENTS = ("", "sale", "feast")
SKY = ("dry", "wet")
OPTIONS: dict[str, Any] = {
    "columns": "sales",
    "known": "event,price",
    "observed": "weather,visits",
    "categories": "event,weather",
    "time": "day",
    "group": "shop",
    "horizon": 4,
    "lookback": 6,
    "segment": 2,
    "period": 3,
    "hidden_size": 6,
    "epochs": 0.3,
}
COLUMNS = Columns(("sales",), ("event", "price"), "day", "shop", ("weather", "visits"))


@pytest.fixture(autouse=True)
def only_numbers(no_pictures: None) -> None:
    """No test here looks at pictures."""


def shops(path: Path, rows: int = 60, ahead: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Two shops. A sale sells more on its day, a feast less; so do visits, two days later, and a wet day, one day later."""
    draw, found = np.random.default_rng(seed), []
    for shop in "ab":
        event, weather = draw.choice(EVENTS, rows + ahead), draw.choice(SKY, rows + ahead)
        visits, price = draw.normal(size=(2, rows + ahead))
        for t in range(rows + ahead):
            sales = 3.0 * (event[t] == "sale") - 4.0 * (event[t] == "feast")
            sales += 2.0 * visits[t - 2] * (t > 1) + 3.0 * (t > 0 and weather[t - 1] == "wet") + 0.1 * draw.normal()
            beside = {"price": float(price[t]), "event": str(event[t])}
            row = {"shop": shop, "day": t, "sales": float(sales), **beside, "visits": float(visits[t]), "weather": str(weather[t])}  # fmt: skip
            found.append(row | {"sales": None, "visits": None, "weather": ""} if t >= rows else row)
    frame = pl.DataFrame(found, infer_schema_length=None)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.select(HEAD.split(",")).write_csv(path)
    return found


def options_of(**changes: Any) -> ForecastingOptions:
    return ForecastingOptions(**OPTIONS | changes)


def begun(path: Path, **changes: Any) -> forecasting.Forecasting:
    return forecasting.begin(path, options_of(**changes), "cpu", BadRows())


def flags(**changes: Any) -> list[str]:
    given = {name: value for name, value in (OPTIONS | changes).items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]


# Reading


@pytest.mark.parametrize("rows", [1, 7, 10**6])
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("fill", [False, True])
def test_words_and_observed_columns_in_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, rows: int, fill: bool
):
    whole_one = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, **given: whole_one(path, rows=rows, **given))
    wanted = shops(tmp_path / f"a{ending}", 20, ahead=4)
    codes = {"event": Codes(["feast", "sale"]), "weather": Growing()}
    found, _ = series.read(tmp_path / f"a{ending}", COLUMNS._replace(words=codes), BadRows(), tail=9, fill_gaps=fill)
    assert {*codes["weather"]} == {*SKY, ""}
    for one in found:
        own = [row for row in wanted if row["shop"] == one.group][11:]
        event, price, weather, visits = one.known.T
        assert [("", "feast", "sale")[int(code)] for code in event] == [row["event"] for row in own]
        np.testing.assert_allclose(price, [row["price"] for row in own])
        names = {code: word for word, code in codes["weather"].items()}
        assert [names[int(code)] for code in weather] == [row["weather"] for row in own]
        np.testing.assert_allclose(visits[:9], [row["visits"] for row in own[:9]])
        assert np.isnan(visits[9:]).all() or fill
        assert (one.targets.shape, one.known.shape) == ((9, 1), (13, 4))


def test_an_observed_column_that_begins_late(tmp_path: Path):
    """Before its first number stands the mean of the training part, and no number of later rows."""
    rows = [f"{t},{t % 3},{'' if t < 5 or t == 8 else t},{'' if t < 2 else 7}\n" for t in range(40)]
    (tmp_path / "a.csv").write_text("t,y,seen,push\n" + "".join(rows))
    columns = Columns(("y",), ("push",), "t", observed=("seen",))
    (one,), _ = series.read(tmp_path / "a.csv", columns, BadRows(), fill_gaps=True)
    np.testing.assert_array_equal(one.known[:10, 1], [np.nan] * 5 + [5, 6, 7, 7, 9])
    assert one.known[:, 0].tolist() == [7] * 40
    given = options_of(
        columns="y", known="push", observed="seen", categories=None, time="t", group=None, fill_gaps=True
    )
    task = forecasting.begin(tmp_path / "a.csv", given, "cpu", BadRows())
    scales = task.forecaster.scales
    np.testing.assert_allclose(scales.scaled_known(one.known)[:5, 1], 0)
    assert scales.mean[2] == pytest.approx(np.mean([5, 6, 7, 7, *range(9, 28)]))


SHOP = ("--columns", "sales", "--time", "day", "--group", "shop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--known", "event"), "if this column is not a series, name the series with --columns, or name this column with --time, --group or --categories"),
        (("--known", "event", "--categories", "event,weather"), "--categories names 'weather', which is in neither --known nor --observed; name it in one of them, too"),
        (("--known", "event", "--categories", "event,event"), "--categories names the column 'event' twice; name it once"),
        (("--observed", "day", "--categories", "day"), "--time and --categories both name the column 'day'; name another one in one of them"),
        (("--known", "event", "--observed", "event"), "--known and --observed both name the column 'event'; name another one in one of them"),
        (("--observed", "sales"), "--columns and --observed both name the column 'sales'; name another one in one of them"),
        (("--observed", "visits", "--strategy", "recursive"), "--strategy recursive reads its own forecasts as the past, and has none of --observed columns; forecast with --strategy direct, or leave --observed out"),
        (("--embedding-size", 3), "--embedding-size is for --categories, which are not given; leave it out"),
        (("--observed", "day2"), "has no column 'day2'; its columns are"),
        (("--observed", "day2", "--categories", "day2"), "has no column 'day2'; its columns are"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, options: tuple[Any, ...], message: str):
    path = tmp_path / "a.csv"
    shops(path)
    path.write_text(lines(HEAD, *(line for line in path.read_text().splitlines()[1:] if ",," not in line)))
    status, out, err = elman("train", "forecast", path, *SHOP, *options, "--run", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--observed", "--categories"])
def test_the_built_in_series_has_neither(option: str):
    known = ("--known", "x") if option == "--categories" else ()
    assert "no FILE is given" in elman("train", "forecast", option, "x", *known).err


def test_words_that_say_nothing(tmp_path: Path):
    rows = "".join(f"{t},{t % 3},w{t},{'' if t < 40 else 1}\n" for t in range(50))
    (tmp_path / "a.csv").write_text("t,y,name,seen\n" + rows)
    given = {"columns": "y", "known": "name", "categories": "name", "observed": None, "time": "t", "group": None}
    with pytest.raises(InputError, match="no word in 'name' occurs in two rows of the training part; leave it out"):
        begun(tmp_path / "a.csv", **given)
    given |= {"known": None, "categories": None, "observed": "seen", "fill_gaps": True}
    with pytest.raises(
        InputError, match="column 'seen' has no number in the training part; leave it out of --observed"
    ):
        begun(tmp_path / "a.csv", **given)


# What a network reads


def test_codes_follow_numbers_and_frequent_words_have_small_ones(tmp_path: Path):
    wanted = shops(tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_text().splitlines()
    text[20] = text[20].rpartition(",")[0] + ",once"  # of the training part
    text[59] = text[59].rpartition(",")[0] + ",later"  # of the test part
    (tmp_path / "a.csv").write_text(lines(*text))
    task = begun(tmp_path / "a.csv")
    scales = task.forecaster.scales
    assert scales.beside == ["price", "visits", "event", "weather"]
    train = [row for row in wanted if row["day"] < 42]
    for name, words in {"event": EVENTS, "weather": SKY}.items():
        counts = {word: sum(row[name] == word for row in train) for word in words}
        assert list(scales.words[name]) == sorted(words, key=lambda word: (-counts[word], word))
    assert (scales.mean[1], scales.deviation[1], scales.mean[3], scales.deviation[3]) == (0, 1, 0, 1)
    assert scales.mean[2] == pytest.approx(np.mean([row["price"] for row in train]))
    assert scales.mean[4] == pytest.approx(np.mean([row["visits"] for row in train]))
    assert task.unknown == ["words in 'weather', in 1 row, 2.8%: the network reads one stand-in for all"]
    windows = task.test
    *_, known, _ = windows.take(np.arange(len(windows)))
    assert known.shape[2] == 4
    codes = {name: {word: k for k, word in enumerate(words, 1)} for name, words in scales.words.items()}
    # The windows of a shop follow each other, each a row later.
    for k in range(len(windows) // 2):
        own = [row for row in wanted if row["shop"] == "a"][48 + k - 6 : 48 + k + 4]
        assert known[:, k, 2].tolist() == [codes["event"][row["event"]] for row in own]
        seen = [0 if row["day"] == 58 else codes["weather"][row["weather"]] for row in own]
        assert known[:, k, 3].tolist() == seen
        price = [(row["price"] - scales.mean[2]) / scales.deviation[2] for row in own]
        np.testing.assert_allclose(known[:, k, 0], price, rtol=1e-5)
        visits = [(row["visits"] - scales.mean[4]) / scales.deviation[4] for row in own]
        np.testing.assert_allclose(known[:, k, 1], visits, rtol=1e-5)


def test_words_count_that_occur_in_two_rows_of_the_training_part(tmp_path: Path):
    names = dict.fromkeys((3, 4), "twice") | {5: "once"} | dict.fromkeys((45, 46), "later")
    rows = "".join(f"{t},{t % 3},{names.get(t, 'often')},x\n" for t in range(50))
    (tmp_path / "a.csv").write_text("t,y,name,other\n" + rows)
    given = {"columns": "y", "known": "other", "observed": "name", "categories": "name,other", "time": "t", "group": None}  # fmt: skip
    task = begun(tmp_path / "a.csv", **given, embedding_size=2)
    scales = task.forecaster.scales
    assert scales.words == {"name": ["often", "twice"], "other": ["x"]}
    assert scales.beside == ["other", "name"]
    assert task.model.categories is not None
    assert task.model.categories.widths == [2, 2]
    assert task.unknown == ["words in 'name', in 2 rows, 13.3%: the network reads one stand-in for all"]


@pytest.mark.parametrize("observed", ["weather,visits", "visits,weather", "visits", None])
@pytest.mark.parametrize("known", ["event,price", "price", None])
def test_no_forecast_reads_what_is_observed_later(tmp_path: Path, observed: str | None, known: str | None):
    """What is known is read ahead, number or word; what is observed only in the past."""
    names = [*(known or "").split(","), *(observed or "").split(",")]
    if not any(names):
        return
    shops(tmp_path / "a.csv")
    words = ",".join(name for name in ("event", "weather") if name in names)
    task = begun(tmp_path / "a.csv", known=known, observed=observed, categories=words or None)
    model, beside = task.model.double().eval(), task.forecaster.scales.beside
    past_of, column, read, _ = task.test.take(np.arange(5))
    own = [past_of.double(), column, read.double()]
    plain = model(*own)
    for k, name in enumerate(beside):
        for ahead in (False, True):
            changed = own[2].clone()
            part = changed[6:, :, k] if ahead else changed[:6, :, k]
            part.copy_(torch.where(part == 1, 2.0, 1.0) if name in ("event", "weather") else part + 1)
            alike = torch.equal(model(own[0], own[1], changed), plain)
            assert alike == (ahead and name in ("weather", "visits")), (name, ahead)
    later = [k for k, name in enumerate(beside) if name in ("weather", "visits")]
    poisoned = own[2].clone()
    poisoned[6:, :, later] = torch.nan
    assert torch.equal(model(own[0], own[1], poisoned), plain)


def test_embeddings_stand_in_the_places_of_words(tmp_path: Path):
    """A model of words says what one says that is given their embeddings as numbers."""
    shops(tmp_path / "a.csv")
    task = begun(tmp_path / "a.csv", known="event,price", observed=None, categories="event")
    model = task.model.double().eval()
    assert model.categories is not None
    past_of, column, read, _ = task.test.take(np.arange(7))
    (table,) = model.categories.embeddings.parameters()
    assert table.shape == (4, 4)
    code = read[..., 1].long()
    assert {*code.unique().tolist()} == {1, 2, 3}
    numbers = torch.cat([read[..., :1].double(), table[code]], -1)
    scales = task.forecaster.scales
    names = ["price", "e0", "e1", "e2", "e3"]
    plain = Scales(scales.targets, names, [0.0] * 6, [1.0] * 6, scales.seasonal)
    other = forecasting.ForecastingModel(plain, options_of(known=",".join(names), observed=None, categories=None)).double().eval()  # fmt: skip
    other.load_state_dict({name: value for name, value in model.state_dict().items() if "categories" not in name})
    torch.testing.assert_close(other(past_of.double(), column, numbers), model(past_of.double(), column, read.double()))


# Learning from them


def mae(text: str, name: str) -> float:
    return float(re.findall(rf"^{name} .*MAE ([\d.]+)", text, re.MULTILINE)[0])


def test_it_learns_from_them_all(tmp_path: Path):
    """Each lowers the error. Visits count two days later and the weather one day later, so that tomorrow is known."""
    shops(tmp_path / "a.csv", 200)
    shops(tmp_path / "new.csv", 100, seed=1)
    quick = {"horizon": 1, "segment": 1, "period": 1, "lookback": 3, "hidden_size": 16, "epochs": 8, "learning_rate": 0.04, "dropout": 0, "batch_size": 16, "evaluations": 3}  # fmt: skip
    errors = []
    for own in (
        {"known": None, "observed": None, "categories": None},
        {"known": "event", "observed": None, "categories": "event"},
        {"known": "event", "observed": "weather", "categories": "event,weather"},
        {"known": "event", "observed": "weather,visits", "categories": "event,weather"},
    ):
        run = tmp_path / str(len(errors))
        done = elman("train", "forecast", tmp_path / "a.csv", *flags(**quick | own), "--run", run)
        assert done.status == 0, done.err
        errors.append(mae(elman("evaluate", run, tmp_path / "new.csv").out, "the model"))
    assert all(more > 1.1 * less for more, less in pairwise(errors)), errors
    assert re.search(r"^words +3 in 'event', 2 in 'weather'$", done.err, re.MULTILINE)


def test_a_run_goes_from_training_to_forecasts(tmp_path: Path):
    train, new, run = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "run"
    shops(train)
    done = elman("train", "forecast", train, *flags(), "--run", run)
    assert done.status == 0, done.err
    done = elman("train", "forecast", "--resume", run, "--epochs", 1)
    assert done.status == 0, done.err
    rows = shops(new, 20, ahead=4, seed=1)
    new.write_text(new.read_text().replace("sale", "bargain"))
    new.write_text(new.read_text().replace("bargains,", "sales,"))
    wanted = elman("predict", run, new)
    assert wanted.status == 0, wanted.err
    assert len(wanted.out.splitlines()) == 1 + 2 * 4
    # The order of columns, and others beside them, do not matter; what is known ahead does.
    frame = pl.read_csv(new, infer_schema=False).with_columns(pl.lit("x").alias("other"))
    frame.select(sorted(frame.columns)).write_csv(tmp_path / "c.csv")
    assert elman("predict", run, tmp_path / "c.csv").out == wanted.out
    feasts = frame.with_columns(pl.when(pl.col("sales").is_null()).then(pl.lit("feast")).otherwise("event").alias("event"))  # fmt: skip
    feasts.write_csv(tmp_path / "c.csv")
    assert elman("predict", run, tmp_path / "c.csv").out != wanted.out
    # Without rows for the times ahead, nothing says what is known then.
    frame.filter(pl.col("sales").is_not_null()).write_csv(tmp_path / "d.csv")
    assert "0 rows of 'a' with event, price after the last value" in elman("predict", run, tmp_path / "d.csv").err
    found = elman("evaluate", run, tmp_path / "d.csv").out
    strange = sum(row["event"] == "sale" and row["sales"] is not None for row in rows)
    assert re.search(rf"^unknown +words in 'event', in {strange} rows, {strange / 40:.1%}: the network reads one stand-in for all$", found, re.MULTILINE)  # fmt: skip
    assert elman("export", run, tmp_path / "run.onnx").status == 0
    said = elman("predict", tmp_path / "run.onnx", new).out
    numbers = [[float(line.split(",")[2]) for line in out.splitlines()[1:]] for out in (said, wanted.out)]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-4)
    shown = past.forecaster(run, None, tmp_path / "d.csv").data
    assert [window["group"] for window in shown["windows"]] == ["a", "b"]
    # A training that starts from it keeps its words, of which these data lack one and have another.
    done = elman("train", "forecast", tmp_path / "d.csv", "--start-from", run, "--run", tmp_path / "on", "--time", "day", "--group", "shop", "--lookback", 6, "--period", 3, "--epochs", 0.2, "--split", "0.5,0.5,0")  # fmt: skip
    assert done.status == 0, done.err
    assert forecasting.load(tmp_path / "on").scales.words == forecasting.load(run).scales.words


def test_the_name_of_a_series_may_be_a_word(tmp_path: Path):
    """What is learned of each series by itself. One that is new has the stand-in."""
    rows = shops(tmp_path / "a.csv", 60, ahead=4)
    task = begun(tmp_path / "a.csv", known="shop", observed=None, categories="shop", fill_gaps=True)
    assert task.forecaster.scales.words == {"shop": ["a", "b"]}
    assert task.groups == ["a", "b"]
    *_, known, _ = task.train.take(np.arange(len(task.train)))
    assert known[0, :, 0].tolist() == [1] * (len(task.train) // 2) + [2] * (len(task.train) // 2)
    fit(task, tmp_path / "run")
    out = elman("predict", tmp_path / "run", tmp_path / "a.csv").out.splitlines()
    assert [line.split(",")[:2] for line in out[1:]] == [[row["shop"], str(row["day"])] for row in rows if row["sales"] is None]  # fmt: skip
    (tmp_path / "b.csv").write_text((tmp_path / "a.csv").read_text().replace("\nb,", "\nnew,"))
    other = elman("predict", tmp_path / "run", tmp_path / "b.csv")
    assert [line.split(",")[0] for line in other.out.splitlines()[1:]] == ["a"] * 4 + ["new"] * 4
    assert other.out.splitlines()[:5] == out[:5]
    found = elman("evaluate", tmp_path / "run", tmp_path / "b.csv").out
    assert re.search(r"^unknown +words in 'shop', in 64 rows, 50\.0%: ", found, re.MULTILINE)


def test_observed_columns_alone_need_no_rows_ahead(tmp_path: Path):
    shops(tmp_path / "a.csv")
    task = begun(tmp_path / "a.csv", known=None, categories="weather")
    fit(task, tmp_path / "run")
    out = elman("predict", tmp_path / "run", tmp_path / "a.csv").out.splitlines()
    assert len(out) == 1 + 2 * 4
    *_, known, _ = task.test.take(np.array([0]))
    assert known.shape == (10, 1, 2)
    # The forecast reads the last rows: it is what the model says of them, whatever stands for what comes.
    one, trained = task.forecaster.read_again()[0], forecasting.load(tmp_path / "run")
    scale = trained.scales.of_series(one, trained.options)
    read = torch.full((10, 1, 2), 3.0, dtype=torch.float64)
    read[:6, 0] = torch.from_numpy(trained.scales.scaled_known(one.known[-6:]))
    last = torch.from_numpy((one.targets[-6:] - scale.mean) / scale.deviation)
    said = trained.model.double().eval()(last, torch.zeros(1, dtype=torch.int64), read)[:, 0, 0].detach() * scale.deviation + scale.mean  # fmt: skip
    assert [float(line.split(",")[2]) for line in out[1:5]] == pytest.approx(said.tolist(), abs=1e-4)


def test_codes_may_be_floats(tmp_path: Path):
    """As whole numbers are in a Parquet file in which one is missing."""
    pl.DataFrame({"y": [1.0, 2.0, 3.0], "hour": [7.0, None, 8.0]}).write_parquet(tmp_path / "a.parquet")
    columns = Columns(("y",), observed=("hour",), words={"hour": Codes(["7", "8", ""])})
    (one,), _ = series.read(tmp_path / "a.parquet", columns, BadRows())
    assert one.known[:, 0].tolist() == [1, 3, 2]


def test_what_is_observed_may_be_no_lists_in_rows_ahead(tmp_path: Path):
    frame = pl.DataFrame({"y": [1.0, 2.0, None], "push": ["a", "b", "a"], "seen": [[1.0], [2.0], [3.0]]})
    frame.write_parquet(tmp_path / "a.parquet")
    columns = Columns(("y",), ("push",), observed=("seen",), words={"push": Codes("ab")})
    with pytest.raises(InputError, match="column 'seen' should have numbers, but has the type List"):
        series.read(tmp_path / "a.parquet", columns, BadRows(), tail=2)


def test_the_built_in_series_is_no_more_data_for_a_run_with_observed_columns(tmp_path: Path):
    (tmp_path / "a.csv").write_text("x,seen\n" + "".join(f"{t % 3},{t % 5}\n" for t in range(50)))
    given = {"columns": "x", "known": None, "observed": "seen", "categories": None, "time": None, "group": None}
    fit(begun(tmp_path / "a.csv", **given), tmp_path / "run")
    told = elman("train", "forecast", "--start-from", tmp_path / "run", "--lookback", 6, "--period", 3, "--epochs", 0.3).err  # fmt: skip
    assert "reads 'x', 'seen'; give a table with these columns" in told


@pytest.mark.parametrize("change", ["a known word", "an observed word", "an observed number"])
def test_changed_data_are_noticed(tmp_path: Path, change: str):
    path = tmp_path / "a.csv"
    shops(path)
    fit(begun(path), tmp_path / "run")
    shop, day, sales, price, visits, event, weather = path.read_text().splitlines()[5].split(",")
    if change == "a known word":
        event = "sale" if event == "feast" else "feast"
    elif change == "an observed word":
        weather = "wet" if weather == "dry" else "dry"
    else:
        visits = "0.25"
    every = path.read_text().splitlines()
    every[5] = ",".join((shop, day, sales, price, visits, event, weather))
    path.write_text(lines(*every))
    refused = elman("train", "forecast", "--resume", tmp_path / "run", "--epochs", 1)
    assert (refused.status, refused.out) == (2, "")
    assert "was begun with other series; put the old series back" in refused.err


def test_bad_rows_are_counted_once(tmp_path: Path):
    """Though a table with words is read twice."""
    shops(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open("a") as file:
        file.write("b,60,many,1,1,sale,dry\n")
    bad = BadRows(skip=True)
    task = forecasting.begin(tmp_path / "a.csv", options_of(skip_bad=True), "cpu", bad)
    assert (bad.count, task.rows) == (1, 120)


@pytest.mark.parametrize(
    "change",
    [
        {"words": {"event": ["sale", "sale"], "weather": ["dry"]}},
        {"words": {"event": [], "weather": ["dry"]}},
        {"words": {"sales": ["sale"]}},
        {"words": 3},
        {"observed": ["visits"]},
    ],
)
def test_damaged_scales(tmp_path: Path, change: dict[str, Any]):
    shops(tmp_path / "a.csv")
    fit(begun(tmp_path / "a.csv"), tmp_path / "run")
    path = tmp_path / "run" / "scales.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=re.escape(f"{path} is damaged: ")):
        forecasting.load(tmp_path / "run")


def test_windows_have_no_column_beside_them_where_none_is_named(tmp_path: Path):
    shops(tmp_path / "a.csv")
    task = begun(tmp_path / "a.csv", known=None, observed=None, categories=None)
    assert (task.model.numbers, task.model.ahead, task.model.known) == (0, [], None)
    every = task.forecaster.read_again()
    windows = Windows(Scaled.of(every, task.forecaster.scales, task.options), [(0, 60)] * 2, 6, 4)
    assert windows.take(np.arange(3))[2].shape == (10, 3, 0)


# Pages


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_the_page_says_what_other_columns_bring(tmp_path: Path, strategy: str):
    """By finite differences of numbers, and with the stand-in in the place of words."""
    shops(tmp_path / "a.csv")
    observed = {"observed": None, "categories": "event"} if strategy == "recursive" else {}
    task = begun(tmp_path / "a.csv", strategy=strategy, **observed)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    fit(task, tmp_path / "run")
    trained, shown = forecasting.load(tmp_path / "run"), past.forecaster(tmp_path / "run", None, None).data
    every, scales = trained.read_again(), trained.scales
    trained.model.double().eval()
    for one, window in zip(every, shown["windows"], strict=True):
        scale, names = scales.of_series(one, trained.options), [each["name"] for each in window["beside"]]
        assert names == scales.beside
        values = torch.from_numpy((one.targets[-10:-4] - scale.mean) / scale.deviation)

        def forecast(known: np.ndarray, values: torch.Tensor = values, unit: float = float(scale.deviation[0])) -> np.ndarray:  # fmt: skip
            read = torch.from_numpy(known)[:, None]
            return trained.forecast(values, torch.zeros(1, dtype=torch.int64), read)[:, 0, 0].numpy() * unit

        plain = scales.scaled_known(one.known[-10:])
        for n, each in enumerate(window["beside"]):
            found = np.array(each["bears"])
            assert found.shape == (4, 10 if each["name"] in ("price", "event") else 6)
            exact = np.empty_like(found)
            for t in range(found.shape[1]):
                above, below = plain.copy(), plain.copy()
                if each["words"] is None:
                    own = scales.deviation[1 + [*scales.known, *scales.observed].index(each["name"])]
                    above[t, n] += 1e-5 / own
                    below[t, n] -= 1e-5 / own
                    exact[:, t] = (forecast(above) - forecast(below)) / 2e-5
                else:
                    below[t, n] = 0
                    exact[:, t] = forecast(above) - forecast(below)
            np.testing.assert_allclose(found, exact, rtol=5e-3, atol=1e-4)
            assert np.abs(exact).max() > 1e-3
            if each["words"] is not None:
                codes = plain[: found.shape[1], n].astype(int)
                assert each["words"] == [[None, *scales.words[each["name"]]][code] for code in codes]


def test_a_page_shows_other_columns(tmp_path: Path, open_page: OpenPage):
    shops(tmp_path / "a.csv")
    fit(begun(tmp_path / "a.csv"), tmp_path / "run")
    text = (tmp_path / "a.csv").read_text()
    (tmp_path / "a.csv").write_text(text.replace("feast", "fair"))
    assert elman("explain", tmp_path / "run", "--data", tmp_path / "a.csv", "--output", tmp_path / "page.html").status == 0  # fmt: skip
    opened = open_page(tmp_path / "page.html", locale="en-US")
    opened.page.wait_for_selector("#ribbon")
    shown = opened.page.inner_text("#reads")
    for name, word in (("price", ""), ("visits", ""), ("event", r"(sale|\(none\)|\(another\)) "), ("weather", "(dry|wet) ")):  # fmt: skip
        assert re.search(rf"^{name}: {word}[−+]\d+ \(−?[\d.e−]+\), ", shown, re.MULTILINE), shown
    assert opened.page.locator("#reads svg").count() == 5
    assert "Other columns." in shown
    assert not opened.errors
