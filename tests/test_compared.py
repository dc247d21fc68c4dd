"""`elman evaluate --compare`: how much better one model is than another, by the rows that both write about the same data."""

from __future__ import annotations

import csv
import json
import math
import random
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from elman.tasks import scores
from elman.tasks.tallies import Tally, Units, student, which
from elman.training.loop import MODEL
from elman.training.run import Run
from tiny_runs import TAGGED, elman, lines, of_every_task, without_pictures

pytestmark = pytest.mark.usefixtures("no_pictures")
BRIEF = ("--epochs", 0.5, "--evaluations", 1)
WRITER = ("--hidden-size", 8, "--embedding-size", 6, "--batch-size", 4, "--window", 8, *BRIEF)

DATA = {
    "tag": "tagged.txt",
    "numbers": "numbers.jsonl",
    "texts": "texts.jsonl",
    "several": "several.jsonl",
    "regress": "valued.jsonl",
    "labels": "steps.jsonl",
    "levels": "steps.jsonl",
    "spoken": "spoken.jsonl",
    "translated": "turned.jsonl",
    "forecast": "series.csv",
}


def similar(run: Path, to: Path, seed: int = 0) -> Path:
    """A copy of a run with other weights."""
    shutil.copytree(run, to)
    draw = torch.Generator().manual_seed(seed)
    tensors, notes = Run(run).load_tensors(MODEL)
    moved = {name: value + 0.8 * torch.randn(value.shape, generator=draw) for name, value in tensors.items()}
    Run(to).save_tensors(MODEL, moved, notes)
    return to


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    found = of_every_task(tmp_path_factory.mktemp("compared"))
    (found.directory / "other").mkdir()
    found.other = {name: similar(getattr(found, name), found.directory / "other" / name) for name in DATA}
    return found


def rows_of(run: Path, file: Path, to: Path, *given: object) -> list[dict[str, Any]]:
    outcome = elman("evaluate", run, file, "--output", to / "rows.jsonl", *given)
    assert outcome.status == 0, outcome.err
    return [json.loads(line) for line in (to / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def lines_of(out: str) -> dict[str, str]:
    """What is said of each score, after `compared with`."""
    told = out.partition("\ncompared with ")[2].splitlines()[1:]
    return {line[:22].strip(): line[22:].strip() for line in told}


def by_hand(units: Sequence[object], both: Sequence[Sequence[float]], more: bool = False) -> str:
    """What is to be said of two means of values, found by leaving out one unit after the other. more: is better."""
    a, b = (np.array(each, float) for each in both)
    sign = 1 if more else -1
    better = sign * (a.mean() - b.mean())
    word = "better" if better > 0 else "worse"
    of, every = np.array(units), list(dict.fromkeys(units))
    n, left = len(every), [a[of != each].mean() - b[of != each].mean() for each in every]
    counts = np.array([(of == each).sum() for each in every])
    half = student(counts.sum() ** 2 / (counts**2).sum() - 1) * np.sqrt((n - 1) ** 2 / n) * np.std(left, ddof=1)
    chance = ", perhaps by chance" if half >= abs(better) else ""
    low, high = abs(better) - half, abs(better) + half
    return f"{b.mean():.4f}; the model is {word} by {abs(better):.4f} ({low:.4f} to {high:.4f}){chance}"


def test_scores_of_sequences(made: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("numbers", "texts"):
        run, other, file = getattr(made, name), made.other[name], made.directory / DATA[name]
        a, b = rows_of(run, file, tmp_path), rows_of(other, file, tmp_path)
        alone = elman("evaluate", run, file).out
        out = elman("evaluate", run, file, "--compare", other).out
        assert out.startswith(alone)
        assert f"\ncompared with        {other}\n" in out
        told, units = lines_of(out), [row["sequence"] for row in a]
        nats = [[row["nats"] for row in rows] for rows in (a, b)]
        assert told["nats per sequence"] == by_hand(units, nats)
        right = [[float(row["class"] == row["label"]) for row in rows] for rows in (a, b)]
        assert sum(x != y for x, y in zip(*right, strict=True)) > 5
        assert told["accuracy"] == by_hand(units, right, more=True)
        assert list(told) == ["nats per sequence", "accuracy", "macro f1"]


def test_steps_and_words_are_judged_together(made: SimpleNamespace, tmp_path: Path) -> None:
    for name, unit, of in (("labels", "step", "sequence"), ("tag", "word", "sentence")):
        run, other, file = getattr(made, name), made.other[name], made.directory / DATA[name]
        a, b = rows_of(run, file, tmp_path), rows_of(other, file, tmp_path)
        told = lines_of(elman("evaluate", run, file, "--compare", other).out)
        units, nats = [row[of] for row in a], [[row["nats"] for row in rows] for rows in (a, b)]
        assert told[f"nats per {unit}"] == by_hand(units, nats)
        assert ("segment f1" in told) == (name == "labels")
        assert "accuracy" in told


def test_values_are_compared_in_one_unit(made: SimpleNamespace, tmp_path: Path) -> None:
    """Each model has learned in deviations of its own; those of the first one count."""
    file = made.directory / DATA["regress"]
    spread = json.loads((made.regress / "vocabulary.json").read_text())["spread"][0]
    other = shutil.copytree(made.other["regress"], tmp_path / "other")
    changed = json.loads((other / "vocabulary.json").read_text())
    changed |= {"spread": [3 * changed["spread"][0]], "center": [changed["center"][0] + 1]}
    (other / "vocabulary.json").write_text(json.dumps(changed))
    a, b = rows_of(made.regress, file, tmp_path), rows_of(other, file, tmp_path)
    alone = elman("evaluate", made.regress, file).out
    out = elman("evaluate", made.regress, file, "--compare", other).out
    assert out.startswith(alone)
    told, units = lines_of(out), [row["sequence"] for row in a]
    errors = [[abs(row["error"]) / spread for row in rows] for rows in (a, b)]
    assert told["MAE"] == by_hand(units, errors)
    roots = [math.sqrt(np.mean(np.square(each))) for each in errors]
    assert told["RMSE"].startswith(f"{roots[1]:.4f}; the model is {'better' if roots[0] < roots[1] else 'worse'} by {abs(roots[0] - roots[1]):.4f}")  # fmt: skip
    nats = [[np.mean([max(q * e, (q - 1) * e) for q in (0.1, 0.5, 0.9) for e in [row["label"] - row[f"value_q{q}"]]]) / spread for row in rows] for rows in (a, b)]  # fmt: skip
    assert told["pinball"] == by_hand(units, nats)
    # Turned round, the same difference is told in the deviations of the other.
    back = lines_of(elman("evaluate", other, file, "--compare", made.regress).out)
    assert back["MAE"] == by_hand(units, [[e / 3 for e in each] for each in reversed(errors)])


def test_other_quantiles_are_no_score_in_common(made: SimpleNamespace, tmp_path: Path) -> None:
    other = shutil.copytree(made.regress, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["options"]["quantiles"] = "0.2,0.5,0.9"
    (other / "config.json").write_text(json.dumps(config))
    out = elman("evaluate", made.regress, made.directory / DATA["regress"], "--compare", other).out
    told = lines_of(out)
    assert list(told) == ["RMSE", "MAE", "pinball"]
    assert re.fullmatch(r"\d\.\d{4}; not compared, because it counts other things", told["pinball"])


def test_one_of_several_models_is_as_good_as_itself(made: SimpleNamespace) -> None:
    for name, file in DATA.items():
        run, other = getattr(made, name), made.other[name]
        outcome = elman("evaluate", run, made.directory / file, "--compare", other, "--compare", run)
        assert outcome.status == 0, outcome.err
        _, first, second = outcome.out.split("\ncompared with ")
        assert first.split("\n")[0].strip() == str(other)
        assert second.split("\n")[0].strip() == str(run)
        for line in second.splitlines()[1:]:
            assert (
                line.endswith("; the model is as good") or "none" in outcome.out.split("\nintervals ")[1].split(":")[0]
            )


@pytest.fixture(scope="module")
def forecasters(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two that read other numbers of rows, learned from other parts of two columns, one of which has numbers later only."""
    d, draw = tmp_path_factory.mktemp("forecasters"), np.random.default_rng(0)
    level = np.linspace(0, 9, 260)
    rows = [
        f"{t},{level[t] + np.sin(t / 3) + draw.normal() / 3:.4f},{'' if t < 30 else f'{t % 5 + draw.normal():.4f}'}"
        for t in range(260)
    ]
    (d / "a.csv").write_text(lines("t,y,z", *rows))
    small = ("--time", "t", "--columns", "y,z", "--horizon", 3, "--segment", 1, "--period", 5, "--hidden-size", 6)
    small = (*small, "--epochs", 0.2, "--evaluations", 1, "--skip-bad", "--fill-gaps")
    for name, lookback, split in (("short", 5, "0.4,0.3,0.3"), ("long", 12, "0.8,0.1,0.1")):
        given = ("--lookback", lookback, "--split", split, "--run", d / name)
        with without_pictures():
            done = elman("train", "forecast", d / "a.csv", *small, *given)
        assert done.status == 0, done.err
    return SimpleNamespace(directory=d, data=d / "a.csv", short=d / "short", long=d / "long")


def test_forecasts_are_compared_where_both_have_some(forecasters: SimpleNamespace, tmp_path: Path) -> None:
    runs, found = (forecasters.short, forecasters.long), list[list[dict[str, Any]]]()
    for run in runs:
        found.append(rows_of(run, forecasters.data, tmp_path))
    short, long = ({(row["column"], row["row" if "row" in row else "t"]): row for row in rows} for rows in found)
    assert set(long) < set(short)
    assert min(int(t) for column, t in short if column == "z") == 31  # what comes before its first number is not judged
    for run, other, mine, others, more in (
        (forecasters.short, forecasters.long, short, long, ", after 12 rows, which another model reads"),
        (forecasters.long, forecasters.short, long, short, ""),
    ):
        out = elman("evaluate", run, forecasters.data, "--compare", other).out
        assert re.search(rf"^windows +{len(long)}{more}$", out, re.MULTILINE), out
        scale = json.loads((run / "scales.json").read_text())
        of = dict(zip(scale["targets"], scale["deviation"], strict=False))
        columns = {column: [key for key in long if key[0] == column] for column in ("y", "z")}
        parts = int(re.findall(r"after (\d+) parts of the time", out)[0])
        units = [k * parts // len(keys) for keys in columns.values() for k in range(len(keys))]
        a, b = ([each[key]["mae"] / of[key[0]] for keys in columns.values() for key in keys] for each in (mine, others))
        assert lines_of(out)["MAE"] == by_hand(units, (a, b))
        assert f"MAE {np.mean(a):.4f}" in out
        assert list(lines_of(out)) == ["MSE", "MAE", "MASE"]


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Language models of other units, and a text whose lines all have 25 characters, some of two and three bytes."""
    d, draw = tmp_path_factory.mktemp("writers"), random.Random(0)
    text = "".join(" ".join(draw.choices([*TAGGED, "é", "wörld", "€"], k=30))[:24] + "\n" for _ in range(240))
    (d / "a.txt").write_text(text, encoding="utf-8")
    found = SimpleNamespace(directory=d, data=d / "a.txt")
    for unit in ("characters", "bytes", "bpe", "words"):
        size = ("--vocabulary-size", {"bpe": 300, "words": 6}[unit]) if unit in ("bpe", "words") else ()
        with without_pictures():
            done = elman("train", "lm", d / "a.txt", "--unit", unit, *size, *WRITER, "--run", d / unit)
        assert done.status == 0, done.err
        setattr(found, unit, d / unit)
    return found


def bits_of(run: Path, data: Path) -> tuple[list[int], list[float]]:
    """Of each character of a text whose parts are lines, the part, and the bits that it costs."""
    rows = list(csv.DictReader(elman("predict", run, data).out.splitlines()))
    (name,) = {"characters", "bytes", "tokens"} & set(rows[0])
    count = sum(int(row[name]) for row in rows)
    bits = [float(row["nats"]) / math.log(2) * (count + 1) / count / 25 for row in rows]
    return [k * 20 // len(rows) for k in range(len(rows)) for _ in range(25)], [x for x in bits for _ in range(25)]


def test_texts_are_compared_by_their_characters(writers: SimpleNamespace) -> None:
    for run, other in (("characters", "bpe"), ("bpe", "bytes"), ("bytes", "characters")):
        units, mine = bits_of(getattr(writers, run), writers.data)
        _, others = bits_of(getattr(writers, other), writers.data)
        out = elman("evaluate", getattr(writers, run), writers.data, "--compare", getattr(writers, other)).out
        told = lines_of(out)
        assert list(told) == ["bits per character"]
        assert near(told["bits per character"], by_hand(units, (mine, others)))
        bits = re.findall(r"^bits per character +(\S+) \((\S+) to (\S+)\)$", out, re.MULTILINE)[0]
        nats = re.findall(r"^nats per \w+ +(\S+) \((\S+) to (\S+)\)$", out, re.MULTILINE)[0]
        perplexity = re.findall(r"^perplexity +(\S+) \((\S+) to (\S+)\)$", out, re.MULTILINE)[0]
        assert [float(x) for x in perplexity] == pytest.approx([math.exp(float(x)) for x in nats], rel=2e-4)
        assert float(bits[0]) == pytest.approx(np.mean(mine), abs=2e-4)
        if run == "characters":
            assert [float(x) for x in bits] == pytest.approx([float(x) / math.log(2) for x in nats], abs=5e-4)


def near(one: str, two: str) -> bool:
    """Whether two lines differ in nothing but the last digits of numbers."""
    numbers, rest = re.compile(r"-?\d+\.\d+"), [re.sub(r"-?\d+\.\d+", "#", each) for each in (one, two)]
    a, b = (list(map(float, numbers.findall(each))) for each in (one, two))
    return rest[0] == rest[1] and len(a) == len(b) and max(abs(x - y) for x, y in zip(a, b, strict=True)) < 3e-4


def test_the_same_tokens_are_compared_by_nats(writers: SimpleNamespace, tmp_path: Path) -> None:
    other = similar(writers.words, tmp_path / "other")
    out = elman("evaluate", writers.words, writers.data, "--compare", other).out
    assert list(lines_of(out)) == ["nats per word"]
    refused = elman("evaluate", writers.words, writers.data, "--compare", writers.bpe)
    assert refused.status == 2
    assert refused.err == (
        f"elman: {writers.bpe} has nats per token, bits per character, and {writers.words} nats per word, none of which counts "
        "the same in both; compare models that know all labels, characters or words of the data\n"
    )


def test_tokens_that_one_model_does_not_know_are_others(tmp_path: Path) -> None:
    """Their numbers may be the same: a letter that sorts last is what is unknown without it."""
    text = ("the cat sat\n" * 200, "the cät sat\n" * 200)
    for name, given in zip(("plain", "marked"), text, strict=True):
        (tmp_path / f"{name}.txt").write_text(given, encoding="utf-8")
        assert elman("train", "lm", tmp_path / f"{name}.txt", *WRITER, "--run", tmp_path / name).status == 0
    symbols = [json.loads((tmp_path / name / "vocabulary.json").read_text())["symbols"] for name in ("plain", "marked")]
    assert symbols[1] == symbols[0] + "ä"
    refused = elman("evaluate", tmp_path / "marked", tmp_path / "marked.txt", "--compare", tmp_path / "plain")
    assert refused.status == 2
    assert "none of which counts the same in both" in refused.err


def test_short_texts_of_other_tokens(writers: SimpleNamespace, tmp_path: Path) -> None:
    """Parts of a text are of characters, and not of tokens, of which there are fewer."""
    (tmp_path / "short.txt").write_text(writers.data.read_text(encoding="utf-8")[:1250], encoding="utf-8")
    out = elman("evaluate", writers.characters, tmp_path / "short.txt", "--compare", writers.bpe).out
    assert re.search(r"; the model is \w+ by \S+ \(\S+ to \S+\)", lines_of(out)["bits per character"])


def test_a_text_in_many_blocks(writers: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which some end within a character."""
    from elman.tasks import language_model

    whole = {unit: elman("evaluate", getattr(writers, unit), writers.data).out for unit in ("bytes", "characters")}
    text = writers.data.read_bytes()

    def blocks(path: Path, unit: str) -> list[Any]:
        return [text[k : k + 7] for k in range(0, len(text), 7)] if unit == "bytes" else [text.decode()[k : k + 9] for k in range(0, len(text.decode()), 9)]  # fmt: skip

    monkeypatch.setattr(language_model, "blocks", blocks)
    for unit, out in whole.items():
        assert elman("evaluate", getattr(writers, unit), writers.data).out == out


def test_a_language_model_that_helps(made: SimpleNamespace, writers: SimpleNamespace, tmp_path: Path) -> None:
    """It helps the run that is judged, and not the one beside it."""
    (tmp_path / "said.txt").write_text("ab c\n" * 400)
    assert elman("train", "lm", tmp_path / "said.txt", *WRITER, "--run", tmp_path / "lm").status == 0
    file, given = made.directory / DATA["spoken"], ("--language-model", tmp_path / "lm", "--language-weight", 2)
    told = lines_of(elman("evaluate", made.spoken, file, *given, "--compare", made.spoken).out)
    assert told["nats per character"].endswith("; the model is as good")
    alone = [elman("evaluate", made.spoken, file, *each).out for each in (given, ())]
    rates = [float(re.findall(r"^character error rate +(\S+)", out, re.MULTILINE)[0]) for out in alone]
    assert rates[0] != rates[1]
    word, by = "better" if rates[0] < rates[1] else "worse", abs(rates[0] - rates[1])
    assert told["character error rate"].startswith(f"{rates[1]:.4f}; the model is {word} by ")
    assert float(told["character error rate"].split()[6]) == pytest.approx(by, abs=1.1e-4)


def test_persons_count_in_both(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    given = [
        {"values": draw.normal(size=(6, 2)).round(3).tolist(), "label": "ab"[k % 2], "who": f"p{k // 4}"}
        for k in range(60)
    ]
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, given)))
    train = ("train", "classify", tmp_path / "a.jsonl", "--hidden-size", 4, "--epochs", 1, "--evaluations", 1, "--seed")
    for seed in (0, 1):
        assert elman(*train, seed, "--run", tmp_path / f"run{seed}").status == 0
    a, b = (rows_of(tmp_path / f"run{seed}", tmp_path / "a.jsonl", tmp_path) for seed in (0, 1))
    said = ("evaluate", tmp_path / "run0", tmp_path / "a.jsonl", "--compare", tmp_path / "run1", "--group", "who")
    nats = [[row["nats"] for row in rows] for rows in (a, b)]
    assert lines_of(elman(*said).out)["nats per sequence"] == by_hand([row["who"] for row in given], nats)


def changed(run: Path, to: Path, **options: Any) -> Path:
    shutil.copytree(run, to)
    config = json.loads((to / "config.json").read_text())
    config["options"] |= options
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_what_cannot_be_compared(made: SimpleNamespace, tmp_path: Path) -> None:
    given = [json.loads(line) for line in (made.directory / "numbers.jsonl").read_text().splitlines()]
    (tmp_path / "both.jsonl").write_text(lines(*(json.dumps(row | {"kind": "x" + row["label"]}) for row in given)))
    kind = changed(made.numbers, tmp_path / "kind", label="kind")
    longer = changed(made.recursive, tmp_path / "long", horizon=8)
    for run, file, other, told in (
        (made.numbers, "numbers.jsonl", made.texts, None),
        (made.numbers, tmp_path / "both.jsonl", kind, "is judged by 40 labels of 'kind', and {run} by 40 labels of 'label', which are not the same; compare models that read the data alike"),
        (made.recursive, "series.csv", longer, "predicts push, y, z, 8 rows ahead, and {run} push, y, z, 7 rows ahead; compare models that predict the same"),
        (made.forecast, "series.csv", made.recursive, "predicts push, y, z, 7 rows ahead, and {run} y, z, 6 rows ahead; compare models that predict the same"),
        (made.labels, "steps.jsonl", made.numbers, "predicts a label of each sequence, and {run} a label of each step; compare models that predict the same"),
        (made.numbers, "numbers.jsonl", made.regress, "has another task than {run}; compare runs of the same task"),
        (made.numbers, "numbers.jsonl", tmp_path / "none", "does not exist; give the directory of a run, or the file that `elman export` made of it"),
    ):  # fmt: skip
        outcome = elman("evaluate", run, made.directory / file, "--compare", other)
        assert outcome.status == 2, outcome.out
        assert outcome.err.count("\n") == 1
        if told is not None:
            assert outcome.err.endswith(f"{other} {told.format(run=run)}\n"), outcome.err
        assert not outcome.out or "which are not the same" in outcome.err or told is None  # nothing was judged in vain


def test_a_row_that_one_model_leaves_out(tmp_path: Path) -> None:
    """Then both have as many labels, and of other sequences."""
    draw = np.random.default_rng(0)
    rows = [[k, "ab"[k // 2 % 2], draw.normal(), draw.normal()] for k in range(40) for _ in range(4)]
    write = lambda name: (tmp_path / name).write_text(lines("id,kind,x,y", *(",".join(map(str, row)) for row in rows)))  # noqa: E731
    write("a.csv")
    small = ("--sequence", "id", "--label", "kind", "--skip-bad", "--hidden-size", 4, *BRIEF)
    for name in "xy":
        done = elman("train", "classify", tmp_path / "a.csv", *small, "--columns", name, "--run", tmp_path / name)
        assert done.status == 0, done.err
    rows[4 * 12 + 1][2], rows[4 * 13 + 1][3] = "oops", "oops"
    write("bad.csv")
    refused = elman("evaluate", tmp_path / "x", tmp_path / "bad.csv", "--compare", tmp_path / "y")
    assert refused.status == 2
    assert "is judged by 39 labels of 'kind', and" in refused.err
    table = [[t, np.sin(t / 3) + draw.normal() / 3, t % 3, t % 5] for t in range(200)]
    write = lambda name: (tmp_path / name).write_text(lines("t,y,k,m", *(",".join(map(str, row)) for row in table)))  # noqa: E731
    write("b.csv")
    small = ("--columns", "y", "--horizon", 2, "--lookback", 4, "--segment", 1, "--period", 3, "--skip-bad")
    for name in "km":
        given = ("--known", name, "--hidden-size", 4, "--epochs", 0.1, "--evaluations", 1, "--run", tmp_path / name)
        done = elman("train", "forecast", tmp_path / "b.csv", *small, *given)
        assert done.status == 0, done.err
    table[50][2], table[90][3] = "oops", "oops"
    write("badly.csv")
    refused = elman("evaluate", tmp_path / "k", tmp_path / "badly.csv", "--compare", tmp_path / "m")
    assert "is judged by 194 windows of 199 rows, and" in refused.err, refused.out


def test_series_that_neither_knows_and_columns_that_one_reads(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = [f"{t},{g},{np.sin(t / 3) + draw.normal() / 3:.3f},{t % 4}" for g in "abc" for t in range(120)]
    (tmp_path / "two.csv").write_text(lines("t,g,y,k", *rows[:240]))
    (tmp_path / "three.csv").write_text(lines("t,g,y,k", *rows))
    small = ("--time", "t", "--group", "g", "--columns", "y", "--horizon", 2, "--lookback", 6, "--segment", 2)
    small = (*small, "--period", 3, "--hidden-size", 4, "--epochs", 0.1, "--evaluations", 1)
    for name, known in (("plain", ()), ("knows", ("--known", "k"))):
        done = elman("train", "forecast", tmp_path / "two.csv", *small, *known, "--run", tmp_path / name)
        assert done.status == 0, done.err
    for run, other in (("plain", "knows"), ("knows", "plain")):
        outcome = elman("evaluate", tmp_path / run, tmp_path / "three.csv", "--compare", tmp_path / other)
        assert outcome.status == 0, outcome.err
        assert list(lines_of(outcome.out)) == ["MSE", "MAE", "MASE"]


def test_a_file_that_is_too_short_for_the_other(forecasters: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "short.csv").write_text(lines("t,y,z", *(f"{t},{t},{t % 3}" for t in range(14))))
    refused = elman("evaluate", forecasters.short, tmp_path / "short.csv", "--compare", forecasters.long)
    assert refused.err.endswith("has 14 rows in its longest series, but a forecast and its true values need 15, since another model reads 12; give more\n")  # fmt: skip


def test_numbers_that_differ_by_rounding_are_as_good() -> None:
    units = Units(np.arange(20), 20)
    a = Tally.of(units, (np.arange(20.0), 1))
    assert scores.compared(a, a._replace(sums=a.sums * (1 + 1e-7))) == "; the model is as good"
    zero = Tally.of(units, (0, np.arange(20)), share=True)
    assert scores.compared(zero, zero._replace(sums=zero.sums + np.array([0, 1]))) == "; the model is as good"


def test_labels_that_not_both_know(made: SimpleNamespace, tmp_path: Path) -> None:
    """Nats of labels that only one of them knows are no means over the same sequences."""
    given = [json.loads(line) for line in (made.directory / "numbers.jsonl").read_text().splitlines()]
    given[3]["label"] = "never seen"
    (tmp_path / "a.jsonl").write_text(lines(*map(json.dumps, given)))
    out = elman("evaluate", made.numbers, tmp_path / "a.jsonl", "--compare", made.other["numbers"]).out
    assert list(lines_of(out)) == ["nats per sequence", "accuracy", "macro f1"]
    # A model that knows the label counts its nats; they are no means over the same sequences.
    classes = json.loads((made.numbers / "vocabulary.json").read_text())["classes"]
    assert classes == ["a", "b"]
    given[3]["label"] = "b"
    renamed = shutil.copytree(made.numbers, tmp_path / "renamed")
    content = json.loads((renamed / "vocabulary.json").read_text()) | {"classes": ["a", "z"]}
    (renamed / "vocabulary.json").write_text(json.dumps(content))
    out = elman("evaluate", made.numbers, tmp_path / "a.jsonl", "--compare", renamed).out
    told = lines_of(out)
    assert told["nats per sequence"].endswith("; not compared, because it counts other things")
    assert list(told) == ["nats per sequence", "accuracy", "macro f1"]
    # Even if as many labels of a person are known to both.
    counts = Tally.of(Units(np.arange(40) // 4, 10), (1.0, 1))
    known = np.arange(40) % 4 != 3
    assert not counts._replace(counted=which(known)).counts_as(counts._replace(counted=which(~known)))


def test_what_counts_as_the_same() -> None:
    units = Units(np.arange(12), 12)
    a = Tally.of(units, (np.arange(12.0), 1))
    assert a.counts_as(Tally.of(units, (np.arange(12.0) + 1, 1)))
    assert not a.counts_as(Tally.of(units, (np.arange(12.0), 2)))
    assert not a.counts_as(a._replace(counted="other tokens"))
    assert not a.counts_as(Tally.of(Units(np.arange(12) // 2, 6), (np.arange(12.0), 1)))
    truth, said = np.arange(12) % 2, np.arange(12) % 3
    two, three = (scores.macro_f1(truth, said * (said < k), k, 0, units) for k in (2, 3))
    assert two.counts_as(three)
    assert two.differing(three) == 2  # where the third label is said, and the other model is right
    assert re.fullmatch(r"; the model is \w+ by 0\.\d+, perhaps by chance", scores.compared(two, three))
