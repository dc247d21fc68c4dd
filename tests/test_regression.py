"""A number for each sequence: what is learned, what is said of it, and by which baselines it is judged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import test_tasks
from elman.datasets import examples
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns, Labelled, sequences
from elman.errors import InputError
from elman.explain import directions
from elman.tasks import classification, forecasting, linear, regression
from elman.tasks.gathered import Gathered
from elman.tasks.options import ForecastingOptions, RegressionOptions
from elman.tasks.parts import unit_of
from elman.tasks.regression import Reading, Values, baselines, numbers_of
from elman.tasks.tallies import values
from elman.tasks.values import Criterion
from elman.training.run import MODEL, Run
from test_tasks import write_pumps
from tiny_runs import elman, lines, scores_of

SMALL = test_tasks.SMALL["regress"]


def options_of(**changes: Any) -> RegressionOptions:
    return RegressionOptions(**{"hidden_size": 5, "epochs": 1.0} | changes)


def labels_of(path: Path) -> Any:
    return np.array([json.loads(line)["label"] for line in path.read_text().splitlines()], np.float64)


def figures(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\S.*?) {2,}(\S.*)$", scores_of(text), re.MULTILINE))


def learned(directory: Path, name: str, *given: object) -> Path:
    """The directory of a run that `pumps` has the data of; what it said is beside it."""
    command = ("train", "regress", directory / "train.jsonl", *SMALL, "--epochs", 12, "--noise", 0, *given)
    outcome = elman(*command, "--run", directory / name)
    assert outcome.status == 0, outcome.err
    (directory / f"{name}.out").write_text(outcome.out)
    return directory / name


@pytest.fixture(scope="module")
def pumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with data and a run that learned squares."""
    d = tmp_path_factory.mktemp("pumps")
    write_pumps(d / "train.jsonl", 240)
    write_pumps(d / "new.jsonl", 60, seed=1)
    learned(d, "run")
    return d


@pytest.fixture(scope="module")
def quantiles(pumps: Path) -> Path:
    """A run that learned quantiles from the same data."""
    return learned(pumps, "quantiles", "--quantiles", "0.1,0.5,0.9")


# Learning


def test_it_learns_and_says_in_both_units_how_well(pumps: Path):
    predicted = np.loadtxt(elman("predict", pumps / "run", pumps / "new.jsonl").out.splitlines(), delimiter=",", skiprows=1)  # fmt: skip
    assert predicted[:, 0].tolist() == list(range(1, 61))
    truth, found = labels_of(pumps / "new.jsonl"), figures(elman("evaluate", pumps / "run", pumps / "new.jsonl").out)
    error, spread = predicted[:, 1] - truth, Reading.load(Run(pumps / "run")).spread[0]
    rmse, mae = np.sqrt((error**2).mean()), np.abs(error).mean()
    for name, value in {"RMSE": rmse, "MAE": mae}.items():
        own, scaled = re.findall(r"[\d.]+", found[name])
        assert float(own) == pytest.approx(value, rel=1e-3)
        assert float(scaled) == pytest.approx(value / spread, abs=2e-4)
    assert float(found["R²"]) == pytest.approx(1 - rmse**2 / truth.var(), abs=2e-4)
    assert float(found["R²"]) > 0.8
    assert found["sequences"] == "60"


def test_the_values_are_measured_by_the_training_sequences(pumps: Path):
    reading = Reading.load(Run(pumps / "run"))
    options = RegressionOptions.from_json(json.loads((pumps / "run" / "config.json").read_text())["options"], "")
    _, train, validation, _ = regression.read(pumps / "train.jsonl", options, BadRows())
    own = labels_of(pumps / "train.jsonl")[train]
    assert sorted([*train, *validation]) == list(range(240))
    assert len(validation) == 48
    assert (reading.center[0], reading.spread[0]) == pytest.approx((own.mean(), own.std()))
    assert reading.labels == ["label"]


def test_the_built_in_sequences_need_a_memory():
    for steps, sums in examples.marked_numbers(40):
        (first, second) = np.flatnonzero(steps[:, 1])
        assert sums[-1] == pytest.approx(steps[first, 0] + steps[second, 0])
        assert first < len(steps) // 2 <= second
        assert 30 <= len(steps) <= 60


@pytest.mark.usefixtures("no_pictures")
def test_words_say_how_much(tmp_path: Path):
    """A text's value is how often it has one word more than another; a linear function of counts nearly has it."""
    draw = np.random.default_rng(0)
    texts = [list(draw.choice(["up", "down", "so"], draw.integers(1, 9))) for _ in range(150)]
    rows = [{"body": " ".join(each), "score": each.count("up") - each.count("down")} for each in texts]
    (tmp_path / "texts.jsonl").write_text(lines(*map(json.dumps, rows)))
    given = ("--text", "body", "--label", "score", "--embedding-size", 4, "--epochs", 40, "--dropout", 0, *SMALL)
    outcome = elman("train", "regress", tmp_path / "texts.jsonl", *given, "--run", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    constant, linear = (float(re.findall(r"[\d.]+", figures(outcome.out)[name])[0]) for name in ("constant", "linear"))
    assert "how often words occur" in figures(outcome.out)["linear"]
    assert linear < 0.6 * constant
    assert float(figures(outcome.out)["R²"]) > 0.8
    said = figures(elman("evaluate", tmp_path / "run", tmp_path / "texts.jsonl").out)
    assert said["unknown words"].startswith("0, 0.0%")


# Baselines


def values_of(every: list[Labelled], options: RegressionOptions, own: Any) -> Values:
    gathered = Gathered(unit_of(options))
    gathered.add(every, Path("none"))
    return Values(gathered, Reading.learn(gathered, np.asarray(own), options))


@pytest.mark.parametrize(("count", "channels"), [(40, 2), (9, 3)])  # more sequences than features, and fewer
@pytest.mark.parametrize("criterion", [Criterion("mse"), Criterion("huber"), Criterion("mse", (0.1, 0.7))])
def test_baselines_by_hand(count: int, channels: int, criterion: Criterion):
    draw = np.random.default_rng(count)
    content = [draw.normal(3, 2, (int(draw.integers(1, 8)), channels)) for _ in range(count)]
    content[0][:] = content[1][:1, :]  # of no deviation
    labels = [f"{draw.gamma(1):.5f}" for _ in content]
    every = [Labelled(str(k), x, y) for k, (x, y) in enumerate(zip(content, labels, strict=True))]
    train, held = np.arange(0, count, 2), np.arange(1, count, 2)
    encoded = values_of(every, options_of(), train)
    found = baselines(encoded, train, encoded, held, criterion, False)

    y = encoded.values.numpy()[:, 0]
    steps = np.concatenate([content[k] for k in train])
    assert y[train].mean() == pytest.approx(0, abs=1e-9)
    x = [(each - steps.mean(0)) / steps.std(0) for each in content]
    table = np.array([[*e.mean(0), *e.std(0), *e.min(0), *e.max(0), *e[0], *e[-1], len(e)] for e in x])
    center, deviation = table[train].mean(0), table[train].std(0)
    table = (table - center) / np.where(deviation > 0, deviation, 1)
    # Ridge regression as least squares with a row of zero for each weight.
    rows = np.concatenate([table[train], np.eye(table.shape[1])])
    weights = np.linalg.lstsq(rows, np.concatenate([y[train] - y[train].mean(), np.zeros(len(rows) - len(train))]))[0]
    linear = table @ weights + y[train].mean()
    if criterion.quantiles:
        q = np.array(criterion.quantiles)
        guesses = {
            "constant": np.quantile(y[train], q)[None],
            "linear": linear[held, None] + np.quantile((y - linear)[train], q),
        }
        e = {name: y[held, None] - guess for name, guess in guesses.items()}
        want = {name: np.maximum(q * each, (q - 1) * each).mean() for name, each in e.items()}
    elif criterion.squared:
        want = {
            name: np.sqrt((e**2).mean())
            for name, e in {"constant": y[held] - y[train].mean(), "linear": y[held] - linear[held]}.items()
        }
    else:
        want = {
            name: abs(e).mean()
            for name, e in {"constant": y[held] - np.median(y[train]), "linear": y[held] - linear[held]}.items()
        }
    assert values(found) == pytest.approx(want, rel=1e-6)


def test_the_baselines_are_the_same_while_training_and_afterwards(pumps: Path, tmp_path: Path):
    options = RegressionOptions.from_json(json.loads((pumps / "run" / "config.json").read_text())["options"], "")
    _, _, held, _ = regression.read(pumps / "train.jsonl", options, BadRows())
    every = (pumps / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "held.jsonl").write_text("".join(every[k] for k in held))
    before, after = figures((pumps / "run.out").read_text()), figures(elman("evaluate", pumps / "run", tmp_path / "held.jsonl").out)  # fmt: skip
    for name in ("constant", "linear"):
        assert after[name].startswith(before[name].split()[0])
    assert after["RMSE"] == before["RMSE"]
    kept = json.loads((pumps / "run" / "config.json").read_text())["baselines"]
    assert f"{kept['linear']:.4f}" == after["linear"].split()[0]
    assert "squares" not in after["linear"]


def test_many_sequences_are_learned_from_at_equal_distances(monkeypatch: pytest.MonkeyPatch):
    draw = np.random.default_rng(0)
    every = [Labelled(str(k), draw.normal(size=(3, 1)), f"{draw.normal():.4f}") for k in range(50)]
    encoded = values_of(every, options_of(), np.arange(50))
    few = linear.Linear(encoded, np.arange(0, 50, 3), lambda own: encoded.values.numpy()[own], False)
    monkeypatch.setattr(linear, "LEARNED", 17)
    many = linear.Linear(encoded, np.arange(50), lambda own: encoded.values.numpy()[own], False)
    assert many.weights == pytest.approx(few.weights)
    assert many(encoded, np.arange(50)) == pytest.approx(few(encoded, np.arange(50)))


# Quantiles


@pytest.mark.parametrize("loss", ["mae", "mse", "huber", "quantiles"])
def test_losses_by_hand(loss: str):
    torch.manual_seed(0)
    quantiles = [0.2, 0.6] if loss == "quantiles" else []
    criterion = Criterion("mse" if quantiles else loss, quantiles)
    predicted, truth = 2 * torch.randn(7, len(quantiles) or 1), torch.randn(7)

    def one(e: float, q: float) -> float:
        return {
            "mae": abs(e),
            "mse": e**2,
            "huber": 0.5 * e**2 if abs(e) < 1 else abs(e) - 0.5,
            "quantiles": q * e if e > 0 else (q - 1) * e,
        }[loss]

    every = [
        one(float(y - p), q) for y, row in zip(truth, predicted, strict=True) for p, q in zip(row, quantiles or [0.5], strict=True)
    ]  # fmt: skip
    assert float(criterion.mean(predicted, truth)) == pytest.approx(np.mean(every), rel=1e-5)
    of_each = np.reshape(every, (7, -1)).mean(1)
    assert criterion.each(predicted, truth).tolist() == pytest.approx(of_each.tolist(), rel=1e-5)
    assert criterion.measure == ("pinball" if quantiles else loss)
    assert criterion.squared == (loss == "mse")


def test_how_many_values_are_below_each_quantile():
    criterion = Criterion("mse", (0.25, 0.5, 0.9))
    predicted = torch.tensor([[0.0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2]])
    truth = torch.tensor([-1.0, 1, 1.5, torch.nan])
    below = criterion.below(predicted, truth)
    assert below.tolist() == [1, 2, 3]
    assert dict(criterion.covered(below, 3)) == {
        "quantiles": "33.3% for 0.25, 66.7% for 0.5, 100.0% for 0.9 of 3 true values",
        "band": "66.7% between the outer quantiles, 65.0% if these were exact",
    }
    assert dict(Criterion("mse").covered(below[:1], 3)) == {}
    assert list(dict(Criterion("mse", (0.5,)).covered(below[:1], 3))) == ["quantiles"]
    assert criterion.middle(predicted).tolist() == [1, 1, 1, 1]
    assert criterion.in_order(predicted.flip(-1)).tolist() == predicted.tolist()


def test_quantiles_rise_and_are_counted(pumps: Path, quantiles: Path):
    outcome = elman("predict", quantiles, pumps / "new.jsonl")
    header, *rows = outcome.out.splitlines()
    assert header == "sequence,value_q0.1,value_q0.5,value_q0.9"
    table, truth = np.array([[float(cell) for cell in row.split(",")] for row in rows])[:, 1:], labels_of(pumps / "new.jsonl")  # fmt: skip
    assert (np.diff(table, axis=1) >= 0).all()
    found = figures(elman("evaluate", quantiles, pumps / "new.jsonl").out)
    shares = (truth[:, None] <= table).mean(0)
    told = ", ".join(f"{share:.1%} for {q}" for share, q in zip(shares, (0.1, 0.5, 0.9), strict=True))
    assert found["quantiles"] == f"{told} of 60 true values"
    assert found["band"].startswith(f"{shares[2] - shares[0]:.1%} ")
    assert float(re.findall(r"[\d.]+", found["MAE"])[0]) == pytest.approx(np.abs(table[:, 1] - truth).mean(), rel=1e-3)
    said = figures(Path(f"{quantiles}.out").read_text())
    assert re.match(r"[\d.]+ pinball \(says the quantiles of the training values\): the model is ", said["constant"])
    assert "means, extremes and ends, and the quantiles of its errors" in said["linear"]
    e, spread = truth[:, None] - table, Reading.load(Run(quantiles)).spread[0]
    pinball = np.maximum(np.array([0.1, 0.5, 0.9]) * e, np.array([-0.9, -0.5, -0.1]) * e).mean()
    own, scaled = re.findall(r"[\d.]+", found["pinball"])
    assert float(own) == pytest.approx(pinball, rel=1e-3)
    assert float(scaled) == pytest.approx(pinball / spread, abs=2e-4)
    assert found["constant"].startswith(
        f"{float(found['constant'].split()[0]):.4f} pinball in standard deviations, a baseline; the model is better by "
    )
    rows = [json.loads(row) for row in _predicted(quantiles, pumps / "new.jsonl", ".jsonl")]
    assert rows[3] == {"sequence": "4"} | dict(zip(header.split(",")[1:], table[3].tolist(), strict=True))


@pytest.mark.usefixtures("no_pictures")
def test_what_is_kept_has_the_best_quantiles_and_not_the_least_error(tmp_path: Path):
    """Of values that nothing tells, a high quantile is far from the middle, so that each step to it is one to larger errors."""
    draw = np.random.default_rng(1)
    rows = [{"values": draw.normal(size=2).round(3).tolist(), "label": float(draw.normal())} for _ in range(300)]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    given = ("--quantiles", "0.9", "--epochs", 6, *SMALL, "--run", tmp_path / "run")
    outcome = elman("train", "regress", tmp_path / "a.jsonl", *given)
    assert outcome.status == 0, outcome.err
    share = float(figures(outcome.out)["quantiles"].split("%")[0])
    assert 80 < share < 98
    rows = Run(tmp_path / "run").metrics()
    best = {score: min(rows, key=lambda row: float(row[score]))["step"] for score in ("validation_pinball", "mae")}
    assert best["validation_pinball"] != best["mae"]
    assert Run(tmp_path / "run").load_tensors(MODEL)[1]["step"] == int(best["validation_pinball"])


def _predicted(run: Path, data: Path, form: str) -> list[str]:
    return "".join(regression.load(run).predict(data, form)).splitlines()


def test_forecasts_are_counted_by_the_same_rule(tmp_path: Path):
    draw = np.random.default_rng(0)
    series = np.sin(np.arange(90) / 3) + draw.normal(size=90) / 5
    (tmp_path / "a.csv").write_text(lines("y", *series.round(4)))
    options = ForecastingOptions(
        horizon=3, lookback=6, segment=3, period=2, quantiles="0.2,0.8", hidden_size=4, split="0.5,0.2,0.3", epochs=1.0
    )
    task = forecasting.begin(tmp_path / "a.csv", options, "cpu", BadRows())
    windows = task.test
    below = torch.zeros(2)
    past, column, known, truth = windows.take(np.arange(len(windows)))
    task.model.eval()
    forecast = task.forecaster.forecast(past, column, known)
    for k in range(2):
        below[k] = (truth <= forecast[..., k]).float().mean()
    said = dict(task.conclusion())
    wanted = f"{below[0]:.1%} for 0.2, {below[1]:.1%} for 0.8 of {truth.numel():,} true values"
    assert said["quantiles"] == wanted
    assert list(said) == ["test", "naive", "seasonal 2", "quantiles", "band"]


def test_forecasts_of_rows_that_were_filled_in_are_not_counted(tmp_path: Path):
    rows = [f"{t},{np.sin(t):.4f}" for t in range(90) if t not in (70, 71, 80)]
    (tmp_path / "a.csv").write_text(lines("t,y", *rows))
    options = ForecastingOptions(
        time="t", fill_gaps=True, horizon=3, lookback=6, segment=3, period=2, quantiles="0.5", hidden_size=4, epochs=1.0
    )
    task = forecasting.begin(tmp_path / "a.csv", options, "cpu", BadRows())
    truth = task.test.take(np.arange(len(task.test)))[3]
    assert truth.isnan().any()
    assert f" of {int((~truth.isnan()).sum()):,} true values" in dict(task.conclusion())["quantiles"]


# Readers


TS = "@problemName a\n@targetLabel true\n@data\n1,2:3,4:0.5\n2,1:0,1:-1e3\n"
WRONG: dict[str, tuple[str, str, Columns, str]] = {
    "a word": ("a.jsonl", '{"values": [1], "label": 2}\n{"values": [1], "label": "x"}\n', Columns(), "line 2: 'label' should be a finite number"),
    "a switch": ("a.jsonl", '{"values": [1], "label": true}\n', Columns(), "is 'True'"),
    "no name": ("a.jsonl", '{"values": [1]}\n', Columns(), "line 1: there is no 'label'; the names are 'values'"),
    "nothing": ("a.jsonl", '{"values": [1], "label": null}\n', Columns(), "line 1: 'label' should be a finite number, at most 3.4e+38 from zero, but there is none"),
    "infinity": ("a.jsonl", '{"values": [1], "label": 1e999}\n', Columns(), "is 'inf'"),
    "too far": ("a.jsonl", '{"values": [1], "label": 1e39}\n', Columns(), "at most 3.4e+38 from zero"),
    "in a table": ("a.csv", "id,x,label\n1,2,0.5\n2,3,high\n2,4,high\n", Columns(sequence="id"), "line 3: column 'label' should be a finite number, at most 3.4e+38 from zero, but is 'high'"),
    "beside a text": ("a.csv", "t,label\nso,1\nup,n/a\n", Columns(text="t"), "line 3: column 'label' should be a finite number"),
    "in an archive": ("a.ts", TS + "1:2:high\n", Columns(), "line 6: the label should be a finite number"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_number_is_named(tmp_path: Path, case: str):
    name, text, columns, message = WRONG[case]
    (tmp_path / name).write_text(text)
    columns = columns._replace(numeric=True)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        list(sequences(tmp_path / name, columns))
    assert str(error.value).startswith(str(tmp_path / name))
    bad = BadRows(skip=True)
    kept = list(sequences(tmp_path / name, columns, bad=bad))
    assert bad.count == 1
    assert len(kept) == {"a word": 1, "in a table": 1, "beside a text": 1, "in an archive": 2}.get(case, 0)
    for labelled in (False, True):  # a classifier takes most of these, and who predicts reads no label
        plain = columns._replace(numeric=labelled)
        if name != "a.ts" or plain.numeric:
            list(sequences(tmp_path / name, plain, labelled=False))


def test_every_form_of_a_file(tmp_path: Path):
    (tmp_path / "a.ts").write_text(TS)
    (tmp_path / "a.jsonl").write_text('{"values": [[1, 3], [2, 4]], "label": 0.5}\n{"values": [[2, 0], [1, 1]], "label": " -1000 "}\n')  # fmt: skip
    (tmp_path / "a.csv").write_text("id,x,z,label\na,1,3,.5\na,2,4,.5\nb,2,0,-1e3\nb,1,1,-1e3\n")
    for name in ("a.ts", "a.jsonl", "a.csv"):
        columns = Columns(sequence="id" if name == "a.csv" else None, numeric=True)
        gathered = Gathered(None)
        gathered.add(sequences(tmp_path / name, columns), tmp_path / name)
        assert numbers_of(gathered, 1).tolist() == [[0.5], [-1000]]
        assert gathered.rows[1].tolist() == [[2, 0], [1, 1]]


@pytest.mark.parametrize("numeric", [True, False])
def test_a_sequence_with_a_label_missing_is_left_out_as_a_whole(tmp_path: Path, numeric: bool):
    (tmp_path / "a.csv").write_text("id,x,label\na,1,3\na,2,\nb,1,\nb,2,4\nc,1,5\nc,2,5\n")
    bad = BadRows(skip=True)
    kept = list(sequences(tmp_path / "a.csv", Columns(sequence="id", numeric=numeric), bad=bad))
    assert [(each.name, len(each.content)) for each in kept] == [("c", 2)]
    assert bad.count == 2


def test_the_same_number_written_in_two_ways(tmp_path: Path):
    (tmp_path / "a.csv").write_text("id,x,label\na,1,3\na,2,3.0\n")
    (one,) = sequences(tmp_path / "a.csv", Columns(sequence="id", numeric=True))
    assert len(one.content) == 2
    with pytest.raises(InputError, match=r"labelled '3\.0' here but '3' before"):
        list(sequences(tmp_path / "a.csv", Columns(sequence="id")))


def test_a_file_for_the_other_task(tmp_path: Path):
    (tmp_path / "a.ts").write_text(TS)
    outcome = elman("train", "classify", tmp_path / "a.ts")
    assert outcome.status == 2
    assert "line 2: the file says that its labels are numbers; learn them with elman train regress" in outcome.err
    (tmp_path / "b.ts").write_text(TS.replace("true", "false"))
    outcome = elman("train", "regress", tmp_path / "b.ts")
    assert "line 2: the file says that it has no values to predict; give a file with some" in outcome.err


REFUSED: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "one value": (lines(*['{"values": [1, 2], "label": 3}', '{"values": [1], "label": "3.0"}'] * 5), (), "the training sequences of {path} have only one value, 3; give sequences of different values"),
    "values too close": (lines(*(f'{{"values": [1], "label": {k}e-200}}' for k in range(9))), (), "the values to predict in {path} are at most 7e-200 apart; give them in a smaller unit"),
    "two sequences": (lines(*['{"values": [1, 2], "label": 3}', '{"values": [1], "label": 4}']), (), "leaves 1 sequence for training and 1 for validation"),
    "no sequence": ("", (), "leaves 0 sequences for training and 0 for validation"),
    "quantiles and a loss": ("", ("--quantiles", "0.5", "--loss", "mae"), "--quantiles uses its own loss, so --loss mae cannot be given with it"),
    "quantiles and the usual loss": ("", ("--quantiles", "0.5", "--loss", "mse"), "--loss has no effect with --quantiles"),
    "quantiles beyond": ("", ("--quantiles", "0.5,1"), "--quantiles must be between 0 and 1, in increasing order, got 0.5,1"),
    "quantiles of words": ("", ("--quantiles", "half"), "--quantiles must be finite numbers separated by commas"),
    "a class": ("", ("--best-by", "accuracy"), "No such option: --best-by"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_ends_with_one_sentence(tmp_path: Path, case: str):
    text, given, message = REFUSED[case]
    (tmp_path / "a.jsonl").write_text(text)
    outcome = elman("train", "regress", tmp_path / "a.jsonl", *given, "--run", tmp_path / "run")
    assert (outcome.status, outcome.out) == (2, "")
    assert message.replace("{path}", str(tmp_path / "a.jsonl")) in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"spread": 0.0},
        {"spread": [1.0, 1.0]},
        {"center": None},
        {"spread": [float("inf")]},
        {"labels": ["x", "y"]},
        {"more": 1},
    ],
)
def test_a_damaged_run(pumps: Path, tmp_path: Path, changed: dict[str, Any]):
    import shutil

    run = shutil.copytree(pumps / "run", tmp_path / "run")
    content = json.loads((run / "vocabulary.json").read_text()) | changed
    (run / "vocabulary.json").write_text(json.dumps(content))
    outcome = elman("predict", run, pumps / "new.jsonl")
    assert outcome.status == 2
    assert re.fullmatch(r"elman: \S+vocabulary\.json is damaged: [^\n]+; restore it or train again\n", outcome.err)


# From a run


UNLABELLED = {
    "no label": ("a.jsonl", '{"values": [[1, 2], [3, 4]]}\n'),
    "no number": ("a.jsonl", '{"values": [[1, 2], [3, 4]], "label": "soon"}\n'),
    "an endless one": ("a.jsonl", '{"values": [[1, 2], [3, 4]], "label": 1e999}\n'),
    "an archive with none": ("a.ts", "@targetLabel false\n@data\n1,3:2,4\n"),
    "an archive that lacks one": ("a.ts", "@targetLabel true\n@data\n1,3:2,4:?\n"),
}


@pytest.mark.parametrize("case", UNLABELLED)
def test_what_is_predicted_or_explained_needs_no_number(pumps: Path, tmp_path: Path, case: str):
    name, text = UNLABELLED[case]
    (tmp_path / name).write_text(text)
    (tmp_path / "known.jsonl").write_text('{"values": [[1, 2], [3, 4]], "label": 5}\n')
    want = elman("predict", pumps / "run", tmp_path / "known.jsonl")
    got = elman("predict", pumps / "run", tmp_path / name)
    assert (got.status, got.out, got.err) == (0, want.out, "")
    (shown,) = directions.regressor(pumps / "run", None, tmp_path / name).data["sequences"]
    assert shown["truth"] is None


@pytest.mark.usefixtures("no_pictures")
def test_tables_to_predict_need_no_number(tmp_path: Path):
    """Nor need it be the same in each row of a sequence, as the hours that are left are not."""
    every = "".join(f"{k},{k + t},{k}\n" for k in range(9) for t in range(3))
    (tmp_path / "a.csv").write_text("id,x,label\n" + every)
    given = ("--sequence", "id", "--epochs", 1, *SMALL, "--run", tmp_path / "run")
    assert elman("train", "regress", tmp_path / "a.csv", *given).status == 0
    (tmp_path / "b.csv").write_text("id,x\n" + "".join(f"{k},{k + t}\n" for k in range(9) for t in range(3)))
    (tmp_path / "c.csv").write_text("id,x,label\n" + "".join(f"{k},{k + t},{t}\n" for k in range(9) for t in range(3)))
    want = elman("predict", tmp_path / "run", tmp_path / "a.csv").out
    for name in ("b.csv", "c.csv"):
        assert elman("predict", tmp_path / "run", tmp_path / name).out == want


@pytest.mark.usefixtures("no_pictures")
def test_a_text_to_explain_has_no_number(tmp_path: Path):
    rows = [{"t": "up up" if k % 2 else "so up", "label": k % 2} for k in range(12)]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    given = ("--text", "t", "--epochs", 1, *SMALL, "--run", tmp_path / "run")
    assert elman("train", "regress", tmp_path / "a.jsonl", *given).status == 0
    (shown,) = directions.regressor(tmp_path / "run", "up so", None).data["sequences"]
    assert shown["truth"] is None


def test_a_value_far_from_what_was_learned_is_finite(pumps: Path, tmp_path: Path):
    (tmp_path / "far.jsonl").write_text('{"values": [[3e38, -3e38], [0, 1]], "label": -3e38}\n')
    said = figures(elman("evaluate", pumps / "run", tmp_path / "far.jsonl").out)
    assert "nan" not in str(said).lower()
    assert "inf" not in str(said).lower()


def test_a_sequence_alone_and_in_company(pumps: Path, quantiles: Path):
    regressor = regression.load(quantiles)
    every = list(sequences(pumps / "new.jsonl", Columns(numeric=True)))
    together: Tensor = regressor.says(regressor.encode(every, Path("none")), np.arange(60))
    for k in (0, 7, 59):
        alone = regressor.says(regressor.encode([every[k]], Path("none")), np.arange(1))
        assert torch.allclose(alone[0], together[k], rtol=1e-4, atol=1e-5)


def test_classes_and_values_of_a_run_are_kept_apart(pumps: Path):
    with pytest.raises(InputError, match="regress"):
        classification.load(pumps / "run")
