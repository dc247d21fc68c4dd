"""`elman.cross_validate` and `elman.tune`: what the commands do, with data that a program holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import elman as package
from elman.errors import InputError
from elman.training.loop import Report
from tiny_runs import elman, lines

SMALL: dict[str, Any] = {"epochs": 2.0, "hidden_size": 4, "evaluations": 2}
OPTIONS = ("--epochs", 2.0, "--hidden-size", 4, "--evaluations", 2)


@pytest.fixture(autouse=True)
def only_numbers(no_pictures: None) -> None:
    """No test here looks at pictures."""


def rows(count: int = 30) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    return [
        {"values": (draw.normal(size=(3 + k % 4, 2)) + k % 3).round(3).tolist(), "label": "abc"[k % 3], "who": k % 7}
        for k in range(count)
    ]


def trained(directory: Path) -> dict[str, int]:
    """When the parameters of each run were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in directory.glob("*/model.safetensors")}


def test_a_cross_validation_is_that_of_the_command(tmp_path: Path) -> None:
    file, out = tmp_path / "a.jsonl", tmp_path / "rows.jsonl"
    file.write_text(lines(*map(json.dumps, rows())))
    command = ("cross-validate", "classify", file, "--folds", 3, "--group", "who", *OPTIONS)
    done = elman(*command, "--directory", tmp_path / "command", "--output", out)
    assert done.status == 0, done.err
    wanted = done.out.splitlines()[:-1]  # without where the models are
    places = list[Path]()
    for data, name in ((file, "file"), (rows(), "rows"), (iter(rows()), "rows again")):
        place = tmp_path / name.split()[0]
        before = trained(place)
        found = package.cross_validate("classify", data, place, folds=3, group="who", examples=True, **SMALL)
        assert str(found).splitlines() == wanted
        assert found.examples == [json.loads(row) for row in out.read_text().splitlines()]
        assert trained(place) == before or not before  # the same data are not learned again
        places.append(place)
    assert found.score == "accuracy"
    assert f"mean        {np.mean(found.scores):.4f} accuracy" in wanted[3]
    for name, scores in found.baselines.items():
        assert len(scores) == 3
        assert any(line.startswith(f"{name} ") and f"{np.mean(scores):.4f}" in line for line in wanted)
    assert found.remarks == []
    # The model of each fold is the one that did not see it.
    for k, model in enumerate(found.models, 1):
        assert model.path == tmp_path / "rows" / f"fold-{k}"
        part = [row for row, said in zip(rows(), found.examples or [], strict=True) if said["fold"] == f"{k}/3"]
        assert model.evaluate(part).scores["accuracy"] == pytest.approx(found.scores[k - 1])


def test_one_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [f"{w} it is" for w in ("yes", "no", "so") * 8], "label": [1.5, 2.5, 3.5] * 8})
    options: dict[str, Any] = {"text": "text", "folds": 2, **SMALL}
    whole = package.cross_validate("regress", frame, tmp_path / "whole", **options)
    seen = list[int]()

    def show(report: Report) -> None:
        seen.append(report.place.step)
        if len(seen) > report.place.step:  # of the second fold
            raise KeyboardInterrupt

    place = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        package.cross_validate("regress", frame, place, show=show, **options)
    assert trained(place).keys() >= {"fold-1"}
    first = trained(place)["fold-1"]
    again = package.cross_validate("regress", frame, place, **options)
    assert (again.text, again.scores) == (whole.text, whole.scores)
    assert trained(place)["fold-1"] == first
    assert "in unit " in again.text
    shorter: dict[str, Any] = options | {"epochs": 1.0}
    with pytest.raises(InputError, match=r"fold-1 was begun with epochs 2\.0, and this one is with epochs 1\.0; give the same options, or another directory"):  # fmt: skip
        package.cross_validate("regress", frame, place, **shorter)
    with pytest.raises(InputError, match=r"fold-1 was begun with .*data-\w+\.parquet and not the data; give another directory"):  # fmt: skip
        package.cross_validate("regress", frame.iloc[::-1], place, **options)
    assert len([*place.glob("data-*")]) == 1


def test_a_search_is_that_of_the_command(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(lines(*map(json.dumps, rows())))
    command = ("tune", "classify", file, "--trials", 3, "--cell", "gru", "--hidden-size", 4, "--epochs", 1)
    done = elman(*command, "--directory", tmp_path / "command")
    assert done.status == 0, done.err
    shown = list[int]()
    options: dict[str, Any] = {"cell": "gru", "hidden_size": 4, "epochs": 1}
    found = package.tune("classify", rows(), tmp_path / "call", trials=3, show=lambda k, _: shown.append(k), **options)
    assert {*shown} == {0, 1, 2}
    assert found.score == "accuracy"
    assert [each.path.name for each in found.trials] == ["trial-000", "trial-001", "trial-002"]
    for each in found.trials:
        assert each.options.keys() == {"learning_rate", "num_layers", "dropout"}
        told = "stopped early" if each.score is None else f"{each.score:.5g}"
        best = "best " if each is found.best else "     "
        assert re.search(rf"^{best}trial {int(each.path.name[-3:])} +{told} .*--learning-rate {each.options['learning_rate']:.3g}\b", done.out, re.MULTILINE)  # fmt: skip
    assert found.model.path == found.best.path
    assert found.model.predict([{"values": [[0, 1]]}])[0]["class"] in "abc"
    # It goes on where it was, and does not train again what there is.
    before = trained(tmp_path / "call")
    more = package.tune("classify", rows(), tmp_path / "call", trials=4, **options)
    after = trained(tmp_path / "call")
    assert {name: after[name] for name in before} == before
    assert len(more.trials) == 4


def test_what_chooses_may_be_data_of_a_program(tmp_path: Path) -> None:
    strange = {"values": [[1]], "label": "a", "who": 1}  # of another number of channels
    for name, call in (("folds", package.cross_validate), ("search", package.tune)):
        given: dict[str, Any] = {"folds": 2} if name == "folds" else {"trials": 1}
        found: Any = call("classify", [*rows(), strange], tmp_path / name, validation=rows(9), skip_bad=True, **given, **SMALL)  # fmt: skip
        (remark,) = found.remarks
        assert "the data, line 31: the sequence has 1 channels" in remark
        model = found.models[0] if name == "folds" else found.model
        assert json.loads((model.path / "config.json").read_text())["data"]["validation_sequences"] == 9


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no task": ("sort", {}, "unknown task 'sort'; choose one of lm, tag, "),
    "a list": (["lm"], {}, r"unknown task \['lm'\]; choose one of lm, tag, "),  # pyright: ignore[reportAssignmentType]
    "a strange option": ("classify", {"hiden_size": 3}, "elman train classify has no option hiden_size; did you mean hidden_size"),
    "useless": ("classify", {"unit": "words"}, "unit is for texts, but without text the data are numbers"),
    "no directory": ("classify", {"directory": 3}, "directory is 3; give the path of a directory"),
    "bad data": ("classify", {"data": [{"values": [1], "label": None}]}, "the data, line 1: 'label' should be a label but is None"),
    "no function": ("classify", {"show": 3}, "show is 3; give a function of a report, or leave it out"),
    "a number in words": ("classify", {"folds": "3", "trials": "3"}, "(folds|trials) is '3' but should be int"),
    "half a number": ("classify", {"folds": 2.5, "trials": 2.5}, "(folds|trials) is 2.5 but should be int"),
    "no number": ("classify", {"folds": True, "trials": True}, "(folds|trials) is True but should be int"),
    "a device": ("classify", {"device": "none"}, "device none cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("call", [package.cross_validate, package.tune])
def test_what_is_refused_leaves_nothing(tmp_path: Path, call: Any, case: str) -> None:
    task, changed, message = REFUSED[case]
    given = {"task": task, "data": rows(), "directory": tmp_path / "runs", **SMALL} | changed
    given.pop("trials" if call is package.cross_validate else "folds", None)
    with pytest.raises(InputError, match=message):
        call(**given)
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine.txt").touch()
    with pytest.raises(InputError, match=message):
        call(**given)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine.txt"]


def test_what_only_one_of_them_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for changed, message in (
        ({"task": "forecast"}, "there is no cross-validation for 'forecast'; choose one of classify, multilabel, regress, transcribe, translate"),
        ({"folds": 1}, "folds must be 2 or more, got 1"),
        ({"folds": 31}, "fold 1/31 wants 31 parts, but the data has 30 sequences"),
        ({"fold": "1/2"}, "fold is for one training, and a cross-validation makes all of them; leave it out"),
    ):  # fmt: skip
        given: dict[str, Any] = {"task": "classify", **SMALL} | changed
        with pytest.raises(InputError, match=message):
            package.cross_validate(data=rows(), directory=tmp_path / "runs", **given)
    with pytest.raises(InputError, match="trials must be 1 or more, got 0"):
        package.tune("classify", rows(), tmp_path / "runs", trials=0)
    every = {"learning_rate": 0.1, "num_layers": 1, "dropout": 0.1, "cell": "gru", **SMALL}
    with pytest.raises(InputError, match="every option that could be searched is given; leave one of them out"):
        package.tune("classify", rows(), tmp_path / "runs", **every)
    (tmp_path / "file").touch()
    for call in (package.cross_validate, package.tune):
        for place in ("file", "file/x"):
            with pytest.raises(InputError, match=f"cannot write into .*{place}: Not a directory; choose another directory"):  # fmt: skip
                call("classify", rows(), tmp_path / place, **SMALL)
    with pytest.raises(InputError, match="elman train classify has no option trials; those of the task are"):
        package.cross_validate("classify", rows(), tmp_path / "runs", trials=3)
    monkeypatch.setattr(package.studies, "started_together", lambda: True)
    for call, what in ((package.cross_validate, "a cross-validation"), (package.tune, "a search")):
        with pytest.raises(InputError, match=f"{what} runs in one process; start it without torchrun"):
            call("classify", rows(), tmp_path / "runs", **SMALL)
    assert not (tmp_path / "runs").exists()
