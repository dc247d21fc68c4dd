"""`elman train --start-from RUN`: a training that begins with the model of another one, on other data."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from elman import Recurrent, tasks
from elman.datasets.reading import BadRows
from elman.errors import InputError
from elman.tasks.options import ClassificationOptions, ForecastingOptions, LanguageModelOptions, TaggingOptions
from elman.training import fit, fitting
from elman.training.loop import CHECKPOINT, MODEL
from elman.training.options import flag
from elman.training.run import Run
from elman.training.task import as_it_is
from tiny_runs import elman, of_every_task, prose, without_pictures

TASK = {
    "lm": "lm",
    "tag": "tag",
    "numbers": "classify",
    "texts": "classify",
    "regress": "regress",
    "spoken": "transcribe",
    "translated": "translate",
    "forecast": "forecast",
}
FILE = {
    "lm": "new.txt",
    "tag": "new_tags.txt",
    "numbers": "new.jsonl",
    "texts": "new_texts.jsonl",
    "regress": "new_valued.jsonl",
    "spoken": "new_spoken.jsonl",
    "translated": "new_turned.jsonl",
    "forecast": "new.csv",
}
LEARNED = dict.fromkeys(("lm", "tag", "numbers", "texts", "regress", "spoken", "translated"), "vocabulary.json")
pytestmark = pytest.mark.usefixtures("no_pictures")
BRIEF = ("--epochs", 0.4, "--evaluations", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of each task, and other data of the same kind, with words that are new."""
    d = tmp_path_factory.mktemp("made")
    runs = of_every_task(d)
    (d / "old.txt").write_text(prose(1500))
    sizes = ("--hidden-size", 8, "--embedding-size", 4, "--batch-size", 4, "--window", 8, "--dropout", 0.3)
    with without_pictures():
        brief = ("--epochs", 1, "--evaluations", 1)
        assert elman("train", "lm", d / "old.txt", *sizes, *brief, "--cell", "gru", "--run", d / "lm").status == 0
    (d / "new.txt").write_text(prose(900, seed=3).replace("was", "WAS"))
    (d / "new_tags.txt").write_text((d / "tagged.txt").read_text().replace("cat\t", "lynx\t"))
    numbers = [json.loads(line) for line in (d / "numbers.jsonl").read_text().splitlines()]
    for row in numbers:
        row["values"] = (np.array(row["values"]) * 3 + 1).tolist()
    (d / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in numbers))
    valued = [json.loads(line) for line in (d / "valued.jsonl").read_text().splitlines()]
    (d / "new_valued.jsonl").write_text("".join(json.dumps(r | {"label": 9 - r["label"]}) + "\n" for r in valued))
    (d / "new_turned.jsonl").write_text((d / "turned.jsonl").read_text().replace('"a ', '"'))
    (d / "new_spoken.jsonl").write_text((d / "spoken.jsonl").read_text().replace('"c', '"a'))
    (d / "new_texts.jsonl").write_text((d / "texts.jsonl").read_text().replace("cat", "lynx"))
    head, *rows = (d / "series.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    changed = [f"{t},{push},{10 * float(y) + 100},{z}" for t, push, y, z in cells]
    (d / "new.csv").write_text("\n".join([head, *changed]) + "\n")
    runs.lm = d / "lm"
    return runs


def begun(made: SimpleNamespace, name: str, file: str | None = None, **changes: Any) -> Any:
    run, module = Run(getattr(made, name)), tasks.module(TASK[name])
    options, _ = run.options(module.Options, module.CONFIG)
    values = {field.name: getattr(options, field.name) for field in fields(options)} | {"epochs": 0.4} | changes
    return module.begin(made.directory / (file or FILE[name]), type(options)(**values), "cpu", BadRows(), run)


@pytest.mark.parametrize("name", TASK)
def test_it_begins_with_what_the_run_kept(made: SimpleNamespace, tmp_path: Path, name: str) -> None:
    run = Run(getattr(made, name))
    kept, _ = run.load_tensors(MODEL)
    training, config = fitting.begin(begun(made, name), tmp_path / "new")
    first, _ = training.run.load_tensors(CHECKPOINT)
    assert {key: value for key, value in first.items() if key.startswith("model.")}.keys() == {
        f"model.{k}" for k in kept
    }
    for key in {"temperature", "shift"} & kept.keys():  # they are chosen by the new data
        kept[key] = first[f"model.{key}"]
    assert all(torch.equal(first[f"model.{key}"], value) for key, value in kept.items())
    assert config["start"] == str(run.directory.resolve())
    if name in LEARNED:
        assert json.loads((tmp_path / "new" / LEARNED[name]).read_text()) == run.json(LEARNED[name])
    else:  # series are measured by the new data
        old, new = (json.loads((each / "scales.json").read_text()) for each in (run.directory, tmp_path / "new"))
        assert (new["targets"], new["known"]) == (old["targets"], old["known"])
        assert new["mean"][0] == pytest.approx(10 * old["mean"][0] + 100)
        assert new["deviation"][0] == pytest.approx(10 * old["deviation"][0])


@pytest.mark.parametrize("name", TASK)
def test_the_model_it_starts_from_is_a_baseline(made: SimpleNamespace, tmp_path: Path, name: str) -> None:
    """Its score is that on the new validation data, as it is, and the model that is trained is told beside it."""
    task = begun(made, name)
    task.model.load_state_dict(tasks.module(TASK[name]).load(getattr(made, name)).model.state_dict())  # pyright: ignore[reportAttributeAccessIssue]
    exact = as_it_is(task)[task.score]
    arguments = ("train", TASK[name], made.directory / FILE[name], "--start-from", getattr(made, name), *BRIEF)
    status, out, err = elman(*arguments, "--run", tmp_path / "new")
    assert status == 0, err
    baselines = json.loads((tmp_path / "new" / "config.json").read_text())["baselines"]
    assert next(iter(baselines)) == "start"
    assert baselines["start"] == pytest.approx(exact, rel=1e-6)
    assert f"start       {exact:.4f} {task.score_unit} (the model that the training started from): the model is" in out
    assert f"start       from the model of {getattr(made, name)}" in err
    assert elman("evaluate", tmp_path / "new", made.directory / FILE[name]).status == 0
    assert elman("train", TASK[name], "--resume", tmp_path / "new").status == 0


def test_options_are_those_of_the_run_where_none_are_given(made: SimpleNamespace, tmp_path: Path) -> None:
    run, new = tmp_path / "new", made.directory / "new.txt"
    arguments = ("--start-from", made.lm, "--window", 16, "--weight-dropout", 0.2, *BRIEF, "--run", run)
    assert elman("train", "lm", new, *arguments).status == 0
    before = json.loads((made.lm / "config.json").read_text())["options"]
    now = json.loads((run / "config.json").read_text())["options"]
    assert now == before | {"window": 16, "weight_dropout": 0.2, "epochs": 0.4, "evaluations": 1}
    assert (now["cell"], now["dropout"]) == ("gru", 0.3)


def test_what_belongs_to_the_old_data_and_machine_is_not_taken_over(made: SimpleNamespace, tmp_path: Path) -> None:
    d, old = made.directory, tmp_path / "old"
    of_data = ("--validation", d / "new.txt", "--threads", 2, "--epochs", 0.2)
    sizes = ("--hidden-size", 8, "--batch-size", 4, "--window", 8, "--evaluations", 1)
    assert elman("train", "lm", d / "old.txt", *sizes, *of_data, "--run", old).status == 0
    assert (
        elman("train", "lm", d / "new.txt", "--start-from", old, "--minutes", 0.001, "--run", tmp_path / "new").status
        == 0
    )
    now = json.loads((tmp_path / "new" / "config.json").read_text())["options"]
    assert (now["validation"], now["threads"], now["epochs"], now["minutes"]) == (None, 1, None, 0.001)


@pytest.mark.parametrize("of", [LanguageModelOptions, TaggingOptions, ClassificationOptions, ForecastingOptions])
def test_a_model_keeps_what_it_was_made_for(made: SimpleNamespace, of: Any) -> None:
    """Whatever changes the shapes of the parameters, or what a number means, is an option of the model."""
    name = next(name for name, task in TASK.items() if task == of.task)
    for field in fields(of):
        if not field.metadata["of_model"]:
            continue
        choices = field.metadata["choices"]
        switch = str(field.type).startswith("bool")
        value = choices[-1] if choices else None if switch else {"cell": "rnn"}.get(field.name, "7")
        given = [flag(field.name), *([] if value is None else [value])]
        status, out, err = elman(
            "train", of.task, made.directory / FILE[name], "--start-from", getattr(made, name), *given
        )
        assert (status, out) == (2, "")
        assert err == (
            f"elman: --start-from keeps the model of {getattr(made, name)}, so {flag(field.name)} cannot be given; leave it out\n"
        )


@pytest.mark.parametrize("name", TASK)
def test_no_other_option_changes_the_model(made: SimpleNamespace, name: str) -> None:
    """The opposite: parameters keep their shapes whatever else is given."""
    task = begun(made, name)
    shapes = {key: value.shape for key, value in task.model.state_dict().items()}
    for field in fields(task.options):
        least, most = field.metadata["least"], field.metadata["most"]
        if field.metadata["of_model"] or not isinstance(field.default, (int, float)) or isinstance(field.default, bool):
            continue
        value: Any = 3 if isinstance(field.default, int) else min(0.3, most or 0.3)
        if field.name in ("lookback", "period", "horizon") or (least is not None and value < least):
            continue
        other = begun(made, name, **{field.name: value})
        assert {key: v.shape for key, v in other.model.state_dict().items()} == shapes, field.name


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("tag", ("\tX", "\tNEW"), "has tags that {run} does not know: 'NEW'; leave them out, or train a new model"),
        (
            "texts",
            ('"a"', '"new"'),
            "has classes that {run} does not know: 'new'; leave them out, or train a new model",
        ),
        ("numbers", ('"values"', '"text"'), "there is no 'values'; the names are 'text', 'label'"),
        ("forecast", (",y,", ",w,"), "has no column 'y', which the run reads; its columns are 't', 'push', 'w', 'z'"),
    ],
)
def test_data_that_do_not_fit_the_model(
    made: SimpleNamespace, tmp_path: Path, name: str, change: tuple[str, str], complaint: str
) -> None:
    path, run = tmp_path / FILE[name], getattr(made, name)
    path.write_text((made.directory / FILE[name]).read_text().replace(*change))
    status, _, err = elman("train", TASK[name], path, "--start-from", run, "--run", tmp_path / "new")
    assert (status, err.count("\n")) == (2, 1)
    assert complaint.format(run=run) in err
    assert not (tmp_path / "new").exists()


def test_rows_that_are_another_step_apart(made: SimpleNamespace, tmp_path: Path) -> None:
    head, *rows = (made.directory / "new.csv").read_text().splitlines()
    (tmp_path / "new.csv").write_text("\n".join([head, *rows[::2]]) + "\n")
    with pytest.raises(InputError, match=r"the rows are 2 apart, but the run was trained on rows that are 1 apart"):
        begun(made, "forecast", file=str(tmp_path / "new.csv"))


@pytest.mark.parametrize("name", TASK)
def test_weights_are_dropped_in_all_recurrent_layers_of_a_task(made: SimpleNamespace, name: str) -> None:
    for share in (0.0, 0.25):
        model = begun(made, name, weight_dropout=share).model
        assert {m.weight_dropout for m in model.modules() if isinstance(m, Recurrent)} == {share}


def test_a_class_that_the_new_data_lack_has_no_weight(made: SimpleNamespace, tmp_path: Path) -> None:
    """With --balanced, a class is weighed by how rare it is; but where there is none, nothing is to be learned of it."""
    rows = (made.directory / "new_texts.jsonl").read_text().splitlines()
    (tmp_path / "ab.jsonl").write_text("".join(row + "\n" for row in rows if '"label": "c"' not in row))
    weights = begun(made, "texts", file=str(tmp_path / "ab.jsonl"), balanced=True).weights
    assert weights.tolist() == pytest.approx([1, 1, 0])


def test_the_form_of_tagged_lines_is_that_of_the_new_data(made: SimpleNamespace, tmp_path: Path) -> None:
    path, new = tmp_path / "three.txt", tmp_path / "new"
    path.write_text((made.directory / "tagged.txt").read_text().replace("\t", "\tlemma\t"))
    assert elman("train", "tag", path, "--start-from", made.tag, *BRIEF, "--run", new).status == 0
    status, out, err = elman("predict", new, path)
    assert (status, err) == (0, "")
    assert out.count("\tlemma\t") == path.read_text().count("\tlemma\t")


def test_wrong_runs(made: SimpleNamespace, tmp_path: Path) -> None:
    d = made.directory

    def refused(task: str, *arguments: object) -> str:
        status, _, err = elman("train", task, d / "new.txt", *arguments, "--run", tmp_path / "new")
        assert status == 2
        return err

    assert "its task is 'lm'" in refused("tag", "--start-from", made.lm)
    assert "does not exist; give the directory of a run" in refused("lm", "--start-from", tmp_path / "none")
    assert "is a file, but a run is a directory" in refused("lm", "--start-from", d / "new.txt")
    assert "so FILE, --run, --start-from cannot be given" in refused("lm", "--resume", made.lm, "--start-from", made.lm)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["forecast", "recursive"])
def test_the_built_in_series_lacks_the_columns_of_a_table(made: SimpleNamespace, tmp_path: Path, name: str) -> None:
    run = getattr(made, name)
    status, out, err = elman("train", "forecast", "--start-from", run, "--run", tmp_path / "new")
    reads = "'y', 'z', 'push'" if name == "forecast" else "'push', 'y', 'z'"
    assert (status, out) == (2, "")
    assert err == (
        f"elman: without FILE the data are a Mackey-Glass series with the column 'x' alone, but {run} reads {reads}; give a table with these columns\n"
    )


def test_from_python(made: SimpleNamespace, tmp_path: Path) -> None:
    """A rate near zero leaves the model as it was."""
    task = begun(made, "lm", learning_rate=1e-12, weight_decay=0.0)
    fit(task, tmp_path / "new")
    kept, _ = Run(made.lm).load_tensors(MODEL)
    for key, value in task.model.state_dict().items():
        torch.testing.assert_close(value, kept[key], rtol=1e-5, atol=1e-7)
    (tmp_path / "tags.txt").write_text("cat\tA\n\ndog\tB\n\nsun\tA\n")
    with pytest.raises(InputError, match=r"has tags that .* does not know"):
        begun(made, "tag", file=str(tmp_path / "tags.txt"))


@pytest.mark.parametrize(
    ("name", "change", "made_for"),
    [
        ("lm", {"hidden_size": 9}, "hidden_size=8, but the options have 9"),
        ("lm", {"unit": "bytes"}, "unit='characters', but the options have 'bytes'"),
        ("tag", {"cell": "gru"}, "cell='lstm', but the options have 'gru'"),
        ("numbers", {"cell": "gru_before"}, "cell='gru', but the options have 'gru_before'"),
        ("texts", {"unit": "characters"}, "unit='words', but the options have 'characters'"),
        ("forecast", {"known": None}, "known='push', but the options have None"),
        ("forecast", {"quantiles": "0.2,0.5,0.8"}, "quantiles='0.1,0.5,0.9', but the options have '0.2,0.5,0.8'"),
    ],
)
def test_options_from_python_that_the_model_was_not_made_for(
    made: SimpleNamespace, name: str, change: dict[str, Any], made_for: str
) -> None:
    """Some would give a wrong model without a word: its parameters have the same shapes."""
    with pytest.raises(InputError) as error:
        begun(made, name, **change)
    assert str(error.value) == (
        f"the model of {getattr(made, name)} was made for {made_for}; give the same, or train a new model"
    )


def test_a_run_of_another_task_from_python(made: SimpleNamespace) -> None:
    with pytest.raises(InputError, match=r"is not that of a run for task 'lm': its task is 'tag'"):
        tasks.module("lm").begin(
            made.directory / "new.txt", LanguageModelOptions(epochs=1), "cpu", BadRows(), Run(made.tag)
        )


def test_the_rate_is_sought_with_the_model_of_the_run(made: SimpleNamespace) -> None:
    new = elman(
        "train", "lm", made.directory / "new.txt", "--find-lr", "--hidden-size", 8, "--batch-size", 4, "--window", 8
    )
    out = elman("train", "lm", made.directory / "new.txt", "--find-lr", "--start-from", made.lm).out
    assert "suggested" in out
    first, fresh = (float(each.split()[1]) for each in (out, new.out))
    assert first < fresh - 0.1  # what it has learned
