"""Runs as ONNX files: every command gives with the file what it gives with the run."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import runpy
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import elman.onnx
from elman.datasets.text import read
from elman.errors import InputError
from elman.onnx import exporting, ports, proof
from elman.onnx.model_file import ModelFile
from elman.onnx.proof import session
from elman.onnx.runs import without_paths
from elman.tasks import language_model
from elman.training.loop import MODEL
from elman.training.run import Run
from test_onnx_export import OWN, recurrent
from tiny_runs import begin, of_every_task, prose, tiny
from tiny_runs import elman as command

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of each task with random weights, and files of them."""
    d = tmp_path_factory.mktemp("exported")
    made = of_every_task(d)
    (d / "text.txt").write_text(prose(4000))
    for name, options in {
        "lm": tiny(cell="coupled_peephole_lstm", num_layers=2),
        "words": tiny(cell="gru_before", unit="words", vocabulary_size=20, tied=True),
        "pairs": tiny(cell="rnn", unit="bpe", vocabulary_size=270),
    }.items():
        corpus = read(d / "text.txt", options.unit, options.held_out, options.vocabulary_size)
        run = begin(d / name, corpus, options).run
        config = run.json("config.json")
        config["data"] |= {"path": str(d / "text.txt"), "excerpt": "of secrets that"}
        run.save_config(config)
        model = language_model.LanguageModel(corpus.vocabulary.size, options)
        torch.manual_seed(2)
        run.save_tensors(MODEL, {k: 0.7 * torch.randn_like(v) for k, v in model.state_dict().items()}, {"step": 1})
        setattr(made, name, d / name)
    return made


def exported(made: SimpleNamespace, name: str, *options: str) -> Path:
    path = made.directory / f"{name}{''.join(options)}.onnx"
    if not path.exists():
        outcome = command("export", getattr(made, name), path, *options)
        assert outcome.status == 0, outcome.err
        assert str(path) in outcome.err
    return path


def notes_of(path: Path) -> dict[str, str]:
    return {each.key: each.value for each in onnx.load(path).metadata_props}


def rewritten(path: Path, to: Path, **notes: Any) -> Path:
    """A copy of a file with other metadata: JSON of values, or a text as it is; None takes one away."""
    model = onnx.load(path)
    kept = {each.key: each.value for each in model.metadata_props}
    for name, value in notes.items():
        kept[f"elman.{name}"] = value if isinstance(value, str) else json.dumps(value)
    del model.metadata_props[:]
    for name, value in kept.items():
        if value != "null":
            model.metadata_props.add(key=name, value=value)
    onnx.save(model, to)
    return to


def numbers(text: str) -> tuple[str, list[float]]:
    """A text without its numbers, and these."""
    found = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
    return found.sub("#", text), [float(number) for number in found.findall(text)]


def same(made: SimpleNamespace, name: str, what: str, data: Path) -> str:
    """What a command says with the run, which is what it says with the file."""
    said = [command(what, of, data) for of in (getattr(made, name), exported(made, name))]
    assert [each.status for each in said] == [0, 0], said
    texts, values = zip(
        *(
            numbers(
                re.sub(
                    r"(?m)^(unigram|\S*-gram|baselines|word's|largest|constant|linear|nearest|copy).*\n", "", each.out
                )
            )
            for each in said
        ),
        strict=True,
    )
    assert texts[0] == texts[1]
    np.testing.assert_allclose(values[0], values[1], rtol=2e-4, atol=2e-4)
    return said[1].out


DATA = {
    "tag": "tagged.txt",
    "numbers": "numbers.jsonl",
    "texts": "texts.jsonl",
    "several": "several.jsonl",
    "regress": "valued.jsonl",
    "spoken": "spoken.jsonl",
    "translated": "turned.jsonl",
    "forecast": "series.csv",
}


@pytest.mark.parametrize("name", DATA)
def test_a_file_in_place_of_a_run(made: SimpleNamespace, name: str) -> None:
    data = made.directory / DATA[name]
    said = same(made, name, "evaluate", data)
    if name != "forecast":  # whose baselines need no training data
        assert "not known, because the model's file does not have the training data; evaluate its run" in said
    if name == "forecast":
        rows = data.read_text() + "".join(f"{t},{t % 4},,\n" for t in range(120, 126))
        data = made.directory / "ahead.csv"
        data.write_text(rows)
    same(made, name, "predict", data)


def test_a_file_of_a_table_reads_its_columns_by_name(made: SimpleNamespace, tmp_path: Path) -> None:
    notes = {name: json.loads(text) for name, text in notes_of(exported(made, "numbers")).items()}
    config, vocabulary = notes["elman.config"], notes["elman.vocabulary"]
    assert vocabulary["channels"] == []  # which come from JSON lines
    config["options"]["sequence"] = "id"
    path = rewritten(
        exported(made, "numbers"), tmp_path / "a.onnx", config=config, vocabulary=vocabulary | {"channels": ["v", "w"]}
    )
    (tmp_path / "a.csv").write_text("id,v,w\n1,0.5,-2\n1,1,0.3\n2,-1,0\n")
    (tmp_path / "b.csv").write_text("w,more,v,id\n-2,7,0.5,1\n0.3,8,1,1\n0,9,-1,2\n")
    (tmp_path / "c.csv").write_text("id,v,x\n1,0.5,-2\n")
    expected = command("predict", path, tmp_path / "a.csv").out
    assert expected.count("\n") == 3
    assert command("predict", path, tmp_path / "b.csv").out == expected
    assert f"{tmp_path / 'c.csv'} has no column 'w'" in refused("predict", path, tmp_path / "c.csv")


@pytest.mark.parametrize(("name", "options"), [("lm", ()), ("lm", ("--streaming",)), ("words", ()), ("pairs", ())])
def test_a_language_model_writes_the_same_text(made: SimpleNamespace, name: str, options: tuple[str, ...]) -> None:
    path = exported(made, name, *options)
    texts = []
    for of in (getattr(made, name), path):
        prompt = " of to" if name == "words" else "the of"
        outcome = command("sample", of, "--prompt", prompt, "--length", 60, "--seed", 3)
        assert outcome.status == 0, outcome.err
        texts.append(outcome.out)
    assert texts[0] == texts[1]
    assert len(texts[0]) > 60
    if not options:
        said = same(made, name, "evaluate", made.directory / "text.txt")
        assert "not known, because the model's file does not have the training data" in said


def test_what_a_file_says_of_itself(made: SimpleNamespace) -> None:
    path = exported(made, "lm")
    notes = notes_of(path)
    assert all(key.startswith("elman.") and value.isascii() for key, value in notes.items())
    assert json.loads(notes["elman.task"]) == "lm"
    assert json.loads(notes["elman.states"]) == [["h_0", "h_n"], ["c_0", "c_n"]]
    assert json.loads(notes["elman.vocabulary"])["symbols"]
    assert json.loads(notes_of(exported(made, "pairs"))["elman.tokenizer"])["model"]["type"] == "BPE"
    assert json.loads(notes_of(exported(made, "numbers"))["elman.vocabulary"])["classes"] == ["a", "b"]
    assert json.loads(notes_of(exported(made, "forecast"))["elman.scales"])["targets"] == ["y", "z"]
    content = path.read_bytes()
    assert str(made.directory).encode() not in content
    assert b"secrets" not in content
    opened = session(content)
    assert [each.name for each in opened.get_inputs()] == ["tokens"]
    assert [each.name for each in opened.get_overridable_initializers()] == ["h_0", "c_0"]
    assert opened.get_outputs()[0].shape[:2] == ["T", "B"]


def test_where_the_data_are_is_not_kept() -> None:
    config = {"seed": 1, "data": {"path": "/secret/a", "excerpt": "secret"}, "options": {"validation": "/secret/b"}}
    config["start"] = "/secret/run"
    kept = without_paths(config)
    assert "secret" not in json.dumps(kept)
    assert kept["seed"] == 1
    assert config["data"] == {"path": "/secret/a", "excerpt": "secret"}  # the run's own is left as it was


def test_one_step_after_another(made: SimpleNamespace) -> None:
    """The loop that a stranger writes, with ONNX Runtime alone."""
    path = exported(made, "lm", "--streaming")
    opened = session(path.read_bytes())
    assert not {"Scan", "Loop"} & {node.op_type for node in onnx.load(path).graph.node}
    assert [(each.name, each.shape) for each in opened.get_inputs()] == [
        ("tokens", ["B"]), ("h_0", [2, "B", 8]), ("c_0", [2, "B", 8]),
    ]  # fmt: skip
    pairs = json.loads(notes_of(path)["elman.states"])
    trained = language_model.load(made.lm)
    tokens = torch.from_numpy(trained.vocabulary.encode("that it is\n").copy()).long()
    with torch.no_grad():
        want, _ = trained.model(tokens[:, None])
    state = {before: np.zeros((2, 1, 8), np.float32) for before, _ in pairs}
    for token, row in zip(tokens.tolist(), want[:, 0], strict=True):
        logits, *states = opened.run(None, {"tokens": np.array([token])} | state)
        state = dict(zip(state, states, strict=True))
        torch.testing.assert_close(torch.from_numpy(logits[0]), row, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lm", "words", "pairs"])
def test_the_example_writes_the_same_text(
    made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """examples/stream.py, which knows nothing of elman."""
    prompt, script = " of to " if name == "words" else "the of", Path(__file__).parent.parent / "examples" / "stream.py"
    given = [str(exported(made, name, "--streaming")), "--prompt", prompt, "--length", "80"]
    monkeypatch.setattr(sys, "argv", ["stream.py", *given, "--temperature", "0"])
    runpy.run_path(str(script), run_name="__main__")
    want = command("sample", getattr(made, name), "--prompt", prompt, "--length", 80, "--temperature", 0, "--seed", 0)
    assert capsys.readouterr().out == want.out
    monkeypatch.setattr(sys, "argv", ["stream.py", *given])
    runpy.run_path(str(script), run_name="__main__")
    drawn = capsys.readouterr().out
    assert drawn.startswith(prompt.rstrip())
    assert drawn != want.out
    monkeypatch.setattr(sys, "argv", ["stream.py", str(exported(made, name))])
    with pytest.raises(SystemExit, match="is no language model of one step"):
        runpy.run_path(str(script), run_name="__main__")
    monkeypatch.setattr(sys, "argv", ["stream.py", str(script)])
    with pytest.raises(SystemExit, match=r"cannot open .*stream.py: .*; give a file that elman export wrote"):
        runpy.run_path(str(script), run_name="__main__")
    if name != "pairs":
        monkeypatch.setattr(sys, "argv", ["stream.py", *given, "--prompt", " of \N{SNOWMAN}"])
        with pytest.raises(SystemExit, match="which is not in the model's vocabulary; leave it out"):
            runpy.run_path(str(script), run_name="__main__")
        assert capsys.readouterr().out == ""


# Integers


@pytest.mark.parametrize(("name", "options"), [("words", ("--int8",)), ("lm", ("--streaming", "--int8"))])
def test_integers_are_told_with_their_losses(made: SimpleNamespace, name: str, options: tuple[str, ...]) -> None:
    path = made.directory / "integers.onnx"
    outcome = command("export", getattr(made, name), path, *options)
    assert outcome.status == 0, outcome.err
    found = re.search(r"validation  (\S+) nats per (\w+) in integers, (\S+) before: (\S+)", outcome.out)
    assert found, outcome.out
    run = language_model.load(getattr(made, name))
    corpus = run.corpus()
    for value, of in ((found[3], run), (found[1], language_model.load(ModelFile(path)))):
        score = language_model.evaluate(of.model, corpus.validation, corpus.validation_characters)
        assert float(value) == pytest.approx(score.nats, abs=6e-5)
    assert found[1] != found[3]  # the file was asked, and not the run twice
    assert abs(float(found[4])) < 0.1
    assert 1e-4 < float(re.findall(r"logits +error (\S+) of its size", outcome.out)[0]) < 0.1


@pytest.mark.parametrize(
    "make", [lambda: elman.LSTM(12, 20, 2), lambda: elman.GRU(12, 20, bidirectional=True)], ids=["lstm", "gru"]
)
def test_every_product_is_in_integers(tmp_path: Path, make: Any) -> None:
    torch.manual_seed(0)
    layer = make()
    path = elman.onnx.export(layer, tmp_path / "layer.onnx", int8=True).path
    model = onnx.load(path)
    matrices = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer if len(each.dims) > 1}
    weights = {name: array for name, array in matrices.items() if array.shape[-1] > 20}
    assert weights
    assert all(
        (np.abs(array).max(-2) == 63).all() for array in weights.values() if array.dtype == np.int8 and array.any()
    )
    assert all(array.size < 200 for array in weights.values() if array.dtype != np.int8)  # biases and scales
    operators = [node.op_type for node in exporting.ir.from_proto(model).graph.all_nodes()]
    assert not {"MatMul", "Gemm", "LSTM", "GRU"} & set(operators)
    assert ("DynamicQuantizeLSTM" in operators) == isinstance(layer, elman.LSTM)
    x, lengths = torch.randn(6, 3, 12), torch.tensor([6, 0, 2])
    with torch.no_grad():
        want = layer(x, lengths=lengths)[0]
    for past in (0.0, torch.nan, 1e6):  # what is past the ends has no part in the scale
        given = x.clone()
        for b, length in enumerate(lengths.tolist()):
            given[length:, b] = past
        (y,) = session(path.read_bytes()).run(["y"], {"x": given.numpy(), "lengths": lengths.numpy()})
        assert torch.allclose(torch.from_numpy(y), want, atol=0.03)
        assert (y[2:, 2] == 0).all()


def test_double_precision_has_no_integers(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"int8 is made of float32, but .* is float64; convert the model with .float\(\)"
    ):
        elman.onnx.export(elman.GRU(3, 4, dtype=torch.float64), tmp_path / "layer.onnx", int8=True)


# One step of layers


@pytest.mark.parametrize(("cell", "int8"), [(OWN[0], False), (OWN[1], True), (OWN[2], False)])
def test_one_step_of_a_cell_of_ones_own_needs_no_loop(tmp_path: Path, cell: elman.Cell, int8: bool) -> None:
    """One of two phases, one with a state that is no output, and one that reads no input."""
    dtype = torch.float32 if int8 else torch.float64
    layer = recurrent(cell, 5, 8, dtype=dtype, num_layers=2)
    path = elman.onnx.export(layer, tmp_path / "step.onnx", streaming=True, int8=int8).path
    assert not {"Scan", "Loop"} & {node.op_type for node in onnx.load(path).graph.node}
    x, states = torch.randn(3, 5, dtype=dtype), [torch.randn(2, 3, 8, dtype=dtype) for _ in cell.states]
    with torch.no_grad():
        y, h_n = layer.step(x, ports.as_state(states))
    feed = {f"{name}_0": state.numpy() for name, state in zip(cell.states, states, strict=True)} | {"x": x.numpy()}
    found = session(path.read_bytes()).run(None, feed)
    for mine, exact in zip(found, proof.flat([y, h_n]), strict=True):
        assert (torch.from_numpy(mine) - exact).norm() < (0.05 if int8 else 1e-12) * exact.norm()


# What is refused


def refused(*arguments: object) -> str:
    outcome = command(*arguments)
    assert outcome.status == 2, outcome
    assert outcome.err.count("\n") == 1, outcome.err
    return outcome.err


def test_one_step_begins_with_the_learned_state(tmp_path: Path) -> None:
    layer = recurrent(OWN[1], 3, 5, dtype=torch.float32, num_layers=2, batch_first=True, learn_initial_state=True)
    opened = session(elman.onnx.export(layer, tmp_path / "step.onnx", streaming=True).path)
    assert [each.name for each in opened.get_inputs()] == ["x"]
    x, states, found = torch.randn(2, 4, 3), {}, []
    for t in range(4):
        y, *after = opened.run(None, {"x": x[:, t].numpy()} | states)
        states = dict(zip(("h_0", "m_0"), after, strict=True))
        found.append(torch.from_numpy(y))
    with torch.no_grad():
        assert torch.allclose(torch.stack(found, 1), layer(x)[0], atol=1e-5)


def test_what_cannot_be_exported(made: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert "reads the end of a sequence first, so it cannot be streamed" in refused(
        "export", made.tag, path, "--streaming"
    )
    assert "forecasts from a whole past" in refused("export", made.forecast, path, "--streaming")
    assert "does not end in .onnx" in refused("export", made.lm, tmp_path / "model.pt")
    assert "does not exist" in refused("export", tmp_path / "none", path)
    assert "No such file or directory" in refused("export", made.lm, tmp_path / "none" / "a.onnx")
    with pytest.raises(InputError, match=r"is bidirectional: .* cannot be streamed"):
        elman.onnx.export(elman.GRU(2, 3, bidirectional=True), path, streaming=True)
    with pytest.raises(TypeError, match="is no elman layer, so streaming has no meaning"):
        elman.onnx.export(torch.nn.Linear(2, 3), path, (torch.zeros(1, 2),), streaming=True)
    with pytest.raises(InputError, match=r"ONNX Runtime cannot run it: .*Erf.*; convert the model to float32"):
        elman.onnx.export(recurrent(OWN[1], 2, 3, dtype=torch.float64), path, streaming=True)
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_models_of_runs(made: SimpleNamespace, tmp_path: Path) -> None:
    data, good = made.directory / "text.txt", exported(made, "lm")
    layer = elman.onnx.export(elman.GRU(2, 3), tmp_path / "layer.onnx").path
    assert "has no elman.config in its metadata, so it is no model of a run" in refused("evaluate", layer, data)
    assert "is not an ONNX file, or is damaged" in refused("evaluate", data, data)
    assert "--device cuda is not for" in refused("evaluate", good, data, "--device", "cuda")
    assert "is a file, but a run is a directory; give the directory of a run" in refused("explain", good)
    assert "is a file, but a run is a directory; give the directory of a run" in refused(
        "export", good, tmp_path / "again.onnx"
    )
    odd = rewritten(good, tmp_path / "odd.onnx", config={"task": "x"})
    assert "its task is 'x'" in refused("sample", odd)
    assert "this command knows lm, tag, classify, multilabel, regress, transcribe, translate, forecast" in refused(
        "evaluate", odd, data
    )


def damaged(made: SimpleNamespace) -> Iterator[tuple[str, dict[str, Any], str]]:
    vocabulary = json.loads(notes_of(exported(made, "lm"))["elman.vocabulary"])
    symbols = vocabulary["symbols"]
    yield "lm", {"vocabulary": vocabulary | {"symbols": symbols + "é"}}, "cannot be run|its logits has .* columns"
    yield "lm", {"vocabulary": vocabulary | {"symbols": symbols[:-1]}}, "its logits has .* columns"
    yield "lm", {"vocabulary": vocabulary | {"symbols": ""}}, "vocabulary in .* is damaged"
    yield "lm", {"vocabulary": None}, "has no elman.vocabulary in its metadata"
    yield "lm", {"vocabulary": "{"}, "is damaged"
    yield "lm", {"vocabulary": "[" * 100_000}, "is damaged"
    yield "lm", {"vocabulary": [1]}, "holds a list instead of an object"
    yield "lm", {"config": {"task": "lm"}}, "config in .* is damaged"
    yield "lm", {"streaming": True}, "cannot be run|does not fit"
    config = json.loads(notes_of(exported(made, "lm"))["elman.config"])
    yield "lm", {"config": config | {"options": config["options"] | {"num_layers": 3}}}, "cannot be run"
    yield (
        "lm",
        {"config": config | {"options": config["options"] | {"cell": "gru"}}},
        "its inputs are tokens, h_0, c_0, but",
    )
    for sizes in ({"hidden_size": 10**9}, {"embedding_size": 10**12}, {"num_layers": 10**7}):
        yield (
            "lm",
            {"config": config | {"options": config["options"] | sizes}},
            f"{next(iter(sizes))} is .*, but the file has",
        )
    del config["data"]["path"]
    yield "lm", {"config": config}, "data.path is missing"
    tags = json.loads(notes_of(exported(made, "tag"))["elman.vocabulary"])
    yield "tag", {"vocabulary": tags | {"tags": ["DET"]}}, "its logits has 2 columns, but .* 1"
    yield "tag", {"vocabulary": tags | {"characters": tags["characters"] + "ß"}}, "cannot be run"


def test_metadata_that_do_not_fit(made: SimpleNamespace, tmp_path: Path) -> None:
    for name, notes, said in damaged(made):
        path = rewritten(exported(made, name), tmp_path / "damaged.onnx", **notes)
        data = made.directory / ("text.txt" if name == "lm" else DATA[name])
        assert re.search(said, refused("evaluate", path, data)), notes


def test_a_model_that_is_too_large_for_one_file(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are in a second file. Here, a file is full with 1,000 bytes."""
    text = tmp_path / "text.txt"
    text.write_text(prose(300))
    alone = command("evaluate", exported(made, "pairs"), text).out
    assert alone
    monkeypatch.setattr(exporting, "LARGEST", 1000)
    monkeypatch.setattr(exporting, "SMALLEST", 100)
    path, data = tmp_path / "model.onnx", tmp_path / "model.onnx.data"
    with monkeypatch.context() as patch:
        patch.setattr(proof, "TIMES", -1.0)
        patch.setattr(proof, "ROUNDINGS", 0)
        assert "was not written" in refused("export", made.pairs, path)
    assert list(tmp_path.iterdir()) == [text]
    done = command("export", made.pairs, path)
    assert f"{path}, {path.stat().st_size:,} bytes and {data}, {data.stat().st_size:,} bytes" in done.err
    assert command("evaluate", path, text).out == alone

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:  # the new weights are there, and the new model is not
        patch.setattr(exporting, "write_atomically", full)
        assert f"cannot write {path}.2.data: No space left on device" in refused("export", made.pairs, path)
    assert sorted(tmp_path.iterdir()) == [path, data, text]
    assert command("evaluate", path, text).out == alone
    for now, before in ((f"{path.name}.2.data", data.name), (data.name, f"{path.name}.2.data")):
        command("export", made.pairs, path)
        assert (path.with_name(now).exists(), path.with_name(before).exists()) == (True, False)
        assert command("evaluate", path, text).out == alone
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "LARGEST", 1 << 30)
        command("export", made.pairs, path)
        assert sorted(tmp_path.iterdir()) == [path, text]
        data.write_text("of somebody else")
        command("export", made.pairs, path)
        assert data.read_text() == "of somebody else"
    command("export", made.pairs, path)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path, beside = path.rename(elsewhere / "other.onnx"), elsewhere / data.name
    assert f"{path} has external data in 'model.onnx.data', which cannot be read: No such file" in refused(
        "evaluate", path, text
    )
    beside.symlink_to(data)
    assert "which cannot be read: is a link" in refused("evaluate", path, text)
    data.replace(beside)
    assert command("evaluate", path, text).out == alone
    beside.write_bytes(beside.read_bytes()[:-1000])
    assert "cannot be opened in ONNX Runtime" in refused("evaluate", path, text)
    model = onnx.load(path, load_external_data=False)
    for entry in (entry for each in model.graph.initializer[1:] for entry in each.external_data):
        entry.value = "another" if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    assert "weights in 2 other files, but `elman export` makes one at most" in refused("evaluate", path, text)


def test_damaged_bytes(made: SimpleNamespace, tmp_path: Path) -> None:
    """A thousand such files were tried once. Here are a few of them, among them one whose key is no text."""
    (tmp_path / "text.txt").write_text(prose(300))
    path, good, ends = tmp_path / "damaged.onnx", exported(made, "lm").read_bytes(), set[int]()
    for seed in range(40):
        draw, content = random.Random(seed), bytearray(good)
        for _ in range(draw.choice((1, 2, 5))):
            at = draw.randrange(len(content) * 3 // 4, len(content))  # where the metadata are
            content[at] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        outcome = command("evaluate", path, tmp_path / "text.txt")
        assert outcome.status in (0, 2), outcome
        assert outcome.err.count("\n") == outcome.status // 2, outcome.err
        ends.add(outcome.status)
    assert ends == {0, 2}
    key = good.index(b"elman.states")
    path.write_bytes(good[:key] + b"\xff" + good[key + 1 :])
    assert command("evaluate", path, tmp_path / "text.txt").status in (0, 2)


def test_a_full_disk_keeps_the_old_file(made: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        assert "what was there before is intact" in refused("export", made.lm, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_wrong_file_of_a_run_does_not_appear(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong:
        def __init__(self, content: bytes) -> None:
            self.opened = session(content)

        def run(self, names: Any, feed: Any) -> Any:
            return [value + np.float32(1e-4) * np.abs(value).max() for value in self.opened.run(names, feed)]

    monkeypatch.setattr(proof, "session", Wrong)
    assert "the error of logits in ONNX Runtime is" in refused("export", made.words, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    assert Run(made.words).exists
