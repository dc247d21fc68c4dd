"""Translation: what its model computes, what it writes, and how that is judged, drawn and exported."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elman import charts
from elman.datasets import examples
from elman.datasets.reading import BadRows
from elman.errors import InputError
from elman.explain import attention
from elman.tasks import texts, translation
from elman.tasks.encoded import Inputs
from elman.tasks.options import TranslationOptions
from elman.tasks.translation import END, OPEN, TranslationModel, nats_of, rows_of
from elman.training import fit, fitting, loop
from elman.training.loop import MODEL, Report
from elman.training.run import Run
from test_tasks import SMALL, write_knocks, write_turned
from tiny_runs import elman, lines

pytestmark = pytest.mark.usefixtures("no_pictures")

BRIEF = ("--epochs", 0.2, "--evaluations", 1)
QUICK = (*SMALL["translate"], *BRIEF)
LETTERS = "abcde"


def options_of(**changes: Any) -> TranslationOptions:
    given: dict[str, Any] = {"text": "text", "hidden_size": 5, "embedding_size": 4, "epochs": 1.0, "batch_size": 8}
    return TranslationOptions(**given | changes)


def model_of(most: int = 6, symbols: int = 3, **changes: Any) -> TranslationModel:
    """One with weights that are far from zero."""
    torch.manual_seed(0)
    model = TranslationModel(Inputs([], [], list(LETTERS)), symbols, [[0, most]], options_of(**changes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.8 * torch.randn_like(weight))
    return model


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens (7, 4) and lengths."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(6, (7, 4), generator=draw), torch.tensor([7, 3, 1, 5])


def begun(path: Path | None, **changes: Any) -> translation.Translation:
    return translation.begin(path, options_of(**changes), "cpu", BadRows())


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text(lines(*map(json.dumps, rows)))
    return path


# The model


def by_hand(model: TranslationModel, tokens: Sequence[int], said: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The logits of each output after those before it, and how much it looks at each token, of a model with cell rnn."""
    w = {name: value.double() for name, value in model.state_dict().items()}

    def run(name: str, inputs: Sequence[Tensor], h: Tensor, end: str = "l0") -> list[Tensor]:
        found = []
        for x in inputs:
            of_x = w[f"{name}.weight_ih_{end}"] @ x + w[f"{name}.bias_ih_{end}"]
            h = torch.tanh(of_x + w[f"{name}.weight_hh_{end}"] @ h + w[f"{name}.bias_hh_{end}"])
            found.append(h)
        return found

    def places(begin: int, end: int) -> Tensor:
        """With five units there is one wave for each end, of the speed 1, and a unit without one."""
        waves = (math.sin(begin), math.cos(begin), math.sin(end), math.cos(end), 0.0)
        scale = w["placed"].repeat_interleave(2)
        return torch.cat([scale, scale[:1]]) * torch.tensor(waves, dtype=torch.float64)

    zero = torch.zeros(5, dtype=torch.float64)
    read = [w["embedding.weight"][k] for k in tokens]
    forward, backward = run("recurrent", read, zero), run("recurrent", read[::-1], zero, "l0_reverse")
    every = [torch.cat([a, b]) for a, b in zip(forward, backward[::-1], strict=True)]
    begin = torch.tanh(w["begin.0.weight"] @ torch.cat([forward[-1], backward[-1]]) + w["begin.0.bias"])
    queries = run("first", [w["written.weight"][k] for k in (END, *said[:-1])], begin)
    seen, look = [], []
    keys = [w["keys.weight"] @ e + places(s, len(every) - 1 - s) for s, e in enumerate(every)]
    values = torch.stack([w["values.weight"] @ e + w["values.bias"] for e in every])
    for t, q in enumerate(queries):
        weight = torch.stack([(q + places(t, t)) @ key / math.sqrt(5) for key in keys]).softmax(0)
        seen.append(torch.cat([q, weight @ values]))
        look.append(weight)
    last = [torch.cat([g, c[5:]]) for g, c in zip(run("second", seen, zero), seen, strict=True)]
    return torch.stack([w["output.weight"] @ g + w["output.bias"] for g in last]), torch.stack(look)


def test_the_model_by_hand():
    model = model_of(cell="rnn").double()
    x, lengths = batch()
    for b, length in enumerate(lengths.tolist()):
        x[length:, b] = 5  # what stands past the end of a sequence is not read
    said = torch.tensor([[1, 2, 3, 1], [3, 1, END, 2], [2, 2, END, END], [END, 1, END, END]])
    logits, look = model(x, lengths, said), model.looks(x, lengths, said)
    for b, length in enumerate(lengths.tolist()):
        exact, looked = by_hand(model, x[:length, b].tolist(), said[:, b].tolist())
        assert torch.allclose(logits[:, b], exact, rtol=1e-12, atol=1e-12)
        assert torch.allclose(look[b, :, :length], looked, rtol=1e-12, atol=1e-12)
        assert not look[b, :, length:].any()


@pytest.mark.parametrize(("cell", "symbols", "seed"), [("gru", 7, 1), ("coupled_peephole_lstm", 3, 0)])
def test_a_text_is_written_symbol_by_symbol(cell: str, symbols: int, seed: int):
    """What is written is the likeliest output after those before it, until the end, whatever stands beside it."""
    model = model_of(symbols=symbols, cell=cell, num_layers=2)
    x, lengths = batch(seed)
    logits, said = model.write(x, lengths)
    assert len(said) <= model.most
    sizes = []
    whole = model(x, lengths, said)  # which reads all outputs at one go
    for b, length in enumerate(lengths.tolist()):
        own: list[int] = []
        while len(own) < model.most and END not in own:
            row = torch.tensor([[*own, END]]).T  # what is asked for does not matter
            after = model(x[:length, b : b + 1], lengths[b : b + 1], row)[-1, 0]
            assert torch.allclose(after, logits[len(own), b], atol=1e-5)
            assert torch.allclose(after, whole[len(own), b], atol=1e-5)
            own.append(int(after.argmax()))
        assert said[: len(own), b].tolist() == own
        assert (said[len(own) :, b] == END).all()
        sizes.append(len(own))
    assert len(said) == max(sizes)
    assert len({*sizes}) > 1


def test_what_is_given_is_written():
    model = model_of(symbols=4)
    x, lengths = batch(1)
    given = torch.tensor([[2, OPEN, 1, OPEN], [OPEN, 3, 1, OPEN], [4, OPEN, END, OPEN], [OPEN, OPEN, 2, OPEN]])
    logits, said = model.write(x, lengths, given)
    open_ = model.write(x, lengths)[1][:4]
    for b in range(4):
        ended = False
        for n, (k, own) in enumerate(zip(given[:, b].tolist(), said[:, b].tolist(), strict=False)):
            assert own == (END if ended else int(logits[n, b].argmax()) if k == OPEN else k)
            ended = ended or own == END
    assert torch.equal(said[:, 3], open_[: len(said), 3])
    assert torch.allclose(model(x, lengths, said)[:, 0], logits[:, 0], atol=1e-5)
    # All have ended after two.
    ending = torch.tensor([[1, 2, END, 1], [END, END, OPEN, END], [3, 3, 3, 3]])
    assert model.write(x, lengths, ending)[1].tolist() == [[1, 2, END, 1], [END] * 4]


def test_the_nats_of_a_text_are_those_of_its_symbols_and_its_end():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, 4, generator=draw)
    labels = [np.array([1, 3, 2]), np.array([], np.int64), np.array([2])]
    said, sizes = rows_of(labels, "cpu")
    assert (said.tolist(), sizes.tolist()) == ([[1, 0, 2], [3, 0, 0], [2, 0, 0], [0, 0, 0]], [4, 1, 2])
    log_p, longer = logits.log_softmax(-1), torch.cat([said, said[:1]])
    found = nats_of(logits, longer, sizes)
    for b, label in enumerate(labels):
        exact = -sum(float(log_p[n, b, k]) for n, k in enumerate([*label, END]))
        assert float(found[b]) == pytest.approx(exact, rel=1e-6)


def test_the_loss_is_that_of_the_labels(tmp_path: Path):
    task = begun(write_turned(tmp_path / "a.jsonl", 30), dropout=0.0)
    own = np.arange(9)
    said = task.trained.says(task.encoded, task.train[own])
    symbols = sum(len(task.encoded.label(k)) for k in task.train[own].tolist())
    assert float(task.loss(own).detach()) == pytest.approx(sum(each.nats for each in said) / symbols, rel=1e-5)
    assert task.size(own) == symbols
    task.loss(own).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.model.parameters())


# Data


def test_dates_are_what_they_say():
    read = {
        r"(\d+) (\w{3,}) (\d{4})": "%d %B %Y",
        r"(\w{3,}) (\d+)(?:st|nd|rd|th), (\d{4})": "%B %d %Y",
        r"the (\d+)(?:st|nd|rd|th) of (\w+) (\d{4})": "%d %B %Y",
        r"(\w+day), (\w+) (\d+), (\d{4})": "%A %B %d %Y",
        r"(\w{3}), (\d\d) (\w{3}) (\d{4})": "%a %d %b %Y",
        r"(\w{3}) (\d+) '(\d\d)": "%b %d %y",
        r"(\w{3}) (\d+) (\d{4})": "%b %d %Y",
        r"(\d+)\.(\d+)\.(\d{4})": "%d %m %Y",
        r"(\d+)/(\d+)/(\d{4})": "%m %d %Y",
        r"(\d{4})(\d\d)(\d\d)": "%Y %m %d",
    }
    seen = set[str]()
    for text, label in examples.dates(2000):
        form, found = next((form, m) for form in read if (m := re.fullmatch(form, text)))
        seen.add(form)
        day = datetime.strptime(" ".join(found.groups()), read[form]).date()
        if "%y" in read[form] and day.year < 1950:  # strptime takes 69 to 99 for 19xx
            day = day.replace(year=day.year + 100)
        if "%y" in read[form] and day.year >= 2050:
            day = day.replace(year=day.year - 100)
        assert day.isoformat() == label
        assert 1900 <= date.fromisoformat(label).year < 2100
        if "%A" in read[form]:
            assert day.strftime("%A") == found[1]
        ordinal = re.search(r"(\d+)(st|nd|rd|th)", text)
        if ordinal:
            n = int(ordinal[1])
            assert ordinal[2] == ("th" if n in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th"))
    assert seen == {*read}


def test_the_built_in_data_are_texts(tmp_path: Path):
    status, _, err = elman("train", "translate", "--hidden-size", 6, *BRIEF, "--run", tmp_path / "run")
    assert status == 0, err
    assert "dates in words and figures: 2,400 for training, 600 for validation" in err
    options = json.loads((tmp_path / "run" / "config.json").read_text())["options"]
    assert (options["text"], options["unit"]) == ("text", "characters")
    new = write(tmp_path / "new.jsonl", [{"text": "May 4 1977"}])
    assert elman("predict", tmp_path / "run", new).status == 0


def test_sequences_of_numbers_are_translated_and_their_onnx_file_too(tmp_path: Path):
    rows = [json.loads(line) for line in write_knocks(tmp_path / "a.jsonl", 30).read_text().splitlines()]
    for row in rows:
        row["kind"] = ["xy"[k % 2] for k in range(len(row["values"]))]
        row["values"][0][0] = None
    path = write(tmp_path / "a.jsonl", rows)
    given = ("--hidden-size", 6, *BRIEF, "--mark-gaps", "--categories", "kind", "--embedding-size", 3)
    trained = elman("train", "translate", path, *given, "--run", tmp_path / "run")
    assert trained.status == 0, trained.err
    assert "copy" not in trained.out
    predicted = elman("predict", tmp_path / "run", path)
    assert predicted.status == 0, predicted.err
    assert len(predicted.out.splitlines()) == 31
    exported = elman("export", tmp_path / "run", tmp_path / "model.onnx")
    assert exported.status == 0, exported.err
    assert elman("predict", tmp_path / "model.onnx", path).out.splitlines()[0] == "sequence,text,probability"
    page = attention.translator(tmp_path / "run", None, None).data["sequences"][0]
    assert page["tokens"] is None
    assert len(page["series"][0]) == len(page["look"][0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--noise", 0.2), "--noise is for numbers, but --text reads texts; leave it out"),
        (("--text", "x"), "--text says how to read FILE, but no FILE is given"),
        (("--label", "x"), "--label says how to read FILE, but no FILE is given"),
        (("--causal",), "No such option: --causal"),
        (("--label-unit", "bytes"), "unknown label_unit 'bytes': choose one of characters, words"),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_options_that_are_refused(tmp_path: Path, given: tuple[Any, ...], message: str):
    refused = elman("train", "translate", *given, "--run", tmp_path / "run")
    assert refused.status == 2
    assert message in refused.err
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_that_is_damaged(tmp_path: Path):
    task = begun(write_turned(tmp_path / "a.jsonl", 20))
    fit(task, tmp_path / "run")
    path = tmp_path / "run" / "vocabulary.json"
    good = json.loads(path.read_text())
    for change, why in (
        ({"limits": [[1, 4]]}, r"the limits of texts are \[\[1, 4\]\]"),
        ({"limits": [[0, 4], [3, 4]]}, "the limits of texts are"),
        ({"limits": []}, "the limits of texts are"),
        ({"limits": [[0, 2, 3]]}, "the limits of texts are"),
        ({"limits": [[0, 2.5]]}, "the limits of texts are"),
        ({"limits": [[0, 10**30]]}, "the limits of texts are"),
        ({"symbols": [1, 2]}, "its symbols are no texts"),
        ({"unit": "pairs"}, "its symbols are no texts, or their unit is unknown"),
        ({"symbols": []}, "it has no symbols"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(InputError, match=rf"vocabulary\.json is damaged: {why}"):
            translation.load(Run(tmp_path / "run"))


# What a run says


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run that has learned to turn words, and other words."""
    d = tmp_path_factory.mktemp("turned")
    data, new = write_turned(d / "words.jsonl", 350), write_turned(d / "new.jsonl", 60, seed=1)
    sizes = ("--hidden-size", 32, "--embedding-size", 16, "--batch-size", 16, "--text", "text")
    how = ("--learning-rate", 0.01, "--dropout", 0.1, "--epochs", 12, "--evaluations", 3)
    command = ("train", "translate", data, *sizes, *how)
    outcome = elman(*command, "--run", d / "run")
    assert outcome.status == 0, outcome.err
    return SimpleNamespace(directory=d, run=d / "run", data=data, new=new, outcome=outcome, command=command)


@pytest.fixture(scope="module")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run with random weights, and words: who writes, draws or exports what it says need not wait until it is right."""
    d = tmp_path_factory.mktemp("untaught")
    data, run = write_turned(d / "words.jsonl", 40), d / "run"
    training, _ = fitting.begin(begun(data), run)
    torch.manual_seed(0)
    weights = {name: 0.8 * torch.randn_like(value) for name, value in training.model.state_dict().items()}
    weights["output.bias"][END] += 0.5  # so that most texts end
    training.run.save_tensors(MODEL, weights, {"step": 0})
    return SimpleNamespace(directory=d, run=run, data=data)


def test_a_model_learns_to_turn_words(made: SimpleNamespace):
    rate = float(re.search(r"character error rate (\S+),", made.outcome.out)[1])  # pyright: ignore[reportOptionalSubscript]
    assert rate < 0.1
    told = dict(line.split(maxsplit=1) for line in made.outcome.out.splitlines())
    assert {*told} >= {"constant", "nearest", "copy"}
    assert "says the text that it reads" in told["copy"]
    for picture in ("loss.png", "confusion.png", "attention.png"):
        assert (made.run / picture).read_bytes()[:4] == b"\x89PNG"


def test_a_stopped_run_goes_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_turned(tmp_path / "a.jsonl", 60)
    options = options_of(epochs=2.0, dropout=0.3, weight_dropout=0.1)
    fit(translation.begin(path, options, "cpu", BadRows()), tmp_path / "whole")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)

    def stop(report: Report) -> None:
        if report.place.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(translation.begin(path, options, "cpu", BadRows()), tmp_path / "half", show=stop)
    assert elman("train", "translate", "--resume", tmp_path / "half").status == 0
    whole, half = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "half"))
    assert whole == half


def test_what_predict_writes(made: SimpleNamespace, tmp_path: Path):
    trained = translation.load(Run(made.run))
    truth = [json.loads(line) for line in made.new.read_text().splitlines()]
    bare = write(tmp_path / "bare.jsonl", [{"text": row["text"]} for row in truth])
    outcome = elman("predict", made.run, bare)
    rows = list(csv.DictReader(outcome.out.splitlines()))
    assert [*rows[0]] == ["sequence", "text", "probability"]
    right = sum(row["text"] == each["label"] for row, each in zip(rows, truth, strict=True))
    assert right > 30
    encoded, _ = trained.read(made.new)
    for row, each, said in zip(rows, truth, trained.says(encoded, labels=False), strict=True):
        model, symbols = trained.model, trained.reading.symbols
        text = [1 + symbols.index(c) for c in row["text"]]
        x = torch.tensor([[1 + sorted(LETTERS).index(c)] for c in each["text"]])
        wanted = torch.tensor([[*text, END]]).T
        with torch.no_grad():
            log_p = model(x, torch.tensor([len(x)]), wanted)[:, 0].log_softmax(-1)
        nats = -float(log_p[range(len(wanted)), wanted[:, 0]].sum())
        assert said.nats == pytest.approx(nats, rel=1e-3, abs=1e-5)
        assert float(row["probability"]) == pytest.approx(math.exp(-nats), rel=1e-3)
    assert elman("predict", made.run, bare, "--output", tmp_path / "o.jsonl").status == 0
    objects = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [each["text"] for each in objects] == [row["text"] for row in rows]
    assert [*objects[0]] == ["sequence", "text", "probability"]


def test_scores_by_hand(made: SimpleNamespace, tmp_path: Path):
    rows = [json.loads(line) for line in made.new.read_text().splitlines()]
    rows[0]["label"] += "z"  # which the training lacks
    path = write(tmp_path / "new.jsonl", rows)
    out = elman("evaluate", made.run, path, "--output", tmp_path / "rows.csv").out
    judged = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    errors, symbols = sum(int(row["errors"]) for row in judged), sum(len(row["label"]) for row in rows)
    assert f"character error rate {errors / symbols:.4f}" in out
    assert judged[0]["nats"] == ""
    known = judged[1:]
    nats = sum(float(row["nats"]) for row in known) / sum(len(row["label"]) for row in known)
    assert float(re.search(r"nats per character\s+(\S+)", out)[1]) == pytest.approx(nats, abs=2e-4)  # pyright: ignore[reportOptionalSubscript]
    assert "unknown symbols" in out


def test_a_copy_of_what_is_read(tmp_path: Path):
    rows = [{"text": "ab cd", "label": "ab cd"}, {"text": "Ab", "label": "ab"}, {"text": "x", "label": ""}] * 4
    written = write(tmp_path / "a.jsonl", rows)
    task = begun(written, unit="words")
    assert "copy" not in texts.baselines(task.encoded, task.train, task.encoded, task.train)
    for unit, errors in (("characters", 8), ("words", 8)):  # "Ab" is not "ab", and "x" is too much
        task = begun(written, label_unit=unit)
        own = np.arange(12)
        found = texts.baselines(task.encoded, task.train, task.encoded, own)["copy"]
        symbols = sum(len(texts.spell(row["label"], unit)) for row in rows)
        assert found.value == pytest.approx(errors / symbols)


def test_texts_that_do_not_end_are_cut_off(tmp_path: Path):
    draw = np.random.default_rng(3)
    sizes = [size for size in range(2, 12) for _ in range(3)]
    rows = [{"text": "a" * size, "label": "b" * int(draw.integers(1, size + 1))} for size in sizes]
    task = begun(write(tmp_path / "a.jsonl", rows))
    with torch.no_grad():
        task.model.output.bias[END] = -100.0
    trained, every = task.trained, [task.encoded.label(k) for k in range(30)]
    train = task.train.tolist()

    def limit(length: int) -> int:
        shortest = min(sizes[k] for k in train)
        return 10 + 2 * max(len(every[k]) for k in train if sizes[k] <= max(length, shortest))

    assert trained.reading.limit(np.arange(1, 20)).tolist() == [limit(n) for n in range(1, 20)]
    assert len(trained.reading.limits) > 2
    for labels in (True, False):
        said = trained.says(task.encoded, labels=labels)
        assert [len(each.outputs) for each in said] == [limit(n) for n in sizes]
        assert all(each.cut for each in said)
    for k in (0, 14, 29):  # what stands beside a sequence changes nothing
        assert trained.says(task.encoded, np.array([k]), False)[0].nats == pytest.approx(said[k].nats, rel=1e-5)
    line = "30 texts, which did not end: they were over twice as long as any training label of what is as long"
    _, figures = trained.judge(task.encoded, said, None)
    assert next(figures) == ("cut off", line)
    many = write(tmp_path / "many.jsonl", rows[:1] * 300)  # more than are read at a time
    assert len(list(trained.predict(many, ".csv"))) == 301
    assert trained.remarks == [f"cut off    {line.replace('30', '300')}"]
    with torch.no_grad():
        trained.model.output.bias[END] = 100.0
    assert not any(each.cut for each in trained.says(task.encoded))
    # What is given is not cut off.
    x, two = torch.ones(2, 1, dtype=torch.int64), torch.tensor([2])
    given = torch.ones(40, 1, dtype=torch.int64)
    assert len(trained.model.write(x, two, given)[1]) == 40
    given[-1] = OPEN
    assert trained.model.write(x, two, torch.cat([given, given]))[1][40:].sum() == 0


def test_what_is_drawn(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task = translation.begin(made.data, TranslationOptions(text="text", hidden_size=32, embedding_size=16), "cpu", BadRows())  # fmt: skip
    task.use(translation.load(Run(made.run)))
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(charts, "attention", lambda *given: drawn.update(given=given))
    monkeypatch.setattr(charts, "save", lambda figure, path: None)
    task.draw(tmp_path)
    values, tokens, look, written, label, heard = drawn["given"]
    assert not heard
    k = int(task.validation[0])
    word = json.loads(made.data.read_text().splitlines()[int(task.encoded.sequences.name(k)) - 1])
    assert values is None
    assert ("".join(tokens), label) == (word["text"], word["label"])
    (said,) = task.trained.says(task.encoded, np.array([k]))
    assert written == [*task.trained.text(said.outputs), "end"]
    assert look.shape == (len(written), len(tokens))
    assert np.allclose(look.sum(1), 1, atol=1e-5)
    # It looks at the letter that it writes, from behind.
    assert (look[:-1].argmax(1) == np.arange(len(tokens))[::-1]).mean() > 0.6


def test_the_picture_of_what_each_symbol_looks_at():
    look = np.eye(3, 5)
    figure = charts.attention(None, list("ab\ncd"), look, ["x", "$", "end"], "xy")
    (axis,) = figure.axes
    assert [each.get_text() for each in axis.get_yticklabels()] == ["x", "$", "end"]
    assert [each.get_text() for each in axis.get_xticklabels()] == list("ab\ncd")
    assert np.array_equal(axis.collections[0].get_array().reshape(3, 5), look)  # pyright: ignore[reportOptionalMemberAccess]
    assert len(charts.attention(np.zeros((5, 2)), None, look, ["x"] * 3, "xy").axes) == 2
    long = charts.attention(None, [str(k) for k in range(1500)], np.zeros((1200, 1500)), ["x"] * 1200, "x" * 200)
    assert len(long.axes[0].get_yticks()) == 120


# The page


def test_what_the_page_of_a_translator_holds(untaught: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    trained = translation.load(Run(untaught.run))
    page = attention.translator(untaught.run, "bde\nez", None).data
    assert page["task"] == "translate"
    for shown, text in zip(page["sequences"], ("bde", "ez"), strict=True):
        encoded = trained.encode([translation.Labelled("", text, None)], Path("none"))
        (said,) = trained.says(encoded, labels=False)
        outputs, look = trained.looks(encoded, 0)
        assert shown["tokens"] == list(text)
        assert shown["strange"] == [n for n, c in enumerate(text) if c == "z"]
        assert shown["text"] == trained.text(said.outputs) == trained.text(outputs)
        assert shown["written"] == [*shown["text"], ""]
        assert shown["label"] is None
        assert shown["right"] is None
        assert not shown["cut"]
        assert np.allclose(shown["look"], look, rtol=0.06, atol=1e-3)
        chances = math.prod(row[0][1] for row in shown["likeliest"])
        assert chances == pytest.approx(math.exp(-said.nats), rel=0.01)
        assert [row[0][0] for row in shown["likeliest"]] == shown["written"]
    labelled = attention.translator(untaught.run, None, untaught.data).data["sequences"]
    assert len(labelled) == 8
    first = json.loads(untaught.data.read_text().splitlines()[0])
    assert (labelled[0]["label"], "".join(labelled[0]["tokens"])) == (first["label"], first["text"])
    said = "".join(page["sequences"][0]["text"])
    labels = f" {said} ", f"{said[0]} {said[1:]}"
    own = write(untaught.directory / "own.jsonl", [{"text": "bde", "label": label} for label in labels])
    assert [each["right"] for each in attention.translator(untaught.run, None, own).data["sequences"]] == [True, False]
    monkeypatch.setattr(attention, "STEPS", 3)
    short = attention.translator(untaught.run, "adab", None)
    assert short.data["sequences"][0]["tokens"] == list("ada")
    assert len(short.data["sequences"][0]["look"]) == 3
    assert short.remarks == [
        "of sequence 1, the page shows and reads the first 3 of 4 steps",
        "of the text of sequence 1, the page shows the first 3 symbols",
    ]


# The file


def exported(run: Path) -> Path:
    path = run / "model.onnx"
    if not path.exists():
        assert elman("export", run, path).status == 0
    return path


def test_onnx_runtime_writes_texts_without_elman(untaught: SimpleNamespace):
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(exported(untaught.run)), providers=["CPUExecutionProvider"])
    known = json.loads(session.get_modelmeta().custom_metadata_map["elman.vocabulary"])
    words = [json.loads(line)["text"] for line in untaught.data.read_text().splitlines()][:20]
    tokens = np.zeros((max(map(len, words)), len(words)), np.int64)
    for b, word in enumerate(words):
        tokens[: len(word), b] = [1 + known["tokens"].index(c) for c in word]
    feed = {"tokens": tokens, "lengths": np.array([len(word) for word in words])}
    (text,) = session.run(["text"], feed)
    said = ["".join(known["symbols"][k - 1] for k in column if k) for column in text.T]
    wanted = [row["text"] for row in csv.DictReader(elman("predict", untaught.run, untaught.data).out.splitlines())][
        :20
    ]
    assert said == wanted
    assert len({*said}) > 5
    # Beginnings that are given are gone on with.
    given = np.full((4, len(words)), OPEN)
    given[0] = 1
    (logits, begun) = session.run(["logits", "text"], feed | {"given": given})
    model = translation.load(Run(untaught.run)).model
    with torch.no_grad():
        wanted, found = model.write(
            torch.from_numpy(tokens), torch.from_numpy(feed["lengths"]), torch.from_numpy(given)
        )
    assert np.array_equal(begun, found.numpy())
    assert np.allclose(logits, wanted.numpy(), atol=1e-4)
    assert (begun[0] == 1).all()


def test_an_onnx_file_judges_labels_with_unknown_symbols(untaught: SimpleNamespace, tmp_path: Path):
    """All texts are judged to their ends, also if the longest one has a symbol early that the training lacks."""
    path = write(tmp_path / "new.jsonl", [{"text": "abc", "label": "cz" + "ab" * 5}, {"text": "ab", "label": "ba"}])
    found = [elman("evaluate", of, path) for of in (untaught.run, exported(untaught.run))]
    assert [each.status for each in found] == [0, 0], found[1].err
    assert "unknown symbols      1, counted as mistakes: 'z'" in found[1].out
    figures = [re.findall(r"\d\.\d{3}", each.out.partition("constant")[0]) for each in found]
    assert figures[0] == figures[1]


def test_an_onnx_file_in_integers_and_one_step_of_it(made: SimpleNamespace, tmp_path: Path):
    whole = elman("export", made.run, tmp_path / "int8.onnx", "--int8")
    assert whole.status == 0, whole.err
    assert "nats per character in integers" in whole.err + whole.out
    refused = elman("export", made.run, tmp_path / "step.onnx", "--streaming")
    assert refused.status == 2
    assert "a TranslationModel reads the end of a sequence first, so it cannot be streamed" in refused.err


# Whole commands


def test_all_of_the_data_judge(made: SimpleNamespace, tmp_path: Path):
    path = write_turned(tmp_path / "a.jsonl", 24)
    folds = ("--folds", 2, "--text", "text", "--hidden-size", 5, *BRIEF, "--directory", tmp_path / "folds")
    outcome = elman("cross-validate", "translate", path, *folds, "--output", tmp_path / "rows.csv")
    assert outcome.status == 0, outcome.err
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 25
    assert "copy" in outcome.out


def test_a_training_that_goes_on_with_longer_labels(made: SimpleNamespace, tmp_path: Path):
    rows = [{"text": "ab" * k, "label": "a" * 30 * k} for k in (1, 2, 4)] * 4
    given = ("--start-from", made.run, *BRIEF, "--validation", made.new, "--run", tmp_path / "run")
    assert elman("train", "translate", write(tmp_path / "long.jsonl", rows), *given).status == 0
    before, after = (json.loads((run / "vocabulary.json").read_text()) for run in (made.run, tmp_path / "run"))
    assert {name for name in before if before[name] != after[name]} == {"limits"}
    old, new = (translation.load(Run(run)).reading for run in (made.run, tmp_path / "run"))
    for length in range(12):
        longest = max((30 * k for k in (1, 2, 4) if 2 * k <= length), default=0)
        assert new.limit(np.array([length])) == max(
            old.limit(np.array([length])), (10 + 2 * longest) * (longest > 0), 70
        )


def test_unknown_symbols_of_labels_to_learn_from(made: SimpleNamespace, tmp_path: Path):
    rows = [{"text": "abc", "label": "cbz"}] * 10
    given = ("--start-from", made.run, *BRIEF, "--run", tmp_path / "run")
    refused = elman("train", "translate", write(tmp_path / "z.jsonl", rows), *given)
    assert refused.status == 2
    assert f"has characters that {made.run} does not know: 'z'; leave them out, or train a new model" in refused.err
