"""Units that track something: properties by hand, planted units, what looks like tracking and is none, random networks."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.datasets.text import read
from elman.datasets.vocabulary import BytePairs, Bytes, Characters, Vocabulary, Words
from elman.explain import units
from elman.explain.trace import trace
from elman.explain.units import Tracking, along, find, spell, states_along
from elman.tasks.language_model import LanguageModel
from tiny_runs import WORDS, tiny

Array = NDArray[np.float64]
LETTERS = Characters("".join(map(chr, range(32, 127))) + "\t\n“”")


def ids(text: str, vocabulary: Vocabulary = LETTERS) -> Tensor:
    return torch.from_numpy(vocabulary.encode(text).copy())


def quoting(length: int, seed: int = 0, opening: str = "“", closing: str = "”") -> str:
    """Words on one line, of which some stand in quotes."""
    draw, parts = random.Random(seed), list[str]()
    while sum(map(len, parts)) < length:
        words = " ".join(draw.choices(WORDS, k=draw.randint(3, 8)))
        parts.append(f"{opening}{words}{closing} " if draw.random() < 0.4 else f"{words} ")
    return "".join(parts)[:length]


# Properties


@pytest.mark.parametrize(
    ("key", "text", "values"),
    [
        ("quotes", 'a "bc" d', "00111000"),
        ("quotes", "a “bc” d", "00111000"),
        ("quotes", "it's” “a", "00000011"),
        ("quotes", 'a "b\nc\n\n"d"', "0011111" "0" "110"),
        ("quotes", '"b\n \t\nc', "11111" "00"),
        ("brackets", "a(b[c])d{e}", "01111100110"),
        ("brackets", ")a(b)", "00110"),
        ("brackets", "((b\nc\n\nd", "111111" "00"),
        ("line", "abc\n\nd e", "12300123"),
        ("indent", "a  b\n  c d\n\n e", "00000" "12222" "00" "11"),
        ("indent", "\t\ta", "122"),
        ("word", "ab c1de-f\ng", "12010120101"),
        ("quotes", "", ""),
    ],
)  # fmt: skip
def test_a_property_after_every_character(key: str, text: str, values: str) -> None:
    assert "".join(f"{value:.0f}" for value in along(spell(LETTERS, ids(text)), key)) == values


def test_a_token_has_the_value_of_the_last_character_that_is_complete() -> None:
    """An opening typographic quote has three bytes, and the last of them makes it a character."""
    held = along(spell(Bytes(), ids("a“é”", Bytes())), "quotes")
    #                      a  “        é     ”
    assert held.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 0]
    assert along(spell(Bytes(), ids("“", Bytes())), "word").tolist() == [0, 0, 0]

    words = Words([' "', '"', " and", " the"])
    assert along(spell(words, ids(' and "the and" the', words)), "quotes").tolist() == [0, 1, 1, 1, 0, 0]
    assert along(spell(words, ids(' and "the and" the', words)), "line").tolist() == [4, 6, 8, 12, 13, 17]

    text = quoting(3000) + "é“ü”"
    pairs = BytePairs.learn([text], 300)
    tokens, decode = ids(text, pairs), pairs.decoder()
    read_so_far, expected = "", list[float]()
    for token in tokens.tolist():
        read_so_far += decode(token)
        expected.append(read_so_far.count("“") - read_so_far.count("”"))
    assert read_so_far == text
    assert len(tokens) < len(text) / 2
    assert along(spell(pairs, tokens), "quotes").tolist() == expected


# Planted units


@pytest.mark.parametrize("sign", [1, -1])
def test_a_network_that_latches_on_quotes_is_found(sign: int) -> None:
    """h = tanh(2 h + 20 at an opening quote - 20 at a closing one) stays near 1 inside and near -1 outside."""
    torch.manual_seed(0)
    size = LETTERS.size
    model = LanguageModel(size, tiny(cell="rnn", hidden_size=8, embedding_size=size)).eval()
    parameters = dict(model.recurrent.named_parameters())
    with torch.no_grad():
        model.embedding.weight.copy_(torch.eye(size))
        for parameter in parameters.values():
            parameter[5].zero_()
        parameters["weight_hh_l0"][5, 5] = 2
        for mark, push in (("“", 20), ("”", -20)):
            parameters["weight_ih_l0"][5, int(ids(mark))] = sign * push
    (found,) = [unit for unit in find(model, LETTERS, ids(quoting(4000))) if unit.property == "quotes"]
    assert found.threshold == pytest.approx(0, abs=0.1)
    assert found._replace(threshold=None, alone=0, low=0, high=0) == Tracking(
        "quotes", "flag", 0, "h", 5, sign, None, 1.0, 0, 1.0, 1.0, 0, 0
    )
    assert found.alone < 0.8
    assert [found.low, found.high] == pytest.approx([-1, 1], abs=0.05)


def found_among(planted: dict[tuple[int, str, int], Array], tokens: Tensor, vocabulary: Vocabulary = LETTERS) -> Any:
    """What is found by property in two layers of an LSTM whose other units are noise. planted: by layer, state and unit."""
    noise = np.random.default_rng(1)
    states = {
        (layer, state): noise.normal(size=(6, len(tokens))).astype(np.float32) for layer in (0, 1) for state in "hc"
    }
    for (layer, state, unit), values in planted.items():
        states[layer, state][unit] = values
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "states_along", lambda model, tokens: states)
        return {unit.property: unit for unit in find(Any, vocabulary, tokens)}  # pyright: ignore[reportArgumentType]


def test_planted_units_are_found_with_their_layer_state_sign_and_threshold() -> None:
    text = quoting(6000, opening='"', closing='"').replace(" the ", "\n  the ").replace(" a ", " (a ")
    text = text.replace(" of", " of)").replace(" is", " is]").replace(" to", " to}")
    tokens = ids(text)
    values = {key: along(spell(LETTERS, tokens), key) for key in units.PROPERTIES}
    planted = {
        (1, "c", 4): 3 - 2 * values["quotes"],
        (0, "h", 0): 2 + values["brackets"],
        (0, "c", 2): -0.1 * values["line"],
        (1, "h", 3): values["indent"] + 5,
    }
    found = found_among(planted, tokens)
    assert list(found) == ["quotes", "brackets", "line", "indent"]
    where = {key: (unit.layer, unit.state, unit.unit, unit.sign, unit.threshold) for key, unit in found.items()}
    assert where == {
        "quotes": (1, "c", 4, -1, 2.0),
        "brackets": (0, "h", 0, 1, 2.5),
        "line": (0, "c", 2, -1, None),
        "indent": (1, "h", 3, 1, None),
    }
    for unit in found.values():
        assert unit.score == pytest.approx(1)
        exact = None if unit.kind == "number" else 1.0
        assert (unit.precision, unit.recall) == (exact, exact)
    assert (found["quotes"].low, found["quotes"].high) == (1, 3)


def test_the_scores_are_those_of_the_second_half() -> None:
    """The unit is right in the first half, misses every third token in quotes in the second, and is lit at 100 others."""
    tokens = ids(quoting(6000))
    held = along(spell(LETTERS, tokens), "quotes")
    unit = held.copy()
    inside, outside = (3000 + np.flatnonzero(held[3000:] == value) for value in (1, 0))
    unit[inside[::3]], unit[outside[:100]] = 0, 1
    found = found_among({(0, "h", 1): unit}, tokens)["quotes"]
    hits = len(inside) - len(inside[::3])
    assert found.recall == pytest.approx(hits / len(inside))
    assert found.precision == pytest.approx(hits / (hits + 100))
    assert found.score == pytest.approx(2 * hits / (hits + 100 + len(inside)))
    # A letter says nothing of quotes here, so the best guess without a memory is "always", or better by the quotes alone.
    share = len(inside) / 3000
    assert 2 * share / (1 + share) <= found.alone < 2 * share / (1 + share) + 0.1


def test_what_the_last_token_tells_is_not_tracking() -> None:
    """Inside the brackets are digits only, so a unit that knows the last character alone fits as well as can be."""
    draw = random.Random(0)
    text = "".join(f"{draw.choice(WORDS)} ({draw.randint(0, 9999):04d}) " for _ in range(500))
    tokens = ids(text)
    decoy = np.array([float(character in "(0123456789") for character in text])
    assert np.array_equal(decoy, along(spell(LETTERS, tokens), "brackets"))
    assert "brackets" not in found_among({(0, "c", 3): decoy}, tokens)


def test_a_unit_that_fits_only_the_half_that_chose_it_is_not_found() -> None:
    tokens = ids(quoting(6000))
    held, line = along(spell(LETTERS, tokens), "quotes"), along(spell(LETTERS, tokens), "line")
    half = np.arange(6000) < 3000
    assert set(found_among({(0, "c", 3): held, (1, "h", 0): line}, tokens)) == {"quotes", "line"}
    assert (
        found_among({(0, "c", 3): np.where(half, held, 1 - held), (1, "h", 0): np.where(half, line, -line)}, tokens)
        == {}
    )


def test_a_unit_that_is_always_lit_does_not_track_what_mostly_holds() -> None:
    """In the first half, quotations are in capitals, and the unit follows them. In the second half, neither is true any more."""
    first = re.sub("“[^”]*”", lambda quotation: quotation[0].upper(), quoting(3000))
    second = "“" + quoting(3000, 1).replace("“", "” so “").replace("” ", "” and “")[:2999]
    tokens = ids(first + second)
    held = along(spell(LETTERS, tokens), "quotes")
    assert held[3000:].mean() > 0.8
    lit = np.where(np.arange(6000) < 3000, held, 1)
    assert found_among({(0, "c", 3): lit}, tokens) == {}


def test_no_threshold_parts_equal_values() -> None:
    fit = units._fit_flag(np.zeros(9), np.array([0, 0, 0, 0, 0, 1, 1, 1, 1.0]))
    assert fit.strength == 2 * 4 / (9 + 4)
    assert units._fit_flag(np.array([1, 1, -1, -1, 1.0]), np.array([0, 1, 0, 0, 1.0])) == (0.8, 1, 0.0)


def test_a_property_that_hardly_varies_is_left_out() -> None:
    plain = quoting(3000).replace("“", "").replace("”", "")

    def quotes_in(first: int, second: int) -> bool:
        """Whether a planted unit is found where as many tokens of each half are in quotes, all in one quotation."""
        text = "".join(
            f"{plain}“{'a' * (count - 1)}”".ljust(4000) if count else plain.ljust(4000) for count in (first, second)
        )
        held = along(spell(LETTERS, ids(text)), "quotes")
        assert [held[:4000].sum(), held[4000:].sum()] == [first, second]
        return "quotes" in found_among({(0, "c", 3): held}, ids(text))

    assert quotes_in(30, 30)
    for counts in ((0, 0), (29, 30), (30, 29), (0, 100), (100, 0)):
        assert not quotes_in(*counts)
    assert found_among({}, ids("")) == found_among({}, ids("a")) == {}


def test_a_score_must_reach_a_minimum() -> None:
    """The units are lit in quotes and, beyond them, at so many other tokens that F1 is what is asked."""
    plain = (quoting(200, seed).replace("“", "").replace("”", "") for seed in range(40))
    tokens = ids("".join(f"{words}“it was for the” " for words in plain))
    held = along(spell(LETTERS, tokens), "quotes")
    for f1, found in ((0.47, False), (0.53, True)):
        share = (2 / f1 - 2) * held.mean() / (1 - held.mean())  # of the tokens not in quotes
        lit = np.maximum(held, np.random.default_rng(0).random(len(held)) < share)
        of = found_among({(0, "c", 3): lit}, tokens)
        assert ("quotes" in of) == found, of


def test_tokens_of_bytes_and_of_byte_pairs() -> None:
    text = quoting(6000)
    for vocabulary in (Bytes(), BytePairs.learn([text], 300)):
        tokens = ids(text, vocabulary)
        found = found_among({(1, "c", 0): along(spell(vocabulary, tokens), "quotes")}, tokens, vocabulary)
        assert found["quotes"].score == 1.0
        assert found["quotes"].threshold == 0.5


# Networks


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_random_network_tracks_nothing(cell: str) -> None:
    corpus = read(None, "characters", 0.1)
    for seed, hidden in enumerate((32, 128)):
        torch.manual_seed(seed)
        model = LanguageModel(corpus.vocabulary.size, tiny(cell=cell, hidden_size=hidden, embedding_size=64)).eval()
        assert find(model, corpus.vocabulary, corpus.validation[:6000]) == []


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_relu"])
def test_the_states_are_those_of_a_trace(cell: str) -> None:
    torch.manual_seed(0)
    model = LanguageModel(LETTERS.size, tiny(cell=cell, num_layers=2)).eval()
    tokens = ids(quoting(50))
    states = states_along(model, tokens)
    with torch.no_grad():
        recurrences = trace(model.recurrent, model.embedding(tokens.long()[:, None])).recurrences
    expected = {(layer, name): of.states[name] for layer, of in enumerate(recurrences) for name in of.states}
    assert states.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(states[key], value[:, 0].T.numpy(), atol=1e-6)


def test_a_state_that_overflows_disturbs_no_other_unit() -> None:
    torch.manual_seed(0)
    model = LanguageModel(LETTERS.size, tiny(cell="rnn_relu")).eval()
    with torch.no_grad():
        for parameter in model.recurrent.parameters():
            parameter.fill_(3)
    tokens = ids(quoting(1000))
    assert all(np.isfinite(units).all() for units in states_along(model, tokens).values())
    assert find(model, LETTERS, tokens) == []
