"""Tagging: give every word of a sentence a tag, such as its part of speech or the entity it belongs to."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from elman import cells
from elman.datasets import conll, examples
from elman.datasets.conll import Sentence
from elman.datasets.reading import BadRows
from elman.errors import InputError
from elman.files import read_json, write_atomically
from elman.recurrent import Recurrent
from elman.tasks import scores
from elman.tasks.options import TaggingOptions as Options
from elman.tasks.separate import SeparateSequences, csv_row, groups, held_out, padded
from elman.training.dropout import Dropout
from elman.training.run import Entries, Run

CONFIG: Entries = {"data": dict, "data.path": (str, type(None))}
CHUNK = 256  # sentences that are tagged side by side


class TaggingModel(nn.Module):
    """Words and their spelling, recurrent layers in both directions, and a linear layer onto the tags.

    A word is its embedding beside the last states of a recurrent layer that has read its characters from both ends.
    Source: B. Plank, A. Søgaard & Y. Goldberg, Multilingual part-of-speech tagging with bidirectional long short-term
    memory models and auxiliary loss (2016), without the auxiliary loss.
    """

    def __init__(self, words: int, characters: int, tags: int, options: Options):
        super().__init__()
        o = options
        cell = cells.by_name(o.cell)
        self.words = nn.Embedding(words, o.word_size)
        self.characters = nn.Embedding(characters, o.character_size)
        self.spelling = Recurrent(cell, o.character_size, o.spelling_size, bidirectional=True)
        self.recurrent = Recurrent(
            cell,
            o.word_size + 2 * o.spelling_size,
            o.hidden_size,
            o.num_layers,
            bidirectional=True,
            dropout=o.dropout if o.num_layers > 1 else 0.0,
        )
        self.dropout = Dropout(o.dropout)
        self.output = nn.Linear(2 * o.hidden_size, tags)

    def forward(self, words: Tensor, lengths: Tensor, forms: Tensor, characters: Tensor, sizes: Tensor) -> Tensor:
        """Returns logits (T, B, tags) for words (T, B) in sentences of these lengths (B,).

        forms (T, B) says which of the U different words stands there; characters (C, U) and sizes (U,) spell them.
        """
        _, state = self.spelling(self.characters(characters), lengths=sizes)
        last = state if isinstance(state, Tensor) else state[0]  # (2, U, spelling)
        spelling = last.transpose(0, 1).flatten(1)  # (U, 2 spelling)
        x = torch.cat([self.words(words), spelling[forms]], -1)
        h, _ = self.recurrent(self.dropout(x), lengths=lengths)  # (T, B, 2 H)
        return self.output(self.dropout(h))


class Vocabulary:
    """The words, characters and tags of a training text. Number 0 of words and characters stands for all others."""

    def __init__(self, words: Sequence[str], counts: Sequence[int], characters: str, tags: Sequence[str]):
        self.words, self.counts, self.characters, self.tags = list(words), list(counts), characters, list(tags)
        self._word = {word: number for number, word in enumerate(self.words, 1)}
        self._character = {character: number for number, character in enumerate(characters, 1)}
        self._tag = {tag: number for number, tag in enumerate(self.tags)}

    @classmethod
    def learn(cls, sentences: Iterable[Sentence], min_count: int) -> Vocabulary:
        words, characters, tags = Counter[str](), set[str](), set[str]()
        for sentence in sentences:
            words.update(sentence.words)
            characters.update(*sentence.words)
            tags.update(sentence.tags)
        kept = sorted(word for word, count in words.items() if count >= min_count)
        return cls(kept, [words[word] for word in kept], "".join(sorted(characters)), sorted(tags))

    def word(self, form: str) -> int:
        return self._word.get(form, 0)

    def spelling(self, form: str) -> NDArray[np.int64]:
        return np.array([self._character.get(character, 0) for character in form])

    def tag(self, tag: str) -> int:
        """Returns the number of a tag, -1 for one that the training text did not have."""
        return self._tag.get(tag, -1)

    def save(self, directory: Path) -> None:
        content = {"words": self.words, "counts": self.counts, "characters": self.characters, "tags": self.tags}
        write_atomically(directory / "vocabulary.json", json.dumps(content, ensure_ascii=False, indent=1).encode())

    @classmethod
    def load(cls, directory: Path) -> Vocabulary:
        path = directory / "vocabulary.json"
        content = read_json(path)
        try:
            found = cls(*(content[name] for name in ("words", "counts", "characters", "tags")))
            whole = len(found._word) == len(found.counts) and len(found._character) == len(found.characters)
            if not whole or not found.tags or not all(isinstance(count, int) for count in found.counts):
                raise ValueError("words, counts, characters and tags do not fit each other")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged: {error}; restore it or train again") from error
        return found


class Encoded(NamedTuple):
    """Sentences as numbers. A form is a word as it is written; its number leads to its spelling and its embedding."""

    forms: list[NDArray[np.int64]]  # of each sentence, (words,)
    tags: list[NDArray[np.int64]]  # likewise; -1 where a tag is unknown
    words: NDArray[np.int64]  # (forms,): the number of its embedding
    spellings: list[NDArray[np.int64]]  # of each form

    @classmethod
    def of(cls, sentences: Sequence[Sentence], vocabulary: Vocabulary) -> Encoded:
        numbers: dict[str, int] = {}
        forms = [np.array([numbers.setdefault(w, len(numbers)) for w in s.words]) for s in sentences]
        tags = [np.array([vocabulary.tag(tag) for tag in s.tags], dtype=np.int64) for s in sentences]
        words = np.array([vocabulary.word(form) for form in numbers], dtype=np.int64)
        return cls(forms, tags, words, [vocabulary.spelling(form) for form in numbers])

    def batch(self, own: Iterable[int]) -> dict[str, Tensor]:
        """Returns what the model reads for the sentences at these places."""
        forms, lengths = padded([self.forms[k] for k in own])  # (T, B)
        different, which = np.unique(forms.numpy(), return_inverse=True)
        characters, sizes = padded([self.spellings[form] for form in different])
        return {
            "words": torch.from_numpy(self.words[forms.numpy()]),
            "lengths": lengths,
            "forms": torch.from_numpy(which.reshape(forms.shape)),
            "characters": characters,
            "sizes": sizes,
        }


class Tagger:
    """A model with its vocabulary: what a run holds when it is trained."""

    def __init__(self, model: TaggingModel, vocabulary: Vocabulary, options: Options):
        self.model, self.vocabulary, self.options = model, vocabulary, options

    @torch.inference_mode()
    def logits(self, sentences: Sequence[Sentence]) -> Iterator[tuple[int, Tensor]]:
        """Yields, in any order, the place of each sentence and its logits (words, tags)."""
        device = self.model.output.weight.device
        training = self.model.training
        self.model.eval()
        encoded = Encoded.of(sentences, self.vocabulary)
        order = np.argsort([len(forms) for forms in encoded.forms], kind="stable")
        for begin in range(0, len(order), CHUNK):
            own = order[begin : begin + CHUNK]
            logits = self.model(**{name: value.to(device) for name, value in encoded.batch(own).items()})
            for column, place in enumerate(own):
                yield int(place), logits[: len(encoded.forms[place]), column]
        self.model.train(training)

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """Returns the likeliest tag of every word of every sentence."""
        found: list[list[str]] = [[] for _ in sentences]
        for place, logits in self.logits([Sentence(list(words), []) for words in sentences]):
            found[place] = [self.vocabulary.tags[k] for k in logits.argmax(-1).tolist()]
        return found

    def score(self, sentences: Sequence[Sentence]) -> tuple[dict[str, float], scores.Scores]:
        """Returns named scores of sentences whose tags are known, and the table of counts.

        A word whose tag the training text did not have counts as wrong, and not in the loss.
        """
        tags = self.vocabulary.tags
        truth, predicted = [np.empty(0, np.int64)] * len(sentences), [np.empty(0, np.int64)] * len(sentences)
        nats, known = 0.0, 0
        for place, logits in self.logits(sentences):
            truth[place] = np.array([self.vocabulary.tag(tag) for tag in sentences[place].tags])
            predicted[place] = logits.argmax(-1).cpu().numpy()
            target = torch.from_numpy(truth[place]).to(logits.device)
            nats += float(cross_entropy(logits, target, ignore_index=-1, reduction="sum"))
            known += int((target >= 0).sum())
        a, b = np.concatenate(truth), np.concatenate(predicted)
        counts = scores.counted(a[a >= 0], b[a >= 0], len(tags))
        found = {
            "validation_nats": nats / max(1, known),
            "accuracy": float((a == b).mean()),
            "macro_f1": counts.macro_f1,
        }
        if scores.is_bio(tags):
            guesses = [[tags[k] for k in row] for row in predicted]
            *_, found["entity_f1"] = scores.entity_f1([sentence.tags for sentence in sentences], guesses)
        return found, counts

    def evaluate(self, path: Path) -> Iterator[tuple[str, str]]:
        """Yields names and figures for a file whose words have tags."""
        bad = BadRows(self.options.skip_bad)
        sentences = list(conll.sentences(path, self.options.tag, bad=bad))
        if not sentences:
            raise InputError(f"{path} has no sentence; give one at least, with a tag for each word")
        found, counts = self.score(sentences)
        yield "sentences", str(len(sentences))
        yield "words", str(sum(len(sentence.words) for sentence in sentences))
        if bad.count:
            yield "left out", f"{bad.count}, the first: {bad.first}"
        for name, value in found.items():
            yield name.replace("validation_nats", "nats_per_word").replace("_", " "), f"{value:.4f}"
        yield from counts.by_label(self.vocabulary.tags, "words")

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields the sentences of a file with their tags, as it has them, or as JSON lines or CSV if `form` says so."""
        kind = conll.form(path)
        if form == ".csv":
            yield "sentence,place,word,tag\n"
        done = 0
        for group in groups(conll.sentences(path, self.options.tag, tagged=False), CHUNK):
            for sentence, tags in zip(group, self.tag([each.words for each in group]), strict=True):
                done += 1
                if form in ("", kind):
                    yield conll.with_tags(sentence, tags, self.options.tag, kind)
                elif form in (".jsonl", ".ndjson"):
                    yield json.dumps({"words": sentence.words, "tags": tags}, ensure_ascii=False) + "\n"
                elif form == ".csv":
                    rows = zip(sentence.words, tags, strict=True)
                    yield "".join(csv_row([done, k, w, t]) for k, (w, t) in enumerate(rows, 1))
                else:
                    yield "".join(f"{w}\t{t}\n" for w, t in zip(sentence.words, tags, strict=True)) + "\n"


class Tagging(SeparateSequences):
    """The task, as `elman.training.task.Task` has it."""

    name, data, measure, unit = "tag", "sentences", "nats", "word"
    higher_is_better = True

    def __init__(self, tagger: Tagger, train: Sequence[Sentence], validation: Sequence[Sentence], path: Path | None):
        """path: where the sentences come from; None for those that come along."""
        self.tagger, self.model, self.options, self.path = tagger, tagger.model, tagger.options, path
        self.train, self.validation = train, validation
        self.encoded = Encoded.of(train, tagger.vocabulary)
        self.lengths = np.array([len(forms) for forms in self.encoded.forms])
        self.digest = hashlib.sha256(repr([(s.words, s.tags) for s in [*train, *validation]]).encode()).hexdigest()
        self.score = "entity_f1" if scores.is_bio(tagger.vocabulary.tags) else "accuracy"
        self.score_unit = self.score.replace("_f1", " F1")
        d, counts = self.options.word_dropout, np.array([0, *tagger.vocabulary.counts])
        self.hide = torch.from_numpy(d / (d + np.maximum(counts, 1)))  # (words,): the probability that it is hidden

    def anew(self, options: Options) -> Tagging:
        """Returns the task of the same data, which is shared, with other options and a new model."""
        torch.manual_seed(options.seed)
        task = copy(self)
        task.tagger = _tagger(self.tagger.vocabulary, options, str(self.model.output.weight.device))
        task.model, task.options = task.tagger.model, options
        return task

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        batch = self.encoded.batch(own)
        words = batch["words"]
        batch["words"] = words.masked_fill(torch.rand(words.shape) < self.hide[words], 0)
        device = self.model.output.weight.device
        logits = self.model(**{name: value.to(device) for name, value in batch.items()})
        tags, _ = padded([self.encoded.tags[k] + 1 for k in own])  # zero in the padding
        return cross_entropy(logits.flatten(0, 1), tags.to(device).flatten() - 1, ignore_index=-1)

    def size(self, own: NDArray[np.int64]) -> int:
        return int(self.lengths[own].sum())

    def evaluate(self) -> dict[str, float]:
        return self.tagger.score(self.validation)[0]

    def baselines(self) -> dict[str, float]:
        """Returns the score of giving every word its most frequent tag, and an unseen word that of rare words."""
        by_word: dict[str, Counter[str]] = {}
        for sentence in self.train:
            for word, tag in zip(sentence.words, sentence.tags, strict=True):
                by_word.setdefault(word, Counter())[tag] += 1
        rare = sum((counts for counts in by_word.values() if counts.total() == 1), Counter[str]()) or Counter(
            tag for sentence in self.train for tag in sentence.tags
        )
        usual = {word: counts.most_common(1)[0][0] for word, counts in by_word.items()}
        unseen = rare.most_common(1)[0][0]
        guesses = [[usual.get(word, unseen) for word in sentence.words] for sentence in self.validation]
        truth = [sentence.tags for sentence in self.validation]
        if self.score == "entity_f1":
            return {"word's usual tag": scores.entity_f1(truth, guesses)[2]}
        pairs = [a == b for s, g in zip(truth, guesses, strict=True) for a, b in zip(s, g, strict=True)]
        return {"word's usual tag": sum(pairs) / len(pairs)}

    def about(self) -> dict[str, Any]:
        data = {
            "path": None if self.path is None else str(self.path.resolve()),
            "train_sentences": len(self.train),
            "validation_sentences": len(self.validation),
        }
        return {"data": data, "baselines": self.baselines()}

    def write(self, directory: Path) -> None:
        self.tagger.vocabulary.save(directory)

    def introduction(self) -> list[tuple[str, str]]:
        words = int(self.lengths.sum())
        source = self.path or examples.TAGGED
        tags = self.tagger.vocabulary.tags
        return [
            (
                "sentences",
                f"{source}: {len(self.train):,} with {words:,} words to learn from, {len(self.validation):,} held out",
            ),
            ("tags", f"{len(tags)}: {' '.join(tags[:20])}{' ...' if len(tags) > 20 else ''}"),
        ]

    def result(self, row: Mapping[str, str]) -> str:
        parts = [f"accuracy {float(row['accuracy']):.4f}", f"macro F1 {float(row['macro_f1']):.4f}"]
        if "entity_f1" in row:
            parts.insert(0, f"entity F1 {float(row['entity_f1']):.4f}")
        return ", ".join([*parts, f"{float(row['validation_nats']):.4f} nats per word"])

    def draw(self, directory: Path) -> list[Path]:
        """Draws the table of counts on held-out sentences."""
        from elman import charts

        _, counts = self.tagger.score(self.validation)
        path = directory / "confusion.png"
        charts.save(charts.confusion(counts.counts, self.tagger.vocabulary.tags, "tag", "words"), path)
        return [path]


def read(path: Path | None, options: Options, bad: BadRows) -> tuple[list[Sentence], list[Sentence]]:
    """Returns the sentences to learn from and those held out."""
    files = [path, *([] if options.validation is None else [Path(options.validation)])]
    odd = [file for file in files if file is None or conll.form(file) != ".conllu"]
    if options.tag != "upos" and odd:
        source = odd[0] or examples.TAGGED
        raise InputError(f"--tag {options.tag} chooses a column of CoNLL-U, and {source} does not end in .conllu")
    every = examples.tagged_code() if path is None else list(conll.sentences(path, options.tag, bad=bad))
    source = path or examples.TAGGED
    if options.validation is not None:
        train, validation = every, list(conll.sentences(Path(options.validation), options.tag, bad=bad))
        if not validation:
            raise InputError(f"{options.validation} has no sentence; give one at least")
    else:
        if len(every) < 2:
            raise InputError(
                f"{source} has {len(every)} sentences; give 2 at least, one to learn from and one to judge by"
            )
        first, second = held_out(len(every), options.held_out, options.seed)
        train, validation = [every[k] for k in first], [every[k] for k in second]
    if not train:
        raise InputError(f"{source} has no sentence to learn from; give more, or a smaller --held-out")
    return train, validation


def begin(path: Path | None, options: Options, device: str, bad: BadRows) -> Tagging:
    """Returns the task of learning from a file, with a new model."""
    train, validation = read(path, options, bad)
    vocabulary = Vocabulary.learn(train, options.min_count)
    torch.manual_seed(options.seed)
    return Tagging(_tagger(vocabulary, options, device), train, validation, path)


def resume(run: Run, path: Path | None, options: Options, device: str) -> Tagging:
    """Returns the task of a run, with its data read again and a model still to be filled."""
    tagger = _tagger(Vocabulary.load(run.directory), options, device)
    return Tagging(tagger, *read(path, options, BadRows(options.skip_bad)), path)


def load(directory: Path, device: str = "cpu") -> Tagger:
    """Returns the tagger of a run, as it did best on held-out sentences."""
    run = Run(directory)
    options, _ = run.options(Options, CONFIG)
    tagger = _tagger(Vocabulary.load(directory), options, device)
    run.fill(tagger.model)
    tagger.model.eval()
    return tagger


def _tagger(vocabulary: Vocabulary, options: Options, device: str) -> Tagger:
    v = vocabulary
    model = TaggingModel(len(v.words) + 1, len(v.characters) + 1, len(v.tags), options)
    return Tagger(model.to(device), v, options)
