"""What sequences say: probabilities against sums over all paths, errors against another count, and models that learn it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import runpy
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from elman import charts
from elman.datasets import examples
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Labelled
from elman.errors import InputError
from elman.explain import directions
from elman.tasks import texts, transcription
from elman.tasks.options import TranscriptionOptions
from elman.tasks.tallies import values
from elman.tasks.texts import OTHER, marks, spell, together
from elman.tasks.transcription import BLANK, least_steps, nats_of, read_off
from elman.training import fit, fitting
from elman.training.loop import MODEL
from elman.training.run import Run
from test_tasks import SMALL, figures, write_knocks
from tiny_runs import elman, lines

BRIEF = ("--epochs", 0.2, "--evaluations", 1)
QUICK = (*SMALL["transcribe"], *BRIEF)


def options_of(**changes: Any) -> TranscriptionOptions:
    return TranscriptionOptions(**{"hidden_size": 5, "epochs": 1.0, "batch_size": 8} | changes)


def collapsed(path: Sequence[int]) -> list[int]:
    """What a path says: equal outputs in a row once, then no blanks."""
    return [k for n, k in enumerate(path) if k != BLANK and (n == 0 or path[n - 1] != k)]


def begun(path: Path, **changes: Any) -> transcription.Transcription:
    return transcription.begin(path, options_of(**changes), "cpu", BadRows())


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text(lines(*map(json.dumps, rows)))
    return path


# Probabilities and errors


@pytest.mark.parametrize("outputs", [2, 3])
def test_the_probability_of_a_label_is_that_of_all_paths_that_say_it(outputs: int):
    draw, T = torch.Generator().manual_seed(outputs), 5
    labels: list[list[int]] = [[], [1], [1, 1], [1, outputs - 1], [outputs - 1, 1, 1], [1, 1, 1, 1], [1, OTHER]]
    log_p = (3 * torch.randn(T, len(labels), outputs, generator=draw)).log_softmax(-1)
    for length in range(1, T + 1):
        lengths = torch.full((len(labels),), length)
        poisoned = log_p.clone()
        poisoned[length:] = torch.nan  # past the end of a sequence
        found = nats_of(poisoned, lengths, [np.array(label, np.int64) for label in labels])
        for b, label in enumerate(labels):
            paths = [path for path in product(range(outputs), repeat=length) if collapsed(path) == label]
            chance = sum(math.exp(sum(float(log_p[t, b, k]) for t, k in enumerate(path))) for path in paths)
            assert float(found[b]) == (pytest.approx(-math.log(chance), rel=1e-5) if paths else math.inf)
            assert bool(paths) == (OTHER not in label and length >= least_steps(label))


def test_what_the_likeliest_outputs_say():
    draw = np.random.default_rng(0)
    for _ in range(50):
        best, lengths = draw.integers(0, 3, (9, 4)), draw.integers(1, 10, 4)
        for b, (said, steps) in enumerate(read_off(best, lengths)):
            own = best[: lengths[b], b].tolist()
            assert said.tolist() == collapsed(own)
            assert [own[t] for t in steps] == said.tolist()
            assert all(t == 0 or own[t - 1] != own[t] for t in steps)


def fewest(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The fewest replaced, left out and put in that make b of a."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


NONE = np.empty(0, np.int64)


def test_errors_by_another_count():
    draw = np.random.default_rng(1)
    pairs = [(draw.integers(1, 4, draw.integers(0, 7)), draw.integers(1, 4, draw.integers(0, 7))) for _ in range(80)]
    pairs += [(np.array([1, OTHER, 2]), np.array([1, 2, 2])), (np.array([OTHER]), np.array([], np.int64))]
    texts = [("the cat sat", "the bat sat on"), ("a", "a"), ("", "so"), ("one two", "")]
    found = together([*(marks(a, b, "", "") for a, b in pairs), *(marks(NONE, NONE, a, b) for a, b in texts)])
    assert found.errors == sum(fewest(a.tolist(), b.tolist()) for a, b in pairs)
    assert found.symbols == sum(len(a) for a, _ in pairs)
    assert found.exact == len(texts) + sum(a.tolist() == b.tolist() for a, b in pairs)
    assert (found.words, found.word_errors) == (6, 2 + 0 + 1 + 2)
    confused = np.array([[found.confused[a, b] for b in range(4)] for a in range(4)])
    wrong = confused.sum() - np.trace(confused)
    assert wrong == found.errors - 2  # of symbols that the training lacks there is no row
    said, true = Counter(np.concatenate([b for _, b in pairs]).tolist()), Counter(np.concatenate([a for a, _ in pairs]).tolist())  # fmt: skip
    assert confused[1:].sum(1).tolist() == [true[k] for k in (1, 2, 3)]
    assert confused[:, 1:].sum() == said.total() - 1  # one stands for a symbol that the training lacks
    assert (found.left_out, found.put_in) == (confused[1:, 0].sum() + 1, confused[0, 1:].sum())


def test_labels_are_rows_of_characters_or_words():
    assert spell(" to  be\tor ", "characters") == list("to be or")
    assert spell(" to  be\tor ", "words") == ["to", "be", "or"]
    assert spell("  ", "characters") == spell("", "words") == []
    assert [least_steps(each) for each in ("", "ab", "aab", "aaaa", "abab")] == [0, 2, 4, 7, 4]


# Reading


def test_an_empty_label_is_for_json_lines_of_this_task(tmp_path: Path):
    rows = [{"values": [[0.0], [1.0]], "label": label} for label in ("", "a", 7, "")]
    task = begun(write(tmp_path / "a.jsonl", rows), held_out=0.4)
    labels = [task.encoded.label(k) for k in range(4)]
    assert labels == ["", "a", "7", ""]
    refused = elman("train", "classify", tmp_path / "a.jsonl", *QUICK)
    assert "'label' should be a label but is ''" in refused.err
    (tmp_path / "a.csv").write_text("id,x,label\n1,0,a\n1,1,a\n2,0,\n")
    refused = elman("train", "transcribe", tmp_path / "a.csv", "--sequence", "id", *QUICK)
    assert "line 4: column 'label' has no value" in refused.err
    none = write(tmp_path / "none.jsonl", [{"values": [[0.0]], "label": " "}] * 5)
    with pytest.raises(InputError, match=r"all training labels of .* are empty, so that there is nothing to say; give others"):  # fmt: skip
        begun(none)


def test_a_label_that_takes_more_steps_than_there_are(tmp_path: Path):
    rows = [{"values": [[0.0]] * 3, "label": label} for label in ("abc", "ab", "aab", "abcd", "ba", "")]
    path = write(tmp_path / "a.jsonl", rows)
    command = ("train", "transcribe", path, *QUICK, "--run", tmp_path / "run")
    refused = elman(*command)
    assert refused.status == 2
    assert refused.err == (
        f"elman: {path}: sequence '3' has 3 steps, but its label takes 4: one for each of its characters, and one between two "
        "that are equal; correct it, learn words with --label-unit words, or skip such rows with --skip-bad\n"
    )
    assert not (tmp_path / "run").exists()
    bad = BadRows(skip=True)
    found, train, validation, _ = transcription.read(path, options_of(), bad)
    assert bad.count == 2
    assert sorted(found.name(k) for k in [*train, *validation]) == ["1", "2", "5", "6"]
    several = write(tmp_path / "several.jsonl", rows * 3)
    taken = begun(several, label_unit="words", held_out=0.4)  # of one word each
    assert {*taken.trained.reading.symbols} <= {row["label"] for row in rows}
    assert all(len(taken.encoded.spelled(k)) == (k < 5) for k in range(6))
    (tmp_path / "a.csv").write_text("body,label\n" + "one two,abc\n" * 5)
    refused = elman("train", "transcribe", tmp_path / "a.csv", "--text", "body", *QUICK)
    assert "sequence '1' has 2 steps, but its label takes 3" in refused.err
    assert "correct it, read the text by characters with --unit characters, or skip" in refused.err
    # All of them are looked at before the first fold is trained, and those that are skipped are not judged either.
    folds = ("--folds", 3, *QUICK, "--directory", tmp_path / "folds")
    refused = elman("cross-validate", "transcribe", several, *folds)
    assert (refused.status, refused.out) == (2, "")
    assert "sequence '3' has 3 steps" in refused.err
    parts = [transcription.read(several, options_of(fold=f"{k}/3"), BadRows(True)) for k in (1, 2, 3)]
    names = [each.sequences.name(k) for each in parts for k in each.test.tolist()]
    assert sorted(names, key=int) == [str(k) for k in range(1, 19) if k % 6 not in (3, 4)]
    # What is judged may have such labels: the model cannot say them.
    judged = begun(write(tmp_path / "b.jsonl", [rows[0], rows[1]] * 4), validation=str(path))
    said = judged.trained.says(judged.encoded, judged.validation)
    assert [math.isinf(each.nats) for each in said] == [False, False, True, True, False, False]
    assert judged.evaluate()["validation_nats"] == pytest.approx(np.mean([said[k].nats for k in (0, 1, 4, 5)]) * 4 / 8)
    lines = dict(judged.introduction())
    assert (
        lines["too long"] == "2 labels of the validation set, counted as mistakes: they take more steps than there are"
    )
    assert lines["unknown symbols"] == "1 of the validation set, counted as mistakes: 'd'"


def test_what_nothing_can_be_judged_by(made: SimpleNamespace, tmp_path: Path, no_pictures: None):
    rows = [json.loads(line) for line in made.new.read_text().splitlines()]
    for name, change, evaluated, trained in (
        ("empty", "", "all labels of {} are empty", "all validation labels of {} are empty, so that there is nothing"),
        ("strange", "xyz", None, "can say none of the validation labels of {} (unknown symbols: 120, counted"),
        ("long", "a" * 99, None, "can say none of the validation labels of {} (too long: 40 labels, counted"),
    ):
        path = write(tmp_path / f"{name}.jsonl", [row | {"label": change} for row in rows])
        done = elman("evaluate", made.both, path)
        if evaluated is None:
            told = figures(done.out)
            assert told["nats per character"] == "not known, because the model cannot say any of the labels"
            assert re.search(r"\ncharacter error rate (1|0\.9)", done.out)
        else:
            assert evaluated.format(path) in done.err
        refused = elman("train", "transcribe", made.directory / "train.jsonl", "--validation", path, *QUICK)
        assert refused.status == 2
        assert trained.format(path) in refused.err


def test_a_file_without_the_name_of_the_label(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", [{"values": [[1.0]], "text": "a"}])
    refused = elman("train", "transcribe", path, *QUICK)
    assert "line 1: there is no 'label'; the names are 'values', 'text'; correct it" in refused.err


def test_a_sequence_of_one_step_and_labels_of_one_symbol(tmp_path: Path):
    rows = [{"values": [[k % 2]], "label": "a" * (k % 2)} for k in range(12)]
    task = begun(write(tmp_path / "a.jsonl", rows), held_out=0.4)
    assert task.trained.reading.symbols == ["a"]
    next(iter(task.batches(0, 0))).loss().backward()


# Learning


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A directory with data, and runs that learned them, whole and forward only."""
    d = tmp_path_factory.mktemp("knocks")
    write_knocks(d / "train.jsonl", 300)
    write_knocks(d / "new.jsonl", 40, seed=1)
    given = ("--hidden-size", 16, "--epochs", 10, "--learning-rate", 0.03, "--batch-size", 8, "--evaluations", 2)
    said = elman("train", "transcribe", d / "train.jsonl", *given, "--run", d / "both")
    assert said.status == 0, said.err
    size = {"hidden_size": 16, "epochs": 10.0, "learning_rate": 0.03, "evaluations": 2}
    fit(begun(d / "train.jsonl", causal=True, cell="lstm", **size), d / "causal")
    return SimpleNamespace(directory=d, said=said, both=d / "both", causal=d / "causal", new=d / "new.jsonl")


def test_it_learns_what_nobody_aligned(made: SimpleNamespace):
    out = made.said.out
    rate = float(re.findall(r"validation  character error rate ([\d.]+)", out)[0])
    constant, nearest = (float(figures(out)[each].split()[0]) for each in ("constant", "nearest"))
    assert rate < 0.1 < min(constant, nearest)
    assert "1 to 5 characters, of 2 different ones: 'a' 'b'" in figures(made.said.err)["labels"]
    for picture in ("loss", "confusion", "steps"):
        assert (made.both / f"{picture}.png").stat().st_size > 5000
    samples = (made.both / "samples.txt").read_text()
    assert re.search(r"label: ([ab]+)\nsaid:  \1\n", samples)


def test_a_causal_model_learns_it_too(made: SimpleNamespace):
    assert float(Run(made.causal).metrics("character_error_rate")[-1]["character_error_rate"]) < 0.1


def test_a_new_model_says_as_many_symbols_as_labels_have(tmp_path: Path):
    task = begun(write_knocks(tmp_path / "a.jsonl", 60), hidden_size=64)
    rate = sum(len(task.encoded.spelled(int(k))) for k in task.train) / task.encoded.rows.lengths[task.train].sum()
    assert task.trained.reading.rate == pytest.approx(rate)
    blanks = [log_p[..., BLANK].exp().mean() for _, log_p, _ in task.trained.logits(task.encoded, task.train)]
    assert float(torch.stack(blanks).mean()) == pytest.approx(1 - rate, abs=0.1)


def test_the_loss_is_the_mean_over_symbols_whatever_the_batch(tmp_path: Path):
    """Sequences of other lengths beside one change nothing."""
    task = begun(write_knocks(tmp_path / "a.jsonl", 30), noise=0.0, dropout=0.0)
    own = np.arange(len(task.lengths))
    together = task.loss(own) * task.size(own)
    alone = sum(task.loss(own[k : k + 1]).item() * task.size(own[k : k + 1]) for k in own)
    assert together.item() == pytest.approx(alone, rel=1e-5)
    assert task.size(own) == sum(len(task.encoded.label(int(k))) for k in task.train)
    said = task.trained.says(task.encoded, task.train)
    assert task.loss(own).item() == pytest.approx(sum(s.nats for s in said) / task.size(own), rel=1e-5)


def test_scores_by_hand(made: SimpleNamespace):
    trained = transcription.load(made.both)
    rows = [json.loads(line) for line in made.new.read_text().splitlines()]
    rows[0]["label"] += "z"  # which the training lacks
    rows[1]["label"] = ""
    file = write(made.directory / "odd.jsonl", rows)
    out = made.directory / "rows.jsonl"
    status, said, err = elman("evaluate", made.both, file, "--output", out)
    assert status == 0, err
    found, figured = [json.loads(line) for line in out.read_text().splitlines()], figures(said)
    assert [row["label"] for row in found] == [row["label"] for row in rows]
    predicted = list(csv.DictReader(io.StringIO(elman("predict", made.both, file).out)))
    assert [row["text"] for row in predicted] == [row["text"] for row in found]
    assert [row["errors"] for row in found] == [fewest(row["label"], row["text"]) for row in found]
    errors, symbols = sum(row["errors"] for row in found), sum(len(row["label"]) for row in rows)
    assert f"\ncharacter error rate {errors / symbols:.4f} (" in said
    assert figured["exact"] == f"{np.mean([row['errors'] == 0 for row in found]):.4f}"
    assert [row["nats"] is None for row in found] == [True, *[False] * 39]
    nats = sum(row["nats"] for row in found[1:]) / sum(max(1, len(row["label"])) for row in rows[1:])
    assert float(figured["nats per character"]) == pytest.approx(nats, abs=1e-4)
    assert figured["unknown symbols"] == "1, counted as mistakes: 'z'"
    assert figured["errors"].endswith(f"put in, of {symbols} characters")
    assert sum(map(int, re.findall(r"(\d+) (?:replaced|left out|put in)", figured["errors"]))) == errors
    assert "word error rate" not in figured
    assert trained.score(trained.encode(labelled(rows), file), np.arange(40))[0]["exact"].value == float(
        figured["exact"]
    )


def test_error_rates_are_no_shares(tmp_path: Path):
    """Those of a model that says much more than labels are above 1, and their intervals, too."""
    rows = [json.loads(line) for line in write_knocks(tmp_path / "train.jsonl", 40).read_text().splitlines()]
    training, _ = fitting.begin(begun(tmp_path / "train.jsonl"), tmp_path / "run")
    torch.manual_seed(1)
    weights = {name: torch.randn_like(value) for name, value in training.model.state_dict().items()}
    training.run.save_tensors(MODEL, weights, {"step": 0})
    out = elman("evaluate", tmp_path / "run", write(tmp_path / "a.jsonl", [row | {"label": "b"} for row in rows])).out
    rates = re.search(r"^character error rate ([\d.]+) \(([\d.]+) to ([\d.]+)\)$", out, re.MULTILINE)
    assert rates is not None, out
    low, rate, high = (float(rates[k]) for k in (2, 1, 3))
    assert 0 < low < rate < high
    assert high - rate > rate - low
    assert high > 1


def test_the_right_sequences_judge(made: SimpleNamespace):
    """Those of the validation set while it trains, and those of the fold that is left out in the end."""
    run = Run(made.both)
    task = transcription.resume(run, made.directory / "train.jsonl", transcription.load(run).options, "cpu")
    run.fill(task.model)
    nats = [each.nats for each in task.trained.says(task.encoded, task.validation)]
    own = sum(nats) / task.encoded.length(task.validation).sum()
    assert task.evaluate()["validation_nats"] == pytest.approx(own, rel=1e-6)
    assert task.trained.reading == transcription.load(run).reading
    best = min(float(row["validation_nats"]) for row in run.metrics("validation_nats"))
    assert own == pytest.approx(best, rel=1e-3)

    task = begun(made.directory / "train.jsonl", fold="2/4")
    parts = [set(each.tolist()) for each in (task.train, task.validation, task.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 300
    assert len(parts[2]) == 75
    scores, baselines = task.tested()
    nats = [each.nats for each in task.trained.says(task.encoded, task.test)]
    assert scores["validation_nats"] == pytest.approx(sum(nats) / task.encoded.length(task.test).sum(), rel=1e-6)
    assert baselines == values(texts.baselines(task.encoded, task.train, task.encoded, task.test))


def test_judging_leaves_dropout_on(made: SimpleNamespace):
    task = begun(made.new)
    task.model.train()
    task.evaluate()
    assert task.model.training


def test_a_group_is_learned_or_judged(tmp_path: Path):
    draw = np.random.default_rng(0)
    rows = [{"values": draw.normal(size=(4, 1)).tolist(), "label": "ab", "who": f"p{k % 7}"} for k in range(42)]
    path = write(tmp_path / "a.jsonl", rows)
    for seed in range(3):
        task = begun(path, group="who", seed=seed)
        learned, judged = ({int(k) % 7 for k in own} for own in (task.train, task.validation))
        assert learned
        assert judged
        assert not learned & judged


def test_rows_of_some_sequences(made: SimpleNamespace):
    trained = transcription.load(made.both)
    group = list(labelled([json.loads(line) for line in made.new.read_text().splitlines()]))
    encoded, own = trained.encode(iter(group), made.new), np.array([7, 3])
    all_of = np.arange(len(group))
    every = list(trained.rows(encoded, all_of, trained.says(encoded)))
    assert list(trained.rows(encoded, own, trained.says(encoded, own))) == [every[k] for k in own]


def test_what_is_confused(made: SimpleNamespace):
    differ = SimpleNamespace(confused=Counter({(1, 2): 3, (0, 1): 2, (2, 0): 1, (1, 1): 50}))
    said = transcription.load(made.both).confusions(differ)  # pyright: ignore[reportArgumentType]
    assert said == "'b' for 'a' 3, 'a' for nothing 2, nothing for 'b' 1"


def labelled(rows: Sequence[dict[str, Any]]) -> Iterator[Labelled]:
    for k, row in enumerate(rows, 1):
        yield Labelled(str(k), np.array(row["values"], np.float64), row["label"])


def test_what_predictions_say(made: SimpleNamespace):
    trained = transcription.load(made.both)
    rows = [json.loads(line) for line in made.new.read_text().splitlines()]
    encoded = trained.encode(labelled(rows), made.new)
    table = list(csv.DictReader(io.StringIO(elman("predict", made.both, made.new).out)))
    elman("predict", made.both, made.new, "--output", made.directory / "said.jsonl")
    other = [json.loads(line) for line in (made.directory / "said.jsonl").read_text().splitlines()]
    for k, (row, own) in enumerate(zip(table, other, strict=True)):
        assert list(row) == ["sequence", "text", "probability", "steps"]
        assert [row["sequence"], row["text"]] == [own["sequence"], own["text"]]
        assert float(row["probability"]) == own["probability"]
        assert list(map(int, row["steps"].split())) == own["steps"]
        ((_, log_p, _),) = trained.logits(encoded, np.array([k]))
        best = log_p[:, 0].argmax(-1).tolist()
        assert [("ab")[k - 1] for k in collapsed(best)] == list(row["text"])
        assert [best[t - 1] for t in own["steps"]] == collapsed(best)
        label = np.array(["ab".index(c) + 1 for c in row["text"]], np.int64)
        nats = float(nats_of(log_p, torch.tensor([len(log_p)]), [label])[0])
        assert own["probability"] == pytest.approx(math.exp(-nats), rel=1e-4)
    # Neither the order of sequences nor what stands beside one changes it.
    alone = write(made.directory / "one.jsonl", rows[7:8])
    (row,) = csv.DictReader(io.StringIO(elman("predict", made.both, alone).out))
    assert (row["text"], row["steps"]) == (table[7]["text"], table[7]["steps"])


def test_words_of_texts(tmp_path: Path, no_pictures: None):
    """Digits in a text, to be said as words: a text is read, and labels are words."""
    draw, names = np.random.default_rng(0), ["zero", "one", "two"]
    rows = []
    for _ in range(250):
        digits = draw.integers(0, 3, draw.integers(1, 5))
        text = "".join(f"{'.' * draw.integers(1, 4)}{k}" for k in digits)
        rows.append({"body": text, "words": " ".join(names[k] for k in digits)})
    rows = [row for row in rows if least_steps(row["words"].split()) <= len(row["body"])]
    given = (
        "--text",
        "body",
        "--unit",
        "characters",
        "--label",
        "words",
        "--label-unit",
        "words",
        "--embedding-size",
        6,
    )
    size = ("--hidden-size", 12, "--epochs", 12, "--learning-rate", 0.03, "--batch-size", 8, "--dropout", 0)
    done = elman("train", "transcribe", write(tmp_path / "a.jsonl", rows), *given, *size, "--run", tmp_path / "run")
    assert done.status == 0, done.err
    assert float(re.findall(r"validation  word error rate ([\d.]+)", done.out)[0]) < 0.1
    assert "character error rate" not in done.out
    elman("predict", tmp_path / "run", tmp_path / "a.jsonl", "--output", tmp_path / "b.jsonl")
    said = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert np.mean([own["text"] == row["words"] for own, row in zip(said, rows, strict=True)]) > 0.8
    page = directions.transcriber(tmp_path / "run", "..1.2\n0", None).data
    assert [each["label"] for each in page["sequences"]] == [None, None]
    assert [each["words"][0]["words"] for each in page["sequences"]] == [list("..1.2"), ["0"]]
    assert page["sequences"][0]["text"] == "one two"


def test_labels_as_long_as_their_sequences(tmp_path: Path):
    rows = [{"values": [[k % 2], [1]], "label": ("ab", "ba")[k % 2]} for k in range(12)]
    task = begun(write(tmp_path / "a.jsonl", rows))
    assert task.trained.reading.rate == 0.9
    assert task.trained.reading.shares == [0.5, 0.5]
    assert all(torch.isfinite(each).all() for each in task.model.parameters())


def test_labels_with_blanks_are_judged_by_words_too(tmp_path: Path):
    draw = np.random.default_rng(0)
    rows = [
        {"values": draw.normal(size=(12, 1)).tolist(), "label": label} for label in ("ab a", "b  ab", "a", "ba b") * 5
    ]
    task = begun(write(tmp_path / "a.jsonl", rows))
    found = task.evaluate()
    assert list(found) == ["validation_nats", "character_error_rate", "word_error_rate", "exact"]
    said = [task.trained.text(each.outputs) for each in task.trained.says(task.encoded, task.validation)]
    true = [task.encoded.label(int(k)) for k in task.validation]
    words = [(a.split(), b.split()) for a, b in zip(true, said, strict=True)]
    assert found["word_error_rate"] == sum(fewest(a, b) for a, b in words) / sum(len(a) for a, _ in words)
    assert " " in task.trained.reading.symbols
    assert task.encoded.spelled(1).size == 4  # blanks in a row are one


def test_baselines_by_hand(tmp_path: Path):
    draw = np.random.default_rng(0)
    rows = [{"values": draw.normal(size=(9, 2)).tolist(), "label": "".join(draw.choice(list("ab"), 3))} for _ in range(40)]  # fmt: skip
    task = begun(write(tmp_path / "a.jsonl", rows), held_out=0.3)
    found = task.about()["baselines"]
    train, held = ([(np.array(rows[k]["values"]), rows[k]["label"]) for k in own] for own in (task.train, task.validation))  # fmt: skip

    def features(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([x.mean(0), x.std(0), x.min(0), x.max(0), x[0], x[-1]])

    known = np.array([features(x) for x, _ in train])
    nearest = [train[int((((known - features(x)) / known.std(0)) ** 2).sum(1).argmin())][1] for x, _ in held]
    constant = min({"": 0} | {label: 0 for _, label in train}, key=lambda each: sum(fewest(each, y) for _, y in train))
    symbols = 3 * len(held)
    assert found["nearest"] == pytest.approx(
        sum(fewest(y, a) for (_, y), a in zip(held, nearest, strict=True)) / symbols
    )
    candidates = {sum(fewest(y, each) for _, y in held) / symbols for each in {label for _, label in train} if sum(fewest(each, y) for _, y in train) == sum(fewest(constant, y) for _, y in train)}  # fmt: skip
    assert any(found["constant"] == pytest.approx(each) for each in candidates)


def test_the_nearest_of_texts_is_nearest_by_words(tmp_path: Path):
    texts = ["the cat sat down", "a dog ran far off", "the sun set at last"]
    rows = [{"body": texts[k % 3] + " now" * (k // 3), "label": "abc"[k % 3]} for k in range(30)]
    task = begun(write(tmp_path / "a.jsonl", rows), text="body")
    assert task.about()["baselines"]["nearest"] == 0
    assert (
        task.baseline("nearest") == "says the label of the training sequence that is nearest by how often words occur"
    )


def test_baselines_are_judged_by_the_file(made: SimpleNamespace, tmp_path: Path):
    rows = [json.loads(line) | {"label": "ab"} for line in made.new.read_text().splitlines()]
    told = figures(elman("evaluate", made.both, write(tmp_path / "a.jsonl", rows)).out)
    train = [json.loads(line)["label"] for line in (made.directory / "train.jsonl").read_text().splitlines()]
    rates = {f"{fewest('ab', label) / 2:.4f}" for label in train}
    assert told["constant"].split()[0] in rates  # the same for all, and all labels are the same


def test_many_outputs_are_judged_a_few_sequences_at_a_time(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    trained = transcription.load(made.both)
    encoded, _ = trained.read(made.new)
    together = trained.says(encoded)
    monkeypatch.setattr(transcription, "OUTPUTS", 100)
    chunks = list(trained.logits(encoded, np.arange(40)))
    assert len(chunks) > 10
    assert all(log_p.numel() <= 100 or len(chunk) == 1 for chunk, log_p, _ in chunks)
    assert [each.outputs.tolist() for each in trained.says(encoded)] == [each.outputs.tolist() for each in together]


# Where else a run goes


@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_of_a_causal_model_says_what_the_run_does(made: SimpleNamespace, tmp_path: Path, streaming: bool):
    more = ("--streaming",) if streaming else ()
    assert elman("export", made.causal, tmp_path / "a.onnx", *more).status == 0
    few = write(tmp_path / "few.jsonl", [json.loads(line) for line in made.new.read_text().splitlines()[:6]])
    for command in ("predict", "evaluate"):
        run, file = (elman(command, what, few) for what in (made.causal, tmp_path / "a.onnx"))
        assert (run.status, file.status) == (0, 0), file.err
        shown = [re.sub(r"(?<=\d\.\d{3})\d+|\n(?:constant|nearest|baselines) .*", "", each.out) for each in (run, file)]
        assert shown[0] == shown[1]


def test_a_start_must_know_all_symbols(made: SimpleNamespace, tmp_path: Path, no_pictures: None):
    rows = [json.loads(line) for line in made.new.read_text().splitlines()]
    for row in rows[::3]:
        row["label"] = row["label"].replace("a", "x")
    path = write(tmp_path / "a.jsonl", rows)
    refused = elman("train", "transcribe", path, "--start-from", made.both, "--run", tmp_path / "run")
    assert f"{path} has characters that {made.both} does not know: 'x'; leave them out, or train a new model" in refused.err  # fmt: skip
    other = ("--start-from", made.both, "--validation", path, *BRIEF, "--run", tmp_path / "other")
    assert elman("train", "transcribe", made.new, *other).status == 0  # in what is judged it may be
    refused = elman("train", "transcribe", path, "--start-from", made.both, "--label-unit", "words")
    assert "--start-from keeps the model of" in refused.err


def test_a_stream_says_what_the_whole_does(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # fmt: skip
    """A causal model in a file of one step, and the program that reads rows as they arrive."""
    elman("export", made.causal, tmp_path / "step.onnx", "--streaming")
    refused = elman("export", made.both, tmp_path / "no.onnx", "--streaming")
    assert "so it cannot be streamed" in refused.err
    script = Path(__file__).parents[1] / "examples" / "watch.py"
    elman("predict", made.causal, made.new, "--output", tmp_path / "said.jsonl")
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    table, found = "", list[list[str]]()
    for row, own in list(zip(map(json.loads, made.new.read_text().splitlines()), said, strict=True))[:4]:
        table = lines("x,y", *(",".join(map(str, step)) for step in row["values"]))
        monkeypatch.setattr(sys, "argv", ["watch.py", str(tmp_path / "step.onnx")])
        monkeypatch.setattr(sys, "stdin", io.StringIO(table))
        runpy.run_path(str(script), run_name="__main__")
        found = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert [int(step) for step, _, _ in found] == own["steps"]
        assert "".join(symbol for _, symbol, _ in found) == own["text"]
        assert all(0.3 < float(chance) <= 1 for _, _, chance in found)
    # A row that is left out has a number, too.
    monkeypatch.setattr(sys, "stdin", io.StringIO(table.replace("\n", "\nx,x\n", 1)))
    runpy.run_path(str(script), run_name="__main__")
    odd = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert odd == [[str(int(step) + 1), *rest] for step, *rest in found]


def test_a_file_of_a_step_of_a_text(tmp_path: Path):
    rows = [{"body": f"{'xyz'[k % 3]}y{'zx'[k % 2]}", "label": "ab"} for k in range(24)]
    options = options_of(text="body", unit="characters", causal=True, epochs=0.5, evaluations=1)
    path = write(tmp_path / "a.jsonl", rows)
    fit(transcription.begin(path, options, "cpu", BadRows()), tmp_path / "run")
    assert elman("export", tmp_path / "run", tmp_path / "step.onnx", "--streaming").status == 0
    run, file = (elman("predict", tmp_path / name, path) for name in ("run", "step.onnx"))
    assert run.status == 0
    assert file == run


def test_words_and_times_and_gaps_are_read_as_in_other_tasks(tmp_path: Path, no_pictures: None):
    rows, draw = ["id,x,event,when,text"], np.random.default_rng(0)
    for k in range(30):
        said = "".join(draw.choice(list("uv"), 2))
        for t, letter in enumerate(f"{said[0]}.{said[1]}."):
            x = "" if t == 3 else round(float(draw.normal()), 3)
            rows.append(f"{k},{x},{'push ' + letter if letter != '.' else 'rest'},{t * 1.5},{said}")
    (tmp_path / "a.csv").write_text(lines(*rows))
    given = ("--sequence", "id", "--label", "text", "--categories", "event", "--time", "when", "--mark-gaps")
    size = ("--hidden-size", 12, "--epochs", 30, "--learning-rate", 0.03, "--batch-size", 4, "--dropout", 0)
    done = elman("train", "transcribe", tmp_path / "a.csv", *given, *size, "--run", tmp_path / "run")
    assert done.status == 0, done.err
    assert float(re.findall(r"validation  character error rate ([\d.]+)", done.out)[0]) < 0.2
    (tmp_path / "b.csv").write_text(lines(*(",".join(row.split(",")[:-1]) for row in rows)))
    (first, *_) = csv.DictReader(io.StringIO(elman("predict", tmp_path / "run", tmp_path / "b.csv").out))
    assert first["text"] == rows[1].split(",")[-1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--label-unit", "letters"), "unknown label_unit 'letters': choose one of characters, words"),
        (("--each-step",), "No such option: --each-step"),
        (("--label", "x", "--sequence", "x"), "--sequence and --label both name the column 'x'"),
        (("--skip-bad", "--fold", "1/2"), "--fold says how to read FILE, but no FILE is given"),
    ],
)
def test_what_is_refused(given: Sequence[str], message: str):
    refused = elman("train", "transcribe", *given)
    assert refused.status == 2
    assert message in refused.err


def test_a_damaged_vocabulary(made: SimpleNamespace, tmp_path: Path):
    for change in ({"symbols": []}, {"symbols": ["a", "a"]}, {"rate": 1.5}, {"rate": None}):
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        for name in ("config.json", "model.safetensors", "vocabulary.json"):
            (run / name).write_bytes((made.both / name).read_bytes())
        kept = json.loads((run / "vocabulary.json").read_text())
        (run / "vocabulary.json").write_text(json.dumps(kept | change))
        refused = elman("predict", run, made.new)
        assert refused.status == 2
        assert "vocabulary.json is damaged" in refused.err


# Pages and pictures


def test_the_page_shows_what_the_network_says(made: SimpleNamespace, tmp_path: Path):
    found = directions.transcriber(made.both, None, None)
    trained = transcription.load(made.both)
    first = found.data["sequences"][0]
    sequences, _, validation, _ = trained.read_again()
    k = int(validation[0])
    encoded = transcription.Transcripts(sequences, trained.reading)
    ((_, log_p, _),) = trained.logits(encoded, np.array([k]))
    assert first["label"] == encoded.label(k)
    assert [each or "" for each in first["predicted"]] == [["", "a", "b"][n] for n in log_p[:, 0].argmax(-1)]
    assert first["text"] == trained.text(collapsed(log_p[:, 0].argmax(-1).tolist()))
    for t, likeliest in enumerate(first["likeliest"]):
        for name, chance in likeliest:
            assert chance == pytest.approx(float(log_p[t, 0, ["", "a", "b"].index(name)].exp()), abs=2e-3)
    assert first["truth"] is None
    long = [{"values": [[0.1, 0.2]] * 300, "label": "ab"}]
    found = directions.transcriber(made.both, None, write(tmp_path / "long.jsonl", long))
    assert found.remarks == ["of sequence 1, the page shows and reads the first 240 of 300 steps"]
    assert found.data["sequences"][0]["label"] is None
    assert len(found.data["sequences"][0]["predicted"]) == 240


def test_the_picture_shows_symbols_that_are_likely_or_said():
    chances = np.zeros((6, 50))
    chances[2, [3, 7]] = 0.5
    figure = charts.spoken_steps(np.zeros((6, 2)), chances, [f"s{k}" for k in range(50)], np.array([7, 9]), np.array([2, 4]), "s7 s9")  # fmt: skip
    axis = figure.axes[-1]
    assert [each.get_text() for each in axis.get_yticklabels()] == ["s3", "s7", "s9"]
    x, y = axis.lines[0].get_data()
    assert (np.asarray(x).tolist(), np.asarray(y).tolist()) == ([3, 5], [1, 2])
    charts.spoken_steps(None, np.zeros((3, 1)), ["a"], np.array([], int), np.array([], int), "")
    many = np.arange(300)
    figure = charts.spoken_steps(None, np.zeros((1500, 300)), list(map(str, many)), many, 4 * many, "")
    assert len(figure.axes[-1].get_yticklabels()) == len(figure.axes[-1].lines[0].get_xdata()) == 40  # pyright: ignore[reportArgumentType]
    assert figure.axes[-1].get_xlim() == (0.5, 1000.5)


def test_what_a_run_draws(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = dict[str, Any]()
    monkeypatch.setattr(charts, "save", lambda *_: None)
    monkeypatch.setattr(charts, "confusion", lambda *given: drawn.update(confusion=given))
    monkeypatch.setattr(charts, "spoken_steps", lambda *given: drawn.update(steps=given))
    run = Run(made.both)
    task = transcription.resume(run, made.directory / "train.jsonl", transcription.load(run).options, "cpu")
    run.fill(task.model)
    task.draw(tmp_path)
    _, chances, symbols, said, steps, label, heard = drawn["steps"]
    assert not heard
    ((_, log_p, _),) = task.trained.logits(task.encoded, task.validation[:1])
    assert np.allclose(chances, log_p[:, 0, 1:].exp())
    assert all(chances[t].argmax() == k for t, k in zip(steps, said, strict=True))
    assert "".join(symbols[k] for k in said) == task.trained.text(collapsed(log_p[:, 0].argmax(-1).tolist()))
    assert label == task.encoded.label(int(task.validation[0]))
    table, names, *_ = drawn["confusion"]
    assert names == ["nothing", "a", "b"]
    assert table[1:].sum() == sum(len(task.encoded.spelled(int(k))) for k in task.validation)
    # Of many symbols, those that are met most often, and nothing.
    monkeypatch.setattr(texts, "DRAWN", 2)
    differ = SimpleNamespace(confused=Counter({(0, 1): 9, (2, 2): 5, (1, 2): 1}))
    monkeypatch.setattr(task.trained, "score", lambda *_: ({}, differ))
    task.draw(tmp_path)
    assert drawn["confusion"][1] == ["nothing", "a"]
    assert drawn["confusion"][0].tolist() == [[0, 9], [0, 0]]
    assert drawn["confusion"][3] == "the 1 most frequent characters"


def test_the_built_in_numbers():
    parts = transcription.read(None, options_of(), BadRows())
    found, train, validation, _ = parts
    assert not {*train.tolist()} & {*validation.tolist()}
    assert len(train) + len(validation) == len(found)
    assert len(validation) < 0.4 * len(train)
    labels = {found.name(k): list(found.different)[found.labels[k][0]] for k in range(5)}
    own = ["".join(digit for _, digit in parts) for parts, _ in list(examples.numbers())[:5]]
    assert list(labels.values()) == own
