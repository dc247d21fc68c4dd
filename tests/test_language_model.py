"""The language model: its options, its score, its samples."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from elman import cells
from elman.datasets import reading
from elman.datasets.vocabulary import BytePairs, Bytes, Characters, Words
from elman.errors import InputError
from elman.tasks import language_model
from elman.tasks.language_model import (
    LanguageModel,
    Options,
    Score,
    TrainedLanguageModel,
    choose,
    evaluate,
    mean_of,
    nats_of,
    sample,
    surprises,
)
from elman.tasks.scores import between
from elman.training.options import flag
from tiny_runs import begin, corpus_of, interval_by_hand, prose, tiny

CELLS = [name for name, cell in cells.BUILT_IN.items() if not cell.projected]


def model_of(size: int = 12, scale: float = 1.0, dtype: torch.dtype = torch.float32, **changes: Any) -> LanguageModel:
    """A network as it is drawn; a scale above 1 makes it depend more on what it has read."""
    torch.manual_seed(1)
    model = LanguageModel(size, tiny(**changes)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def draw(length: int, size: int = 12) -> Tensor:
    return torch.randint(size, (length,), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


# Score


class Lagged(nn.Module):
    """Predicts from the token of `lag` steps ago, and from nothing where there was none."""

    def __init__(self, size: int, lag: int):
        super().__init__()
        self.lag, self.size = lag, size
        self.output = nn.Linear(1, 1)
        self.table = torch.randn(size + 1, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        past = torch.full((self.lag, tokens.shape[1]), self.size) if state is None else state
        read = torch.cat([past, tokens.long()])
        return self.table[read[: len(tokens)]], read[len(tokens) :]


def in_one_row(model: nn.Module, tokens: Tensor) -> float:
    logits, _ = model(tokens[:-1, None])
    return float(cross_entropy(logits[:, 0], tokens[1:].long()))


@pytest.mark.parametrize("lag", [0, 1, 1000])
@pytest.mark.parametrize(
    "length", [2, 3, 255, 256, 257, 258, 4000, 7999, 8000, 8001, 8002, 12_345, 256_000, 256_001, 266_666]
)
def test_every_token_is_scored_once_with_a_thousand_before_it(length: int, lag: int):
    """Read in rows or at one go: for a memory of up to 1,000 steps the sum is the same to rounding."""
    model, tokens = Lagged(12, lag), draw(length)
    score = evaluate(cast(LanguageModel, model), tokens, 77)
    assert score.nats == pytest.approx(in_one_row(model, tokens), rel=1e-12)
    assert (score.tokens, score.characters) == (length - 1, 77)


@given(st.integers(7990, 20_000))
def test_every_token_is_scored_once_at_any_length(length: int):
    model, tokens = Lagged(12, 1000), draw(length)
    assert evaluate(cast(LanguageModel, model), tokens, 1).nats == pytest.approx(in_one_row(model, tokens), rel=1e-12)


def test_a_text_of_fewer_than_8000_tokens_is_read_at_one_go():
    model, tokens = Lagged(12, 6000), draw(7999)
    assert evaluate(cast(LanguageModel, model), tokens, 1).nats == pytest.approx(in_one_row(model, tokens), rel=1e-12)


def test_a_long_text_is_read_in_64_rows():
    shapes: list[tuple[int, ...]] = []
    model = Lagged(12, 0)
    model.register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[0].shape)))
    for length, rows in [(7999, 1), (8000, 2), (41_000, 10), (255_999, 63), (256_000, 64), (400_000, 64)]:
        shapes.clear()
        evaluate(cast(LanguageModel, model), draw(length), 1)
        assert {shape[1] for shape in shapes} == {rows}
        assert sum(shape[0] for shape in shapes) < length / rows + 1000 + 2  # no row reads more than it needs


@torch.no_grad()
def one_by_one(model: LanguageModel, tokens: Tensor, carry: bool = True) -> float:
    model.eval()
    total, state = 0.0, None
    for x, y in pairwise(tokens):
        logits, new = model(x.view(1, 1), state)
        total += float(cross_entropy(logits[0], y.long().view(1)))
        state = new if carry else None
    return total / (len(tokens) - 1)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_score_is_that_of_reading_one_token_at_a_time(cell: str):
    model, tokens = model_of(scale=3, dtype=torch.float64, cell=cell, num_layers=2), draw(600)
    exact = one_by_one(model, tokens)
    assert abs(exact - one_by_one(model, tokens, carry=False)) > 0.001  # this network's memory matters
    assert evaluate(model, tokens, 600).nats == pytest.approx(exact, rel=1e-12)


def test_rows_cost_next_to_nothing():
    """A state that has read 1,000 tokens is as good as one that has read them all."""
    model, tokens = model_of(scale=3), draw(8100)
    some = tokens[:1000]
    assert abs(one_by_one(model, some) - one_by_one(model, some, carry=False)) > 0.01
    exact = one_by_one(model, tokens)
    assert evaluate(model, tokens, 8100).nats == pytest.approx(exact, abs=1e-5)


def test_evaluation_leaves_no_trace():
    model, tokens = model_of(dropout=0.5), draw(8100)
    before = torch.get_rng_state()
    model.train()
    score = evaluate(model, tokens, 8100)
    assert model.training
    assert all(part.training for part in model.modules())
    assert evaluate(model.eval(), tokens, 8100) == score  # without dropout in either mode
    assert not model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("sizes", [[1, 1, 9000], [3000, 9000, 2], [8001, 900, 900, 900]])
def test_parts_of_a_text_go_on_where_the_last_one_ended(sizes: list[int]):
    model, tokens = Lagged(12, 900), draw(sum(sizes))
    costs = list(surprises(cast(LanguageModel, model), tokens.split(sizes)))
    assert [len(cost) for cost in costs] == sizes
    logits, _ = model(tokens[:-1, None])
    exact = cross_entropy(logits[:, 0], tokens[1:].long(), reduction="none")
    torch.testing.assert_close(torch.cat(costs), torch.cat([exact.new_zeros(1), exact]), rtol=1e-12, atol=0)


def test_a_very_long_text_is_judged_in_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(language_model, "PART", 5000)
    model, tokens = Lagged(12, 1000), draw(23_456)
    assert evaluate(cast(LanguageModel, model), tokens, 1).nats == pytest.approx(in_one_row(model, tokens), rel=1e-12)


def test_bits_per_character_and_perplexity():
    """A text of 301 tokens in 602 characters: per character, as if the first token cost what the others do."""
    score = Score(tokens=300, characters=602, nats=2 * math.log(2))
    assert score.bits_per_character == pytest.approx(1.0)
    assert score.perplexity == pytest.approx(4.0)


def test_perplexity_of_a_hopeless_model_is_infinite():
    """A learning rate that is far too high gets here, with a loss that is still finite."""
    assert Score(tokens=1, characters=1, nats=1000.0).perplexity == math.inf


@pytest.mark.parametrize("cell", CELLS)
def test_untrained_network_knows_next_to_nothing(cell: str):
    size = 50
    score = evaluate(model_of(size, cell=cell, hidden_size=16), draw(3000, size), 3000)
    assert score.nats == pytest.approx(math.log(size), abs=0.15)


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_learns(tmp_path: Path, cell: str):
    options = tiny(cell=cell, hidden_size=16, learning_rate=0.05, batch_size=8, epochs=1.5, dropout=0.0)
    training = begin(tmp_path / "run", corpus_of(tmp_path, prose(4000), options), options)
    losses = [report.loss for report in training.steps()]
    assert len(losses) > 60
    assert sum(losses[:5]) / 5 - sum(losses[-5:]) / 5 > 0.6


def test_one_layer_has_no_dropout_between_layers():
    assert model_of(num_layers=1, dropout=0.3).recurrent.dropout == 0
    assert model_of(num_layers=2, dropout=0.3).recurrent.dropout == 0.3


# Lines

TEXT = "\nthe  cat's hat,\r\n\n   and the mat é😀\n\n\n\tsat\n \nat last"
PIECES = re.compile(r" ?\w+| ?[^\w\s]+|\s+")


@cache
def trained_on(unit: str) -> TrainedLanguageModel:
    known: dict[str, Any] = {
        "characters": lambda: Characters("".join(sorted({*TEXT} - {"é"}))),
        "bytes": Bytes,
        "bpe": lambda: BytePairs.learn([TEXT], 270),
        "words": lambda: Words(sorted({*PIECES.findall(TEXT)} - {" hat"})),
    }
    vocabulary = known[unit]()
    return TrainedLanguageModel(model_of(vocabulary.size, scale=3, dtype=torch.float64), vocabulary, {})


def pieces_of(unit: str, vocabulary: Any) -> list[bytes]:
    """The text of each token, which is a part of a character for some."""
    if unit == "bytes":
        return [bytes([byte]) for byte in TEXT.encode()]
    if unit == "characters":
        return [symbol.encode() for symbol in TEXT]
    if unit == "words":
        return [word.encode() for word in PIECES.findall(TEXT)]
    return [piece.encode() for piece in map(vocabulary.decoder(), vocabulary.encode(TEXT).tolist())]


@pytest.mark.parametrize("unit", ["characters", "bytes", "bpe", "words"])
def test_lines_are_the_sums_over_the_tokens_that_begin_in_them(tmp_path: Path, unit: str):
    trained, path = trained_on(unit), tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    ids = torch.from_numpy(trained.vocabulary.encode(TEXT).copy()).long()
    with torch.no_grad():
        logits, _ = trained.model.eval()(ids[:-1, None])
    cost = [0.0, *cross_entropy(logits[:, 0], ids[1:], reduction="none").tolist()]
    pieces, texts = pieces_of(unit, trained.vocabulary), TEXT.split("\n")
    assert b"".join(pieces) == TEXT.encode()
    tokens, unknown, nats = [0] * len(texts), [0] * len(texts), [0.0] * len(texts)
    line = 0
    for place, piece in enumerate(pieces):
        tokens[line] += place > 0
        unknown[line] += int(ids[place]) == trained.vocabulary.unknown
        nats[line] += cost[place]
        line += piece.count(b"\n")
    mine = list(trained.lines(path))
    assert [each.text for each in mine] == [text.removesuffix("\r") for text in texts]
    assert [each.tokens for each in mine] == tokens
    assert [each.unknown for each in mine] == unknown
    assert [each.nats for each in mine] == pytest.approx(nats, rel=1e-12)
    assert sum(unknown) == (unit in ("characters", "words"))


@pytest.mark.parametrize("unit", ["characters", "bytes"])
@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_lines_do_not_depend_on_how_a_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str, size: int
):
    """Bytes come in blocks that end anywhere, and so does a text whose lines are longer than a block."""
    trained, path = trained_on(unit), tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    whole = list(trained.lines(path))
    monkeypatch.setattr(reading, "BLOCK", size)
    mine = list(trained.lines(path))
    assert [each._replace(nats=0.0) for each in mine] == [each._replace(nats=0.0) for each in whole]
    assert [each.nats for each in mine] == pytest.approx([each.nats for each in whole], rel=1e-12)


def test_an_unknown_token_that_is_not_predicted_is_not_counted(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("é\né")
    assert [(each.tokens, each.unknown) for each in trained_on("characters").lines(path)] == [(1, 0), (1, 1)]


@pytest.mark.parametrize(("text", "expected"), [("a", [("a", 0)]), ("\n", [("", 0)]), ("a\nt", [("a", 1), ("t", 1)])])
def test_lines_of_short_texts(tmp_path: Path, text: str, expected: list[tuple[str, int]]):
    path = tmp_path / "text.txt"
    path.write_text(text)
    assert [(each.text, each.tokens) for each in trained_on("characters").lines(path)] == expected


def test_an_empty_text_has_no_lines(tmp_path: Path):
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(InputError, match=r"text\.txt is empty; give a file with text"):
        list(trained_on("bytes").lines(tmp_path / "text.txt"))


# Sampling


def drawn(logits: Tensor, temperature: float, top_p: float, never: int | None = None, count: int = 300) -> Counter[int]:
    generator = torch.Generator().manual_seed(0)
    return Counter(choose(logits, temperature, top_p, never, generator) for _ in range(count))


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.01, 1), (0.45, 1), (0.55, 2), (0.65, 2), (0.75, 3), (0.80, 3), (0.90, 4), (1.0, 5)],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: int):
    probability = torch.tensor([0.15, 0.05, 0.50, 0.10, 0.20])  # together 0.5, 0.7, 0.85, 0.95, 1
    likeliest = probability.argsort(descending=True)[:kept].tolist()
    assert set(drawn(probability.log(), 1.0, top_p, count=600)) == set(likeliest)


def test_top_p_reached_exactly_is_reached():
    assert len(drawn(torch.zeros(4), 1.0, 0.5)) == 2  # each 0.25, without rounding
    assert len(drawn(torch.zeros(4), 1.0, 0.75)) == 3


def test_top_p_looks_at_what_temperature_made():
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    assert set(drawn(logits, 0.25, 0.8)) == {0}
    assert set(drawn(logits, 1.0, 0.8)) == {0, 1, 2}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_they_should(temperature: float):
    logits, count = torch.tensor([0.3, -1.0, 1.2, 0.0]), 3000
    found = drawn(logits, temperature, 1.0, count=count)
    for token, p in enumerate(torch.softmax(logits / temperature, 0).tolist()):
        assert abs(found[token] - count * p) < 5 * math.sqrt(count * p * (1 - p))


def test_temperature_zero_takes_the_likeliest():
    assert set(drawn(torch.tensor([1.0, 1.001, 0.5]), 0.0, 1.0, count=30)) == {1}


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-39, 1e-320])
def test_small_temperature_is_close_to_zero(temperature: float):
    assert set(drawn(torch.tensor([1.0, -3.0, 2.0]), temperature, 1.0, count=30)) == {2}


@pytest.mark.parametrize("temperature", [0.0, 0.7, 100.0])
def test_what_must_not_be_drawn_never_is(temperature: float):
    assert 1 not in drawn(torch.tensor([1.0, 50.0, 1.5]), temperature, 1.0, never=1)


def text_of(model: LanguageModel, vocabulary: Any, prompt: str, length: int, temperature: float, seed: int = 0) -> str:
    generator = torch.Generator().manual_seed(seed)
    return "".join(sample(model, vocabulary, prompt, length, temperature, 1.0, generator))


VOCABULARY = Characters("\n abcdefghi")  # and one for what it lacks: 12 tokens


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_sampling_carries_the_state(cell: str):
    """The same as reading everything written so far again before each token."""
    model = model_of(scale=4, cell=cell, num_layers=2).eval()
    written = forgetful = "abc"
    for _ in range(60):
        for read in (written, forgetful[-1]):
            logits, _ = model(torch.from_numpy(VOCABULARY.encode(read).copy())[:, None])
            symbol = VOCABULARY.symbols[int(logits[-1, 0, :-1].argmax())]
            if read is written:
                written += symbol
            else:
                forgetful += symbol
    assert written != forgetful  # or the state would not matter
    assert text_of(model, VOCABULARY, "abc", 60, temperature=0) == written


def test_sampling_takes_one_step_per_token_and_waits_to_be_asked():
    model = model_of()
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[0].shape)))
    pieces = sample(model, VOCABULARY, "abcd", 10, 1.0, 1.0, torch.Generator())
    assert next(pieces) == "abcd"
    for _ in range(3):
        next(pieces)
    assert shapes == [(4, 1), (1, 1), (1, 1)]
    assert len(list(pieces)) == 7


def test_seeds_reproduce():
    model, before = model_of(dropout=0.5).train(), torch.get_rng_state()
    texts = [text_of(model, VOCABULARY, "ab", 80, 1.0, seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) == 82
    assert texts[0].startswith("ab")
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_characters_are_never_written():
    model = model_of()
    with torch.no_grad():
        model.output.bias[VOCABULARY.unknown] = 50.0
    for temperature in (0.0, 1.0, 50.0):
        assert "\N{REPLACEMENT CHARACTER}" not in text_of(model, VOCABULARY, "", 200, temperature)


def test_a_vocabulary_of_nothing_has_nothing_to_write():
    with pytest.raises(InputError, match="the model's vocabulary has no word, so that the model has nothing to write"):
        text_of(model_of(1), Words([]), "", 5, 1.0)


def test_prompt_must_be_known():
    with pytest.raises(InputError, match="the prompt has 'z', a character that is not in the model's vocabulary"):
        text_of(model_of(), VOCABULARY, "abzx", 5, 1.0)


@pytest.mark.parametrize(("prompt", "shown"), [("the ", "the"), ("the  ", "the"), (" ", ""), ("the\n", "the\n")])
def test_a_prompt_of_words_may_end_in_a_space(prompt: str, shown: str):
    vocabulary = Words([" cat", "\n", "cat", "the"])
    model = model_of(vocabulary.size, scale=4)
    assert text_of(model, vocabulary, prompt, 9, 0) == text_of(model, vocabulary, shown, 9, 0)
    assert text_of(model, vocabulary, prompt, 9, 0).startswith(shown)
    spaces = Words([" ", " cat", "the"])  # where a space is a word of its own, it is read
    assert text_of(model_of(spaces.size), spaces, "the ", 3, 0).startswith("the ")
    with pytest.raises(InputError, match="the prompt has ' dog', a word that is not in the model's vocabulary"):
        text_of(model, vocabulary, "the dog ", 3, 0)


@pytest.mark.parametrize("vocabulary", [VOCABULARY, Characters("abcdefghijk")], ids=["line end", "no line end"])
def test_without_a_prompt_it_begins_a_line(vocabulary: Characters):
    model = model_of(scale=4).eval()
    start = torch.from_numpy(vocabulary.encode("\n").copy())[:, None]
    first = vocabulary.symbols[int(model(start)[0][-1, 0, :-1].argmax())]
    text = text_of(model, vocabulary, "", 20, temperature=0)
    assert len(text) == 20
    assert text[0] == first


def test_bytes_are_written_as_whole_characters():
    """What a network writes a byte at a time comes out as text."""
    model = model_of(256)
    with torch.no_grad():  # é, é, é, ... : 0xc3 after 0xa9, 0xa9 after 0xc3
        for parameter in model.parameters():
            parameter.zero_()
        model.output.bias[0xC3] = 50.0
    assert text_of(model, Bytes(), "é", 4, 0) == "é" + "\N{REPLACEMENT CHARACTER}" * 3  # the last may go on
    with torch.no_grad():
        model.output.bias[ord("x")] = 60.0
    assert text_of(model, Bytes(), "é", 4, 0) == "éxxxx"


@pytest.mark.parametrize("prompt", ["\udcff", "ab\ud800"])
def test_prompt_that_is_no_text(prompt: str):
    """Bytes of a command line that are not UTF-8 arrive as surrogates."""
    for model, vocabulary in ((model_of(256), Bytes()), (model_of(), VOCABULARY)):
        with pytest.raises(InputError, match="prompt"):
            text_of(model, vocabulary, prompt, 3, 1.0)


# Options

REFUSED: list[tuple[str, Any, str]] = [
    ("unit", "letters", "unknown unit 'letters': choose one of characters, bytes, bpe, words"),
    ("vocabulary_size", 1, "--vocabulary-size must be 2 or more, got 1"),
    ("evaluations", 0, "--evaluations must be 1 or more, got 0"),
    ("patience", 0, "--patience must be 1 or more, got 0"),
    ("cell", "transformer", "unknown cell 'transformer'.*known cells: rnn, "),
    ("cell", "lstn", "unknown cell 'lstn'.*did you mean 'lstm'"),
    ("cell", "projected_lstm", "'projected_lstm' projects its output"),
    ("hidden_size", 0, "--hidden-size must be 1 or more, got 0"),
    ("embedding_size", 0, "--embedding-size must be 1 or more, got 0"),
    ("num_layers", 0, "--num-layers must be 1 or more, got 0"),
    ("batch_size", -1, "--batch-size must be 1 or more, got -1"),
    ("window", 0, "--window must be 1 or more, got 0"),
    ("threads", 0, "--threads must be 1 or more, got 0"),
    ("seed", -1, "--seed must be 0 or more, got -1"),
    ("seed", 1 << 64, "--seed.*18446744073709551616"),
    ("dropout", -0.1, "--dropout must lie between 0 and 0.99, got -0.1"),
    ("dropout", 1.0, "--dropout must lie between 0 and 0.99, got 1.0"),
    ("weight_dropout", 1.0, "--weight-dropout must lie between 0 and 0.99, got 1.0"),
    ("dropout", math.nan, "--dropout must lie between 0 and 0.99, got nan"),
    ("held_out", 0.0, "--held-out must lie between 0.001 and 0.9, got 0.0"),
    ("held_out", 0.95, "--held-out must lie between 0.001 and 0.9, got 0.95"),
    ("held_out", math.nan, "--held-out must lie between 0.001 and 0.9, got nan"),
    ("weight_decay", -1.0, "--weight-decay must .*got -1.0"),
    ("weight_decay", math.nan, "--weight-decay must .*got nan"),
    ("weight_decay", math.inf, "--weight-decay must .*got inf"),
    ("learning_rate", 0.0, "--learning-rate must be greater than 0, got 0.0"),
    ("learning_rate", math.nan, "--learning-rate must be greater than 0 and finite, got nan"),
    ("learning_rate", math.inf, "--learning-rate must be greater than 0 and finite, got inf"),
    ("forget_bias", -11.0, "--forget-bias must lie between -10.0 and 10.0, got -11.0"),
    ("precision", "fp8", "unknown precision 'fp8': choose one of float32, bf16"),
    ("clip", 0.0, "--clip must be greater than 0, got 0.0"),
    ("clip", math.nan, "--clip must be greater than 0 and finite, got nan"),
    ("epochs", 0.0, "--epochs must be greater than 0, got 0.0"),
    ("epochs", math.inf, "--epochs must be greater than 0 and finite, got inf"),
    ("minutes", -3.0, "--minutes must be greater than 0, got -3.0"),
    ("minutes", math.nan, "--minutes must be greater than 0 and finite, got nan"),
]


@pytest.mark.parametrize(("name", "value", "complaint"), REFUSED)
def test_options_that_make_no_sense(name: str, value: Any, complaint: str):
    options = replace(Options(epochs=1.0), **{name: value})
    with pytest.raises(InputError, match=complaint):
        options.check()
    within = f"config.json is damaged: .*{complaint.replace(flag(name), name)}.*; restore it or train again"
    with pytest.raises(InputError, match=within):
        Options.from_json(asdict(options), "config.json")


def test_a_run_of_a_larger_machine_can_be_loaded(monkeypatch: pytest.MonkeyPatch):
    """The limit of threads is that of the machine that trains."""
    monkeypatch.setattr("os.cpu_count", lambda: 100)
    options = Options(epochs=1.0, threads=400)
    options.check()
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(InputError, match="--threads must be 64 or less on this machine with 2 cores, got 400"):
        options.check()
    assert Options.from_json(asdict(options), "config.json") == options


def test_no_option_goes_unchecked():
    assert {name for name, _, _ in REFUSED} | {"tied", "validation"} == set(asdict(Options()))


def test_byte_pairs_need_room_for_all_bytes():
    with pytest.raises(InputError, match=r"--vocabulary-size must be 257 or more .*, got 256"):
        Options(unit="bpe", vocabulary_size=256, epochs=1.0).check()
    Options(unit="bpe", vocabulary_size=257, epochs=1.0).check()
    Options(unit="bytes", vocabulary_size=2, epochs=1.0).check()  # says nothing to bytes


def test_training_needs_an_end():
    with pytest.raises(InputError, match="give --epochs or --minutes"):
        Options().check()


def test_options_at_their_limits():
    smallest: dict[str, Any] = {"hidden_size": 1, "embedding_size": 1, "num_layers": 1, "batch_size": 1, "window": 1}
    Options(**smallest, dropout=0.0, held_out=0.001, weight_decay=0.0, minutes=1e-9).check()
    Options(dropout=0.99, held_out=0.9, epochs=1e9).check()


def test_options_come_back_from_json():
    options = tiny(cell="gru", minutes=3.0)
    assert Options.from_json(asdict(options), "config.json") == options
    assert Options.from_json(asdict(options) | {"epochs": 3, "minutes": None}, "config.json").epochs == 3


@pytest.mark.parametrize("name", list(asdict(Options())))
def test_options_of_a_damaged_config(name: str):
    good = asdict(tiny())
    wrong: list[Any] = [[], {}, 1 if name == "tied" else True]
    wrong += [3] if isinstance(good[name], str) or name == "validation" else ["3"]
    if isinstance(good[name], int):
        wrong += [8.0]
    if good[name] is not None and name not in ("epochs", "minutes", "patience"):
        wrong += [None]
    for value in wrong:
        with pytest.raises(InputError, match=f"config.json is damaged: {name} is "):
            Options.from_json(good | {name: value}, "config.json")
    missing = {key: value for key, value in good.items() if key != name}
    if name == "weight_dropout":  # which runs of earlier versions do not have
        assert Options.from_json(missing, "config.json") == tiny()
        return
    with pytest.raises(InputError, match=f"config.json does not fit this version of elman: options {name};"):
        Options.from_json(missing, "config.json")


def test_options_of_another_version():
    with pytest.raises(InputError, match=r"config\.json does not fit this version of elman: options momentum;"):
        Options.from_json(asdict(tiny()) | {"momentum": 0.9}, "config.json")


@pytest.mark.parametrize(
    ("unit", "given", "expected"),
    [("characters", None, -1.0), ("bytes", None, -1.0), ("words", None, None), ("words", 2.0, 2.0)],
)
def test_forget_gates_begin_as_they_should(unit: str, given: float | None, expected: float | None):
    for cell in ("lstm", "coupled_peephole_lstm"):
        of = LanguageModel(50, tiny(cell=cell, unit=unit, forget_bias=given, num_layers=2)).recurrent
        for layer in range(2):
            biases = dict(of.named_parameters())
            place, size = of.cell.gates.index("f"), of.hidden_size
            b_ih, b_hh = (biases[f"bias_{kind}_l{layer}"][place * size : (place + 1) * size] for kind in ("ih", "hh"))
            if expected is None:
                assert b_ih.unique().numel() > 1
            else:
                assert torch.equal(b_ih, torch.full_like(b_ih, expected))
                assert not b_hh.any()
    LanguageModel(50, tiny(cell="gru", unit=unit))


def test_the_score_of_a_text_is_judged_by_parts_of_it(tmp_path: Path):
    model = LanguageModel(30, Options(hidden_size=8, embedding_size=4))
    tokens = torch.randint(30, (2471,), generator=torch.Generator().manual_seed(0))
    nats = torch.cat(list(surprises(model, [tokens])))[1:].tolist()
    found = mean_of(nats_of(model, tokens), len(tokens))
    assert found.value == pytest.approx(sum(nats) / 2470)
    told = interval_by_hand([k * 20 // 2470 for k in range(2470)], nats, share=False)
    assert between(found.interval) == f" {told}"
    assert mean_of(nats_of(model, tokens[:1001]), len(tokens[:1001])).interval is not None  # ten parts of 100 tokens
    assert mean_of(nats_of(model, tokens[:1000]), len(tokens[:1000])).interval is None
