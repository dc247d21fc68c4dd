"""The command line: what it prints, what it refuses, and how."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from matplotlib.image import imread

from elman import Recurrent, cells
from elman.datasets.text import read
from elman.tasks.language_model import evaluate, load
from elman.training.options import most_threads
from elman.training.run import Run
from forks import Child, Forks
from tiny_runs import elman, finished, foreign_options, metrics, process, prose, scores_of

pytestmark = pytest.mark.usefixtures("no_pictures")

SIZES = ("--hidden-size", 8, "--embedding-size", 4, "--batch-size", 4, "--window", 8)
COMMANDS = [(), ("train",), ("tune",), ("sample",), ("evaluate",), ("predict",), ("explain",), ("cells",), ("doctor",)]
COMMANDS += [
    (group, task)
    for group in ("train", "tune")
    for task in ("lm", "tag", "classify", "multilabel", "regress", "transcribe", "translate", "forecast")
]


def example_of(help: str) -> str:
    """The command after "Example:", its lines joined."""
    assert "Example:" in help
    return " ".join(help.split("Example:")[1].split())


# Help and start-up


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command: tuple[str, ...]):
    outcome = elman(*command, "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Usage: elman {' '.join(command)}".rstrip())
    if command not in (("train",), ("tune",)):  # these show a command of theirs
        assert example_of(outcome.out).startswith(f"elman {' '.join(command)}".rstrip())


def test_every_command_is_listed():
    out = elman("--help").out
    assert all(re.search(rf"^  {command[0]} ", out, re.MULTILINE) for command in COMMANDS if command)


def test_examples_can_be_parsed():
    """Options in an example are options of the command."""
    for command in COMMANDS:
        out = elman(*command, "--help").out
        if "Example:" in out:
            known = set(re.findall(r"--[a-z-]+", elman(*command, "--help").out.split("Example:")[0]))
            if command in ((), ("train",), ("tune",)):  # these show a command of theirs
                group, task = example_of(out).split()[1:3]
                known = set(re.findall(r"--[a-z-]+", elman(group, task, "--help").out.split("Example:")[0]))
            assert set(re.findall(r"--[a-z-]+", example_of(out))) <= known


def test_version():
    import elman as library

    assert elman("--version") == (0, f"elman {library.__version__}\n", "")


def test_python_m_elman():
    outcome = finished("-m", "elman", "--help")
    assert (outcome.status, outcome.err) == (0, "")
    assert "Example:  elman train lm" in outcome.out
    bare = finished("-m", "elman")
    assert bare.out + bare.err == outcome.out  # with nothing to do, help is what it says


def test_a_launcher_may_hand_on_two_dashes():
    """`fabric run -- elman -- train lm` keeps the second pair: see docs/scaling.md."""
    assert elman("--", "train", "lm", "--help") == elman("train", "lm", "--help")


def test_help_needs_no_heavy_library():
    """This is what makes it quick."""
    code = """
import sys
from elman.cli import main
for arguments in ["--help"], ["train", "tag", "--help"], ["tune", "lm", "--help"], ["sample", "--help"], ["--version"]:
    sys.argv = ["elman", *arguments]
    try:
        main()
    except SystemExit as stopped:
        assert stopped.code == 0
heavy = {"torch", "numpy", "matplotlib", "tokenizers", "safetensors", "onnx", "polars", "optuna", "rich.progress"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    outcome = finished("-c", code)
    assert outcome.status == 0
    assert outcome.err == "[]\n"


# Cells

GATE = "{0}_t = σ(W_{0} x_t + b_{0} + R_{0} h_{{t-1}} + b'_{0}{1})"
CANDIDATE = "g_t = tanh(W_g x_t + b_g + R_g h_{t-1} + b'_g)"
OLD, NEW = " + p_{0} ⊙ c_{{t-1}}", " + p_{0} ⊙ c_t"
OUTPUT = "h_t = o_t ⊙ tanh(c_t)"
EQUATIONS = {
    "rnn": ["h_t = tanh(W_h x_t + b_h + R_h h_{t-1} + b'_h)"],
    "rnn_relu": ["h_t = ReLU(W_h x_t + b_h + R_h h_{t-1} + b'_h)"],
    "lstm": [
        GATE.format("i", ""),
        GATE.format("f", ""),
        CANDIDATE,
        GATE.format("o", ""),
        "c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t",
        OUTPUT,
    ],
    "peephole_lstm": [
        GATE.format("i", OLD.format("i")),
        GATE.format("f", OLD.format("f")),
        CANDIDATE,
        "c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t",
        GATE.format("o", NEW.format("o")),
        OUTPUT,
    ],
    "coupled_lstm": [
        GATE.format("f", ""),
        CANDIDATE,
        GATE.format("o", ""),
        "c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ g_t",
        OUTPUT,
    ],
    "coupled_peephole_lstm": [
        GATE.format("f", OLD.format("f")),
        CANDIDATE,
        "c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ g_t",
        GATE.format("o", NEW.format("o")),
        OUTPUT,
    ],
    "gru": [
        "r_t = σ(W_r x_t + b_r + R_r h_{t-1} + b'_r)",
        "z_t = σ(W_z x_t + b_z + R_z h_{t-1} + b'_z)",
        "n_t = tanh(W_n x_t + b_n + r_t ⊙ (R_n h_{t-1} + b'_n))",
        "h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}",
    ],
    "gru_before": [
        "r_t = σ(W_r x_t + b_r + R_r h_{t-1} + b'_r)",
        "z_t = σ(W_z x_t + b_z + R_z h_{t-1} + b'_z)",
        "n_t = tanh(W_n x_t + b_n + R_n (r_t ⊙ h_{t-1}) + b'_n)",
        "h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}",
    ],
    "projected_lstm": [
        GATE.format("i", ""),
        GATE.format("f", ""),
        CANDIDATE,
        GATE.format("o", ""),
        "c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t",
        "h_t = P_h (o_t ⊙ tanh(c_t))",
    ],
}


def test_cells_are_listed():
    outcome = elman("cells")
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert [line.split()[0] for line in lines if "not for --cell" in line] == ["projected_lstm"]
    assert [line.split()[0] for line in lines] == list(cells.BUILT_IN) == list(EQUATIONS)
    for line, cell in zip(lines, cells.BUILT_IN.values(), strict=True):
        assert f"gates {' '.join(cell.gates)} " in line
        assert f"states {' '.join(cell.states)} " in line


@pytest.mark.parametrize("name", EQUATIONS)
def test_equations_of_a_cell(name: str):
    outcome = elman("cells", name)
    assert (outcome.status, outcome.err) == (0, "")
    assert re.findall(r"^    (\S.* = .*)$", outcome.out, re.MULTILINE) == EQUATIONS[name]
    assert f"\ngates       {', '.join(cells.BUILT_IN[name].gates)}\n" in outcome.out
    assert f"\nstates      {', '.join(cells.BUILT_IN[name].states)}; the first is the output\n" in outcome.out
    assert cells.BUILT_IN[name].reference in outcome.out


@pytest.mark.parametrize("name", EQUATIONS)
def test_parameters_of_a_cell_are_those_of_a_layer(name: str):
    cell = cells.BUILT_IN[name]
    layer = Recurrent(cell, 7, 12, proj_size=5 if cell.projected else 0)
    out = elman("cells", name, "--input-size", 7, "--hidden-size", 12, "--proj-size", 5).out
    total = re.search(r"^parameters +([\d,]+) for input_size=7, hidden_size=12", out, re.MULTILINE)
    assert total is not None
    assert int(total[1].replace(",", "")) == sum(p.numel() for p in layer.parameters())
    listed = re.findall(r"^ {12}(\w+_l0) +([\d x]+?) +([\d,]+)$", out, re.MULTILINE)
    assert {found: tuple(map(int, shape.split(" x "))) for found, shape, _ in listed} == {
        parameter: tuple(value.shape) for parameter, value in layer.named_parameters()
    }
    assert all(math.prod(map(int, shape.split(" x "))) == int(n.replace(",", "")) for _, shape, n in listed)


# One tiny run, from its text to its pictures


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    directory = tmp_path_factory.mktemp("made")
    text = prose(1500)
    (directory / "text.txt").write_text(text)
    (directory / "held_out.txt").write_text(text[1350:])
    arguments = ("train", "lm", directory / "text.txt", "--epochs", 3.6, "--seed", 7, *SIZES)
    outcome = elman(*arguments, "--run", directory / "run")
    return SimpleNamespace(directory=directory, run=directory / "run", outcome=outcome, arguments=arguments, text=text)


def test_training_says_its_result_on_standard_output(made: SimpleNamespace):
    status, out, err = made.outcome
    assert status == 0
    config = json.loads((made.run / "config.json").read_text())
    best = min(metrics(made.run), key=lambda row: float(row["validation_nats"]))
    nats = float(best["validation_nats"])
    result, *baselines = [line for line in out.splitlines() if not line.startswith("advice")]
    assert result == (
        f"validation  {nats:.4f} nats per character ({float(best['bits_per_character']):.3f} bits; "
        f"as unsure as between {float(best['perplexity']):.1f} equally likely characters)"
    )
    assert list(config["baselines"]) == ["unigram", re.findall(r"\d-gram", out)[0]]
    for line, (name, baseline) in zip(baselines, config["baselines"].items(), strict=True):
        better = "better" if nats < baseline else "worse"
        assert line.split()[0] == name
        assert f"{name} {baseline:.4f} nats per character (counts how often each " in " ".join(line.split())
        assert line.endswith(f"): the model is {abs(nats - baseline):.4f} nats {better}")
    assert ("advice" in out) == any(line.endswith("worse") for line in baselines)
    assert f"elman evaluate {made.run} FILE tests" in err  # the score chose what was kept
    assert len(re.findall(r"validation \d\.\d+ nats", err)) == 12
    assert err.isprintable() or set(err) - set("\n") <= {c for c in err if c.isprintable()}  # no colours, no bar


def test_a_budget_that_a_run_has_used_up(made: SimpleNamespace, tmp_path: Path):
    run = shutil.copytree(made.run, tmp_path / "run")
    before = contents_of(run)
    resume = ("train", "lm", "--resume", run)
    refused = elman(*resume, "--epochs", 2)
    assert (refused.status, refused.out) == (2, "")
    complaint(refused.err, f"{run} has trained for 3.6", " epochs already", "with --epochs 2; give more\n")
    refused = elman(*resume, "--epochs", 9, "--minutes", 1e-5)
    complaint(
        refused.err, " minutes already, so nothing is left to train with --epochs 9 and --minutes 1e-05; give more\n"
    )
    assert contents_of(run) == before


def test_a_run_that_patience_has_ended(made: SimpleNamespace, tmp_path: Path):
    run = shutil.copytree(made.run, tmp_path / "run")
    option(patience=1)(run)
    tensors("checkpoint/state.safetensors", lambda _, notes: notes["place"].update(stale=1))(run)
    before = contents_of(run)
    refused = elman("train", "lm", "--resume", run, "--epochs", 9)
    assert (refused.status, refused.out) == (2, "")
    complaint(
        refused.err,
        f"--patience 1 has ended {run} after 3.6",
        "nothing is left to train; train again with more patience",
    )
    assert contents_of(run) == before


def test_what_a_run_notes_of_itself(made: SimpleNamespace):
    config = json.loads((made.run / "config.json").read_text())
    corpus = read(made.directory / "text.txt", "characters", 0.1)
    assert config["task"] == "lm"
    assert config["options"]["seed"] == 7
    assert config["options"]["epochs"] == 3.6
    assert config["options"]["minutes"] is None
    assert config["data"]["path"] == str(made.directory / "text.txt")
    assert config["data"]["train_tokens"] == len(corpus.train) == 1350
    assert config["data"]["validation_tokens"] == 150
    model, _, _ = load(made.run)
    assert config["parameters"] == sum(p.numel() for p in model.parameters())


def test_the_same_command_makes_the_same_model(made: SimpleNamespace, tmp_path: Path):
    assert elman(*made.arguments, "--run", tmp_path / "again").out == made.outcome.out
    for name in ("model.safetensors", "config.json", "vocabulary.json"):
        assert (tmp_path / "again" / name).read_bytes() == (made.run / name).read_bytes()
    other = [7 if argument == 7 else argument for argument in made.arguments]
    other[other.index("--seed") + 1] = 8
    elman(*other, "--run", tmp_path / "other")
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (made.run / "model.safetensors").read_bytes()


def test_evaluation_of_the_held_out_text_is_that_of_training(made: SimpleNamespace):
    model, vocabulary, _ = load(made.run)
    tokens = read(made.directory / "held_out.txt", "characters", 1.0, vocabulary=vocabulary).validation
    score = evaluate(model, tokens, len(tokens))
    _, notes = Run(made.run).load_tensors("model.safetensors")
    assert score.nats == notes["validation_nats"]

    status, out, err = elman("evaluate", made.run, made.directory / "held_out.txt")
    assert (status, err) == (0, "")
    figures = dict(re.findall(r"^(\S.*?) {2,}(\S+)$", scores_of(out), re.MULTILINE))
    assert figures == {
        "characters": "150",
        "unknown": "0",
        "nats per character": f"{score.nats:.4f}",
        "bits per character": f"{score.bits_per_character:.4f}",
        "perplexity": f"{score.perplexity:.4f}",
    }
    assert made.outcome.out.startswith(f"validation  {figures['nats per character']} nats per character ")
    for name, value in json.loads((made.run / "config.json").read_text())["baselines"].items():
        assert re.search(rf"^{name} +{value:.4f} nats per character, a baseline", out, re.MULTILINE)


def test_lines_are_told_by_how_much_they_surprise(made: SimpleNamespace, tmp_path: Path):
    """The sums are the score of the whole text, and a line of another kind stands out."""
    text = (made.directory / "held_out.txt").read_text()
    strange = 'q"tx,,zz'
    (tmp_path / "new.txt").write_text(f"{text}\n{strange}\n")
    status, out, err = elman("predict", made.run, tmp_path / "new.txt")
    assert (status, err) == (0, "")
    (tmp_path / "out.csv").write_text(out)
    table = pl.read_csv(tmp_path / "out.csv")
    assert table.columns == ["line", "characters", "unknown", "nats", "nats_per_character", "text"]
    assert table["text"].to_list() == [*text.split("\n"), strange]
    assert table["line"].to_list() == list(range(1, len(table) + 1))
    out = scores_of(elman("evaluate", made.run, tmp_path / "new.txt").out)
    figures = dict(re.findall(r"^(\S.*?) {2,}(\S+)$", out, re.MULTILINE))
    assert table["characters"].sum() == len(text) + len(strange) + 1 == int(figures["characters"]) - 1
    assert table["unknown"].sum() == sum(c not in made.text for c in strange) > 0
    score = float(table["nats"].sum()) / float(table["characters"].sum())
    assert score == pytest.approx(float(figures["nats per character"]), abs=1e-4)
    assert table.sort("nats_per_character")["text"][-1] == strange

    assert elman("predict", made.run, tmp_path / "new.txt", "--output", tmp_path / "out.jsonl").status == 0
    rows = pl.read_ndjson(tmp_path / "out.jsonl")
    assert rows.columns == table.columns
    for name in table.columns:
        assert rows[name].to_list() == pytest.approx(table[name].to_list())
    status, _, err = elman("predict", made.run, tmp_path / "new.txt", "--output", tmp_path / "out.conll")
    assert (status, err.count("\n")) == (2, 1)
    assert "these predictions are not written as .conll; choose one of .csv, .jsonl, .ndjson" in err


def test_evaluation_says_why_there_is_no_baseline(made: SimpleNamespace, tmp_path: Path):
    shutil.copytree(made.run, tmp_path / "run")
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["data"]["path"] = str(tmp_path / "gone.txt")
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    status, out, err = elman("evaluate", tmp_path / "run", made.directory / "held_out.txt")
    assert (status, err) == (0, "")
    assert re.search(r"^baselines +not known, because .* cannot read .*gone\.txt", out, re.MULTILINE)
    assert "nats per character" in out


def test_unknown_characters_are_counted(made: SimpleNamespace, tmp_path: Path):
    (tmp_path / "text.txt").write_text("the €§ of and to\n")
    out = elman("evaluate", made.run, tmp_path / "text.txt").out
    assert re.search(
        r"^unknown +2, 11\.8%: not in the model's vocabulary, so the figures say little$", out, re.MULTILINE
    )
    (tmp_path / "text.txt").write_text("the € of and to\n" + "the of and to\n" * 5)
    out = elman("evaluate", made.run, tmp_path / "text.txt").out
    assert re.search(
        r"^unknown +1, 1\.2%: not in the model's vocabulary, so bits per character are not given$", out, re.MULTILINE
    )
    assert "bits per character  " not in out
    (tmp_path / "text.txt").write_text("the € of and to\n" + "the of and to\n" * 100)  # one in 1,416
    out = elman("evaluate", made.run, tmp_path / "text.txt").out
    assert re.search(r"^unknown +1$", out, re.MULTILINE)
    assert re.search(r"^bits per character +\d", out, re.MULTILINE)


def test_a_text_of_unknown_words_has_no_length_in_bits(tmp_path: Path):
    """Which of the words it is that the vocabulary lacks, nobody could read from the bits."""
    file = tmp_path / "text.txt"
    file.write_text(prose(3000))
    known, few = (
        elman("train", "lm", file, "--validation", file, "--run", tmp_path / size, "--unit", "words",
              "--vocabulary-size", size, "--epochs", 1, *SIZES)
        for size in ("280", "9")
    )  # fmt: skip
    assert re.match(r"validation  \S+ nats per word \(\d\.\d{3} bits per character; as unsure", known.out)
    corpus = read(file, "words", 0.1, 9, apart=file)
    share = float((corpus.validation == corpus.vocabulary.unknown).double().mean())
    assert share > 0.2
    assert re.match(rf"validation  \S+ nats per word \({share:.1%} of the words are unknown; as unsure", few.out)
    assert {row["bits_per_character"] for row in metrics(tmp_path / "9")} == {"nan"}
    assert elman("train", "lm", "--resume", tmp_path / "9").out == few.out
    for size, score in (("280", r'"score": ?{"bits": ?\d'), ("9", '"score": ?{"bits": ?null')):
        page = tmp_path / f"{size}.html"
        assert elman("explain", tmp_path / size, "--output", page).status == 0
        assert re.search(score, page.read_text())


def test_bytes_of_which_none_begins_a_character_have_no_bits_for_each(tmp_path: Path):
    text, rest, run = tmp_path / "text.txt", tmp_path / "rest.txt", tmp_path / "run"
    text.write_text(prose(2000))
    rest.write_bytes(b"\x80\xbf\x80")
    out = elman("train", "lm", text, "--validation", rest, "--run", run, "--unit", "bytes", "--epochs", 0.1, *SIZES).out
    assert re.match(r"validation  \S+ nats per byte \(no character begins in the validation text; as unsure", out)
    out = elman("evaluate", run, rest).out
    assert re.search(r"^bits per character +not known, because no character begins in this text$", out, re.MULTILINE)
    page = tmp_path / "page.html"
    assert elman("explain", run, "--output", page).status == 0
    assert re.search(r'"score": ?{"bits": ?null, ?"perplexity": ?[\d.]+, ?"unknown": ?null}', page.read_text())


def test_samples_go_to_standard_output_and_talk_does_not(made: SimpleNamespace):
    status, out, err = elman("sample", made.run, "--prompt", "the ", "--length", 50, "--seed", 3)
    assert (status, err) == (0, "")
    assert out.startswith("the ")
    assert len(out) == 4 + 50 + 1
    assert out.endswith("\n")
    assert elman("sample", made.run, "--prompt", "the ", "--length", 50, "--seed", 3).out == out

    drawn = elman("sample", made.run, "--prompt", "the ", "--length", 50)
    seed = re.fullmatch(r"--seed (\d+)\n", drawn.err)
    assert seed is not None  # told, so that it can be had again
    assert elman("sample", made.run, "--prompt", "the ", "--length", 50, "--seed", seed[1]).out == drawn.out


@pytest.mark.parametrize("unit", ["bytes", "bpe", "words"])
def test_other_units(tmp_path: Path, unit: str):
    (tmp_path / "text.txt").write_text(prose(3000) + "naïve café\n")
    trained = elman(
        "train", "lm", tmp_path / "text.txt", "--run", tmp_path / "run", "--unit", unit, "--epochs", 1, *SIZES,
        *([] if unit == "bytes" else ["--vocabulary-size", 280]),
    )  # fmt: skip
    per = {"bpe": "token", "bytes": "byte", "words": "word"}[unit]
    assert trained.status == 0
    assert f"nats per {per}" in trained.out
    assert (tmp_path / "run" / ("tokenizer.json" if unit == "bpe" else "vocabulary.json")).exists()
    prompt = "the of" if unit == "words" else "é€"
    assert elman("sample", tmp_path / "run", "--prompt", prompt, "--length", 5, "--seed", 0).out.startswith(prompt)
    evaluated = elman("evaluate", tmp_path / "run", tmp_path / "text.txt")
    assert re.search(rf"^nats per {per} +\d\.\d{{4}} ", evaluated.out, re.MULTILINE)
    assert ("unknown" in evaluated.out) == (unit == "words")
    assert elman("train", "lm", "--resume", tmp_path / "run").out == trained.out
    assert elman("explain", tmp_path / "run", "--text", "naïve café of the").status == 0


def test_a_text_of_its_own_to_judge_by(made: SimpleNamespace, tmp_path: Path):
    (tmp_path / "other.txt").write_text(prose(700, seed=5))
    given = ("--validation", tmp_path / "other.txt", "--run", tmp_path / "run", "--epochs", 1, "--tied", *SIZES)
    trained = elman("train", "lm", made.directory / "text.txt", *given)
    assert trained.status == 0, trained.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["data"]["train_tokens"], config["data"]["validation_tokens"]) == (1500, 700)
    out = elman("evaluate", tmp_path / "run", tmp_path / "other.txt").out
    nats = re.search(r"^nats per character +(\S+)", out, re.MULTILINE)
    assert nats is not None
    assert trained.out.startswith(f"validation  {nats[1]} nats per character")
    assert elman("train", "lm", "--resume", tmp_path / "run").out == trained.out


def test_samples_are_kept_while_training(made: SimpleNamespace, tmp_path: Path):
    samples = (made.run / "samples.txt").read_text()
    steps = [int(row["step"]) for row in metrics(made.run)]
    assert [int(step) for step in re.findall(r"^--- step (\d+)$", samples, re.MULTILINE)] == steps
    first, last = samples.split("--- step ")[1], samples.split("--- step ")[-1]
    assert first.partition("\n")[2] != last.partition("\n")[2]
    assert len(last.partition("\n")[2]) > 100


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_metrics_for_tensorboard(made: SimpleNamespace, tmp_path: Path):
    assert elman(*made.arguments, "--run", tmp_path / "run", "--tensorboard").out == made.outcome.out
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = metrics(tmp_path / "run")
    for name in ("validation_nats", "train_nats", "gradient_norm"):
        found = events.Scalars(name)
        assert [event.step for event in found] == [int(row["step"]) for row in rows]
        assert [event.value for event in found] == pytest.approx([float(row[name]) for row in rows], rel=1e-5)


def size_of_png(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


@pytest.mark.usefixtures("pictures")
def test_explaining_draws_a_picture(made: SimpleNamespace, tmp_path: Path):
    status, out, err = elman("explain", made.run, "--text", "the of and to", "--output", tmp_path / "gates.png")
    assert status == 0
    assert err == f"picture in {tmp_path / 'gates.png'}\n"
    assert re.fullmatch(r"the last prediction looks back over .* a thousandth of what counts most\n", out)
    width, height = size_of_png(tmp_path / "gates.png")
    assert 700 < width < 3000
    assert 700 < height < 3000
    pixels = np.asarray(imread(tmp_path / "gates.png"))[..., :3]
    assert pixels.min() < 0.3
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100  # heat maps
    assert (pixels < 0.95).any(axis=2).mean() > 0.1


@pytest.mark.usefixtures("pictures")
def test_explaining_without_a_text_takes_held_out_prose(made: SimpleNamespace, tmp_path: Path):
    run = shutil.copytree(made.run, tmp_path / "run")
    status, _, err = elman("explain", run, "--units", 3)
    assert (status, err) == (0, f"picture in {run / 'gates.png'}\n")
    assert size_of_png(run / "gates.png")[0] > size_of_png(made.run / "loss.png")[0]  # sixty characters wide


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(("kind", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_in_other_formats(made: SimpleNamespace, tmp_path: Path, kind: str, start: bytes):
    assert elman("explain", made.run, "--text", "the of", "--output", tmp_path / f"gates.{kind}").status == 0
    assert (tmp_path / f"gates.{kind}").read_bytes().startswith(start)


def test_overwriting_a_run(made: SimpleNamespace, tmp_path: Path):
    run = shutil.copytree(made.run, tmp_path / "run")
    (run / "notes.txt").write_text("mine")
    (run / "tensorboard").mkdir()
    (run / "tensorboard" / "events.out.tfevents.1700000000.host.1.0").write_text("curves of the old run")
    assert elman(*made.arguments, "--run", run, "--overwrite", "--cell", "gru").status == 0
    assert list((run / "tensorboard").iterdir()) == []
    assert json.loads((run / "config.json").read_text())["options"]["cell"] == "gru"
    assert (run / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("given", [("--precision", "bf16"), ("--tensorboard",)], ids=" ".join)
def test_what_is_refused_touches_no_run(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]
):
    """A finished run is not deleted, and nothing is begun that the next command would stumble on."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = shutil.copytree(made.run, tmp_path / "run")
    before = contents_of(tmp_path)
    for directory in (run, tmp_path / "new"):
        outcome = elman(*made.arguments, "--run", directory, "--overwrite", *given, "--device", "cpu")
        assert (outcome.status, outcome.out) == (2, "")
        complaint(outcome.err, given[0])
        assert contents_of(tmp_path) == before


def test_a_run_of_a_gpu_on_the_cpu(made: SimpleNamespace, tmp_path: Path):
    run = shutil.copytree(made.run, tmp_path / "run")
    option(precision="bf16")(run)
    outcome = elman("train", "lm", "--resume", run, "--device", "cpu")
    assert (outcome.status, outcome.out) == (2, "")
    complaint(outcome.err, "bf16 is for GPUs, and this runs on the CPU; run on a GPU\n")


def test_an_empty_directory_will_do(made: SimpleNamespace, tmp_path: Path):
    assert elman(*made.arguments, "--run", tmp_path).out == made.outcome.out


def test_three_minutes_unless_told_otherwise(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from elman.training.loop import Training

    monkeypatch.setattr(Training, "progress", lambda self: min(1.0, self.place.step / 3))
    assert elman("train", "lm", made.directory / "text.txt", "--run", tmp_path / "run", *SIZES).status == 0
    options = json.loads((tmp_path / "run" / "config.json").read_text())["options"]
    assert (options["minutes"], options["epochs"]) == (3.0, None)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    status, out, err = elman(*made.arguments, "--run", tmp_path / "run", err=Terminal())
    assert (status, out) == (0, made.outcome.out)
    assert "\x1b[" in err
    assert re.search(r"step \d+ +loss \d\.\d+", err)
    assert "100%" in err
    assert len(re.findall(r"validation \d\.\d+ nats", err)) == 12  # the lines of a pipe are there too


# Standard output that goes somewhere else


def test_an_encoding_without_greek_letters(made: SimpleNamespace):
    for arguments in (["cells", "gru"], ["sample", made.run, "--length", 5, "--seed", 1]):
        status, _, err = elman(*arguments, out=io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
        assert (status, err) == (0, "")


def test_a_reader_that_has_seen_enough(made: SimpleNamespace):
    """`elman sample RUN | head -c 10`"""
    with process("-m", "elman", "sample", made.run, "--length", 3000, "--seed", 1) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert len(child.stdout.read(10)) == 10
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait(timeout=60) == 141


@pytest.mark.parametrize("closed", [(0,), (1, 2)], ids=str)
def test_closed_streams(made: SimpleNamespace, closed: tuple[int, ...]):
    """`elman cells >&-`. A file that is opened then must not take the place of standard output."""

    def close() -> None:
        for number in closed:
            os.close(number)

    held_out = (made.directory / "held_out.txt").read_bytes()
    outcome = finished("-m", "elman", "evaluate", made.run, made.directory / "held_out.txt", preexec_fn=close)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == ("" if 1 in closed else elman("evaluate", made.run, made.directory / "held_out.txt").out)
    assert (made.directory / "held_out.txt").read_bytes() == held_out


# `elman ARGUMENTS >&DESCRIPTOR`, to a disk that is full.
FULL = """
import os, sys
os.dup2(os.open("/dev/full", os.O_WRONLY), int(sys.argv.pop(1)))
from elman.__main__ import main
main()
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_standard_output_on_a_full_disk(made: SimpleNamespace, forks: Forks):
    for command in (("cells",), ("sample", str(made.run), "--seed", "1")):
        (done,) = forks.run(Child(FULL, ("1", *command)))
        assert done.returncode == 2
        complaint(done.stderr, "cannot use standard output: No space left on device")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_messages_on_a_full_disk(forks: Forks):
    (done,) = forks.run(Child(FULL, ("2", "cells", "nope")))
    assert done.returncode == 2


# What is refused


def complaint(err: str, *mentions: str) -> None:
    """One line that begins with the program's name and says what was wrong."""
    assert err.startswith("elman: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    for mention in mentions:
        assert mention in err


BIG = 10**9
NEW = ["train", "lm", "{text}", "--run", "{new}", "--epochs", "1", "--batch-size", "8"]

# The command line, with names in braces from `places` below, and what the complaint must mention.
REFUSED: dict[str, tuple[list[str], list[str]]] = {
    # arguments
    "unknown command": (["tarin"], ["No such command 'tarin'. Did you mean 'train'?\n"]),
    "unknown task": (["train", "lmm"], ["lmm"]),
    "unknown option": ([*NEW, "--hiden-size", "3"], ["--hiden-size"]),
    "argument too many": (["train", "lm", "{text}", "another"], ["another"]),
    "argument missing": (["sample"], ["run"]),
    "second argument missing": (["evaluate", "{run}"], ["file"]),
    "option without its value": (["train", "lm", "{text}", "--cell"], ["--cell"]),
    "no number": ([*NEW, "--hidden-size", "many"], ["--hidden-size must be a whole number, got 'many'; see --help"]),
    "no whole number": ([*NEW, "--num-layers", "1.5"], ["--num-layers must be a whole number, got '1.5'"]),
    "no number for a rate": ([*NEW, "--learning-rate", "fast"], ["--learning-rate must be a number, got 'fast'"]),
    # options of training
    "hidden size 0": ([*NEW, "--hidden-size", "0"], ["--hidden-size", "got 0"]),
    "hidden size -5": ([*NEW, "--hidden-size", "-5"], ["--hidden-size", "got -5"]),
    "hidden size beyond memory": ([*NEW, "--hidden-size", str(BIG)], [str(BIG)]),
    "hidden size beyond numbers": ([*NEW, "--hidden-size", str(10**20)], [str(10**20)]),
    "embedding size 0": ([*NEW, "--embedding-size", "0"], ["--embedding-size", "got 0"]),
    "no layers": ([*NEW, "--num-layers", "0"], ["--num-layers", "got 0"]),
    "forget gate of a gru": ([*NEW, "--cell", "gru", "--forget-bias", "1"], ["--forget-bias", "gate f", "gru"]),
    "forget bias beyond sense": ([*NEW, "--forget-bias", "50"], ["--forget-bias", "50"]),
    "batch of none": ([*NEW, "--batch-size", "0"], ["--batch-size", "got 0"]),
    "window of none": ([*NEW, "--window", "0"], ["--window", "got 0"]),
    "window beyond the text": ([*NEW, "--window", "5000"], ["--window", "5000"]),
    "batch beyond the text": ([*NEW, "--batch-size", "5000"], ["--batch-size", "5000"]),
    "unknown cell": ([*NEW, "--cell", "lstn"], ["'lstn'", "did you mean 'lstm'"]),
    "projected cell": ([*NEW, "--cell", "projected_lstm"], ["'projected_lstm'"]),
    "threads beyond sense": (
        [*NEW, "--threads", "100000"],
        [f"--threads must be {most_threads()} or less on this machine with {os.cpu_count()} cores, got 100000"],
    ),
    "learning rate inf": ([*NEW, "--learning-rate", "inf"], ["--learning-rate must be greater than 0 and finite, got inf"]),
    "clip nan": ([*NEW, "--clip", "nan"], ["--clip must be greater than 0 and finite, got nan"]),
    "weight decay inf": ([*NEW, "--weight-decay", "inf"], ["--weight-decay must lie between 0 and 1000000.0, got inf"]),
    "unknown unit": ([*NEW, "--unit", "letters"], ["'letters'", "characters, bytes, bpe, words"]),
    "no patience": ([*NEW, "--patience", "0"], ["--patience", "got 0"]),
    "no evaluations": ([*NEW, "--evaluations", "0"], ["--evaluations", "got 0"]),
    "no vocabulary to speak of": ([*NEW, "--unit", "words", "--vocabulary-size", "0"], ["--vocabulary-size", "got 0"]),
    "no text to judge by": ([*NEW, "--validation", "{none}"], ["{none}", "No such file"]),
    "an empty text to judge by": ([*NEW, "--validation", "{empty}"], ["{empty} is empty"]),
    "a vocabulary of characters": ([*NEW, "--vocabulary-size", "1000"], ["--vocabulary-size", "bpe and words", "characters"]),
    "small vocabulary": ([*NEW, "--unit", "bpe", "--vocabulary-size", "100"], ["--vocabulary-size", "got 100"]),
    "dropout 1": ([*NEW, "--dropout", "1"], ["--dropout", "got 1.0"]),
    "gaps in texts": (["train", "classify", "{text}", "--text", "t", "--fill-gaps"], ["--fill-gaps is for numbers"]),
    "gaps without a file": (["train", "classify", "--fill-gaps"], ["--fill-gaps", "no FILE is given"]),
    "weight dropout 1": ([*NEW, "--weight-dropout", "1"], ["--weight-dropout", "got 1.0"]),
    "dropout -0.1": ([*NEW, "--dropout", "-0.1"], ["--dropout", "got -0.1"]),
    "learning rate nan": ([*NEW, "--learning-rate", "nan"], ["--learning-rate", "got nan"]),
    "learning rate 0": ([*NEW, "--learning-rate", "0"], ["--learning-rate", "got 0"]),
    "weight decay -1": ([*NEW, "--weight-decay", "-1"], ["--weight-decay", "got -1"]),
    "clip 0": ([*NEW, "--clip", "0"], ["--clip", "got 0"]),
    "epochs 0": (["train", "lm", "{text}", "--epochs", "0"], ["--epochs", "got 0"]),
    "epochs inf": (["train", "lm", "{text}", "--epochs", "inf"], ["--epochs", "got inf"]),
    "minutes -1": (["train", "lm", "{text}", "--minutes", "-1"], ["--minutes", "got -1"]),
    "seed -1": ([*NEW, "--seed", "-1"], ["--seed", "got -1"]),
    "seed beyond 64 bits": ([*NEW, "--seed", str(1 << 70)], ["--seed", str(1 << 70)]),
    "all held out": ([*NEW, "--held-out", "1"], ["--held-out", "got 1.0"]),
    "next to none held out": (
        ["train", "lm", "{short}", "--run", "{new}", "--held-out", "0.001", "--batch-size", "1", "--window", "2"],
        ["--held-out", "0.001"],
    ),
    "unknown device": ([*NEW, "--device", "gpu9"], ["--device gpu9"]),
    "device without memory": ([*NEW, "--device", "meta"], ["--device meta"]),
    # texts
    "no such file": (["train", "lm", "{none}"], ["{none}", "No such file"]),
    "a directory": (["train", "lm", "{directory}"], ["{directory} is a directory"]),
    "the text itself": (["train", "lm", "so it goes " * 500], ["so it goes", "File name too long"]),
    "empty": (["train", "lm", "{empty}"], ["{empty} is empty"]),
    "binary": (["train", "lm", "{binary}"], ["{binary} looks binary: byte 4 is zero", "--unit bytes"]),
    "not UTF-8": (["train", "lm", "{latin}"], ["{latin} is not UTF-8: byte 9, on line 2, is 0xe9", "--unit bytes"]),
    "damaged gzip": (["train", "lm", "{gzip}"], ["{gzip} is a damaged gzip file"]),
    "too short": (["train", "lm", "{short}", "--held-out", "0.2"], ["8 tokens", "or --batch-size 2 --window 2\n"]),
    "too short for any window": (["train", "lm", "{three}", "--held-out", "0.5"], ["1 tokens", "give more text\n"]),
    "too short to judge by": (["train", "lm", "{short}"], ["0.1 of {short} gives 1 validation tokens", "a larger --held-out\n"]),
    "too short to be divided": (["train", "lm", "{three}"], ["0.1 of {three} gives 0 validation tokens", "give more text\n"]),
    "too short a text to judge by": ([*NEW, "--validation", "{one}"], ["{one} gives 1 validation tokens", "give more text\n"]),
    # directories for runs
    "run exists": (["train", "lm", "{text}", "--run", "{run}"], ["{run} already holds a run", "--resume", "--overwrite"]),
    "directory of something else": (["train", "lm", "{text}", "--run", "{foreign}"], ["{foreign} is not empty"]),
    "the same, to overwrite": (["train", "lm", "{text}", "--run", "{foreign}", "--overwrite"], ["{foreign}"]),
    "run is a file": (["train", "lm", "{text}", "--run", "{text}"], ["{text}", "Not a directory"]),
    "run below a file": (["train", "lm", "{text}", "--batch-size", "8", "--run", "{text}/run"], ["cannot write into {text}/run: Not a directory"]),
    "run with too long a name": (["train", "lm", "{text}", "--run", "r" * 300], ["rrr", "File name too long"]),
    # resuming
    "resuming nothing": (["train", "lm", "--resume", "{none}"], ["{none} does not exist; give the directory of a run"]),
    "resuming a file": (["train", "lm", "--resume", "{text}"], ["{text} is a file, but a run is a directory"]),
    "resuming something else": (["train", "lm", "--resume", "{foreign}"], ["{foreign} is not a run of elman"]),
    "resuming too long a name": (["train", "lm", "--resume", "r" * 300], ["rrr"]),
    "resuming with a file": (["train", "lm", "{text}", "--resume", "{run}"], ["FILE cannot be given"]),
    "resuming with options": (
        ["train", "lm", "--resume", "{run}", "--cell", "gru", "--seed", "0"],
        ["--cell, --seed cannot be given"],
    ),
    "resuming elsewhere": (["train", "lm", "--resume", "{run}", "--run", "{new}"], ["--run cannot be given"]),
    "resuming for 0 minutes": (["train", "lm", "--resume", "{run}", "--minutes", "0"], ["--minutes", "got 0"]),
    "resuming on no device": (["train", "lm", "--resume", "{run}", "--device", "gpu9"], ["--device gpu9"]),
    # the other commands
    "sampling nothing": (["sample", "{none}"], ["{none} does not exist; give the directory of a run"]),
    "sampling something else": (["sample", "{foreign}"], ["{foreign} is not a run of elman"]),
    "sampling before the first evaluation": (["sample", "{begun}"], ["{begun}/model.safetensors is missing"]),
    "temperature -1": (["sample", "{run}", "--temperature", "-1"], ["--temperature must be 0 or more, got -1"]),
    "temperature nan": (["sample", "{run}", "--temperature", "nan"], ["--temperature", "got nan"]),
    "temperature inf": (["sample", "{run}", "--temperature", "inf"], ["--temperature must be 0 or more and finite, got inf"]),
    "top-p 0": (["sample", "{run}", "--top-p", "0"], ["--top-p", "got 0"]),
    "top-p 1.5": (["sample", "{run}", "--top-p", "1.5"], ["--top-p", "got 1.5"]),
    "top-p nan": (["sample", "{run}", "--top-p", "nan"], ["--top-p", "got nan"]),
    "top-p of the likeliest": (["sample", "{run}", "--temperature", "0", "--top-p", "0.9"], ["--temperature 0", "--top-p 0.9"]),
    "length 0": (["sample", "{run}", "--length", "0"], ["--length", "got 0"]),
    "sampling with seed -1": (["sample", "{run}", "--seed", "-1"], ["--seed", "got -1"]),
    "sampling with a huge seed": (["sample", "{run}", "--seed", str(1 << 70)], ["--seed", str(1 << 70)]),
    "sampling with seed one": (["sample", "{run}", "--seed", "one"], ["--seed", "one"]),
    "strange prompt": (["sample", "{run}", "--seed", "1", "--prompt", "the €"], ["'€'"]),
    "prompt that is no text": (["sample", "{run}", "--seed", "1", "--prompt", "\udcff"], ["prompt"]),
    "sampling on no device": (["sample", "{run}", "--device", "gpu9"], ["--device gpu9"]),
    "evaluating no file": (["evaluate", "{run}", "{none}"], ["{none}", "No such file"]),
    "evaluating a directory": (["evaluate", "{run}", "{directory}"], ["{directory} is a directory"]),
    "evaluating an empty file": (["evaluate", "{run}", "{empty}"], ["{empty} is empty"]),
    "evaluating one character": (["evaluate", "{run}", "{one}"], ["{one} has 1 token", "at least 2"]),
    "evaluating a binary file": (["evaluate", "{run}", "{binary}"], ["{binary} looks binary: byte 4 is zero; give a text file\n"]),
    "evaluating with nothing": (["evaluate", "{foreign}", "{text}"], ["{foreign} is not a run of elman"]),
    "layer 0": (["explain", "{run}", "--layer", "0"], ["--layer", "between 1 and 1", "got 0"]),
    "layer 2 of 1": (["explain", "{run}", "--layer", "2"], ["--layer", "between 1 and 1", "got 2"]),
    "no such panel": (["explain", "{run}", "--panels", "c,x"], ["--panels got 'x'", "c, h, i, f, g, o, gradient"]),
    "no units": (["explain", "{run}", "--units", "0"], ["--units", "got 0"]),
    "layer of a page": (["explain", "{run}", "--output", "{new}.html", "--layer", "1"], ["--layer is for pictures", "{new}.html", "leave it out"]),
    "units of a page": (["explain", "{run}", "--output", "{new}.html", "--units", "4"], ["--units is for pictures"]),
    "panels of a page": (["explain", "{run}", "--output", "{new}.html", "--panels", "c"], ["--panels is for pictures"]),
    "a picture of two runs": (["explain", "{run}", "--compare", "{run}"], ["--compare is for pages", "{run}/gates.png", "--output NAME.html"]),
    "a page of four runs": (["explain", "{run}", "--output", "{new}.html", *["--compare", "{run}"] * 3], ["3 runs", "at most 2"]),
    "a page of two characters": (["explain", "{run}", "--output", "{new}.html", "--text", "to"], ["2 tokens", "at least 3"]),
    "a page into no directory": (["explain", "{run}", "--output", "{none}/page.html"], ["{none}/page.html", "make the directory {none}"]),
    "a page beside nothing": (["explain", "{run}", "--output", "{new}.html", "--compare", "{none}"], ["{none} does not exist; give the directory of a run"]),
    "explaining two characters": (["explain", "{run}", "--text", "to"], ["2 tokens", "at least 3"]),
    "explaining nothing": (["explain", "{none}"], ["{none} does not exist; give the directory of a run"]),
    "picture of no known kind": (
        ["explain", "{run}", "--text", "the", "--output", "{new}.xyz"],
        ["{new}.xyz", ".xyz", "png, svg or pdf"],
    ),
    "picture by way of TeX": (["explain", "{run}", "--text", "the", "--output", "{new}.pgf"], ["{new}.pgf", "png"]),
    "picture into no directory": (
        ["explain", "{run}", "--text", "the", "--output", "{none}/gates.png"],
        ["{none}/gates.png", "make the directory {none}"],
    ),
    "picture onto a directory": (
        ["explain", "{run}", "--text", "the", "--output", "{directory}"],
        ["{directory}", "it is a directory, which no file may replace"],
    ),
    "equations of no cell": (["cells", "gur"], ["'gur'", "did you mean 'gru'"]),
    "cells of no size": (["cells", "gru", "--hidden-size", "0"], ["--hidden-size 0"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def places(made: SimpleNamespace) -> dict[str, str]:
    root = made.directory
    contents = {
        "text": made.text.encode(),
        "empty": b"",
        "binary": b"abc\0def",
        "latin": b"four\ncaf\xe9\n",
        "gzip": b"\x1f\x8b\x08\x00 nothing of the kind",
        "short": b"ten words.",
        "one": b"t",
        "three": b"to\n",
    }
    for name, content in contents.items():
        (root / f"{name}.file").write_bytes(content)
    for name in ("directory", "foreign"):
        (root / name).mkdir()
    (root / "foreign" / "thesis.doc").write_text("precious")
    shutil.copytree(made.run, root / "begun", ignore=shutil.ignore_patterns("model.safetensors"))
    names = {name: str(root / f"{name}.file") for name in contents}
    return names | {name: str(root / name) for name in ("run", "begun", "directory", "foreign", "none", "new")}


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where a command without --run would begin one."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_ends_with_one_sentence(made: SimpleNamespace, places: dict[str, str], tmp_path: Path, case: str):
    arguments, mentions = ([part.format(**places) for part in parts] for parts in REFUSED[case])
    before = contents_of(made.directory)
    outcome = elman(*arguments)
    assert outcome.status == 2
    assert outcome.out == ""
    complaint(outcome.err, *mentions)
    assert foreign_options(arguments, outcome.err) == set()
    assert contents_of(made.directory) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("length", "sizes"),
    [(20, "2 --window 4"), (200, "8 --window 16"), (700, "16 --window 32"), (2000, "32 --window 32")],
)
def test_what_is_advised_for_a_short_text_works(tmp_path: Path, length: int, sizes: str):
    (tmp_path / "text.txt").write_text(prose(length))
    command = ("train", "lm", "text.txt", "--epochs", 1, "--hidden-size", 4, "--run", "run")
    refused = elman(*command)
    assert refused.status == 2
    complaint(refused.err, "32 streams with a window of 64 need 2,112; give more text, or --batch-size ")
    advised = refused.err.split("give more text, or ")[1]
    assert advised == f"--batch-size {sizes}\n"
    trained = elman(*command, *advised.split())
    assert trained.status == 0, trained.err


def contents_of(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in directory.rglob("*")}


def test_a_directory_one_may_not_write_to(made: SimpleNamespace, tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("everything is permitted to root")
    (tmp_path / "locked").mkdir(mode=0o500)
    outcome = elman(*made.arguments, "--run", tmp_path / "locked" / "run")
    assert (outcome.status, outcome.out) == (2, "")
    complaint(outcome.err, str(tmp_path / "locked" / "run"), "Permission denied")


# Damaged runs

Change = Callable[[Path], Any]


def edited(name: str, **values: Any) -> Change:
    """A JSON file of the run with other values; ... removes one."""

    def change(run: Path) -> None:
        content = json.loads((run / name).read_text())
        for key, value in values.items():  # of an object, only what is given changes
            content[key] = content[key] | value if isinstance(value, dict) and key == "data" else value
        kept = {key: value for key, value in content.items() if value is not ...}
        (run / name).write_text(json.dumps(kept))

    return change


def option(**values: Any) -> Change:
    def change(run: Path) -> None:
        options = json.loads((run / "config.json").read_text())["options"] | values
        kept = {key: value for key, value in options.items() if value is not ...}
        edited("config.json", options=kept)(run)

    return change


def written(name: str, content: bytes) -> Change:
    return lambda run: (run / name).write_bytes(content)


def cut(name: str, share: float) -> Change:
    def change(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: int(len(content) * share)])

    return change


def removed(name: str) -> Change:
    return lambda run: (run / name).unlink()


def tensors(name: str, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> Change:
    """A file of tensors with others in it, or other notes."""

    def apply(run: Path) -> None:
        found, notes = Run(run).load_tensors(name)
        change(found, notes)
        safetensors.torch.save_file(found, run / name, {"elman": json.dumps(notes)})

    return apply


def states_in(found: dict[str, torch.Tensor]) -> list[str]:
    return sorted(name for name in found if name.startswith("state."))


MODEL, CHECKPOINT = "model.safetensors", "checkpoint/state.safetensors"
RESUME, SAMPLE = ("train", "lm", "--resume"), ("sample",)

DAMAGED: dict[str, tuple[Change, list[tuple[str, ...]], list[str]]] = {
    "config is empty": (written("config.json", b""), [RESUME, SAMPLE], ["config.json is damaged"]),
    "config is half": (cut("config.json", 0.5), [RESUME, SAMPLE], ["config.json is damaged"]),
    "config is no text": (written("config.json", b"\xff\xfe\0"), [RESUME, SAMPLE], ["config.json is damaged"]),
    "config is a list": (written("config.json", b"[]"), [RESUME, SAMPLE], ["config.json is damaged", "list"]),
    "config is a directory": (
        lambda run: ((run / "config.json").unlink(), (run / "config.json").mkdir()),
        [RESUME, SAMPLE],
        ["config.json", "Is a directory"],
    ),
    "another task": (edited("config.json", task="tag"), [RESUME, SAMPLE], ["config.json", "'tag'"]),
    "no task": (edited("config.json", task=...), [RESUME, SAMPLE], ["config.json", "'lm'"]),
    "no options": (edited("config.json", options=...), [RESUME, SAMPLE], ["config.json"]),
    "no data": (edited("config.json", data=...), [RESUME], ["train again"]),
    "data is null": (edited("config.json", data=None), [RESUME, ("explain",)], ["config.json", "data"]),
    "path is a number": (edited("config.json", data={"path": 3}), [RESUME], ["config.json", "path"]),
    "no baselines": (edited("config.json", baselines=...), [RESUME], ["config.json", "baselines"]),
    "no count of parameters": (edited("config.json", parameters=...), [RESUME], ["config.json", "parameters"]),
    "an option is missing": (option(window=...), [RESUME, SAMPLE], ["config.json", "window"]),
    "an option too many": (option(momentum=0.9), [RESUME, SAMPLE], ["config.json", "momentum"]),
    "an option of the wrong type": (option(hidden_size="8"), [RESUME, SAMPLE], ["hidden_size is '8'"]),
    "an option that is null": (option(cell=None), [RESUME, SAMPLE], ["cell is None"]),
    "an option out of bounds": (
        option(hidden_size=-1),
        [RESUME, SAMPLE],
        ["config.json is damaged: hidden_size must", "-1"],
    ),
    "an unknown cell": (option(cell="lstn"), [RESUME, SAMPLE], ["'lstn'"]),
    "another cell": (option(cell="gru"), [RESUME, SAMPLE], ["does not fit its config.json"]),
    "another size": (option(hidden_size=9), [RESUME, SAMPLE], ["does not fit its config.json"]),
    "another batch size": (option(batch_size=5), [RESUME], [CHECKPOINT]),
    "no vocabulary": (removed("vocabulary.json"), [RESUME, SAMPLE], ["vocabulary.json", "No such file"]),
    "vocabulary is half": (cut("vocabulary.json", 0.5), [RESUME, SAMPLE], ["vocabulary.json is damaged"]),
    "vocabulary of another kind": (
        written("vocabulary.json", b'{"unit": "letters"}'),
        [RESUME, SAMPLE],
        ["vocabulary.json is damaged"],
    ),
    "vocabulary with a character less": (
        edited("vocabulary.json", symbols="abc"),
        [RESUME, SAMPLE],
        ["train again"],
    ),
    "foreign tokenizer": (written("tokenizer.json", b"{}"), [RESUME, SAMPLE], ["tokenizer.json is damaged"]),
    "no model": (removed(MODEL), [SAMPLE, ("explain",)], [f"{MODEL} is missing"]),
    "model is empty": (written(MODEL, b""), [SAMPLE, ("explain",)], [f"{MODEL} is damaged"]),
    "model is half": (cut(MODEL, 0.5), [SAMPLE], [f"{MODEL} is damaged"]),
    "model lacks its last byte": (cut(MODEL, 0.9999), [SAMPLE], [f"{MODEL} is damaged"]),
    "model is a pickle": (written(MODEL, b"\x80\x04K\x01."), [SAMPLE], [f"{MODEL} is damaged"]),
    "model of another size": (
        tensors(MODEL, lambda found, _: found.update({"output.bias": torch.zeros(3)})),
        [SAMPLE],
        [MODEL, "output.bias is (3,)"],
    ),
    "model without a tensor": (
        tensors(MODEL, lambda found, _: found.__delitem__("output.bias")),
        [SAMPLE],
        [MODEL, "output.bias is missing"],
    ),
    "model with a tensor too many": (
        tensors(MODEL, lambda found, _: found.update({"extra": torch.zeros(3)})),
        [SAMPLE],
        [MODEL, "extra is (3,)"],
    ),
    "model of somebody else": (
        lambda run: safetensors.torch.save_file({"weight": torch.zeros(3)}, run / MODEL),
        [SAMPLE],
        [MODEL, "not elman's"],
    ),
    "no checkpoint": (removed(CHECKPOINT), [RESUME], [f"{CHECKPOINT} is missing"]),
    "checkpoint is half": (cut(CHECKPOINT, 0.5), [RESUME], [f"{CHECKPOINT} is damaged"]),
    "checkpoint is the model": (
        lambda run: shutil.copy(run / MODEL, run / CHECKPOINT),
        [RESUME],
        [],
    ),
    "checkpoint without moments": (
        tensors(CHECKPOINT, lambda found, _: found.__delitem__("optimizer.output.bias.exp_avg")),
        [RESUME],
        [f"{CHECKPOINT} is damaged", "optimizer.output.bias.exp_avg"],
    ),
    "checkpoint without half of the state": (
        tensors(CHECKPOINT, lambda found, _: found.__delitem__(states_in(found)[-1])),
        [RESUME],
        [CHECKPOINT],
    ),
    "checkpoint with a state more": (
        tensors(CHECKPOINT, lambda found, _: found.update({"state.more": found[states_in(found)[0]].clone()})),
        [RESUME],
        [CHECKPOINT],
    ),
    "checkpoint without random state": (
        tensors(CHECKPOINT, lambda found, _: found.__delitem__("random.cpu")),
        [RESUME],
        [f"{CHECKPOINT} is damaged", "random.cpu"],
    ),
    "random state of another length": (
        tensors(CHECKPOINT, lambda found, _: found.update({"random.cpu": torch.zeros(3, dtype=torch.uint8)})),
        [RESUME],
        [f"{CHECKPOINT} is damaged"],
    ),
    "checkpoint without its place": (
        tensors(CHECKPOINT, lambda _, notes: notes.__delitem__("place")),
        [RESUME],
        [f"{CHECKPOINT} is damaged", "place"],
    ),
    "place with a word for a number": (
        tensors(CHECKPOINT, lambda _, notes: notes["place"].update(step="ten", finished=False)),
        [RESUME],
        [CHECKPOINT],
    ),
    "metrics are no text": (written("metrics.csv", b"\xff\xfe\0"), [RESUME], ["metrics.csv"]),
    "metrics are another table": (written("metrics.csv", b"a,b\n1,2\n"), [RESUME], ["metrics.csv"]),
    "metrics are words": (
        written("metrics.csv", b"step,validation_nats,bits_per_character,perplexity\nx,y,z,w\n"),
        [RESUME],
        ["metrics.csv"],
    ),
    "validation text is gone": (
        option(validation="/no/such/text"),
        [RESUME],
        ["cannot read /no/such/text: No such file or directory; put the file back there, since "],
    ),
    "text is gone": (
        edited("config.json", data={"path": "/no/such/text"}),
        [RESUME],
        [
            "cannot read /no/such/text: No such file or directory; put the file back there, since ",
            " was begun with it\n",
        ],
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_run_ends_with_one_sentence(made: SimpleNamespace, tmp_path: Path, case: str):
    damage, commands, mentions = DAMAGED[case]
    for command in commands:
        run = shutil.copytree(made.run, tmp_path / command[0])
        damage(run)
        budget = ("--epochs", 6) if command == RESUME else ()  # or a finished run would have nothing to do
        outcome = elman(*command, run, *budget)
        assert (outcome.status, outcome.out) == (2, "")
        complaint(outcome.err, *mentions)
        assert foreign_options(command, outcome.err) == set()


def test_threads_that_wait_leave_the_processor_to_others():
    """OpenMP reads the variable when torch is loaded, so it is set before; what the user has set stays."""
    code = "import sys, elman.cli, os; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    for given, expected in (({}, "passive False\n"), ({"OMP_WAIT_POLICY": "active"}, "active False\n")):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == expected
