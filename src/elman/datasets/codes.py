"""The numbers that stand for words."""

from __future__ import annotations

from collections.abc import Iterable


class Codes(dict[str, int]):
    """The codes of words, from 1 on, and 0 for all others."""

    def __init__(self, words: Iterable[str]):
        super().__init__((word, code) for code, word in enumerate(words, 1))

    def __missing__(self, word: str) -> int:
        return 0


class Growing(dict[str, int]):
    """The codes of words, from 1 on, as they first occur."""

    def __missing__(self, word: str) -> int:
        self[word] = code = len(self) + 1
        return code
