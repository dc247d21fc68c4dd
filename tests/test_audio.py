"""Recordings: how they are read and heard, and that every command takes them in place of numbers."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import polars as pl
import pytest
import soundfile
import torch
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from numpy.typing import NDArray

import elman as package
from browser import Opened, settled
from elman import charts, spectrum
from elman.datasets import audio
from elman.datasets.audio import Hearing, heard
from elman.datasets.reading import BadRows
from elman.datasets.sequences import Columns, sequences
from elman.errors import InputError
from elman.explain import directions
from elman.spectrum import Spectrum
from elman.tasks import classification, transcription
from elman.tasks.options import ClassificationOptions
from elman.tasks.sequence_model import Ear
from elman.training.loop import MODEL
from elman.training.run import Run
from tiny_runs import elman, lines, scores_of

pytestmark = pytest.mark.usefixtures("no_pictures")

HEARING = Hearing("audio", 8000, 12, 10)
SMALL = ("--hidden-size", 6, "--batch-size", 8, "--sample-rate", 8000, "--bands", 12, "--cell", "gru")
PITCHES = {"high": 2500, "low": 400}  # hertz


def tone(pitch: float, rate: int = 8000, seconds: float = 0.2) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate)


def clips(folder: Path, each: int = 10, seed: int = 0) -> Path:
    """Tones of two pitches in folders that are called so, and two tables of them."""
    draw, rows = np.random.default_rng(seed), list[dict[str, Any]]()
    for k in range(2 * each):
        name = sorted(PITCHES)[k % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        samples = tone(PITCHES[name] * draw.uniform(0.9, 1.1), seconds=draw.uniform(0.1, 0.3))
        soundfile.write(folder / name / f"{k:02}.wav", samples + 0.05 * draw.normal(size=len(samples)), 8000)
        rows.append(
            {"audio": f"{name}/{k:02}.wav", "label": name, "said": name[:2], "pitch": PITCHES[name], "who": k // 4}
        )
    pl.DataFrame(rows).write_csv(folder / "clips.csv")
    (folder / "clips.jsonl").write_text(lines(*map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    d = tmp_path_factory.mktemp("audio")
    folder = clips(d / "clips")
    assert elman("train", "classify", folder, "--run", d / "run", "--epochs", 8, *SMALL).status == 0
    return SimpleNamespace(directory=d, folder=folder, run=d / "run", table=folder / "clips.csv")


# What is heard


def by_fft(samples: NDArray[Any], rate: int, bands: int, hop: float) -> NDArray[Any]:
    """The equation, step by step in float64, with numpy's Fourier transform."""
    step = round(rate * hop / 1000)
    width = round(2.5 * step)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 1400), bands + 2) / 2595) - 1)
    size = 1
    while True:
        size *= 2
        frequencies = np.fft.rfftfreq(size, 1 / rate)
        corners = [edges[b : b + 3] for b in range(bands)]
        triangles = np.stack([np.interp(frequencies, three, [0, 1, 0]) for three in corners])
        if size >= width and triangles.any(1).all():
            break
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
    before = (width - step) // 2
    padded, found = np.pad(samples, (before, 2 * width)), []
    for begin in range(0, len(samples), step):
        power = np.abs(np.fft.rfft(padded[begin : begin + width] * window, size)) ** 2 / (window**2).sum()
        found.append(np.log(1e-8 + triangles @ power / triangles.sum(1)))
    return np.array(found)


@pytest.mark.parametrize(
    ("rate", "bands", "hop"), [(16000, 40, 10), (8000, 80, 10), (11025, 7, 12.5), (1000, 1, 1), (4000, 16, 4)]
)
def test_it_is_the_equation(rate: int, bands: int, hop: float):
    draw = np.random.default_rng(0)
    for count in (1, round(rate * hop / 1000), round(rate * hop / 1000) + 1, rate // 4 + 3):
        samples = draw.normal(size=(count, 2)) * [0.3, 1e-5]
        samples[: count // 3] = 0  # silence
        own = Spectrum(rate, bands, hop)
        found = own(torch.from_numpy(samples).float()).double().numpy()
        for b in range(2):
            true = by_fft(samples[:, b], rate, bands, hop)
            np.testing.assert_allclose(found[:, b], true, rtol=0, atol=1e-3)
            alone = own.of(torch.from_numpy(samples[:, b]).float())
            np.testing.assert_allclose(alone.numpy(), true, rtol=0, atol=1e-3)


def test_a_long_recording_is_heard_in_parts(monkeypatch: pytest.MonkeyPatch):
    own, samples = Spectrum(8000, 12, 10), torch.randn(8000)
    whole = own.of(samples)
    monkeypatch.setattr(spectrum, "AT_ONCE", 7)
    assert torch.equal(own.of(samples), whole) or (own.of(samples) - whole).abs().max() < 1e-4


def test_a_tone_is_loudest_in_its_band():
    names = HEARING.names
    assert len(names) == 12
    for band, name in enumerate(names):
        steps, *_ = heard(tone(float(name.removesuffix(" Hz"))).tolist(), HEARING, Path())
        assert (steps[2:-2].argmax(1) == band).all(), name


def test_an_ear_hears_no_further_than_a_recording_lasts():
    own = Spectrum(8000, 12, 10)
    ear = Ear(own, [0.5] * 12, [2.0] * 12)
    x = torch.randn(9, 3, 80)
    lengths = torch.tensor([9, 4, 1])
    for b, length in enumerate(lengths.tolist()):
        x[length:, b] = torch.nan
    found = ear(x, lengths)
    for b, length in enumerate(lengths.tolist()):
        alone = own.of(x[:length, b].flatten())
        torch.testing.assert_close(found[:length, b], (alone - 0.5) / 2, rtol=0, atol=1e-4)


# Files


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3", "raw"])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_any_file_and_rate_is_heard_alike(tmp_path: Path, ending: str, rate: int):
    true, *_ = heard(tone(1000, seconds=0.5).tolist(), HEARING, tmp_path)
    both = np.stack([tone(1000, rate, 0.5) * 1.5, tone(1000, rate, 0.5) * 0.5], 1)  # whose mean is the tone
    written = "aiff" if ending == "raw" else ending  # what it is called does not matter
    soundfile.write(
        tmp_path / f"tone.{ending}", both, rate, format=written, subtype="PCM_16" if written == "aiff" else None
    )
    found, *_ = heard(f"tone.{ending}", HEARING, tmp_path)
    assert abs(len(found) - len(true)) <= 10  # MP3 adds some silence
    loudest = true[10].argmax()
    assert (found[8:40].argmax(1) == loudest).all()
    assert np.abs(found[8:40, loudest] - true[10, loudest]).max() < 0.2


def test_blocks_of_a_long_file_are_one_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    draw = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", 0.1 * draw.normal(size=5000), 11025)
    whole, *_ = heard("a.wav", HEARING, tmp_path)
    monkeypatch.setattr(audio, "BLOCK", 700)
    parts, *_ = heard("a.wav", HEARING, tmp_path)
    assert len(whole) == len(parts) == -(-round(5000 * 8000 / 11025) // 80)
    np.testing.assert_allclose(whole, parts, atol=0.05)


def test_paths_begin_at_the_table_or_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "there").mkdir()
    soundfile.write(tmp_path / "there/a.wav", tone(400), 8000)
    soundfile.write(tmp_path / "a.wav", tone(2500), 8000)
    monkeypatch.chdir(tmp_path)
    low, high = (heard(tone(pitch).tolist(), HEARING, tmp_path)[0] for pitch in (400, 2500))
    for given, folder, true in (
        ("a.wav", tmp_path / "there", low),
        ("a.wav", tmp_path, high),
        ("there/a.wav", tmp_path / "there", low),
        (str(tmp_path / "a.wav"), tmp_path / "there", high),
    ):
        found, *_ = heard(given, HEARING, folder)
        assert (found[5].argmax() == true[5].argmax()).all()


def test_a_recording_that_is_none_is_named(tmp_path: Path):
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "short.wav").write_bytes(b"")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan, 0.2]), 8000, subtype="FLOAT")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "a.raw").write_bytes(bytes(99))
    soundfile.write(tmp_path / "slow.wav", tone(3), 8)
    for given, problem in (
        ("none.wav", "there is no such file"),
        ("text.wav", "cannot be read as audio"),
        ("short.wav", "cannot be read as audio"),
        ("folder.wav", "cannot be read as audio"),
        ("empty.wav", "has no samples"),
        ("slow.wav", "it has 8 samples a second"),
        ("a.raw", "cannot be read as audio"),
        (".", "cannot be read as audio"),
        ("x" * 999, "cannot be read as audio"),
        ("nan.wav", "no finite number, nan, at 2"),
        ("", "should be the path"),
        (7, "should be the path"),
        ([], "has no samples"),
        ([[0.1, 0.2]], "a list of numbers"),
        (["1", "2"], "a list of numbers"),
        ([True], "a list of numbers"),
        ([1, [2]], "a list of numbers"),
        ([0.1, -1e60], "1e.60, at 2, but 1 is full scale"),
        ([0.1, 3000], "3000.0, at 2, but 1 is full scale"),
    ):
        with pytest.raises(ValueError, match=problem):
            heard(given, HEARING, tmp_path)


def test_telephone_calls_are_heard(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", tone(1000), 8000, subtype="GSM610")  # which has no number of samples
    found, *_ = heard("a.wav", HEARING, tmp_path)
    true, *_ = heard(tone(1000).tolist(), HEARING, tmp_path)
    assert (found[2:18].argmax(1) == true[5].argmax()).all()


def test_a_folder_is_read_as_a_whole(tmp_path: Path):
    folder = clips(tmp_path / "clips", each=1)
    (folder / "low/01.wav").rename(folder / "low/01.WAV")  # an ending in capitals
    (folder / "high/._00.wav").write_bytes(b"what other systems leave")
    (folder / ".cache").mkdir()
    shutil.copy(folder / "high/00.wav", folder / ".cache/00.wav")
    (folder / "linked").symlink_to(clips(tmp_path / "others", each=1) / "low")
    (folder / "low/round").symlink_to(folder)
    columns = Columns("label", audio=HEARING)
    found = [(each.name, each.label) for each in sequences(folder, columns)]
    assert found == [("high/00.wav", "high"), ("linked/01.wav", "linked"), ("low/01.WAV", "low")]
    (folder / "low/gone.wav").symlink_to(tmp_path / "nowhere")
    (folder / "low/speech.m4a").write_bytes(b"no library here reads it")
    bad = BadRows(skip=True)
    assert len(list(sequences(folder, columns, bad=bad))) == 3
    assert bad.count == 2


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, scandir = clips(tmp_path / "clips", each=1), os.scandir

    def scan(place: Any) -> Any:
        if str(place).endswith("low"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(InputError, match="low: Permission denied"):
        list(sequences(folder, Columns("label", audio=HEARING)))


def test_samples_in_lists_are_noticed_when_they_change(tmp_path: Path):
    samples = tone(400)
    digests = {heard((factor * samples).tolist(), HEARING, tmp_path)[1] for factor in (1, 0.5)}
    assert len(digests) == 2


def test_rows_of_tables_and_of_json_lines(tmp_path: Path):
    folder = clips(tmp_path, each=2)
    columns = Columns("label", audio=HEARING)
    read = {name: list(sequences(folder / name, columns)) for name in ("clips.csv", "clips.jsonl")}
    of_folder = list(sequences(folder, columns))
    for every in read.values():
        assert [each.label for each in every] == ["high", "low"] * 2
        assert [each.name for each in every] == ["high/00.wav", "low/01.wav", "high/02.wav", "low/03.wav"]
        assert all(each.channels == HEARING.names and len(each.digest) == 32 for each in every)
    assert [each.name for each in of_folder] == ["high/00.wav", "high/02.wav", "low/01.wav", "low/03.wav"]
    assert [each.label for each in of_folder] == ["high", "high", "low", "low"]
    for a, b, c in zip(*read.values(), [of_folder[k] for k in (0, 2, 1, 3)], strict=True):
        assert a.digest == b.digest == c.digest
        np.testing.assert_array_equal(a.content, b.content)
        np.testing.assert_array_equal(a.content, c.content)
    (one,) = sequences(folder / "low/01.wav", columns, labelled=False)
    assert one.name == "01.wav"
    assert one.label is None
    np.testing.assert_array_equal(one.content, of_folder[2].content)


def test_bad_rows_are_named_and_may_be_skipped(tmp_path: Path):
    folder = clips(tmp_path / "clips", each=2)
    (folder / "low/01.wav").write_text("no audio")
    columns = Columns("label", audio=HEARING)
    for file, where in (
        (folder / "clips.csv", "line 3"),
        (folder / "clips.jsonl", "line 2"),
        (folder, "low/01.wav: the recording"),
    ):
        with pytest.raises(InputError, match=f"{where}.*low/01.wav', which cannot be read as audio"):
            list(sequences(file, columns))
        bad = BadRows(skip=True)
        assert len(list(sequences(file, columns, bad=bad))) == 3
        assert bad.count == 1


def test_a_folder_that_says_nothing_is_refused(tmp_path: Path):
    columns = Columns("label", audio=HEARING)
    with pytest.raises(InputError, match="a folder without a recording"):
        list(sequences(tmp_path, columns))
    soundfile.write(tmp_path / "a.wav", tone(400), 8000)
    with pytest.raises(InputError, match="lies in no folder whose name is its label"):
        list(sequences(tmp_path, columns))
    with pytest.raises(InputError, match="so --group selects nothing"):
        list(sequences(tmp_path, columns._replace(group="who"), labelled=False))
    for file, own in ((tmp_path / "clips", Columns("label")), (tmp_path / "none.wav", columns)):
        with pytest.raises(InputError, match="there is no such file or folder"):
            list(sequences(file, own))
    with pytest.raises(InputError, match="but texts are read"):
        list(sequences(tmp_path / "a.wav", Columns("label", text="text")))
    clips(tmp_path / "clips", each=1)
    with pytest.raises(InputError, match="should be a finite number"):
        list(sequences(tmp_path / "clips", columns._replace(numeric=True)))


# Commands


def test_a_folder_of_clips_is_learned(trained: SimpleNamespace):
    d = trained.directory
    found = elman("evaluate", trained.run, trained.folder)
    assert "accuracy             1.0000" in found.out
    assert "linear" in found.out
    for file in (trained.table, trained.folder / "clips.jsonl"):
        assert scores_of(elman("evaluate", trained.run, file).out) == scores_of(found.out)
    for name in PITCHES:
        clip = next((trained.folder / name).iterdir())
        said = elman("predict", trained.run, clip)
        assert said.out.splitlines()[1].startswith(f"{clip.name},{name},")
    assert elman("predict", trained.run, trained.folder, "--output", d / "said.csv").status == 0
    rows = pl.read_csv(d / "said.csv")
    assert rows["sequence"].str.split("/").list.first().to_list() == rows["class"].to_list()


def test_a_run_goes_on_and_notices_other_recordings(tmp_path: Path):
    folder, run = clips(tmp_path / "clips"), tmp_path / "run"
    assert elman("train", "classify", folder, "--run", run, "--epochs", 1, *SMALL).status == 0
    told = elman("train", "classify", "--resume", run, "--epochs", 2)
    assert told.status == 0, told.err
    assert "baseline" in elman("evaluate", run, folder).out
    before, _ = soundfile.read(folder / "low/01.wav")
    soundfile.write(folder / "low/01.wav", before[::-1], 8000)
    assert "not known, because" in elman("evaluate", run, folder).out
    told = elman("train", "classify", "--resume", run, "--epochs", 3)
    assert told.status == 2
    assert "was begun with other sequences" in told.err
    shutil.rmtree(folder)
    told = elman("train", "classify", "--resume", run, "--epochs", 3)
    assert told.status == 2
    assert "put the file back there" in told.err


def test_other_tasks_hear_too(tmp_path: Path):
    folder = clips(tmp_path / "clips")
    for task, label in (("regress", "pitch"), ("transcribe", "said"), ("translate", "said"), ("multilabel", "label")):
        run = tmp_path / task
        given = ("--audio", "audio", "--label", label, "--run", run, "--epochs", 1)
        told = elman("train", task, folder / "clips.csv", *given, *SMALL)
        assert told.status == 0, told.err
        assert elman("evaluate", run, folder / "clips.jsonl").status == 0
        said = elman("predict", run, folder / "low/01.wav")
        assert said.out.splitlines()[1].startswith("01.wav,")


def test_who_is_heard_is_held_out_and_another_file_is_judged_by(tmp_path: Path):
    folder, small = clips(tmp_path / "clips"), (*SMALL, "--epochs", 1, "--hop", 20)
    given = ("--audio", "audio", "--group", "who", "--label", "pitch", "--run", tmp_path / "grouped")
    told = elman("train", "regress", folder / "clips.csv", *given, *small)
    assert told.status == 0, told.err
    assert "1 of 5 values of 'who'" in told.err
    others = clips(tmp_path / "others", each=3, seed=1)
    (others / "low/01.wav").write_text("no audio")
    given = ("--validation", others / "clips.jsonl", "--run", tmp_path / "run", "--skip-bad")
    told = elman("train", "multilabel", folder, *given, *small)
    assert told.status == 0, told.err
    counts = re.search(r"20 for training, 5 for validation; (\d+) to (\d+) steps", told.err)
    assert counts is not None, told.err
    assert 5 <= int(counts[1]) < int(counts[2]) <= 15  # of 20 milliseconds
    told = elman("export", tmp_path / "run", tmp_path / "model.onnx", "--int8")
    assert "nats per class in integers" in told.out
    (tmp_path / "numbers.jsonl").write_text(lines(*(json.dumps({"values": [k], "label": "a"}) for k in range(8))))
    told = elman("train", "classify", tmp_path / "numbers.jsonl", "--validation", others, "--run", tmp_path / "other")
    assert "is a folder, but numbers are read" in told.err


def test_onnx_file_hears_samples(trained: SimpleNamespace, tmp_path: Path):
    file, small = tmp_path / "model.onnx", tmp_path / "small.onnx"
    assert elman("export", trained.run, file).status == 0
    of_run, of_file = (elman("evaluate", each, trained.folder).out for each in (trained.run, file))
    assert scores_of(of_run).split("baseline")[0].splitlines()[:4] == scores_of(of_file).splitlines()[:4]
    told = elman("export", trained.run, small, "--int8")
    assert told.status == 0
    assert "validation" in told.out
    assert "cannot be read" not in told.out
    opened = onnxruntime.InferenceSession(file)
    x, vocabulary = opened.get_inputs()[0], json.loads(opened.get_modelmeta().custom_metadata_map["elman.vocabulary"])
    assert x.shape == ["T", "B", 80]
    assert vocabulary["samples"] == 80
    clip = next((trained.folder / "low").iterdir())
    samples = soundfile.read(clip, dtype="float32")[0]
    samples = np.pad(samples, (0, -len(samples) % 80)).reshape(-1, 1, 80)
    found = np.asarray(opened.run(["logits"], {"x": samples})[0])[0]
    chances = np.exp(found - found.max()) / np.exp(found - found.max()).sum()
    said = elman("predict", trained.run, clip).out.splitlines()[1].split(",")
    np.testing.assert_allclose(chances, [float(p) for p in said[2:]], atol=1e-4)
    assert vocabulary["classes"][found.argmax()] == said[1] == "low"


@pytest.fixture(scope="module")
def live(trained: SimpleNamespace) -> SimpleNamespace:
    """A transcriber of random weights that reads forward only, and its file of one step."""
    run, file = trained.directory / "live", trained.directory / "live.onnx"
    given = ("--audio", "audio", "--label", "said", "--run", run, "--epochs", 1)
    assert elman("train", "transcribe", trained.table, *given, *SMALL, "--causal").status == 0
    torch.manual_seed(1)
    like = transcription.load(run).model.state_dict()
    Run(run).save_tensors(MODEL, {name: torch.randn_like(value) for name, value in like.items()}, {"step": 0})
    assert elman("export", run, file, "--streaming").status == 0
    return SimpleNamespace(run=run, file=file)


def test_onnx_file_of_one_step_hears_what_is_around_it(trained: SimpleNamespace, live: SimpleNamespace, tmp_path: Path):
    assert elman("export", live.run, tmp_path / "whole.onnx").status == 0
    scores = [elman("evaluate", each, trained.table).out for each in (live.run, live.file, tmp_path / "whole.onnx")]
    assert scores[0].splitlines()[:4] == scores[1].splitlines()[:4] == scores[2].splitlines()[:4]
    whole_file = onnxruntime.InferenceSession(tmp_path / "whole.onnx")
    left_out = [each.name for each in whole_file.get_overridable_initializers()]
    assert left_out == ["lengths"]  # and no states: what is around a step is in one call
    model = transcription.load(live.run)
    clip = next((trained.folder / "low").iterdir())
    samples, _ = soundfile.read(clip, dtype="float32")
    ((_, log_p, _),) = model.logits(*whole(model, clip))
    opened = onnxruntime.InferenceSession(live.file)
    x, h = opened.get_inputs()
    assert x.shape == ["B", 200]  # 2.5 steps of 80
    state, padded = np.zeros((1, 1, 6), np.float32), np.pad(samples, (60, 200))
    for step in range(-(-len(samples) // 80)):
        logits, state = opened.run(None, {"x": padded[None, 80 * step : 80 * step + 200], h.name: state})
        said = torch.from_numpy(np.asarray(logits)).log_softmax(-1)
        torch.testing.assert_close(said[0], log_p[step, 0], rtol=0, atol=1e-4)


def test_the_example_of_onnx_writes_down_what_arrives(
    trained: SimpleNamespace, live: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    module = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "listen.py"))
    monkeypatch.setattr(sys, "argv", ["listen.py", str(live.file)])
    said = dict[str, str]()
    for name in PITCHES:
        clip = next((trained.folder / name).iterdir())
        said[name] = elman("predict", live.run, clip).out.splitlines()[1].split(",")[1]
        samples, _ = soundfile.read(clip, dtype="int16")
        for content in (clip.read_bytes(), samples.tobytes()):
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Slow(content)))
            capsys.readouterr()
            module["main"]()
            assert capsys.readouterr().out.strip() == said[name]
    assert said["high"] != said["low"]
    plain = next((trained.folder / "low").iterdir()).read_bytes()
    odd = (b"ICMT", b"some data ")
    for before in (
        b"LIST" + (267).to_bytes(4, "little") + bytes(268),
        b"LIST" + (14).to_bytes(4, "little") + b"".join(odd),
    ):
        behind = b"LIST" + len(plain).to_bytes(4, "little") + plain
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Slow(plain[:36] + before + plain[36:] + behind)))
        capsys.readouterr()
        module["main"]()
        assert capsys.readouterr().out.strip() == said["low"]
    both = io.BytesIO()
    soundfile.write(both, np.zeros((99, 2)), 8000, format="WAV")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Slow(both.getvalue())))
    with pytest.raises(SystemExit, match="2 channels of 16 bits at 8000"):
        module["main"]()


class Slow(io.BytesIO):
    """What arrives in odd pieces, as through a pipe."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 1, 37))


def whole(model: Any, clip: Path) -> tuple[Any, NDArray[np.int64]]:
    """A recording as a model reads it, and its place."""
    (encoded,) = model.read_groups(clip, BadRows())
    return encoded, np.arange(1)


def test_a_page_shows_bands(trained: SimpleNamespace):
    content = directions.classifier(trained.run, None, None)
    assert content.data["audio"] == 0.01  # seconds of a step
    assert content.data["channels"] == list(HEARING.names)


@pytest.mark.parametrize("task", ["classify", "transcribe", "translate"])
def test_pages_draw_what_is_heard(
    trained: SimpleNamespace, tmp_path: Path, task: str, open_page: Callable[..., Opened]
):
    run = trained.run
    if task != "classify":
        run = tmp_path / "run"
        given = ("--audio", "audio", "--label", "said", "--run", run, "--epochs", 1)
        assert elman("train", task, trained.table, *given, *SMALL).status == 0
    assert elman("explain", run, "--output", tmp_path / "page.html").status == 0
    for scheme in ("light", "dark"):
        shown = open_page(tmp_path / "page.html", locale="en-US", color_scheme=scheme)
        settled(shown.page)
        assert not shown.errors
        assert shown.page.locator("svg image").count() == 1
        assert HEARING.names[0] in (shown.page.locator("svg:has(image)").text_content() or "")


def test_pictures_show_bands(trained: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).normal(size=(9, 12))
    values[3, 4] = 40
    none = np.array([], np.int64)
    for figure in (
        charts.spoken_steps(values, np.zeros((9, 2)), ["a", "b"], none, none, "ab", 0.01),
        charts.attention(values, None, np.zeros((2, 9)), ["a", "end"], "a", 0.01),
    ):
        (mesh,) = figure.axes[0].collections
        assert isinstance(mesh, QuadMesh)
        np.testing.assert_array_equal(np.asarray(mesh.get_array()).reshape(12, 9), values.T)
        assert mesh.get_clim() == (28, 40)
    given, drawn = ("--audio", "audio", "--label", "said", "--epochs", 1), list[float | None]()
    for task, name in (("transcribe", "spoken_steps"), ("translate", "attention")):
        monkeypatch.setattr(charts, name, lambda *given: (drawn.append(given[-1]), Figure())[1])
        assert elman("train", task, trained.table, *given, "--run", tmp_path / task, *SMALL).status == 0
    assert drawn == [0.01, 0.01]


def test_from_python(tmp_path: Path):
    rows = [{"audio": tone(PITCHES[name] + 9 * k), "label": name} for k in range(10) for name in PITCHES]
    given: Any = {"sample_rate": 8000, "bands": 12, "hidden_size": 6, "batch_size": 4}
    model = package.train("classify", rows, tmp_path / "run", audio="audio", epochs=10, **given)
    assert [row["class"] for row in model.predict([{"audio": tone(2500)}, {"audio": tone(400)}])] == ["high", "low"]


def test_paths_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = clips(tmp_path / "clips", each=4)
    monkeypatch.chdir(tmp_path)
    files = sorted(folder.glob("*/*.wav"))
    given: Any = {"audio": "clip", "label": "kind", "sample_rate": 8000, "bands": 12, "hidden_size": 6, "epochs": 1}
    rows = [{"clip": file.relative_to(tmp_path), "kind": file.parent.name} for file in files]
    model = package.train("classify", rows, tmp_path / "rows", **given)
    frame = pd.DataFrame(rows)
    of_frame = package.train("classify", frame, tmp_path / "frame", **given)
    said = [[row["class"] for row in each.predict(rows)] for each in (model, of_frame)]
    assert said[0] == said[1]
    monkeypatch.chdir("/")
    assert elman("train", "classify", "--resume", tmp_path / "rows", "--epochs", 2).status == 0


def test_bands_are_hidden_in_training_alone(trained: SimpleNamespace):
    torch.manual_seed(0)
    x = torch.ones(3, 4000, 12)
    spectrum.hide_bands(x, 1)
    assert (x == x[0]).all()  # at all steps the same
    hidden = (x[0] == 0).int()  # (4000, 12)
    begins = hidden.diff(dim=1, prepend=torch.zeros(4000, 1).int()) == 1
    assert set(begins.sum(1).tolist()) == {0, 1}  # in a row
    share = torch.bincount(hidden.sum(1), minlength=3) / 4000
    torch.testing.assert_close(share, torch.full((3,), 1 / 3), atol=0.03, rtol=0)  # none, one or two of twelve
    first = torch.bincount(begins[hidden.sum(1) == 2].int().argmax(1)) / (hidden.sum(1) == 2).sum()
    torch.testing.assert_close(first, torch.full((11,), 1 / 11), atol=0.03, rtol=0)  # from anywhere on
    spectrum.hide_bands(x := torch.ones(1, 4000, 12), 3)
    assert int((x == 0).sum(-1).max()) == 6

    options = ClassificationOptions(
        audio="audio", sample_rate=8000, bands=12, hidden_size=4, epochs=1, noise=0, masks=4
    )
    task = classification.begin(trained.table, options, "cpu", BadRows())
    pieces = task.pieces.take(np.arange(8))
    given, whole = task.noisy(pieces)[0], task.encoded.batch(pieces)[0]
    masked = (given == 0) & (whole != 0)
    assert masked.any()
    assert not masked.all(-1).any()
    assert torch.equal(given[~masked], whole[~masked])
    assert torch.equal(task.encoded.batch(pieces)[0], whole)  # which is not changed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"masks": 1, "bands": 4},
            "--masks hides up to a fifth of the bands, and --bands 4 are too few; give at least 5",
        ),
        ({"text": "text"}, "whole files of audio are heard, so --text cannot be given"),
        ({"sequence": "id"}, "so --sequence cannot be given"),
        ({"columns": "x"}, "so --columns cannot be given"),
        ({"bands": 161}, "use at most 160"),
        ({"hop": 200.0}, "steps of 3200 samples"),
        ({"sample_rate": 192000, "bands": 1000}, "use at most 346"),
        ({"label": "audio"}, "both name the column 'audio'"),
    ],
)
def test_options_that_do_not_fit_are_refused(given: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        ClassificationOptions(audio="audio", epochs=1, **given).check()


def test_options_of_no_use_are_refused(tmp_path: Path):
    folder, table = clips(tmp_path / "clips", each=1), tmp_path / "a.csv"
    own = ClassificationOptions()
    assert {"sample_rate", "bands", "hop", "masks"} <= own.useless(table).keys()
    assert not {"sample_rate", "bands", "hop", "masks"} & own.useless(folder).keys()
    assert "time" in own.useless(folder)
    assert "time" in ClassificationOptions(audio="audio").useless(table)
    assert "audio" in own.useless(None)
    assert "the names of its folders" in own.useless(folder)["label"]
    told = elman("train", "classify", folder, "--each-step", "--run", tmp_path / "run")
    assert told.status == 2
    assert "there is no 00.txt beside it with its labels" in told.err  # nor does its folder say what is when
    assert not (tmp_path / "run").exists()


def test_a_run_of_numbers_hears_nothing(tmp_path: Path):
    rows = [{"values": np.random.default_rng(k).normal(size=(5, 2)).tolist(), "label": "ab"[k % 2]} for k in range(8)]
    (tmp_path / "numbers.jsonl").write_text(lines(*map(json.dumps, rows)))
    small = ("--hidden-size", 6, "--epochs", 1)
    assert elman("train", "classify", tmp_path / "numbers.jsonl", "--run", tmp_path / "run", *small).status == 0
    told = elman("predict", tmp_path / "run", clips(tmp_path / "clips", each=1))
    assert told.status == 2
    assert "the run was trained on numbers" in told.err
