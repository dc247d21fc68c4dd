"""Vocabularies turn text into token ids and back: of characters, bytes, byte pairs or words."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError
from elman.files import Kept, write_atomically, write_json

WORD = re.compile(r" ?\w+| ?[^\w\s]+|\s+")  # with the space before it, so that words in a row are the text again


class Vocabulary(Protocol):
    """The tokens that a language model reads and writes. Their ids run from 0 to size - 1."""

    @property
    def unit(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def unknown(self) -> int | None:
        """The id of the token for characters that the vocabulary lacks; None if it lacks none."""
        ...

    def encode(self, text: str | bytes) -> NDArray[Any]:
        """Returns the token ids of a text. The unit "bytes" also takes bytes."""
        ...

    def starts(self, text: str | bytes) -> NDArray[np.int64]:
        """Returns for each token of `encode(text)` where it begins in the text."""
        ...

    def decoder(self) -> Callable[[int], str]:
        """Returns a function that takes the next token and returns the text that it completes, for streaming."""
        ...

    def save(self, directory: Path) -> None: ...


class Characters:
    """One token for each character in the training text, and one for all other characters."""

    unit = "characters"

    def __init__(self, symbols: str):
        self.symbols = symbols
        self.size = len(symbols) + 1
        self.unknown = len(symbols)
        points = np.array([ord(symbol) for symbol in symbols], dtype=np.int64)
        kind = np.uint8 if self.size <= 256 else np.int32
        # Ids by code point. The last entry is for all larger code points.
        self._table = np.full(points.max(initial=0) + 2, self.unknown, dtype=kind)
        self._table[points] = np.arange(len(symbols), dtype=kind)

    def encode(self, text: str | bytes) -> NDArray[Any]:
        assert isinstance(text, str)
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        return self._table[np.minimum(points, len(self._table) - 1)]

    def starts(self, text: str | bytes) -> NDArray[np.int64]:
        return np.arange(len(text))

    def decoder(self) -> Callable[[int], str]:
        return lambda token: self.symbols[token] if token < len(self.symbols) else "\N{REPLACEMENT CHARACTER}"

    def save(self, directory: Path) -> None:
        content = {"unit": self.unit, "symbols": self.symbols}
        write_json(directory / "vocabulary.json", content)


class Bytes:
    """One token per byte of UTF-8."""

    unit = "bytes"
    size = 256
    unknown = None

    def encode(self, text: str | bytes) -> NDArray[Any]:
        return np.frombuffer(text.encode() if isinstance(text, str) else text, dtype=np.uint8)

    def starts(self, text: str | bytes) -> NDArray[np.int64]:
        return np.arange(len(self.encode(text)))

    def decoder(self) -> Callable[[int], str]:
        incremental = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda token: incremental.decode(bytes([token]))

    def save(self, directory: Path) -> None:
        write_atomically(directory / "vocabulary.json", json.dumps({"unit": self.unit}).encode())


class BytePairs:
    """Byte-pair encoding, learned from the training text. It includes all single bytes, so no text is unknown to it."""

    unit = "bpe"
    unknown = None

    def __init__(self, serialized: str):
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(serialized)
        self.size = self._tokenizer.get_vocab_size()

    @classmethod
    def learn(cls, blocks: Iterable[str], size: int) -> BytePairs:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
        trainer = trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(blocks, trainer)
        return cls(tokenizer.to_str())

    def encode(self, text: str | bytes) -> NDArray[Any]:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    def starts(self, text: str | bytes) -> NDArray[np.int64]:
        return np.array([start for start, _ in self._tokenizer.encode(text).offsets], dtype=np.int64)

    def decoder(self) -> Callable[[int], str]:
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        return lambda token: stream.step(self._tokenizer, token) or ""

    def save(self, directory: Path) -> None:
        write_atomically(directory / "tokenizer.json", self._tokenizer.to_str(pretty=True).encode())


class Words:
    """One token for each of the most frequent words, with the space before it, and one for all other words."""

    unit = "words"

    def __init__(self, words: list[str]):
        self.words = words
        self.size = len(words) + 1
        self.unknown = len(words)
        self._number = {word: number for number, word in enumerate(words)}

    @classmethod
    def learn(cls, blocks: Iterable[str], size: int) -> Words:
        counts = Counter(word for block in blocks for word in WORD.findall(block))
        return cls(sorted(word for word, _ in counts.most_common(size - 1)))

    def encode(self, text: str | bytes) -> NDArray[Any]:
        assert isinstance(text, str)
        return np.array([self._number.get(word, self.unknown) for word in WORD.findall(text)], dtype=np.int32)

    def starts(self, text: str | bytes) -> NDArray[np.int64]:
        assert isinstance(text, str)
        return np.array([word.start() for word in WORD.finditer(text)], dtype=np.int64)

    def decoder(self) -> Callable[[int], str]:
        return lambda token: self.words[token] if token < len(self.words) else " \N{REPLACEMENT CHARACTER}"

    def save(self, directory: Path) -> None:
        content = {"unit": self.unit, "words": self.words}
        write_json(directory / "vocabulary.json", content)


def load(kept: Kept) -> Vocabulary:
    """Returns the vocabulary that a training has kept. Raises InputError if it is missing or damaged."""
    if kept.has("tokenizer.json"):
        content = kept.json("tokenizer.json")
        try:
            return BytePairs(json.dumps(content))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise InputError(
                f"{kept.place('tokenizer.json')} is damaged: {error}; restore it or train again"
            ) from error
    content, place = kept.json("vocabulary.json"), kept.place("vocabulary.json")
    symbols = content.get("symbols", "")
    if content.get("unit") == "bytes":
        return Bytes()
    if content.get("unit") == "words":
        words = content.get("words")
        if (
            not isinstance(words, list)
            or not all(isinstance(w, str) and w for w in words)
            or len(set(words)) < len(words)
        ):
            raise InputError(f"{place} is damaged: it should hold a list of different words; restore it or train again")
        return Words(words)
    if (
        content.get("unit") != "characters"
        or not isinstance(symbols, str)
        or not symbols
        or len(set(symbols)) != len(symbols)
    ):
        raise InputError(
            f"{place} is damaged: it should hold a unit and, for characters, a string of different symbols; restore it or train again"
        )
    return Characters(symbols)
