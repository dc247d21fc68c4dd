"""What a language model makes of what steps say: against all texts, and all ways to say one."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from elman.datasets.reading import BadRows
from elman.datasets.vocabulary import Characters
from elman.errors import InputError
from elman.tasks import language_model, spelling, transcription
from elman.tasks.language_model import LanguageModel
from elman.tasks.options import LanguageModelOptions, TranscriptionOptions
from elman.tasks.spelling import BLANK, Speller, begins
from elman.tasks.transcription import nats_of
from elman.training import fit
from test_tasks import figures, write_knocks
from test_transcription import collapsed, fewest
from tiny_runs import elman

SHARES = [0.7, 0.3]


def language(cell: str, size: int, seed: int) -> LanguageModel:
    """A model whose next symbols depend a lot on those before."""
    torch.manual_seed(seed)
    made = LanguageModel(size, LanguageModelOptions(cell=cell, hidden_size=7, embedding_size=5))
    with torch.no_grad():
        for each in made.parameters():
            each.mul_(4)
    return made.eval()


def fluency(model: LanguageModel, text: Sequence[int], weight: float) -> float:
    """What a language model adds to the score of a text; tokens are outputs, and 0 is that before a text."""
    logits, _ = model(torch.tensor([[0], *([k] for k in text)]))
    log_p = logits[:, 0, 1:3].detach().double().log_softmax(-1)
    return weight * sum(float(log_p[n, k - 1]) - math.log(SHARES[k - 1]) for n, k in enumerate(text))


@pytest.mark.parametrize(("cell", "weight"), [("gru", 0.7), ("lstm", 0.7), ("rnn", 0.0)])
def test_the_text_is_the_best_of_all(monkeypatch: pytest.MonkeyPatch, cell: str, weight: float):
    monkeypatch.setattr(spelling, "NEGLIGIBLE", -math.inf)
    monkeypatch.setattr(spelling, "MARGIN", math.inf)
    draw, T = torch.Generator().manual_seed(1), 5
    log_p = (3 * torch.randn(T, 24, 3, generator=draw)).log_softmax(-1)
    lengths = torch.arange(24) % T + 1
    model = language(cell, 4, seed=3)
    poisoned = log_p.clone()
    for b, length in enumerate(lengths):
        poisoned[length:, b] = torch.nan
    found = Speller(model, 0, [[1, 2]], SHARES, weight, width=1000).read(poisoned.numpy(), lengths.numpy())
    alone = Speller(model, 0, [[1, 2]], SHARES, weight, width=1000).read(log_p[:4, 3:4].numpy(), lengths[3:4].numpy())
    assert alone[0].tolist() == found[3].tolist()
    texts = [text for n in range(T + 1) for text in product((1, 2), repeat=n)]
    plain, added = 0, [fluency(model, text, weight) for text in texts]
    for b, said in enumerate(found):
        steps = log_p[:, b : b + 1].expand(-1, len(texts), -1)
        nats = nats_of(steps, lengths[b].expand(len(texts)), [np.array(text, np.int64) for text in texts])
        scores = [own - float(each) for own, each in zip(added, nats, strict=True)]
        best = texts[int(np.argmax(scores))]
        assert tuple(said.tolist()) == best
        plain += best == texts[int(nats.argmin())]
    assert (plain == 24) == (weight == 0)  # the language model decides some of them


def test_few_beginnings_that_are_kept_do_as_well():
    """They are those with the best scores, in which the language model counts."""
    draw, T, weight, model = torch.Generator().manual_seed(2), 8, 1.0, language("gru", 4, seed=3)
    log_p = (3 * torch.randn(T, 40, 3, generator=draw)).log_softmax(-1)
    lengths = torch.full((40,), T)
    texts = [text for n in range(T + 1) for text in product((1, 2), repeat=n)]
    added = [fluency(model, text, weight) for text in texts]
    found = Speller(model, 0, [[1, 2]], SHARES, weight, width=5).read(log_p.numpy(), lengths.numpy())
    missed = 0
    for b, said in enumerate(found):
        steps = log_p[:, b : b + 1].expand(-1, len(texts), -1)
        nats = nats_of(steps, lengths[b].expand(len(texts)), [np.array(text, np.int64) for text in texts])
        scores = [own - float(each) for own, each in zip(added, nats, strict=True)]
        missed += texts[int(np.argmax(scores))] != tuple(said.tolist())
    assert missed <= 1


def test_impossible_outputs_and_many_unlikely_ones():
    sure = np.full((3, 1, 3), -np.inf, np.float32)
    sure[[0, 1, 2], 0, [1, 0, 1]] = 0.0  # a, nothing, a
    speller = Speller(language("gru", 4, seed=3), 0, [[1, 2]], SHARES, 0.5)
    assert speller.read(sure, np.array([3]))[0].tolist() == [1, 1]
    many = np.full((1, 1, 5001), math.log(1e-4), np.float32)
    many[0, 0, 7] = math.log(9e-4)
    wide = Speller(language("gru", 5001, seed=3), 0, [range(1, 5001)], [1 / 5000] * 5000, 0.0)
    assert wide.read(many, np.array([1]))[0].tolist() == [7]


def test_first_words_are_others_than_later_ones():
    """Of a text whose first symbols are other tokens, with one symbol that is never the first and one that is unknown."""
    model, weight, T = language("lstm", 6, seed=5), 0.7, 4
    forms: list[list[int | None]] = [[1, None, None], [3, 4, None]]
    shares, usual = [0.5, 0.2, 0.3], [math.log(5 / 7), math.log(2 / 7), math.nan]
    log_p = (2 * torch.randn(T, 30, 4, generator=torch.Generator().manual_seed(6))).log_softmax(-1)
    lengths, speller = torch.full((30,), T), Speller(model, 5, forms, shares, weight, width=1000, unknown=2)

    def added(text: Sequence[int]) -> float:
        first = {1: 1, 2: 4, 3: 2}
        tokens = [first[k] if n == 0 else {1: 3, 2: 4, 3: 2}[k] for n, k in enumerate(text)]
        logits, _ = model(torch.tensor([[5], *([token] for token in tokens)]))
        p = logits[:, 0].detach().double().softmax(-1)
        own = torch.stack([p[:, 1] + p[:, 3], p[:, 4]], 1)
        log = (own / own.sum(1, keepdim=True)).log()
        return weight * sum(float(log[n, k - 1]) - usual[k - 1] for n, k in enumerate(text) if k != 3)

    texts = [text for n in range(T + 1) for text in product((1, 2, 3), repeat=n)]
    fluency = [added(text) for text in texts]
    for b, said in enumerate(speller.read(log_p.numpy(), lengths.numpy())):
        steps = log_p[:, b : b + 1].expand(-1, len(texts), -1)
        nats = nats_of(steps, lengths[b].expand(len(texts)), [np.array(text, np.int64) for text in texts])
        scores = [own - float(each) for own, each in zip(fluency, nats, strict=True)]
        assert tuple(said.tolist()) == texts[int(np.argmax(scores))]


def test_without_a_token_before_a_text_its_first_symbol_is_free():
    model = language("gru", 4, seed=3)
    speller = Speller(model, None, [[1, 2]], SHARES, 0.7)
    following, state = speller._begin()
    assert following == [0.0, 0.0, 0.0]
    assert all(not part.any() for part in state)
    after, _ = speller._go_on(torch.tensor([2]), [state])
    logits, _ = model(torch.tensor([[2]]))
    wanted = logits[0, 0, 1:3].double().log_softmax(-1) - torch.tensor(SHARES).double().log()
    assert after[0][1:] == pytest.approx((0.7 * wanted).tolist())


def test_where_each_symbol_begins():
    draw, T = torch.Generator().manual_seed(4), 6
    log_p = (3 * torch.randn(T, 3, generator=draw)).log_softmax(-1).numpy()
    for text in ([], [1], [2, 2], [1, 2, 1], [1, 1, 1], [2, 1, 2, 2], [1, 2, 1, 2, 1, 2]):
        ways = [way for way in product(range(3), repeat=T) if collapsed(way) == text]
        best = max(ways, key=lambda way: sum(float(log_p[t, k]) for t, k in enumerate(way)))
        wanted = [t for t, k in enumerate(best) if k != BLANK and (t == 0 or best[t - 1] != k)]
        assert begins(log_p, np.array(text, np.int64)).tolist() == wanted


def test_steps_that_say_nothing_cost_what_they_say(monkeypatch: pytest.MonkeyPatch):
    """A stretch of them is put together."""
    draw = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(40, 6, 3, generator=draw)
    logits[torch.rand(40, 6, generator=draw) < 0.7] = torch.tensor([12.0, 0, 0])
    log_p, lengths = logits.log_softmax(-1).numpy(), np.array([40, 39, 31, 12, 2, 1])
    model, found = language("gru", 4, seed=3), list[list[list[int]]]()
    for negligible in (spelling.NEGLIGIBLE, -math.inf):
        monkeypatch.setattr(spelling, "NEGLIGIBLE", negligible)
        found.append([each.tolist() for each in Speller(model, 0, [[1, 2]], SHARES, 0.4, 64).read(log_p, lengths)])
    assert found[0] == found[1]


# On the command line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Runs that have hardly learned, so that what a language model says makes a difference."""
    d = tmp_path_factory.mktemp("spelling")
    write_knocks(d / "train.jsonl", 60)
    write_knocks(d / "new.jsonl", 12, seed=1)
    options = TranscriptionOptions(hidden_size=8, batch_size=8, epochs=4.0, learning_rate=0.03, evaluations=1)
    fit(transcription.begin(d / "train.jsonl", options, "cpu", BadRows()), d / "run")
    (d / "text.txt").write_text("abab\nab\nababab\n" * 60)
    small = LanguageModelOptions(hidden_size=16, embedding_size=4, batch_size=8, window=16, epochs=6.0, evaluations=1)
    fit(language_model.begin(d / "text.txt", small, "cpu", BadRows()), d / "lm")
    return SimpleNamespace(directory=d, run=d / "run", lm=d / "lm", new=d / "new.jsonl")


def test_a_language_model_helps_on_the_command_line(made: SimpleNamespace, tmp_path: Path):
    plain = elman("evaluate", made.run, made.new)
    helped = elman("evaluate", made.run, made.new, "--language-model", made.lm, "--output", tmp_path / "rows.jsonl")
    assert (plain.status, helped.status) == (0, 0), helped.err
    assert "language model" not in plain.out
    assert f"language model       {made.lm}, weight 0.5\n" in helped.out
    assert figures(plain.out)["nats per character"] == figures(helped.out)["nats per character"]  # of labels
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    rate = sum(fewest(row["label"], row["text"]) for row in rows) / sum(len(row["label"]) for row in rows)
    assert f"\ncharacter error rate {rate:.4f} (" in helped.out

    trained = transcription.load(made.run)
    encoded, _ = trained.read(made.new)
    without = [trained.text(each.outputs) for each in trained.says(encoded)]
    trained.spell_with(language_model.load(made.lm), weight=2.0)
    said = trained.says(encoded, labels=False)
    texts = [trained.text(each.outputs) for each in said]
    assert texts != without
    given = ("--language-model", made.lm, "--language-weight", 2)
    predicted = list(csv.DictReader(io.StringIO(elman("predict", made.run, made.new, *given).out)))
    assert [row["text"] for row in predicted] == texts
    ((chunk, log_p, lengths),) = trained.logits(encoded, np.arange(12))
    for b, k in enumerate(chunk.tolist()):
        own: NDArray[np.float32] = log_p[: int(lengths[b]), b].numpy()
        assert [int(step) - 1 for step in predicted[k]["steps"].split()] == begins(own, said[k].outputs).tolist()
        nats = nats_of(log_p[:, b : b + 1], lengths[b : b + 1], [said[k].outputs])
        assert float(predicted[k]["probability"]) == pytest.approx(math.exp(-float(nats[0])), rel=1e-4)
    # Both models may be files.
    elman("export", made.run, tmp_path / "run.onnx")
    elman("export", made.lm, tmp_path / "lm.onnx")
    files = elman("predict", tmp_path / "run.onnx", made.new, "--language-model", tmp_path / "lm.onnx", "--language-weight", 2)  # fmt: skip
    assert [row["text"] for row in csv.DictReader(io.StringIO(files.out))] == texts


def test_what_a_language_model_does_not_know(made: SimpleNamespace):
    trained, known = transcription.load(made.run), language_model.load(made.lm)
    trained.spell_with(known._replace(vocabulary=Characters("\na")), name="runs/lm")
    assert trained.spelling == "runs/lm, weight 0.5"
    says = "runs/lm does not know 'b'; train it on texts that are written as the labels are"
    assert dict(trained.evaluate(made.new).lines)["spelling"] == says
    list(trained.predict(made.new, ""))
    assert trained.remarks == [f"spelling    {says}"]
    with pytest.raises(InputError, match="runs/lm knows none of the characters that labels have, such as 'a'; train it on texts that are written as"):  # fmt: skip
        trained.spell_with(known._replace(vocabulary=Characters("\nxy")), name="runs/lm")
    for symbols, start in (("\nab", 0), ("ab ", 2), ("ab", None)):
        trained.spell_with(known._replace(vocabulary=Characters(symbols)))
        assert trained.speller is not None
        assert trained.speller.start == start


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\n\n"])
def test_words_are_spelled_as_a_text_has_them(tmp_path: Path, no_pictures: None, line_end: str):
    """In a text, all words but the first of a line have the space before them."""
    rows = [{"values": [[k % 3, 0.5]] * 4, "label": ("walk sit", "sit", "run walk")[k % 3]} for k in range(12)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = TranscriptionOptions(hidden_size=4, epochs=0.5, label_unit="words", evaluations=1)
    fit(transcription.begin(tmp_path / "a.jsonl", options, "cpu", BadRows()), tmp_path / "run")
    (tmp_path / "text.txt").write_bytes(f"walk sit{line_end}run sit walk{line_end}".encode() * 60)
    small = {"hidden_size": 4, "embedding_size": 4, "batch_size": 2, "window": 8, "epochs": 0.2, "evaluations": 1}
    for unit in ("words", "characters"):
        of_unit = LanguageModelOptions(**small, unit=unit)
        fit(language_model.begin(tmp_path / "text.txt", of_unit, "cpu", BadRows()), tmp_path / unit)
    trained = transcription.load(tmp_path / "run")
    words = language_model.load(tmp_path / "words")
    trained.spell_with(words)
    speller, decode = trained.speller, words.vocabulary.decoder()
    assert speller is not None
    assert trained.reading.symbols == ["run", "sit", "walk"]
    read = [[decode(int(speller._token(k, first))) for k in (1, 2, 3)] for first in (True, False)]
    assert read == [["run", " sit", "walk"], ["run", " sit", " walk"]]
    assert speller.start is not None
    assert decode(speller.start) == line_end
    assert speller.usual.exp().tolist() == pytest.approx(trained.reading.shares)
    refused = elman("predict", tmp_path / "run", tmp_path / "a.jsonl", "--language-model", tmp_path / "characters")
    assert f"{tmp_path / 'characters'} reads characters, but labels are rows of words; train one with elman train lm --unit words" in refused.err  # fmt: skip


def test_what_is_refused(made: SimpleNamespace):
    def refused(command: str, run: Path, *given: object) -> str:
        done = elman(command, run, made.new, *given)
        assert (done.status, done.out) == (2, "")
        return done.err

    assert "--language-weight 1 is for a language model; give --language-model, or leave it out" in refused("evaluate", made.run, "--language-weight", 1)  # fmt: skip
    own = ("--language-model", made.lm)
    assert f"--language-model {made.lm} is for runs of elman train transcribe, and {made.lm} is none; leave it out" in refused("predict", made.lm, *own)  # fmt: skip
    for weight in (-1, 101, "nan", "inf"):
        assert f"--language-weight is {weight} but must be from 0 to 100; 0.25 to 1 do well" in refused("evaluate", made.run, *own, "--language-weight", weight)  # fmt: skip
    assert f"--language-model {made.run} is a run of elman train transcribe; give one of elman train lm" in refused("evaluate", made.run, "--language-model", made.run)  # fmt: skip
    assert "--language-model nowhere does not exist; give a run of elman train lm, or its file" in refused(
        "evaluate", made.run, "--language-model", "nowhere"
    )
