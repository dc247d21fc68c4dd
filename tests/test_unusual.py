"""Rows of a series that are unusual: `elman detect`."""

from __future__ import annotations

import csv
import io
import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from elman import charts
from elman.datasets.reading import BadRows
from elman.errors import InputError
from elman.tasks import forecasting, unusual
from elman.tasks.findings import Findings, area, stretches
from elman.tasks.options import ForecastingOptions
from elman.tasks.unusual import OURS, Detector, Truth, Usual
from elman.training import fitting
from elman.training.loop import MODEL
from forks import ROOT
from test_cli import complaint
from tiny_runs import elman, lines

SMALL: dict[str, Any] = {
    "time": "t",
    "horizon": 6,
    "lookback": 8,
    "segment": 4,
    "period": 4,
    "hidden_size": 6,
    "epochs": 1.0,
    "split": "0.5,0.4,0.1",
}


def plant(path: Path, rows: int = 160, seed: int = 0, groups: str = "", gaps: float = 0.0) -> Path:
    """Two columns of which the second is nearly half of the first, and a known one. Nothing is unusual."""
    draw, found = np.random.default_rng(seed), []
    for group in groups or [""]:
        push = draw.integers(0, 3, rows)
        heat = 5 + 3 * np.sin(np.arange(rows) / 3) + 0.4 * draw.normal(size=rows) + push
        flow = heat / 2 + 0.02 * draw.normal(size=rows)
        for t in range(rows):
            cells = ["" if draw.random() < gaps else f"{value:.5f}" for value in (heat[t], flow[t])]
            found.append(",".join([*([group] if groups else []), str(10 * t), *cells, str(push[t])]))
    path.write_text(lines(("unit," if groups else "") + "t,heat,flow,push", *found))
    return path


def trained(path: Path, **changes: Any) -> forecasting.Forecaster:
    """A forecaster of random weights: what is tested holds for any."""
    values: dict[str, Any] = SMALL | {"known": "push"} | changes
    options = ForecastingOptions(**values)
    forecaster = forecasting.begin(path, options, "cpu", BadRows()).forecaster
    forecaster.model.eval()
    return forecaster


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def judged(detector: Detector, path: Path, rate: float = 0.1, **given: Any) -> list[dict[str, str]]:
    return table("".join(Findings(detector, path, rate, **given).table(".csv")))


# What is expected, and how unusual a row is


@pytest.mark.parametrize("ahead", [1, 5])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quantiles": "0.2,0.5,0.9"},
        {"known": None, "strategy": "recursive", "columns": "heat,flow"},
        {"group": "unit"},
    ],
    ids=["plain", "quantiles", "recursive", "groups"],
)
def test_a_row_is_compared_with_what_would_have_been_predicted(tmp_path: Path, ahead: int, changes: Any):
    """The referee is the forecast of a file that ends so many rows before, with what is known of the rows ahead."""
    path = plant(tmp_path / "a.csv", groups="ab" if "group" in changes else "")
    forecaster = trained(path, **changes)
    expecting = unusual.forecasts(forecaster, ahead)
    head, *every = path.read_text().splitlines()
    for one in forecaster.read_again():
        whole = expecting(one, 20, len(one.targets))
        scale = forecaster.scales.of_series(one, forecaster.options)
        for row in (20, 33, 153):
            rows = [line for line in every if not one.group or line.startswith(f"{one.group},")]
            past = rows[: row - ahead + 1]
            later = [re.sub(r"(\d+),[\d.-]+,[\d.-]+,", r"\1,,,", line) for line in rows[row - ahead + 1 :]][:6]
            (tmp_path / "b.csv").write_text(lines(head, *past, *later))
            said = table("".join(forecaster.predict(tmp_path / "b.csv", ".csv")))[ahead - 1]
            names = [f"{name}_q0.5" if "quantiles" in changes else name for name in ("heat", "flow")]
            found = whole.expected[row - 20] * scale.deviation + scale.mean
            np.testing.assert_allclose(found, [float(said[name]) for name in names], rtol=2e-5)
            if "quantiles" in changes:
                band = [float(said[f"{n}_q0.9"]) - float(said[f"{n}_q0.2"]) for n in ("heat", "flow")]
                np.testing.assert_allclose(whole.width[row - 20] * scale.deviation, np.array(band) / 2, rtol=2e-3)


def test_the_last_rows_are_judged_too_and_none_by_what_follows(tmp_path: Path):
    path = plant(tmp_path / "a.csv")
    forecaster = trained(path, dropout=0.5)
    forecaster.model.train()  # which a detector must not let it do
    detector = Detector.of(forecaster, 2)
    whole = judged(detector, path)
    assert [row["t"] for row in whole] == [str(10 * t) for t in range(9, 160)]
    head, *rows = path.read_text().splitlines()
    for end in (100, 121):
        other = [re.sub(r",[\d.-]+,[\d.-]+,", ",77,-77,", row) for row in rows[end:]]
        (tmp_path / "b.csv").write_text(lines(head, *rows[:end], *other))
        assert judged(detector, tmp_path / "b.csv")[: end - 9] == whole[: end - 9]
        # Without the rows that follow, only what is known of them is missing, in this segment of 4.
        (tmp_path / "b.csv").write_text(lines(head, *rows[:end]))
        assert judged(detector, tmp_path / "b.csv")[:-4] == whole[: end - 9 - 4]


def test_what_is_known_goes_on_as_in_the_last_row(tmp_path: Path):
    path = plant(tmp_path / "a.csv")
    detector = Detector.of(trained(path), 2)
    head, *rows = path.read_text().splitlines()
    rows[-1] = re.sub("[^,]+$", "9", rows[-1])
    path.write_text(lines(head, *rows))
    (tmp_path / "b.csv").write_text(lines(head, *rows, *(f"{t},1,1,9" for t in range(1600, 1660, 10))))
    assert judged(detector, tmp_path / "b.csv")[:-6] == judged(detector, path)


def test_a_band_without_any_width_divides_nothing_by_0(tmp_path: Path):
    path = plant(tmp_path / "a.csv")
    forecaster = trained(path, quantiles="0.2,0.5,0.9")
    for parameter in forecaster.model.write.parameters():
        parameter.data.zero_()
    assert all(row["score"] for row in judged(Detector.of(forecaster, 1), path))


def referee(usual: NDArray[Any], errors: NDArray[Any]) -> NDArray[Any]:
    """How far each error is from what the others lead one to expect, in deviations: by the blocks of a matrix."""
    products = usual.T @ usual / len(usual)
    products = products + np.diag(1e-3 * np.diag(products))
    found = np.full_like(errors, np.nan)
    for row, k in np.ndindex(*errors.shape):
        o = [j for j in range(errors.shape[1]) if j != k and not np.isnan(errors[row, j])]
        weights = np.linalg.solve(products[np.ix_(o, o)], products[o, k]) if o else np.empty(0)
        off = errors[row, k] - weights @ errors[row, o]
        found[row, k] = abs(off) / np.sqrt(products[k, k] - weights @ products[o, k])
    return found


def test_scores_and_shares():
    draw = np.random.default_rng(0)
    mixed = draw.normal(size=(3, 3))
    every, errors = draw.normal(size=(200, 3)) @ mixed + 0.3, draw.normal(size=(40, 3)) @ mixed
    errors[draw.random(errors.shape) < 0.2] = np.nan
    usual = Usual.of([("a", every[:90]), ("b", every[90:])])
    for group, own in (("a", every[:90]), ("b", every[90:]), ("new", every)):
        led, scores = usual.scored(group, errors)
        np.testing.assert_allclose(scores, referee(own, errors), rtol=1e-9)
        assert (np.isnan(led) == np.isnan(errors)).all()
    largest = np.concatenate([referee(own, own).max(1) for own in (every[:90], every[90:])])
    asked = np.array([0.0, usual.sorted[20], 2.0, 99.0, np.nan])
    shares = [(1 + (largest >= score - 1e-9).sum()) / 201 for score in asked[:-1]]
    np.testing.assert_allclose(usual.shares(asked), [*shares, np.nan])
    for share in (0.005, 0.01, 0.1, 0.9):
        above = usual.shares(asked[1:2]) <= share, asked[1] > usual.limit(share)
        assert above[0] == above[1]
        assert (largest > usual.limit(share) + 1e-9).sum() == int(share * 201) - 1


def test_numbers_that_are_far_too_large(tmp_path: Path):
    """What is expected does not depend on how large the number is, no later row suffers, and usual rows may have one."""
    path = plant(tmp_path / "a.csv")
    detector, (head, *rows) = Detector.of(trained(path), 1), path.read_text().splitlines()
    time, _, flow, push = rows[100].split(",")
    every = []
    for value in ("1e3", "1e20", "-1e300"):
        other = [*rows[:100], f"{time},{value},{flow},{push}", *rows[101:]]
        (tmp_path / "b.csv").write_text(lines(head, *other))
        found = judged(detector, tmp_path / "b.csv")
        assert (found[92]["column"], float(found[92]["value"])) == ("heat", float(value))
        assert float(found[92].pop("score")) > 100
        del found[92]["value"]
        every.append(found)
    assert every[0] == every[1] == every[2]
    (tmp_path / "c.csv").write_text(lines(head, *rows[:100], f"{time},1,1,1e300", *rows[101:]))
    assert all(row["score"] for row in judged(detector, tmp_path / "c.csv"))
    other = Detector.of(detector.forecaster, 1, tmp_path / "b.csv").usual[OURS]
    assert np.isfinite(other.together).all()
    assert len(other) == 152


@pytest.mark.parametrize("rows", [1, 2, 9, 80, 96, 100, 999, 12345])
def test_the_smallest_share_that_is_told_will_do(rows: int):
    usual = Usual.of([("", np.arange(1.0, rows + 1)[:, None])])
    with pytest.raises(InputError) as refused:
        usual.limit(1e-9)
    (least,) = re.findall("at least ([^ ]+) ", str(refused.value))
    assert usual.limit(float(least)) == usual.sorted[-1]
    assert float(least) < 1.1 / (1 + rows)


def test_columns_without_enough_rows_are_measured_one_by_one():
    """A column that has no usual number is not judged, and one that never errs does no harm."""
    draw = np.random.default_rng(0)
    errors = draw.normal(size=(300, 3)) * [2.0, 1.0, 0.0]
    errors[:, 1] = np.nan
    errors[20:, 0] = np.nan
    usual = Usual.of([("", errors)])
    asked = np.array([[1.0, 5.0, 1e-5], [np.nan, 5.0, 0.0]])
    led, scores = usual.scored("", asked)
    np.testing.assert_allclose(scores[0, 0], 1 / np.sqrt((errors[:20, 0] ** 2).mean() * 1.001 + 1e-12), rtol=1e-9)
    assert (led[0, 0], led[0, 2]) == (0.0, 0.0)
    assert np.isnan(scores[:, 1]).all()
    np.testing.assert_allclose(scores[:, 2], [10, 0])


def test_which_usual_rows_count():
    """Columns go together from 20 rows for each on. A row without a number is no usual row."""
    errors = np.random.default_rng(0).normal(size=(60, 2)) @ [[1.0, 1.0], [0.0, 0.1]]
    errors[41:50, 0] = np.nan
    errors[50:] = np.nan
    for rows, together in ((slice(1, 60), True), (slice(2, 60), False)):
        usual = Usual.of([("", errors[rows])])
        assert (usual.together[0, 1] != 0) == together == ("" in usual.own)
        assert len(usual) == 50 - rows.start
    assert Usual.of([("", np.arange(1.0, 100)[:, None])]).limit(0.29) == pytest.approx(
        71 / np.sqrt(1.001 * 100 * 199 / 6)
    )


def test_a_column_that_leaves_the_others_is_found(tmp_path: Path):
    """A number that is usual by itself, and not beside the other one. The expected value is that of the relation."""
    path = plant(tmp_path / "a.csv", rows=400)
    detector = Detector.of(trained(path), 1)
    head, *rows = path.read_text().splitlines()
    time, heat, flow, push = rows[380].split(",")
    rows[380] = f"{time},{heat},{float(flow) + 0.4:.5f},{push}"
    (tmp_path / "b.csv").write_text(lines(head, *rows))
    worst = max(judged(detector, tmp_path / "b.csv", 0.01), key=lambda row: float(row["score"]))
    assert (worst["t"], worst["column"], worst["unusual"]) == ("3800", "flow", "1")
    assert float(worst["value"]) == pytest.approx(float(flow) + 0.4)
    assert float(worst["expected"]) == pytest.approx(float(flow), abs=0.15)
    assert float(worst["share"]) == pytest.approx(1 / 161, rel=1e-5)


def test_what_others_lead_one_to_expect_in_place_of_unusual_numbers():
    """The worst number is taken out first: the second is usual once it is not compared with it."""
    draw = np.random.default_rng(0)
    common = draw.normal(size=(400, 1))
    every = common + 0.1 * draw.normal(size=(400, 3))
    usual = Usual.of([("", every)])
    products = every.T @ every / 400
    products += np.diag(1e-3 * np.diag(products))
    errors = np.array([1.0, 1.1, 3.0])
    scores = usual.scored("", errors[None])[1][0]
    assert (scores > 5).all()
    wanted = 0.0 + products[2, :2] @ np.linalg.solve(products[:2, :2], errors[:2])
    np.testing.assert_allclose(usual.corrected("", errors, 5.0), np.array([1.0, 1.1, wanted]))
    np.testing.assert_allclose(usual.corrected("", np.array([1.0, np.nan, 3.0]), 1e9), [1.0, np.nan, 3.0])
    np.testing.assert_array_equal(usual.corrected("", errors, scores.max()), errors)
    two = Usual.of([("", every), ("other", draw.normal(size=(4000, 3)))])
    np.testing.assert_allclose(two.corrected("", errors, 5.0), np.array([1.0, 1.1, wanted]))
    lacking = Usual.of([("", every * [1, np.nan, 1])])  # a column without a usual number says nothing of the others
    np.testing.assert_allclose(lacking.corrected("", np.array([1.0, 5.0, 99.0]), 5.0), [1.0, 5.0, 0.0])
    np.testing.assert_allclose(usual.corrected("", np.array([9.0, np.nan, -9.0]), 1.0), [0.0, np.nan, 0.0], atol=1e-12)


@pytest.mark.parametrize("ahead", [1, 3])
def test_later_forecasts_read_what_was_expected(tmp_path: Path, ahead: int, monkeypatch: pytest.MonkeyPatch):
    """The referee goes from row to row. A fault of some rows has no echo, and a change for good is one for half of what is read."""
    path = plant(tmp_path / "a.csv", rows=300)
    detector = Detector.of(trained(path, quantiles="0.2,0.5,0.9"), ahead)
    (one,) = detector.forecaster.read_again()
    targets = one.targets.copy()
    targets[100:103, 1] += 4
    targets[200:, 0] += 50
    one, limit = one._replace(targets=targets), 2 * detector.usual[OURS].sorted[-1]
    usual, expecting, first = detector.usual[OURS], detector.expecting[OURS], detector.reads
    history, replaced, scores = one._replace(targets=targets.copy()), np.zeros((300, 2), bool), list[float]()
    scale = detector.forecaster.scales.of_series(one, detector.forecaster.options)
    for row in range(first, 300):
        rows = expecting(history, row, row + 1)
        numbers = (targets[row] - scale.mean) / scale.deviation
        np.testing.assert_allclose(rows.values[0], numbers, rtol=1e-4, atol=1e-5)
        scores.append(usual.scored("", rows.errors)[1][0].max())
        usually = usual.corrected("", rows.errors[0], limit)
        for k in np.flatnonzero(usually != rows.errors[0]):
            past = slice(row - first, row)
            if replaced[row - 8 : row, k].sum() == min(4, 3 * ahead):
                history.targets[past, k], replaced[past, k] = targets[past, k], False
            else:
                value = rows.expected[0, k] + usually[k] * rows.width[0, k]
                history.targets[row, k] = value * scale.deviation[k] + scale.mean[k]
                replaced[row, k] = True
    for size in (2048, 7):
        monkeypatch.setattr(unusual, "CHUNK", size)
        found = detector.judge(one, limit)
        np.testing.assert_allclose(found.scores, scores, rtol=2e-3, atol=1e-3)
        np.testing.assert_array_equal(found.values, targets[first:])
    alarms = np.flatnonzero(found.scores > limit) + first
    assert {*range(100, 103)} <= {*alarms[alarms < 200]} <= {*range(100, 104)}
    assert [row for row in alarms if row >= 200][:3] == [200, 201, 202]
    assert alarms[-1] < 225


def test_what_is_filled_in_after_an_unusual_number_repeats_what_was_expected(tmp_path: Path):
    """Nothing says that the fault lasts. The referee is the same file with the expected number in place of the unusual one."""
    path = plant(tmp_path / "a.csv", rows=200)
    detector = Detector.of(trained(path, fill_gaps=True), 2)
    limit = 100.0
    head, *rows = path.read_text().splitlines()
    time, _, flow, push = rows[100].split(",")
    rows[101:103] = [re.sub(r",[\d.]+,", ",,", row, count=1) for row in rows[101:103]]

    def judged(value: float) -> unusual.Judged:
        rows[100] = f"{time},{value!r},{flow},{push}"
        (tmp_path / "b.csv").write_text(lines(head, *rows))
        ((one, _),) = detector.read(tmp_path / "b.csv")
        return detector.judge(one, limit)

    found = judged(70.0)
    assert found.scores[100 - 9] > limit
    wanted = judged(float(found.expected[100 - 9, 0]))
    np.testing.assert_allclose(found.scores[101 - 9 :], wanted.scores[101 - 9 :], rtol=1e-3, atol=1e-4)


def test_forecasts_that_leave_the_series_come_back(tmp_path: Path):
    """What is expected is ten times the mean of what is read, so that what stands in the place of numbers grows and grows."""
    detector, draw = Detector.of(trained(plant(tmp_path / "a.csv")), 1), np.random.default_rng(0)

    def wild(one: Any, begin: int, end: int) -> unusual.Expected:
        values = one.targets[begin:end]
        expected = np.array([10 * one.targets[row - 8 : row].mean(axis=0) for row in range(begin, end)])
        return unusual.Expected(values, expected, np.ones_like(values))

    (one,) = detector.forecaster.read_again()
    targets = draw.uniform(-0.1, 0.1, (160, 2))
    targets[100] = 30
    detector.expecting[OURS], detector.usual[OURS] = wild, Usual.of([("", draw.uniform(-1, 1, (100, 2)))])
    raw, found = (detector.judge(one._replace(targets=targets), limit).scores for limit in (np.inf, 5.0))
    assert found.max() > 5 * raw[102 - 8 :].max()
    np.testing.assert_allclose(found[120 - 8 :], raw[120 - 8 :])


def test_usual_rows_are_the_validation_part_or_those_of_a_file(tmp_path: Path):
    path = plant(tmp_path / "a.csv")
    forecaster = trained(path)
    detector = Detector.of(forecaster, 3)
    (one,) = forecaster.read_again()
    of = detector.expecting[OURS]
    errors = of(one, 80, 144).errors
    wanted = np.sort(np.nanmax(referee(errors, errors), 1))
    np.testing.assert_allclose(detector.usual[OURS].sorted, wanted, rtol=1e-6)
    assert detector.source == f"the validation part of {path}"
    other = Detector.of(forecaster, 3, path)
    errors = of(one, 10, 160).errors
    np.testing.assert_allclose(other.usual[OURS].sorted, np.sort(np.nanmax(referee(errors, errors), 1)), rtol=1e-6)
    assert other.source == str(path)


def test_what_was_filled_in_is_not_judged(tmp_path: Path):
    path = plant(tmp_path / "a.csv", rows=300, gaps=0.2)
    detector = Detector.of(trained(path, fill_gaps=True), 1)
    cells = [row.split(",") for row in path.read_text().splitlines()[1:]]
    found = judged(detector, path)
    begun = [next(k for k, row in enumerate(cells) if row[column]) for column in (1, 2)]
    for row, (_, *own, _) in zip(found, cells[8:], strict=True):
        there = [name for name, cell in zip(("heat", "flow"), own, strict=True) if cell]
        assert row["column"] in (there or [""])
        assert (row["value"] == "") == (not there)
        if there:
            assert float(row["value"]) == pytest.approx(float(own[["heat", "flow"].index(row["column"])]), rel=1e-5)
    assert max(begun) < 8
    assert {row["unusual"] for row in found} == {"0", "1", ""}


def test_a_column_that_begins_late_is_judged_from_its_second_number(tmp_path: Path):
    path = plant(tmp_path / "a.csv")
    forecaster = trained(path, fill_gaps=True)
    (one,) = forecaster.read_again()
    given = np.ones((160, 2), bool)
    given[:31, 1] = False
    found = unusual.forecasts(forecaster, 1)(one._replace(given=given), 20, 60).values
    assert np.isfinite(found[:, 0]).all()
    assert np.isnan(found[: 32 - 20, 1]).all()
    assert np.isfinite(found[32 - 20 :, 1]).all()


# Labels and baselines


def test_labels_and_baselines(tmp_path: Path):
    """The referee counts in the rows that are written, and repeats values itself."""
    path = plant(tmp_path / "a.csv", groups="ab", rows=200)
    forecaster = trained(path, group="unit")
    head, *rows = path.read_text().splitlines()
    for k in (100, 101, 150, 260, 390):
        unit, t, heat, flow, push = rows[k].split(",")
        rows[k] = f"{unit},{t},{heat},{float(flow) + (0 if k == 150 else 3)},{push}"
    truth = np.isin(np.arange(400), (100, 101, 150, 260, 399))
    words = np.array(["no", "yes"])[truth.astype(int)]
    (tmp_path / "b.csv").write_text(lines(head + ",fault", *(f"{r},{w}" for r, w in zip(rows, words, strict=True))))
    detector = Detector.of(forecaster, 2)
    findings = Findings(detector, tmp_path / "b.csv", 0.02, "fault")
    said = dict(findings.report())
    written = table("".join(findings.table(".csv")))
    assert [row["unit"] for row in written] == ["a"] * 191 + ["b"] * 191
    own = np.concatenate([truth[9:200], truth[209:]])
    alarms = np.array([row["unusual"] == "1" for row in written])
    spans = [slice(91, 93), slice(141, 142), slice(191 + 51, 191 + 52), slice(191 + 190, 191 + 191)]
    assert said["labelled"] == "5 judged rows in 4 stretches; 377 other rows"
    hit, false = sum(bool(alarms[span].any()) for span in spans), int(alarms[~own].sum())
    assert 0 < hit < 4
    scores = np.array([float(row["score"]) for row in written])
    pairs = [float(a > b) + (a == b) / 2 for a in scores[own] for b in scores[~own]]
    assert said[OURS] == f"finds {hit} of 4 stretches, calls {false} other rows unusual; AUC {np.mean(pairs):.4f}"
    for name, lag in (("naive", 2), ("seasonal 4", 4)):
        for one in forecaster.read_again():
            scale = forecaster.scales.of_series(one, forecaster.options)
            expected = detector.expecting[name](one, 30, 90)
            numbers = (one.targets - scale.mean) / scale.deviation
            np.testing.assert_allclose(expected.errors, numbers[30:90] - numbers[30 - lag : 90 - lag], atol=1e-12)
    assert [*said][5:8] == [OURS, "naive", "seasonal 4"]
    assert len({said[name] for name in (OURS, "naive", "seasonal 4")}) == 3


def test_labels_that_are_near_each_other_and_of_rows_without_numbers(tmp_path: Path):
    path = plant(tmp_path / "a.csv")
    detector, (head, *rows) = Detector.of(trained(path, fill_gaps=True, categories="push"), 1), path.read_text().split()
    assert "not judged" not in dict(Findings(detector, path, 0.1).report())
    (tmp_path / "c.csv").write_text(lines(head, *(re.sub(r",([\d.-]+),[\d.-]+,", r",\1,,", row) for row in rows)))
    blind = dict(Findings(detector, tmp_path / "c.csv", 0.1).report())["not judged"]
    assert blind == "'flow', which has no number that could be compared"
    rows[100] = re.sub(r",[\d.-]+,[\d.-]+,", ",,,", rows[100])
    rows[120] = re.sub("[^,]+$", "7", rows[120])
    every = (f"{row},{int(k in (50, 53, 100))}" for k, row in enumerate(rows))
    (tmp_path / "b.csv").write_text(lines(f"{head},fault", *every))
    said = dict(Findings(detector, tmp_path / "b.csv", 0.1, "fault").report())
    assert said["labelled"] == "2 judged rows in 2 stretches; 149 other rows"
    assert said["unknown"].startswith("words in 'push', in 1 row,")


def test_the_area_counts_pairs():
    draw = np.random.default_rng(0)
    scores, label = draw.integers(0, 9, 60).astype(float), draw.random(60) < 0.3
    pairs = [float(a > b) + (a == b) / 2 for a in scores[label] for b in scores[~label]]
    assert area(scores, label) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(
    ("rows", "apart", "wanted"),
    [("", 1, []), ("0", 1, []), ("1101", 1, [(0, 2), (3, 4)]), ("1101", 2, [(0, 4)]), ("0110010", 2, [(1, 3), (5, 6)])],
)
def test_stretches(rows: str, apart: int, wanted: list[tuple[int, int]]):
    assert stretches(np.array([each == "1" for each in rows], bool), apart) == wanted


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_labels_in_every_form(tmp_path: Path, ending: str):
    import polars as pl

    path = plant(tmp_path / "a.csv", rows=60)
    truth = [t % 7 == 0 for t in range(60)]
    assert [Truth("fault", path)[word] for word in ("1", "True", "YES", "", "0", "FALSE", "No")] == [
        1,
        1,
        1,
        0,
        0,
        0,
        0,
    ]
    with pytest.raises(InputError, match="is '2' in a row"):
        Truth("fault", path)["2"]
    frame = pl.read_csv(path).with_columns(pl.Series("fault", truth))
    other = tmp_path / f"b{ending}"
    {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".jsonl": frame.write_ndjson}[ending](other)
    detector = Detector.of(trained(path))
    ((one, found),) = detector.read(other, "fault")
    assert found.tolist() == truth
    assert one.known.shape == (60, 1)


# What is said


def scored(tmp_path: Path, places: dict[str, dict[int, float]], rate: float | None = 0.1, **changes: Any) -> Findings:
    """Findings in which the rows at these places, of each series, have these scores, in limits, and all others 0."""
    path = plant(tmp_path / "a.csv", groups="".join(places), rows=400)
    findings = Findings(Detector.of(trained(path, **changes), 1), path, rate)
    for each in findings.judged:
        each.scores[:], each.columns[:] = 0.0, 1
        for place, score in places[each.one.group].items():
            each.scores[place] = score * findings.limits[OURS]
    return findings


def test_stretches_are_said_the_most_unusual_one_first(tmp_path: Path):
    places = {10 + 30 * k: 1.5 + k / 10 for k in range(11)} | {20: 9.0, 30: 2.0, 100: 1.0, 390: 1.2}
    findings = scored(tmp_path, {"": places | {201: 4.0, 211: 3.0, 231: 1.1}})
    limit = findings.limits[OURS]
    found = [(s.begin, s.end, s.worst, round(s.score / limit, 6)) for s in findings.stretches()]
    assert found[:4] == [(10, 41, 20, 9.0), (201, 221, 201, 4.0), (310, 311, 310, 2.5), (280, 281, 280, 2.4)]
    assert found[-2:] == [(390, 391, 390, 1.2), (231, 232, 231, 1.1)]
    said = list(findings.report())
    assert said[3][1].startswith("16 rows above that, in 11 stretches; by")
    assert len(said) == 4 + 10 + 1
    assert said[-1] == ("  ...", "and 1 more, which --output FILE.csv has")
    assert said[4][0] == f"  score {9 * limit:.3g}"
    assert re.fullmatch(r"180 to 480: 'flow' is [\d.-]+ in place of [\d.-]+ at 280", said[4][1])
    assert re.fullmatch(r"3180: 'flow' is [\d.-]+ in place of [\d.-]+", said[6][1])
    nothing = list(scored(tmp_path, {"": {}}).report())
    assert nothing[3][1] == "0 rows above that; by chance there would be 39.2"


def test_what_is_said_of_usual_rows_and_of_series(tmp_path: Path):
    findings = scored(tmp_path, {"a": {7: 2.0}, "b": {}}, None, group="unit", time=None, columns="heat,flow")
    usual = findings.detector.usual[OURS]
    assert findings.false_alarms == 1 / (1 + len(usual))
    said = dict(findings.report())
    half = f"{np.median(usual.sorted[1:]):.3g}"
    assert (
        said["usual score"]
        == f"at most {half} in half of them, at most {usual.sorted[-1]:.3g} in all but {100 / 321:.3g}%"
    )
    assert [*said.values()][-1].startswith("a 16: 'flow' is")
    plenty = Usual.of([("", np.arange(1.0, 3000)[:, None] * np.ones(2))])
    findings.detector.usual = dict.fromkeys(findings.detector.usual, plenty)
    new = plant(tmp_path / "new.csv", groups="ac", rows=60)
    again = Findings(findings.detector, new)
    assert again.false_alarms == 0.001
    assert dict(again.report())["new series"].endswith("its first forecast reads: 'c'")


def test_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = list[Any]()
    monkeypatch.setattr(charts, "save", lambda figure, path: drawn.append(figure))
    places = {"a": {k: 9.0 - k / 100 for k in (2, 60, 61, 120, 180)}, "b": {9: 10.0}, "c": {50: 8.9}}
    findings = scored(tmp_path, places | {"b": {50: 2.0}}, group="unit", time=None, columns="heat,flow")
    findings.judged[0].scores[200] = np.nan
    findings.draw(tmp_path / "x.png")
    above, *panels = drawn[0].axes
    assert above.get_title("left") == "score a"
    assert [axis.get_title("left") for axis in panels] == [f"flow around {row}" for row in (11, 69, 129)]
    assert [axis.lines[1].get_xdata()[[0, -1]].tolist() for axis in panels] == [[9, 13], [65, 72], [125, 131]]
    limit = findings.limits[OURS]
    assert above.lines[1].get_xdata().tolist() == [11, 69, 70, 129, 189]
    assert above.lines[2].get_ydata()[0] == limit
    assert above.get_ylim() == pytest.approx((limit / 20, 5 * 8.98 * limit))
    assert [line.get_xdata().tolist() for line in (panels[1].lines[2],)] == [[69, 70]]
    np.testing.assert_array_equal(panels[1].lines[2].get_ydata(), findings.judged[0].values[60:62, 1])
    assert panels[-1].get_xlabel() == "row"
    for each, score in zip(findings.judged, (0.1, 0.3, 0.2), strict=True):
        each.scores[:] = score * limit
    findings.draw(tmp_path / "x.png")
    (above,) = drawn[1].axes
    assert above.get_title("left") == "score b"
    assert above.get_ylim()[1] == pytest.approx(5 * limit)


# The command


@pytest.fixture(scope="module")
def run(made_once: SimpleNamespace) -> Path:
    return made_once.run


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    d = tmp_path_factory.mktemp("plant")
    plant(d / "a.csv", rows=200)
    flags = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    done = elman("train", "forecast", d / "a.csv", *flags, "--known", "push", "--run", d / "run")
    assert done.status == 0, done.err
    (d / "other").mkdir()
    (d / "other/config.json").write_text('{"task": "classify"}')
    return SimpleNamespace(directory=d, run=d / "run")


def test_the_command(run: Path, tmp_path: Path):
    path = plant(tmp_path / "new.csv", rows=120, seed=3)
    plain = elman("detect", run, path, "--false-alarms", 0.05)
    assert plain.status == 0, plain.err
    names = [line[:20].strip() for line in plain.out.splitlines()]
    assert names[:4] == ["rows", "usual", "usual score", "unusual"]
    assert "109 of 120, each compared with the forecast of 4 steps before it" in plain.out
    assert "80 rows, the validation part of" in plain.out
    assert "by chance there would be 5.45\n" in plain.out
    for ending in (".csv", ".jsonl"):
        again = elman("detect", run, path, "--false-alarms", 0.05, "--output", tmp_path / f"out{ending}")
        assert again == plain
    rows = table((tmp_path / "out.csv").read_text())
    objects = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [[str(value).removesuffix(".0") for value in each.values()] for each in objects] == [
        [value.removesuffix(".0") for value in row.values()] for row in rows
    ]
    count = sum(row["unusual"] == "1" for row in rows)
    assert f"{count} row" in plain.out
    for row in rows:
        assert (row["unusual"] == "1") == (float(row["share"]) <= 0.05)
    assert min(float(row["share"]) for row in rows) < 0.05
    assert len(rows) == 109


def test_a_picture_of_what_is_unusual(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = list[Any]()
    monkeypatch.setattr(charts, "save", lambda figure, path: drawn.append(figure))
    path = plant(tmp_path / "new.csv", rows=120, seed=3)
    written = tmp_path / "rows.csv"
    assert elman("detect", run, path, "--false-alarms", 0.05, "--output", written).status == 0
    assert elman("detect", run, path, "--false-alarms", 0.05, "--output", tmp_path / "x.png").status == 0
    rows = table(written.read_text())
    above, *panels = drawn[0].axes
    x, y = above.lines[0].get_data()
    assert x.tolist() == [int(row["t"]) for row in rows]
    np.testing.assert_allclose(y, [float(row["score"]) for row in rows], rtol=1e-5)
    worst = max(rows, key=lambda row: float(row["score"]))
    expected, value, marked = (line.get_data() for line in panels[0].lines)
    assert panels[0].get_title("left") == f"{worst['column']} around {worst['t']}"
    k = value[0].tolist().index(int(worst["t"]))
    assert value[1][k] == pytest.approx(float(worst["value"]), rel=1e-5)
    assert expected[1][k] == pytest.approx(float(worst["expected"]), rel=1e-5)
    assert value[0][k] in marked[0]


def test_a_picture_where_forecasts_never_err():
    figure = charts.unusual("a", "row", np.arange(9), np.zeros(9), 0.0, [])
    figure.draw_without_rendering()  # a warning of matplotlib would be an error


def test_an_exported_model_says_the_same(run: Path, tmp_path: Path):
    model = tmp_path / "model.onnx"
    assert elman("export", run, model).status == 0
    path = plant(tmp_path / "new.csv", rows=120, seed=3)
    usual = plant(tmp_path / "usual.csv", rows=120, seed=4)
    found = [elman("detect", each, path, "--usual", usual, "--false-alarms", 0.05) for each in (run, model)]
    words, numbers = zip(*((re.sub(r"[\d.]+", "#", e.out), re.findall(r"\d+\.\d+", e.out)) for e in found), strict=True)
    assert words[0] == words[1]
    np.testing.assert_allclose(*(np.array(each, float) for each in numbers), rtol=0.02)
    refused = elman("detect", model, path)
    complaint(refused.err, "an exported model does not say what it was trained on; give a file of rows that are usual")


def saved(path: Path, run: Path, **changes: Any) -> Path:
    """A run whose weights are random."""
    values: dict[str, Any] = SMALL | changes
    task = forecasting.begin(path, ForecastingOptions(**values), "cpu", BadRows())
    training, _ = fitting.begin(task, run)
    torch.manual_seed(1)
    weights = {key: 0.6 * torch.randn_like(value) for key, value in task.model.state_dict().items()}
    training.run.save_tensors(MODEL, weights, {"step": 0})
    return run


@pytest.mark.parametrize(
    "changes",
    [
        {"group": "unit", "quantiles": "0.2,0.5,0.9", "observed": "push,sky", "categories": "sky", "columns": "heat,flow"},
        {"strategy": "recursive", "fill_gaps": True, "columns": "heat,flow"},
    ],
    ids=["groups, quantiles and words", "recursive, with gaps"],
)  # fmt: skip
def test_rows_as_they_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changes: Any
):
    """examples/alarm.py, which knows nothing of elman, says of each row what the command says of a file."""
    alone = "group" not in changes
    path = plant(tmp_path / "a.csv", groups="" if alone else "ab", rows=240, gaps=0.1 if alone else 0.0)
    head, *rows = path.read_text().splitlines()
    rows = [row + ",wet" * (k % 5 == 0) + ",dry" * (k % 5 > 0) for k, row in enumerate(rows)]
    path.write_text(lines(f"{head},sky", *rows))
    run = saved(path, tmp_path / "run", **changes)
    for k in (100, 101, 102, 103, 180, *range(200, 240)):
        rows[k] = re.sub(r",(\d\d?\.\d+),", lambda m: f",{float(m[1]) + 40:.5f},", rows[k], count=1)
    rows[120] = rows[120].replace("dry", "foggy").replace("wet", "foggy")
    (tmp_path / "b.csv").write_text(lines(f"{head},sky", *rows))
    model, ahead = tmp_path / "alarm.onnx", ["--ahead", "6"] if alone else []
    done = elman("detect", run, path, *ahead, "--output", model)
    assert done.status == 0, done.err
    written = elman("detect", model, tmp_path / "b.csv", "--output", tmp_path / "rows.csv")
    again = elman("detect", run, tmp_path / "b.csv", *ahead)
    assert written.out.splitlines()[0] == again.out.splitlines()[0]
    for one, other in zip(written.out.splitlines()[-4:], again.out.splitlines()[-4:], strict=True):
        assert re.sub(r"[\d.]+", "#", one) == re.sub(r"[\d.]+", "#", other)
        assert [float(x) for x in re.findall(r"\d+\.\d+", one)] == pytest.approx(
            [float(x) for x in re.findall(r"\d+\.\d+", other)], rel=0.02
        )
    monkeypatch.setattr(sys, "argv", ["alarm.py", str(model)])
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines(f"{head},sky", *rows)))
    runpy.run_path(str(ROOT / "examples" / "alarm.py"), run_name="__main__")
    found, wanted = table(capsys.readouterr().out), table((tmp_path / "rows.csv").read_text())
    assert len(found) == len(wanted) > 200
    assert 0 < sum(row["unusual"] == "1" for row in wanted) < 100
    for one, other in zip(sorted(found, key=lambda row: row.get("unit", "")), wanted, strict=True):
        for name, value in other.items():
            if name in ("score", "share", "value", "expected") and value:
                assert float(one[name]) == pytest.approx(float(value), rel=2e-3, abs=0.03 if name == "share" else 2e-3)
            else:
                assert one[name] == value

    watch = runpy.run_path(str(ROOT / "examples" / "alarm.py"))
    opened = watch["Model"](str(model), None)
    with pytest.raises(
        SystemExit, match=r"the rows have no column 'heat', which the model reads; their columns are 'x'"
    ):
        next(watch["rows"](iter(["x", "1"]), opened))
    with pytest.raises(SystemExit, match="there is no header"):
        next(watch["rows"](iter([]), opened))
    with pytest.raises(SystemExit, match="--false-alarms must be below 1, and at least"):
        watch["Model"](str(model), 1e-9)
    bad = ["unit,t,heat,flow,push,sky", "a,0,inf,1,1,dry", *([] if alone else ["c,0,1,1,1,dry", "a,0,,1,1,dry"])]
    assert [*watch["rows"](iter(bad), opened)] == []
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "line 2 is left out, because it lacks a number: a,0,inf,1,1,dry"
    assert alone or said[1:] == [
        "line 3 is left out, because the model does not know the series 'c'",
        "line 4 is left out, because it lacks a number: a,0,,1,1,dry",
    ]


def test_files_without_what_is_usual(run: Path, tmp_path: Path):
    """What is not there, or damaged, is said in a sentence."""
    import onnx

    path = plant(tmp_path / "new.csv", rows=120, seed=3)
    model = tmp_path / "alarm.onnx"
    assert elman("detect", run, path, "--output", model).status == 0
    refused = elman("detect", model, path, "--ahead", 3)
    complaint(
        refused.err,
        "usual in ",
        " is about forecasts of 4 steps before, not of 3; leave --ahead out, or give usual rows",
    )
    refused = elman("detect", model, path, "--output", tmp_path / "other.onnx")
    complaint(refused.err, "alarm.onnx is an exported model already; give the directory of a run, to write")
    proto = onnx.load(model)
    note = next(each for each in proto.metadata_props if each.key == "elman.usual")
    whole = json.loads(note.value)
    for change in (
        {"ahead": "x"},
        {"usual": {}},
        {"usual": whole["usual"] | {"naive": whole["usual"]["naive"] | {"scores": [2, 1]}}},
    ):
        note.value = json.dumps(whole | change)
        onnx.save(proto, model)
        complaint(elman("detect", model, path).err, "usual in ", " is damaged: ", "; write the file again")
    plain = tmp_path / "plain.onnx"
    assert elman("export", run, plain).status == 0
    watch = runpy.run_path(str(ROOT / "examples" / "alarm.py"))
    with pytest.raises(
        SystemExit, match=r"plain.onnx does not know what is usual; write it with elman detect RUN FILE"
    ):
        watch["Model"](str(plain), None)
    with pytest.raises(SystemExit, match=r"cannot open .*new.csv: .*; give a file that elman detect wrote"):
        watch["Model"](str(path), None)


def test_data_that_are_gone_or_changed(made_once: SimpleNamespace, tmp_path: Path):
    shutil.copytree(made_once.run, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["data"]["path"] = str(tmp_path / "gone.csv")
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    path = plant(tmp_path / "new.csv", rows=120, seed=3)
    refused = elman("detect", tmp_path / "run", path)
    complaint(refused.err, "cannot read", "gone.csv", "; or give a file of rows that are usual with --usual\n")
    plant(tmp_path / "gone.csv", rows=200, seed=9)
    refused = elman("detect", tmp_path / "run", path)
    complaint(refused.err, "gone.csv changed after the training; or give a file of rows that are usual with --usual\n")
    assert elman("detect", tmp_path / "run", path, "--usual", path, "--false-alarms", 0.1).status == 0


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["--ahead", "0"], "--ahead must be between 1 and 6, which the run forecasts, got 0"),
        (["--ahead", "7"], "--ahead must be between 1 and 6, which the run forecasts, got 7"),
        (["--false-alarms", "0.001"], "--false-alarms must be below 1, and at least 0.013 with 80 usual rows, got 0.001"),
        (["--false-alarms", "1"], "--false-alarms must be below 1"),
        (["--false-alarms", "-1"], "--false-alarms must be below 1"),
        (["--false-alarms", "nan"], "--false-alarms must be below 1"),
        (["--label", "fault"], "a.csv has no column 'fault' for --label; its columns are 't', 'heat', 'flow', 'push'"),
        (["--label", "push"], "--label names 'push', which the run reads as something else; name another column"),
        (["--label", "t"], "--label names 't', which the run reads as something else"),
        (["--usual", "{short}"], "short.csv has no row that a forecast can be compared with, since there must be 11 rows"),
        (["--output", "x.html"], "x.html: what is found is written as .csv, .jsonl, .ndjson, .png, .svg, .pdf"),
        (["--output", "x"], "x: what is found is written as .csv"),
        (["--output", "{directory}/none/x.png"], "none"),
    ],
)  # fmt: skip
def test_what_is_refused(made_once: SimpleNamespace, tmp_path: Path, arguments: list[str], mentions: str):
    plant(tmp_path / "short.csv", rows=8)
    places = {"short": tmp_path / "short.csv", "directory": tmp_path}
    arguments = [word.format(**places) for word in arguments]
    refused = elman("detect", made_once.run, made_once.directory / "a.csv", *arguments)
    assert (refused.status, refused.out) == (2, "")
    complaint(refused.err, mentions)


def test_files_and_runs_that_are_refused(made_once: SimpleNamespace, tmp_path: Path):
    short = plant(tmp_path / "short.csv", rows=8)
    refused = elman("detect", made_once.run, short, "--false-alarms", 0.1)
    complaint(refused.err, "short.csv has 8 rows in its longest series, and none of them can be judged")
    (tmp_path / "b.csv").write_text(lines("t,heat,flow,push,fault", *(f"{t},1,2,0,maybe" for t in range(9))))
    refused = elman("detect", made_once.run, tmp_path / "b.csv", "--false-alarms", 0.1, "--label", "fault")
    complaint(
        refused.err, "column 'fault' should be 1 or 0, true or false, yes or no, but is 'maybe' in a row; change it"
    )
    refused = elman("detect", made_once.directory / "other", short)
    complaint(refused.err, "is a run of 'classify', but elman detect needs a run of elman train forecast\n")
    (tmp_path / "text").mkdir()
    (tmp_path / "text/config.json").write_text('{"task": "lm"}')
    refused = elman("detect", tmp_path / "text", short)
    complaint(refused.err, "train forecast; elman predict says how unusual each line of a text is\n")
    hole = plant(tmp_path / "hole.csv", rows=60)
    hole.write_text(re.sub(r"(?m)^300,.*\n", "", hole.read_text()))
    refused = elman("detect", made_once.run, hole, "--false-alarms", 0.1)
    complaint(refused.err, "1 row is missing before it, the only gap in the times; fill it in\n")
    coarse = plant(tmp_path / "coarse.csv", rows=60)
    coarse.write_text(re.sub(r"(?m)^(\d+)0,", r"\g<1>,", coarse.read_text()))
    refused = elman("detect", made_once.run, coarse, "--false-alarms", 0.1)
    complaint(refused.err, "are 1 apart, but the run was trained on rows that are 10 apart")
