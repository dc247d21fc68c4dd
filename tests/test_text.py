"""Reading text: blocks, split, vocabularies, memory, and what is said of files that cannot be read."""

from __future__ import annotations

import gzip
import json
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.datasets import reading
from elman.datasets.text import EXCERPT, read, text_blocks
from elman.datasets.vocabulary import WORD, BytePairs, Bytes, Characters, Vocabulary, Words, load
from elman.errors import InputError
from elman.training.run import Run
from tiny_runs import prose

MIXED = "\ufeffnaïve café\r\n€100 – 😀😀 日本語\r\n\n\rplain\n" * 3 + "no line end"
UNITS = ("characters", "bytes", "bpe")


def decoded(vocabulary: Vocabulary, ids: object) -> str:
    """A token at a time, as `elman sample` writes it."""
    return "".join(map(vocabulary.decoder(), ids))  # pyright: ignore[reportArgumentType]


def knowing(unit: str) -> Vocabulary:
    """A vocabulary that lacks nothing in MIXED."""
    if unit == "bytes":
        return Bytes()
    return Characters("".join(sorted(set(MIXED)))) if unit == "characters" else BytePairs.learn([MIXED], 280)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for the examples of a property to overwrite."""
    return tmp_path_factory.mktemp("text") / "scratch.txt"


@pytest.fixture(scope="session")
def pairs() -> BytePairs:
    return BytePairs.learn([prose(3000), "naïve café €100"], 300)


# Blocks


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("block", [1, 2, 3, 5, 7, 1 << 20])
def test_text_comes_out_as_it_went_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, packed: bool):
    """CRLF and characters of two to four bytes across the ends of blocks. Of a byte-order mark, bytes alone have it."""
    monkeypatch.setattr(reading, "BLOCK", block)
    path = tmp_path / "mixed.txt"  # recognised by what is in it, not by its name
    path.write_bytes(gzip.compress(MIXED.encode()) if packed else MIXED.encode())
    text = MIXED.removeprefix("\ufeff")
    assert "".join(text_blocks(path)) == text
    for unit in UNITS:
        corpus = read(path, unit, 0.3, vocabulary=knowing(unit))
        expected = MIXED if unit == "bytes" else text
        assert decoded(corpus.vocabulary, [*corpus.train.tolist(), *corpus.validation.tolist()]) == expected


def test_blocks_end_at_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So that byte-pair encoding never joins or cuts words by chance."""
    monkeypatch.setattr(reading, "BLOCK", 50)
    path = tmp_path / "lines.txt"
    lines = [f"line {n} of some words\n" for n in range(30)]
    path.write_text("".join(lines) + "and the rest")
    *blocks, rest = text_blocks(path)
    assert rest == "and the rest"
    assert "".join(blocks) == "".join(lines)
    assert len(blocks) > 5
    assert all(not block or block.endswith("\n") for block in blocks)


def test_text_without_line_ends_is_not_gathered_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "BLOCK", 10)
    path = tmp_path / "line.txt"
    path.write_text("xyzé" * 50)
    blocks = list(text_blocks(path))
    assert "".join(blocks) == "xyzé" * 50
    assert max(map(len, blocks)) <= 30


def test_default_text_is_the_documentation_topics():
    from pydoc_data.topics import topics

    corpus = read(None, "bytes", 0.1)
    whole = bytes([*corpus.train.tolist(), *corpus.validation.tolist()]).decode()
    assert len(whole) > 300_000
    assert all(topic in whole for topic in topics.values())


# Split


@pytest.mark.parametrize("block", [5, 1 << 20])
@pytest.mark.parametrize("held_out", [0.001, 0.1, 0.37, 0.9])
@pytest.mark.parametrize("unit", UNITS)
def test_split_is_exactly_at_the_boundary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str, held_out: float, block: int
):
    """In units of the text, bytes or characters, wherever blocks end, also within a character."""
    monkeypatch.setattr(reading, "BLOCK", block)
    path = tmp_path / "text.txt"
    path.write_bytes(MIXED.encode())
    whole = MIXED.encode() if unit == "bytes" else MIXED.removeprefix("\ufeff")
    boundary = len(whole) - round(len(whole) * held_out)
    corpus = read(path, unit, held_out, vocabulary=knowing(unit))
    if unit == "bytes":
        assert bytes(corpus.train.tolist()) == whole[:boundary]
        assert bytes(corpus.validation.tolist()) == whole[boundary:]
    else:
        assert decoded(corpus.vocabulary, corpus.train.tolist()) == whole[:boundary]
        assert decoded(corpus.vocabulary, corpus.validation.tolist()) == whole[boundary:]
        assert corpus.validation_characters == len(whole) - boundary


def test_characters_of_held_out_bytes_are_counted_by_their_first_bytes(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("é" * 100)
    assert read(path, "bytes", 0.1).validation_characters == 10
    assert read(path, "bytes", 0.105).validation_characters == 10  # 21 bytes: the first is half a character


def test_vocabulary_of_characters_is_that_of_the_training_part(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("ab" * 45 + "abzab€abab")
    corpus = read(path, "characters", 0.1)
    assert isinstance(corpus.vocabulary, Characters)
    assert corpus.vocabulary.symbols == "ab"
    assert corpus.vocabulary.size == 3
    assert corpus.vocabulary.unknown == 2
    assert sorted(set(corpus.train.tolist())) == [0, 1]
    assert corpus.validation.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0, 1]
    assert decoded(corpus.vocabulary, corpus.validation.tolist()) == "ab\N{REPLACEMENT CHARACTER}" * 2 + "abab"


def test_byte_pairs_are_learned_from_the_training_part(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("abab " * 400 + "zqzq " * 40)
    vocabulary = read(path, "bpe", 1 / 11, 300).vocabulary
    assert len(vocabulary.encode("abab")) < 4
    assert len(vocabulary.encode("zqzq")) == 4
    assert 256 < vocabulary.size <= 300
    assert vocabulary.unknown is None


def test_ids_take_the_smallest_type(tmp_path: Path):
    for symbols, size in ((255, 1), (256, 4)):
        path = tmp_path / f"{symbols}.txt"
        path.write_text("".join(chr(0x100 + n) for n in range(symbols)) * 2, encoding="utf-8")
        corpus = read(path, "characters", 0.1)
        assert corpus.vocabulary.size == symbols + 1
        assert corpus.train.element_size() == corpus.validation.element_size() == size


def test_digest_notices_a_changed_token(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text(prose(1000))
    before = read(path, "characters", 0.1)
    assert read(path, "characters", 0.1, vocabulary=before.vocabulary).digest == before.digest
    path.write_text(prose(1000)[:-1] + "t")
    assert read(path, "characters", 0.1, vocabulary=before.vocabulary).digest != before.digest


def test_excerpt_is_prose_from_the_held_out_part(tmp_path: Path):
    words = "these are the words of a line that has many more letters in it than any other line of the held out text"
    path = tmp_path / "text.txt"
    path.write_text(prose(4000) + "\n" + "| 1 | 2 | 3 | 4 |\n" * 8 + words + "\n" + "-" * 150 + "\n")
    assert read(path, "characters", 0.1).excerpt == words[:EXCERPT]


def test_excerpt_begins_with_a_word(tmp_path: Path):
    path = tmp_path / "text.txt"
    for held_out in (
        "nning of it " + "more words of the text " * 9,
        "ng\n\n   indented " + "words that are in one line " * 9,
    ):
        path.write_text("x" * 9 * len(held_out) + held_out)
        excerpt = read(path, "characters", 0.1).excerpt
        assert excerpt.startswith(("of it more", "indented words"))
        assert len(excerpt) == EXCERPT == 60


# Vocabularies


@given(st.text(max_size=60))
def test_characters_round_trip(content: str):
    vocabulary = Characters("".join(sorted(set(content))))
    ids = vocabulary.encode(content)
    assert len(ids) == len(content)
    assert vocabulary.unknown not in ids.tolist()
    assert decoded(vocabulary, ids.tolist()) == content


@given(st.text(max_size=60), st.text(max_size=60))
def test_only_characters_that_were_learned_are_known(learned: str, other: str):
    vocabulary = Characters("".join(sorted(set(learned))))
    unknown = [token == vocabulary.unknown for token in vocabulary.encode(other).tolist()]
    assert unknown == [character not in learned for character in other]


@given(st.text(max_size=60))
def test_bytes_round_trip(content: str):
    ids = Bytes().encode(content)
    assert bytes(ids.tolist()) == content.encode()
    assert decoded(Bytes(), ids.tolist()) == content


def test_bytes_are_decoded_as_soon_as_a_character_is_whole():
    decode = Bytes().decoder()
    assert [decode(byte) for byte in "é😀a".encode()] == ["", "é", "", "", "", "😀", "a"]


# A real U+FFFD at the very end is held back by the tokenizers library: it looks like an unfinished character.
@given(st.text(st.characters(codec="utf-8", exclude_characters="\N{REPLACEMENT CHARACTER}"), max_size=60))
def test_byte_pairs_round_trip(pairs: BytePairs, content: str):
    ids = pairs.encode(content).tolist()
    assert all(0 <= token < pairs.size for token in ids)
    assert decoded(pairs, ids) == content


@given(st.lists(st.integers(0, 255), max_size=30))
def test_any_tokens_can_be_decoded(pairs: BytePairs, tokens: list[int]):
    """A network may write bytes that are no characters."""
    decoded(Bytes(), tokens)
    decoded(pairs, tokens)
    decoded(Characters("abc"), [token % 4 for token in tokens])


def test_byte_pair_characters_split_over_tokens_come_whole(pairs: BytePairs):
    ids = pairs.encode("a😀b").tolist()
    assert len(ids) == 6  # four tokens for the face, which was not learned
    assert [piece for piece in map(pairs.decoder(), ids) if piece] == ["a", "😀", "b"]


@pytest.mark.parametrize("unit", UNITS)
def test_vocabulary_is_saved_and_loaded(tmp_path: Path, pairs: BytePairs, unit: str):
    vocabulary: Vocabulary = {"bytes": Bytes(), "characters": Characters('\n"\\é😀'), "bpe": pairs}[unit]
    vocabulary.save(tmp_path)
    again = load(Run(tmp_path))
    assert (again.unit, again.size, again.unknown) == (unit, vocabulary.size, vocabulary.unknown)
    assert again.encode("the café\n😀").tolist() == vocabulary.encode("the café\n😀").tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json" if unit == "bpe" else "vocabulary.json"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocabulary.json", b""),
        ("vocabulary.json", b'{"unit": "characters", "symbols": "ab'),
        ("vocabulary.json", b"\xff\xfe"),
        ("vocabulary.json", b"[1, 2]"),
        ("vocabulary.json", b"{}"),
        ("vocabulary.json", b'{"unit": "words", "symbols": "ab"}'),
        ("vocabulary.json", b'{"unit": "characters"}'),
        ("vocabulary.json", b'{"unit": "characters", "symbols": ""}'),
        ("vocabulary.json", b'{"unit": "characters", "symbols": "aba"}'),
        ("vocabulary.json", b'{"unit": "characters", "symbols": ["a", "b"]}'),
        ("tokenizer.json", b""),
        ("tokenizer.json", b'{"model": 3}'),
        ("tokenizer.json", b"\xff\xfe"),
    ],
)
def test_damaged_vocabulary(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / name} is damaged")):
        load(Run(tmp_path))


def test_missing_vocabulary(tmp_path: Path):
    with pytest.raises(InputError, match=re.escape(f"cannot read {tmp_path / 'vocabulary.json'}: No such file")):
        load(Run(tmp_path))


# Files that cannot be read


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(gzip.compress(prose(5000).encode())))


@pytest.mark.parametrize("unit", UNITS)
def test_files_that_cannot_be_read(tmp_path: Path, unit: str):
    path = tmp_path / "file"
    with pytest.raises(InputError, match=re.escape(f"cannot read {path}: No such file")):
        read(path, unit, 0.1, 300)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path} is a directory")):
        read(tmp_path, unit, 0.1, 300)
    for empty in (b"", gzip.compress(b"")):
        path.write_bytes(empty)
        with pytest.raises(InputError, match=re.escape(f"{path} is empty")):
            read(path, unit, 0.1, 300)
    for change in (
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:12],
        lambda packed: packed[:200] + bytes(40) + packed[240:],
        lambda packed: packed[:-8] + bytes(8),  # checksum and length
        lambda packed: packed[:2] + b"\xff" + packed[3:],  # the method
    ):
        damage(path, change)
        with pytest.raises(InputError, match=re.escape(f"{path} is a damaged gzip file")):
            read(path, unit, 0.1, 300)


@pytest.mark.skipif(os.name == "nt", reason="has no such pipes")
def test_a_pipe(tmp_path: Path) -> None:
    """Its beginning says how it is packed, and a training reads its text more than once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)  # which waits for no other process
    os.write(descriptor, b"some text\n")
    with pytest.raises(InputError) as error:
        list(text_blocks(pipe))
    os.close(descriptor)
    assert str(error.value) == f"{pipe} is a pipe, which cannot be read twice; write it to a file first, and give that"


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that opens but cannot be read")
def test_file_whose_reading_fails():
    with pytest.raises(InputError, match="cannot read /proc/self/mem: Input/output error"):
        read(Path("/proc/self/mem"), "bytes", 0.1)


def test_file_without_permission(tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("everything is permitted to root")
    path = tmp_path / "file"
    path.write_text("text")
    path.chmod(0)
    with pytest.raises(InputError, match=re.escape(f"cannot read {path}: Permission denied")):
        read(path, "characters", 0.1)


def test_name_that_is_too_long():
    """Somebody gave the text itself where its file's name belongs."""
    with pytest.raises(InputError, match="File name too long"):
        read(Path("It was a bright cold day in April. " * 200), "characters", 0.1)


@pytest.mark.parametrize("block", [4, 1 << 20])
@pytest.mark.parametrize("unit", ["characters", "bpe"])
def test_binary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str, block: int):
    monkeypatch.setattr(reading, "BLOCK", block)
    path = tmp_path / "file"
    path.write_bytes(b"text and text\0and so on")
    with pytest.raises(InputError, match=re.escape(f"{path} looks binary: byte 14 is zero")):
        read(path, unit, 0.1, 300)
    assert len(read(path, "bytes", 0.1).train) == 21


@given(before=st.text(st.sampled_from("ab\né€😀"), max_size=30), block=st.sampled_from([1, 2, 3, 4, 7, 1 << 20]))
def test_first_byte_that_is_not_utf_8_is_named(scratch: Path, before: str, block: int):
    scratch.write_bytes(before.encode() + b"\xff" + b"\nthe rest\n" * 3)
    at, line = len(before.encode()) + 1, before.count("\n") + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK", block)
        with pytest.raises(InputError) as caught:
            read(scratch, "characters", 0.1)
    assert f"{scratch} is not UTF-8: byte {at}, on line {line}, is 0xff;" in str(caught.value)
    assert "--unit bytes" in str(caught.value)


@pytest.mark.parametrize("block", [1, 3, 4, 1 << 20])
def test_a_character_broken_off_is_named_by_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int):
    monkeypatch.setattr(reading, "BLOCK", block)
    path = tmp_path / "file"
    path.write_bytes("one\ntwo €".encode()[:-1] + b" three\n")
    with pytest.raises(InputError, match=re.escape("is not UTF-8: byte 9, on line 2, is 0xe2;")):
        read(path, "characters", 0.1)
    path.write_bytes("one\ntwo\n😀".encode()[:-1])
    with pytest.raises(InputError, match=re.escape("is not UTF-8: it ends in the middle of a character, on line 3;")):
        read(path, "characters", 0.1)


# Memory


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("unit", ["characters", "bytes"])
def test_memory_holds_the_ids_once_and_never_the_text(tmp_path: Path, unit: str, packed: bool):
    path = tmp_path / "large.txt"
    content = (prose(99_999) + "\n").encode() * 200
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    read(path, unit, 0.1)  # imports and caches
    tracemalloc.start()
    try:
        corpus = read(path, unit, 0.1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    ids = corpus.train.nbytes + corpus.validation.nbytes
    assert ids == 20_000_000
    assert ids < peak < 1.6 * ids + 4e6


def test_saved_vocabulary_is_readable(tmp_path: Path):
    Characters("\nabé").save(tmp_path)
    content = (tmp_path / "vocabulary.json").read_text(encoding="utf-8")
    assert json.loads(content) == {"unit": "characters", "symbols": "\nabé"}
    assert "é" in content


# Words


@given(st.text())
def test_words_in_a_row_are_the_text_again(text: str):
    vocabulary = Words(sorted(set(WORD.findall(text))))
    decode = vocabulary.decoder()
    assert "".join(decode(int(token)) for token in vocabulary.encode(text)) == text


def test_the_most_frequent_words_have_tokens(tmp_path: Path):
    vocabulary = Words.learn(["it is, it is", " what it is"], 4)
    assert {" is", " it"} <= set(vocabulary.words)  # three times and twice; the third of them is any of the others
    assert vocabulary.size == 4
    assert vocabulary.encode(" is strange").tolist() == [vocabulary.words.index(" is"), vocabulary.unknown]
    vocabulary.save(tmp_path)
    assert vars(load(Run(tmp_path))) == vars(vocabulary)
