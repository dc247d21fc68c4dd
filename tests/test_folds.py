"""`elman cross-validate` and `--fold`: models that are judged by the part of the data that they do not see."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from elman.datasets.reading import BadRows
from elman.folds import Fold, together
from elman.tasks import classification, regression
from elman.tasks.options import ClassificationOptions, RegressionOptions
from elman.tasks.separate import folds, group_folds
from elman.training import fit
from elman.training.loop import Training
from tiny_runs import elman, lines, scores_of

MODULES: dict[str, Any] = {"classify": classification, "regress": regression}
OPTIONS: dict[str, Any] = {"classify": ClassificationOptions, "regress": RegressionOptions}
QUICK = ("--hidden-size", 4, "--epochs", 1, "--evaluations", 1)


@pytest.fixture(autouse=True)
def only_numbers(no_pictures: None) -> None:
    """No test here looks at pictures."""


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 7), st.integers(1, 4))
def test_each_part_has_its_share_of_each_kind(seed: int, items: int, count: int, kinds: int):
    of = np.random.default_rng(seed).integers(0, kinds, items)
    part = folds(of, count, seed)
    assert set(part.tolist()) <= set(range(count))
    for own in (np.ones(items, bool), *(of == kind for kind in range(kinds))):
        sizes = np.bincount(part[own], minlength=count)
        assert sizes.max() - sizes.min() <= 1
    assert part.tolist() == folds(of, count, seed).tolist()


def test_parts_are_drawn_at_random():
    drawn = [folds(np.zeros(20), 4, seed).tolist() for seed in range(3)]
    assert drawn[0] != drawn[1] != drawn[2]
    assert drawn[0] != sorted(drawn[0])
    of = np.arange(20)
    assert group_folds(of, 4, 0).tolist() != group_folds(of, 4, 1).tolist()


@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(2, 5))
def test_groups_stay_together_and_parts_are_about_as_large(seed: int, groups: int, count: int):
    draw = np.random.default_rng(seed)
    of = draw.permutation(np.repeat(np.arange(groups), draw.integers(1, 9, groups)))
    part = group_folds(of, count, seed)
    assert [len(set(part[of == group])) for group in range(groups)] == [1] * groups
    sizes = np.bincount(part, minlength=count)
    assert sizes.max() - sizes.min() <= np.bincount(of).max()
    assert (sizes > 0).sum() == min(groups, count)


def write(path: Path, task: str, count: int = 30, changed: NDArray[Any] | tuple[()] = ()) -> Path:
    """Sequences of seven people; those that are changed have other numbers."""
    draw, rows = np.random.default_rng(0), []
    for k in range(count):
        values = draw.normal(size=(int(draw.integers(2, 6)), 2)) + k % 3
        values = values * 100 if k in changed else values
        rows.append({"values": values.tolist(), "who": f"p{k % 7}", "label": f"c{k % 3}" if task == "classify" else k % 3 + 0.5})  # fmt: skip
    path.write_text(lines(*map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("group", [None, "who"])
@pytest.mark.parametrize("task", ["classify", "regress"])
def test_every_sequence_is_left_out_once(tmp_path: Path, task: str, group: str | None):
    file, seen = write(tmp_path / "a.jsonl", task), list[int]()
    for k in (1, 2, 3):
        options = OPTIONS[task](fold=f"{k}/3", group=group)
        found, train, validation, test = MODULES[task].read(file, options, BadRows())
        assert sorted([*train, *validation, *test]) == list(range(30))
        assert min(len(train), len(validation), len(test)) > 0
        assert 8 <= len(test) <= 13
        seen += test.tolist()
        if group:
            of = np.array(found.group_of)
            assert not set(of[test]) & set(of[[*train, *validation]])
            assert not set(of[train]) & set(of[validation])
        elif task == "classify":
            assert np.bincount(np.arange(30)[test] % 3).tolist() in ([3, 3, 4], [3, 4, 3], [4, 3, 3], [4, 3, 4], [3, 3, 3], [3, 4, 4], [4, 4, 3])  # fmt: skip
    assert sorted(seen) == list(range(30))


@pytest.mark.parametrize("task", ["classify", "regress"])
def test_nothing_is_learned_or_chosen_by_what_is_left_out(tmp_path: Path, task: str):
    options = OPTIONS[task](fold="2/4", hidden_size=4, epochs=3.0, evaluations=3)
    file = write(tmp_path / "a.jsonl", task)
    test = MODULES[task].read(file, options, BadRows()).test
    kept = []
    for name, changed in (("as it is", ()), ("changed", test)):
        write(file, task, changed=changed)
        fit(MODULES[task].begin(file, options, "cpu", BadRows()), tmp_path / name)
        kept.append((tmp_path / name / "model.safetensors").read_bytes())
        kept.append(json.loads((tmp_path / name / "vocabulary.json").read_text()))
        kept.append(json.loads((tmp_path / name / "config.json").read_text())["baselines"])
    assert kept[:3] == kept[3:]


def test_a_validation_file_chooses_and_the_rest_is_learned(tmp_path: Path):
    file, other = write(tmp_path / "a.jsonl", "classify"), write(tmp_path / "b.jsonl", "classify", 9)
    options = ClassificationOptions(fold="1/3", validation=str(other), group="who")
    task = classification.begin(file, options, "cpu", BadRows())
    assert sorted([*task.train, *task.test]) == list(range(30))
    assert task.validation.tolist() == list(range(30, 39))
    said = dict(task.introduction())
    assert f"{len(task.train)} for training, 9 for validation, {len(task.test)} for testing" in said["sequences"]
    assert re.fullmatch(r"\d of 7 values of 'who': p\d.*", said["left out"])
    assert "held out" not in said


@pytest.mark.parametrize(
    ("file", "given", "message"),
    [
        ("a.jsonl", ("--fold", "0/3"), "--fold must be K/N, the number of a part and of how many, at least 2, got 0/3; try 1/5"),
        ("a.jsonl", ("--fold", "4/3"), "--fold must be K/N, the number of a part and of how many, at least 2, got 4/3; try 1/5"),
        ("a.jsonl", ("--fold", "1/1"), "--fold must be K/N, the number of a part and of how many, at least 2, got 1/1; try 1/5"),
        ("a.jsonl", ("--fold", "two"), "--fold must be K/N, the number of a part and of how many, at least 2, got two; try 1/5"),
        ("a.jsonl", ("--fold", "1/31"), "--fold 1/31 wants 31 parts, but {file} has 30 sequences; give fewer parts"),
        ("a.jsonl", ("--fold", "1/8", "--group", "who"), "--fold 1/8 wants 8 parts, but {file} has 7 values of 'who'; give fewer parts"),
        ("pair.jsonl", ("--fold", "1/2", "--group", "who"), "--fold 1/2 leaves only sequences with 'p0' in 'who', and some must be held out; give those of more, or make more parts"),
        ("rare.jsonl", ("--fold", "2/2"), "{file} has only one class, 'c0', when --fold 2/2 leaves the others out; give at least two sequences of each class"),
        ("one.csv", ("--fold", "1/2", "--each-step"), "--fold leaves whole sequences out, and {file} is one; give several"),
        (None, ("--fold", "1/2"), "--fold reads columns of a table, but no FILE is given; leave it out"),
    ],
)  # fmt: skip
def test_folds_that_make_no_sense(tmp_path: Path, file: str | None, given: tuple[str, ...], message: str):
    write(tmp_path / "a.jsonl", "classify")
    pair = [{"values": [[k]], "who": f"p{k % 2}", "label": f"c{k // 2 % 2}"} for k in range(8)]
    (tmp_path / "pair.jsonl").write_text(lines(*map(json.dumps, pair)))
    rare = [{"values": [[k]], "label": f"c{int(k == 3)}"} for k in range(8)]
    (tmp_path / "rare.jsonl").write_text(lines(*map(json.dumps, rare)))
    (tmp_path / "one.csv").write_text("x,label\n" + "1,a\n2,b\n" * 9)
    files = () if file is None else (tmp_path / file,)
    status, out, err = elman("train", "classify", *files, *given, *QUICK, "--run", tmp_path / "run")
    assert (status, out) == (2, "")
    expected = message.format(file=tmp_path / str(file))
    assert err == f"elman: {expected}\n" or (file is None and "no FILE is given" in err), err


def figures(out: str) -> dict[str, str]:
    return dict(re.findall(r"^(\S+(?: \S+)?) {1,}((?:accuracy|RMSE|\d).*)$", out, re.MULTILINE))


@pytest.mark.parametrize("task", ["classify", "regress"])
def test_each_label_is_judged_by_a_model_that_did_not_see_it(tmp_path: Path, task: str):
    file, place, rows = write(tmp_path / "a.jsonl", task), tmp_path / "folds", tmp_path / "rows.csv"
    # Steps that are too large, after which the last parameters are not those that are kept.
    large = ("--hidden-size", 4, "--epochs", 4, "--evaluations", 4, "--learning-rate", 0.5)
    command = ("cross-validate", task, file, "--folds", 3, *large, "--group", "who", "--directory", place)
    done = elman(*command, "--output", rows)
    assert done.status == 0, done.err
    found = list(csv.DictReader(io.StringIO(rows.read_text())))
    assert [row["sequence"] for row in found] == [str(k + 1) for k in range(30)]
    scores, baselines = list[float](), list[float]()
    for k in (1, 2, 3):
        run, module = place / f"fold-{k}", MODULES[task]
        trained, test = module.load(run), module.read(file, OPTIONS[task](fold=f"{k}/3", group="who"), BadRows()).test
        own = file.read_text().splitlines(keepends=True)
        part = tmp_path / "part.jsonl"
        part.write_text("".join(own[n] for n in test))
        judged = trained.evaluate(part)
        wanted = list(csv.DictReader(judged.table(".csv")))
        for n, row in zip(test, wanted, strict=True):
            assert (found[n]["fold"], found[n]["label"]) == (f"{k}/3", row["label"])
            for name in row.keys() - {"sequence", "label"}:
                number = name != "class"  # whose last digits depend on what is read beside it
                same = pytest.approx(float(row[name]), rel=1e-4, abs=1e-4) if number else row[name]
                assert (float(found[n][name]) if number else found[n][name]) == same
        scored = {name: scores_of(told) for name, told in judged.lines}
        scores.append(float(scored["accuracy"] if task == "classify" else re.findall(r"is (\S+) standard", scored["RMSE"])[0]))  # fmt: skip
        assert re.search(rf"^fold {k}/3 .*{scores[-1]:.4f}", done.out, re.MULTILINE)
        task_of = module.begin(file, OPTIONS[task](fold=f"{k}/3", group="who", hidden_size=4), "cpu", BadRows())
        baselines.append(task_of.tested()[1]["linear"])
        assert baselines[-1] == pytest.approx(float(scored["linear"].split()[0]), abs=1e-4)
    score = "accuracy" if task == "classify" else "RMSE"
    told = re.search(rf"^mean        (\S+) {score}, from (\S+) to (\S+)$", done.out, re.MULTILINE)
    assert told is not None
    # The scores are rounded here.
    assert [*map(float, told.groups())] == pytest.approx(
        [float(np.mean(scores)), min(scores), max(scores)], abs=1.01e-4
    )
    better = sum((a > b) == (task == "classify") and a != b for a, b in zip(scores, baselines, strict=True))
    assert f"linear      {np.mean(baselines):.4f} {score}: the model is better in {better} of 3 folds\n" in done.out
    assert ("in unit" in done.out) == (task == "regress")
    # Nothing is trained twice, and a training that is missing is made.
    before = {k: (place / f"fold-{k}" / "model.safetensors").stat().st_mtime_ns for k in (1, 2, 3)}
    shutil.rmtree(place / "fold-2")
    again = elman(*command, "--output", tmp_path / "again.jsonl")
    assert again.out == done.out
    after = {k: (place / f"fold-{k}" / "model.safetensors").stat().st_mtime_ns for k in (1, 2, 3)}
    assert [k for k in (1, 2, 3) if before[k] == after[k]] == [1, 3]
    written = [json.loads(row) for row in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert [row["sequence"] for row in written] == [row["sequence"] for row in found]


def test_an_interrupted_cross_validation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, place = write(tmp_path / "a.jsonl", "classify"), tmp_path / "folds"
    command = ("cross-validate", "classify", file, "--folds", 2, *QUICK[:2], "--epochs", 4, "--directory")
    whole = elman(*command, tmp_path / "whole")
    steps = Training.steps
    with monkeypatch.context() as patch:

        def interrupted(training: Any, *rest: Any) -> Any:
            for k, report in enumerate(steps(training, *rest)):
                if k == 1 and training.run.directory.name == "fold-2":
                    signal.raise_signal(signal.SIGINT)
                yield report

        patch.setattr(Training, "steps", interrupted)
        stopped = elman(*command, place)
    assert stopped.status == 130
    assert (
        f"everything is saved; continue with the same command and its directory: --directory {place}\n" in stopped.err
    )
    # One that was killed before its first checkpoint begins anew.
    (tmp_path / "whole" / "fold-1").rename(tmp_path / "whole" / "fold-0")
    (tmp_path / "whole" / "fold-1").mkdir()
    shutil.copy(tmp_path / "whole" / "fold-0" / "config.json", tmp_path / "whole" / "fold-1")
    assert elman(*command, tmp_path / "whole").out == whole.out
    again = elman(*command, place)
    assert again.status == 0
    assert again.out.replace(str(place), "") == whole.out.replace(str(tmp_path / "whole"), "")


def test_the_mean_in_the_unit_of_the_data(tmp_path: Path):
    """The values that one fold learns from happen to have a deviation of 1."""
    rows = [
        {"values": [[k]], "who": "ab"[k > 3], "label": (1 if k % 2 else -1) * (3 if k > 3 else 1)} for k in range(10)
    ]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    place = tmp_path / "folds"
    done = elman("cross-validate", "regress", tmp_path / "a.jsonl", "--validation", tmp_path / "a.jsonl", "--group", "who", "--folds", 2, *QUICK, "--directory", place)  # fmt: skip
    scores = [float(score) for score in re.findall(r"^fold.* RMSE (\S+),", done.out, re.MULTILINE)]
    assert [json.loads((place / f"fold-{k}" / "vocabulary.json").read_text())["spread"] for k in (1, 2)] == [[1], [3]]
    told = re.search(r"^in unit     (\S+) RMSE, from (\S+) to (\S+)$", done.out, re.MULTILINE)
    assert told is not None
    wanted = [(scores[0] + 3 * scores[1]) / 2, *sorted((scores[0], 3 * scores[1]))]
    assert [float(number) for number in told.groups()] == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--seed", 1), "fold-1 was begun with --seed 0, and this one is with --seed 1; give the same options, or another --directory"),
        (("--folds", 3), "fold-1 was begun with --fold 1/2, and this one is with --fold 1/3; give the same options, or another --directory"),
        (("--balanced",), "fold-1 was begun without --balanced, and this one is with --balanced; give the same options, or another --directory"),
        ("other.jsonl", "fold-1 was begun with {a} and not {other}; give another --directory"),
        (("--fold", "1/2"), "--fold is for one training, and a cross-validation makes all of them; leave it out"),
        (("--folds", 1), "--folds must be 2 or more, got 1"),
        (("--output", "rows.txt"), "rows.txt: examples are written as .csv, .jsonl, .ndjson; choose one of these endings"),
    ],
)  # fmt: skip
def test_another_cross_validation_is_refused(tmp_path: Path, changed: Any, message: str):
    file, other = write(tmp_path / "a.jsonl", "classify"), write(tmp_path / "other.jsonl", "classify")
    command = ("cross-validate", "classify", file, "--folds", 2, *QUICK, "--directory", tmp_path / "folds")
    assert elman(*command).status == 0
    command = (*command[:2], other, *command[3:]) if isinstance(changed, str) else (*command, *changed)
    status, out, err = elman(*command)
    assert (status, out) == (2, "")
    assert message.format(a=file, other=other) in err
    # The number of threads may change.
    assert elman(*("cross-validate", "classify", file, "--folds", 2), *QUICK, "--threads", 1, "--directory", tmp_path / "folds").status == 0  # fmt: skip


def test_steps_and_texts_are_left_out_as_whole_sequences(tmp_path: Path):
    draw = np.random.default_rng(0)
    rows = [{"values": draw.normal(size=(5, 1)).tolist(), "label": ["a", None, "b", "a", "b"]} for _ in range(12)]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, rows)))
    done = elman("cross-validate", "classify", tmp_path / "a.jsonl", "--each-step", "--folds", 3, *QUICK, "--directory", tmp_path / "a", "--output", tmp_path / "a.csv")  # fmt: skip
    assert done.status == 0, done.err
    found = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert [(row["sequence"], row["step"], row["label"]) for row in found] == [(str(k), str(t), row) for k in range(1, 13) for t, row in enumerate(["a", None, "b", "a", "b"], 1) if row]  # fmt: skip
    rows = [{"text": f"{'yes' if k % 2 else 'no'} it is {k}", "label": f"{k % 2}"} for k in range(12)]
    (tmp_path / "b.jsonl").write_text(lines(*map(json.dumps, rows)))
    done = elman("cross-validate", "classify", tmp_path / "b.jsonl", "--text", "text", "--folds", 3, *QUICK, "--directory", tmp_path / "b", "--output", tmp_path / "b.csv")  # fmt: skip
    assert done.status == 0, done.err
    found = list(csv.DictReader(io.StringIO((tmp_path / "b.csv").read_text())))
    assert [row["label"] for row in found] == ["0", "1"] * 6
    # A part whose steps have no label cannot be judged.
    rows = [{"values": [[1], [2]], "label": ["a", "b"] if k < 2 else [None, None]} for k in range(12)]
    (tmp_path / "c.jsonl").write_text(lines(*map(json.dumps, rows)))
    refused = elman("train", "classify", tmp_path / "c.jsonl", "--each-step", "--fold", "1/6", *QUICK, "--run", tmp_path / "c")  # fmt: skip
    assert re.search("no step that .* leaves for (training|validation|testing) has a label; give labels in more sequences, or another --seed", refused.err)  # fmt: skip


def test_a_training_that_starts_from_a_fold_learns_from_all(tmp_path: Path):
    file = write(tmp_path / "a.jsonl", "classify")
    assert elman("train", "classify", file, "--fold", "1/3", *QUICK, "--run", tmp_path / "fold").status == 0
    done = elman("train", "classify", file, "--start-from", tmp_path / "fold", "--epochs", 1, "--run", tmp_path / "all")
    assert done.status == 0, done.err
    assert "for testing" not in done.err
    config = json.loads((tmp_path / "all" / "config.json").read_text())
    assert config["options"]["fold"] is None
    data = json.loads((tmp_path / "fold" / "config.json").read_text())["data"]
    assert data["train_sequences"] + data["validation_sequences"] + data["test_sequences"] == 30


def test_a_tie_is_not_better():
    for higher, scores in ((True, (0.5, 0.7)), (False, (0.5, 0.3))):
        every = [Fold("", "", "F1", higher, 1.0, score, {"linear": 0.5}, []) for score in scores]
        assert "linear      0.5000 F1: the model is better in 1 of 2 folds" in list(together(every))
