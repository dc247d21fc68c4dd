"""Tagging: give every word of a sentence a tag, such as its part of speech or the entity it belongs to."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from elman import cells
from elman.crf import CRF
from elman.datasets import conll, examples
from elman.datasets.conll import Sentence
from elman.datasets.reading import BadRows
from elman.datasets.store import Rows
from elman.datasets.tables import JSON_LINES
from elman.errors import InputError
from elman.files import Kept, write_json
from elman.recurrent import Recurrent
from elman.tasks import scores
from elman.tasks.options import TaggingOptions as Options
from elman.tasks.separate import (
    SeparateSequences,
    check_made_for,
    check_same,
    csv_row,
    digits,
    groups,
    held_out,
    many,
    padded,
    started,
    table,
)
from elman.tasks.tallies import Tally, Units, values, which
from elman.training.dropout import Dropout
from elman.training.record import DATA, Record, data_of, device_of
from elman.training.run import Run

CONFIG = DATA
CHUNK = 256  # sentences that are tagged side by side
USUAL = "word's usual tag"  # what the baseline is called


class TaggingModel(nn.Module):
    """Words and their spelling, recurrent layers in both directions, and a linear layer onto the tags.

    A word is its embedding and the last states of a recurrent layer that has read its characters from both ends.
    Source: B. Plank, A. Søgaard & Y. Goldberg, Multilingual part-of-speech tagging with bidirectional long short-term
    memory models and auxiliary loss (2016), without the auxiliary loss.
    """

    def __init__(self, words: int, characters: int, tags: int, options: Options):
        super().__init__()
        o = options
        cell = cells.by_name(o.cell)
        self.words = nn.Embedding(words, o.word_size)
        self.characters = nn.Embedding(characters, o.character_size)
        self.spelling = Recurrent(
            cell, o.character_size, o.spelling_size, bidirectional=True, weight_dropout=o.weight_dropout
        )
        self.recurrent = Recurrent(
            cell,
            o.word_size + 2 * o.spelling_size,
            o.hidden_size,
            o.num_layers,
            bidirectional=True,
            dropout=o.dropout if o.num_layers > 1 else 0.0,
            weight_dropout=o.weight_dropout,
        )
        self.dropout = Dropout(o.dropout)
        self.output = nn.Linear(2 * o.hidden_size, tags)
        self.crf = CRF(tags) if o.crf else None

    def forward(self, words: Tensor, lengths: Tensor, forms: Tensor, characters: Tensor, sizes: Tensor) -> Tensor:
        """Returns logits (T, B, tags) for words (T, B) in sentences of these lengths (B,).

        forms (T, B) says which of the U different words stands there; characters (C, U) and sizes (U,) spell them.
        With a CRF, they are the log-probabilities of the tags of each word, whatever the other tags are.
        """
        return self.tagged(words, lengths, forms, characters, sizes)[0]

    def tagged(
        self, words: Tensor, lengths: Tensor, forms: Tensor, characters: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns logits as `forward` does, and tags (T, B): the likeliest one of each word, or with a CRF those that are
        likeliest together."""
        scores = self.scores(words, lengths, forms, characters, sizes)
        if self.crf is None:
            return scores, scores.argmax(-1)
        return self.crf(scores, lengths), self.crf.decode(scores, lengths)

    def loss(self, tags: Tensor, lengths: Tensor, **read: Tensor) -> Tensor:
        """Returns the mean of -log p of the tags (T, B) of each word, -1 past the ends; with a CRF that of all of them together.

        lengths and read: as `forward` takes them.
        """
        scores = self.scores(lengths=lengths, **read)
        if self.crf is None:
            return cross_entropy(scores.flatten(0, 1), tags.flatten(), ignore_index=-1)
        return -self.crf.log_likelihood(scores, tags, lengths).sum() / lengths.sum()

    def scores(self, words: Tensor, lengths: Tensor, forms: Tensor, characters: Tensor, sizes: Tensor) -> Tensor:
        """Returns what the linear layer says of each word, (T, B, tags)."""
        h, _ = self.recurrent(
            self.dropout(self.inputs(words, forms, characters, sizes)), lengths=lengths
        )  # (T, B, 2 H)
        return self.output(self.dropout(h))

    def inputs(self, words: Tensor, forms: Tensor, characters: Tensor, sizes: Tensor) -> Tensor:
        """Returns what the recurrent layers read: the words and their spelling, (T, B, word_size + 2 spelling_size)."""
        _, state = self.spelling(self.characters(characters), lengths=sizes)
        last = state if isinstance(state, Tensor) else state[0]  # (2, U, spelling)
        spelling = last.transpose(0, 1).flatten(1)  # (U, 2 spelling)
        return torch.cat([self.words(words), spelling[forms]], -1)


class Gathered:
    """Sentences as numbers, of which there may be more than memory holds: those of forms and tags, as they first occur.

    A form is a word as it is written.
    """

    def __init__(self):
        self.forms_of, self.tags_of = Rows(np.int32), Rows(np.int32)  # of each sentence
        self.forms: dict[str, int] = {}  # the number of each
        self.tags: dict[str, int] = {}
        self.numbers = array("q")  # of sentences in their file
        self.width = 0  # columns of the first file, if it has words and tags in columns, and all its lines as many
        self._digest = hashlib.sha256()

    def __len__(self) -> int:
        return len(self.forms_of)

    def add(self, sentences: Iterable[Sentence]) -> None:
        """Appends the sentences of a file."""
        forms, tags, first, widths = self.forms, self.tags, not len(self), set[int]()
        for s in sentences:
            widths |= s.widths
            self.numbers.append(s.number)
            self.forms_of.append(np.array([forms.setdefault(word, len(forms)) for word in s.words], np.int32))
            self.tags_of.append(np.array([tags.setdefault(tag, len(tags)) for tag in s.tags], np.int32))
            self._digest.update(repr((s.words, s.tags)).encode())
        if first and len(widths) == 1:
            (self.width,) = widths
        self._digest.update(b"end of a file")

    @property
    def digest(self) -> str:
        """SHA-256 of all sentences, by which changed files are noticed."""
        return self._digest.hexdigest()


class Vocabulary:
    """The words, characters and tags of a training text. Number 0 of words and characters stands for all others."""

    def __init__(
        self, words: Sequence[str], counts: Sequence[int], characters: str, tags: Sequence[str], width: int = 0
    ):
        """width: how many columns the words and tags of the training had, if they had and it is known."""
        self.width = width
        self.words, self.counts, self.characters, self.tags = list(words), list(counts), characters, list(tags)
        self._word = {word: number for number, word in enumerate(self.words, 1)}
        self._character = {character: number for number, character in enumerate(characters, 1)}
        self._tag = {tag: number for number, tag in enumerate(self.tags)}

    @classmethod
    def learn(
        cls, sentences: Gathered, min_count: int, own: Sequence[int] | NDArray[np.int64] | None = None
    ) -> Vocabulary:
        """own: the places of the sentences to learn from; all if left out."""
        words, tags = np.zeros(len(sentences.forms), np.int64), np.zeros(len(sentences.tags), np.int64)
        for k in range(len(sentences)) if own is None else own:
            np.add.at(words, sentences.forms_of[k], 1)
            tags[sentences.tags_of[k]] = 1
        count = {form: int(n) for form, n in zip(sentences.forms, words, strict=True) if n}
        kept = sorted(form for form, n in count.items() if n >= min_count)
        characters = sorted(set[str]().union(*count))
        seen = sorted(tag for tag, found in zip(sentences.tags, tags, strict=True) if found)
        return cls(kept, [count[form] for form in kept], "".join(characters), seen, sentences.width)

    def word(self, form: str) -> int:
        return self._word.get(form, 0)

    def spelling(self, form: str) -> NDArray[np.int64]:
        return np.array([self._character.get(character, 0) for character in form])

    def tag(self, tag: str) -> int:
        """Returns the number of a tag, -1 for one that the training text did not have."""
        return self._tag.get(tag, -1)

    def save(self, directory: Path) -> None:
        content: dict[str, Any] = {"words": self.words, "counts": self.counts, "characters": self.characters}
        content |= {"tags": self.tags, "width": self.width}
        write_json(directory / "vocabulary.json", content)

    @classmethod
    def load(cls, kept: Kept) -> Vocabulary:
        content = kept.json("vocabulary.json")
        try:
            of_all = (content[name] for name in ("words", "counts", "characters", "tags"))
            found = cls(*of_all, width=int(content.get("width", 0)))
            whole = len(found._word) == len(found.counts) and len(found._character) == len(found.characters)
            if not whole or not found.tags or not all(isinstance(count, int) for count in found.counts):
                raise ValueError("words, counts, characters and tags do not fit each other")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{kept.place('vocabulary.json')} is damaged: {error}; restore it or train again"
            ) from error
        return found


class Encoded:
    """Sentences as what a model reads. A form's number leads to its spelling and its embedding."""

    def __init__(self, sentences: Gathered, vocabulary: Vocabulary):
        self.forms, self.tags, self.names = sentences.forms_of, sentences.tags_of, list(sentences.tags)
        self.words = np.array([vocabulary.word(form) for form in sentences.forms], dtype=np.int64)  # their embeddings
        self.spellings = Rows(np.int64)  # of each form
        for form in sentences.forms:
            self.spellings.append(vocabulary.spelling(form))
        # The vocabulary's number of each tag, -1 for one that it lacks, as it does the one before the first.
        self.known = np.array([-1, *map(vocabulary.tag, self.names)], dtype=np.int64)

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

    def unknown(self, own: Iterable[int]) -> Counter[str]:
        """Returns the tags in these sentences that the training did not have, and how often each occurs."""
        tags = (self.tags[k] for k in own)
        return Counter(self.names[tag] for row in tags for tag in row[self.known[row + 1] < 0].tolist())

    def truth(self, own: Iterable[int]) -> Tensor:
        """Returns the tags (T, B) of these sentences, -1 for unknown ones and past the ends."""
        tags, _ = padded([self.tags[k] + 1 for k in own])
        return torch.from_numpy(self.known[tags.numpy()])


class Guess(NamedTuple):
    """What a model says of a sentence whose tags are known."""

    place: int
    tags: NDArray[np.int32]  # (words,)
    nats: NDArray[np.float64]  # (words,), -log p of the true ones; 0 of one that is unknown


class Tagger:
    """A model with its vocabulary: what a run holds when it is trained."""

    def __init__(
        self,
        model: TaggingModel,
        vocabulary: Vocabulary,
        options: Options,
        path: Path | None = None,
        digest: str | None = None,
    ):
        """path: the training data; None for the built-in sentences. digest: that of these data, if it is known."""
        self.model, self.vocabulary, self.options, self.path, self.digest = model, vocabulary, options, path, digest
        self.skipped = BadRows()  # what the last call of `predict` leaves out

    @property
    def remarks(self) -> list[str]:
        """What there is to say of the last predictions."""
        return self.skipped.remarks

    def encode(self, sentences: Iterable[Sentence]) -> Encoded:
        gathered = Gathered()
        gathered.add(sentences)
        return Encoded(gathered, self.vocabulary)

    @torch.inference_mode()
    def says(
        self, encoded: Encoded, own: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[int, Tensor, NDArray[np.int32]]]:
        """Yields, in any order, the place of each sentence, its logits (words, tags) and its tags. own: the places; all if left out."""
        device = device_of(self.model)
        training = self.model.training
        self.model.eval()
        lengths = encoded.forms.lengths
        own = np.arange(len(lengths)) if own is None else own
        own = own[np.argsort(lengths[own], kind="stable")]
        for begin in range(0, len(own), CHUNK):
            chunk = own[begin : begin + CHUNK]
            batch = {name: value.to(device) for name, value in encoded.batch(chunk).items()}
            logits, tags = self.model.tagged(**batch)
            numbers = tags.int().cpu().numpy()
            for column, place in enumerate(chunk):
                yield int(place), logits[: lengths[place], column], numbers[: lengths[place], column]
        self.model.train(training)

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """Returns the tag of every word of every sentence."""
        found: list[list[str]] = [[] for _ in sentences]
        for place, _, tags in self.says(self.encode(Sentence(list(words), []) for words in sentences)):
            found[place] = [self.vocabulary.tags[k] for k in tags]
        return found

    def guesses(self, encoded: Encoded, own: NDArray[np.int64] | None = None) -> list[Guess]:
        """Returns what the model says of sentences, in any order. own: their places; all if left out."""
        found = list[Guess]()
        for place, logits, tags in self.says(encoded, own):
            truth = torch.from_numpy(encoded.known[encoded.tags[place] + 1]).to(logits.device)
            nats = cross_entropy(logits.double(), truth, ignore_index=-1, reduction="none")
            found.append(Guess(place, tags, nats.cpu().numpy()))
        return found

    def score(self, encoded: Encoded, said: Sequence[Guess]) -> tuple[dict[str, Tally], scores.Scores]:
        """Returns named scores of sentences whose tags are known, and the table of counts. said: what the model says of them.

        A word whose tag the training text did not have counts as wrong, and not in the loss.
        """
        tags, order = self.vocabulary.tags, np.array([each.place for each in said])
        lengths, total = [len(each.tags) for each in said], len(encoded.forms)
        truth = np.concatenate([encoded.known[encoded.tags[place] + 1] for place in order])
        guess, nats = np.concatenate([each.tags for each in said]), np.concatenate([each.nats for each in said])
        units, unknown = Units(np.repeat(order, lengths), total), len(encoded.unknown(order))
        found = {
            "validation_nats": Tally.of(units, (nats, truth >= 0))._replace(counted=which(truth >= 0)),
            "accuracy": Tally.of(units, (truth == guess, 1), share=True),
            "macro_f1": scores.macro_f1(truth, guess, len(tags), unknown, units),
        }
        if scores.is_bio(tags):
            true = ([encoded.names[k] for k in encoded.tags[each.place]] for each in said)
            pairs = zip(true, ([tags[k] for k in each.tags] for each in said), strict=True)
            counts = np.array([scores.entity_counts(*pair) for pair in pairs])
            found["entity_f1"] = scores.entity_f1(counts, Units(order, total))
        return found, scores.counted(truth, guess, len(tags))

    @property
    def predicts(self) -> str:
        return "tags"

    def evaluate(self, path: Path, like: scores.Judged | None = None) -> scores.Judged:
        """Returns names and figures for a file whose words have tags, and a row for each word."""
        bad = BadRows(self.options.skip_bad)
        judged = Gathered()
        judged.add(conll.sentences(path, self.options.tag, bad=bad))
        if not len(judged):
            raise InputError(f"{path} has no sentence; give at least one, with a tag for each word")
        encoded = Encoded(judged, self.vocabulary)
        said = sorted(self.guesses(encoded), key=attrgetter("place"))
        found, counts = self.score(encoded, said)
        tallies = {scores.named(name, "word"): each for name, each in found.items()}
        figures = self._figures(judged, encoded, tallies, counts, bad)
        tags = many(int(encoded.forms.lengths.sum()), f"{self.options.tag} tag")
        return scores.Judged(
            figures, lambda form: table(self._rows(judged, encoded, said), form), tallies, tags, judged.digest
        )

    def _figures(
        self, judged: Gathered, encoded: Encoded, tallies: dict[str, Tally], counts: scores.Scores, bad: BadRows
    ) -> Iterator[tuple[str, str]]:
        yield "sentences", str(len(encoded.forms))
        yield "words", str(words := int(encoded.forms.lengths.sum()))
        unknown = sum(int((encoded.words[encoded.forms[k]] == 0).sum()) for k in range(len(judged)))
        yield "unknown words", f"{unknown}, {unknown / words:.1%}: read only by their spelling"
        if bad.count:
            yield "skipped", f"{bad.count}, the first: {bad.first}"
        if others := encoded.unknown(range(len(judged))):
            yield "unknown tags", scores.unknown(others)
        for name, each in tallies.items():
            yield name, scores.figure(each)
        yield scores.how_sure(len(judged), many(len(judged), "sentence"))
        score = "entity_f1" if "entity f1" in tallies else "accuracy"
        unit, model = score.replace("_f1", " F1"), tallies[score.replace("_", " ")]
        yield from scores.on_baselines(self.path, lambda: self._baselines(judged, score), unit, model)
        yield from counts.by_label(self.vocabulary.tags, "words")

    def _baselines(self, judged: Gathered, score: str) -> dict[str, Tally]:
        learned, train, _ = self.read_again()
        return usual_tags(learned, train, judged, np.arange(len(judged)), score)

    def read_again(self) -> tuple[Gathered, NDArray[np.int64], NDArray[np.int64]]:
        """Returns what `read` does of the training data. Raises InputError if they cannot be read, or have changed."""
        found = read(self.path, self.options, BadRows(self.options.skip_bad))
        check_same(self.digest, found[0].digest, self.path or examples.TAGGED, self.options.validation)
        return found

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields the sentences of a file with their tags, as it has them, or as JSON lines or CSV if `form` says so."""
        kind = conll.form(path)
        if form == ".csv":
            yield "sentence,place,word,tag\n"
        self.skipped = BadRows(self.options.skip_bad)
        width = self.vocabulary.width if form in ("", kind) else 0  # only there are tags written between columns
        every = conll.sentences(path, self.options.tag, tagged=False, bad=self.skipped, width=width)
        for group in groups(every, CHUNK):
            for sentence, tags in zip(group, self.tag([each.words for each in group]), strict=True):
                if form in ("", kind):
                    yield conll.with_tags(sentence, tags, self.options.tag, kind, width)
                elif form in JSON_LINES:
                    yield json.dumps({"words": sentence.words, "tags": tags}, ensure_ascii=False) + "\n"
                elif form == ".csv":
                    rows = zip(sentence.words, tags, strict=True)
                    yield "".join(csv_row([sentence.number, k, w, t]) for k, (w, t) in enumerate(rows, 1))
                else:
                    yield "".join(f"{w}\t{t}\n" for w, t in zip(sentence.words, tags, strict=True)) + "\n"

    def _rows(self, judged: Gathered, encoded: Encoded, said: Iterable[Guess]) -> Iterator[dict[str, Any]]:
        """Yields a row for each word: its tag, the one that the model says, and -log p(tag)."""
        words, tags, names = list(judged.forms), list(judged.tags), self.vocabulary.tags
        for each in said:
            of = judged.forms_of[each.place], judged.tags_of[each.place], each.tags, each.nats
            known = encoded.known[encoded.tags[each.place] + 1] >= 0
            for place, (word, tag, guess, nats) in enumerate(zip(*(own.tolist() for own in of), strict=True), 1):
                yield {
                    "sentence": judged.numbers[each.place],
                    "place": place,
                    "word": words[word],
                    "tag": tags[tag],
                    "predicted": names[guess],
                    "nats": digits(nats) if known[place - 1] else None,
                }


class Tagging(SeparateSequences):
    """The task, as `elman.training.task.Task` has it."""

    name, data, measure, unit = "tag", "sentences", "nats", "word"
    higher_is_better = True

    def __init__(
        self,
        tagger: Tagger,
        sentences: Gathered,
        train: NDArray[np.int64],
        validation: NDArray[np.int64],
        path: Path | None,
    ):
        """train, validation: places of sentences. path: where these come from; None for those that come along."""
        self.path, self.source = path, str(path or examples.TAGGED)
        self.use(tagger)
        self.sentences, self.train, self.validation, self.digest = sentences, train, validation, sentences.digest
        self.encoded = Encoded(sentences, tagger.vocabulary)
        self.lengths = self.encoded.forms.lengths[train]
        self.score = "entity_f1" if scores.is_bio(tagger.vocabulary.tags) else "accuracy"
        self.score_unit = self.score.replace("_f1", " F1")
        d, counts = self.options.word_dropout, np.array([0, *tagger.vocabulary.counts])
        self.hide = torch.from_numpy(d / (d + np.maximum(counts, 1)))  # (words,): the probability that it is hidden

    def use(self, tagger: Tagger) -> None:
        self.tagger, self.model, self.options = tagger, tagger.model, tagger.options

    def untrained(self, options: Options) -> Tagger:
        vocabulary = self.tagger.vocabulary
        return _tagger(vocabulary, fitted(options, vocabulary), str(device_of(self.model)), self.path)

    def loss(self, own: NDArray[np.int64]) -> Tensor:
        batch = self.encoded.batch(self.train[own])
        words = batch["words"]
        batch["words"] = words.masked_fill(torch.rand(words.shape) < self.hide[words], 0)
        batch["tags"] = self.encoded.truth(self.train[own])
        device = device_of(self.model)
        return self.model.loss(**{name: value.to(device) for name, value in batch.items()})

    def size(self, own: NDArray[np.int64]) -> int:
        return int(self.lengths[own].sum())

    def evaluate(self) -> dict[str, float]:
        return values(self._score()[0])

    def _score(self) -> tuple[dict[str, Tally], scores.Scores]:
        return self.tagger.score(self.encoded, self.tagger.guesses(self.encoded, self.validation))

    def baselines(self) -> dict[str, float]:
        return values(usual_tags(self.sentences, self.train, self.sentences, self.validation, self.score))

    def baseline(self, name: str) -> str:
        return "gives each word its most frequent tag"

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
        tags = self.tagger.vocabulary.tags
        together = ", of which a conditional random field chooses those of a sentence together" * bool(self.options.crf)
        lines = [
            (
                "sentences",
                f"{self.source}: {len(self.train):,} with {words:,} words for training, {len(self.validation):,} for validation",
            ),
            ("tags", f"{len(tags)}{together}: {' '.join(tags[:20])}{' ...' if len(tags) > 20 else ''}"),
        ]
        if unknown := self.encoded.unknown(self.validation):
            lines.append(("unknown", scores.unknown(unknown, " validation words of a tag that training lacks")))
        return lines

    def result(self, row: Mapping[str, str]) -> str:
        parts = [f"accuracy {float(row['accuracy']):.4f}", f"macro F1 {float(row['macro_f1']):.4f}"]
        if "entity_f1" in row:
            parts.insert(0, f"entity F1 {float(row['entity_f1']):.4f}")
        return ", ".join([*parts, f"{float(row['validation_nats']):.4f} nats per word"])

    def draw(self, directory: Path) -> list[Path]:
        """Draws the confusion matrix on the validation sentences."""
        from elman import charts

        _, counts = self._score()
        path = directory / "confusion.png"
        charts.save(charts.confusion(counts.counts, self.tagger.vocabulary.tags, "tag", "words"), path)
        return [path]


def usual_tags(
    learned: Gathered, train: NDArray[np.int64], judged: Gathered, own: NDArray[np.int64], score: str
) -> dict[str, Tally]:
    """Returns the score of giving every word its most frequent tag, and an unseen word that of rare words.

    The tags are counted in the sentences `train` of `learned`, and the score is that of the sentences `own` of `judged`.
    """
    by_word: dict[int, Counter[int]] = {}
    for k in train:
        for word, tag in zip(learned.forms_of[k].tolist(), learned.tags_of[k].tolist(), strict=True):
            by_word.setdefault(word, Counter())[tag] += 1
    rare = sum((counts for counts in by_word.values() if counts.total() == 1), Counter[int]())
    unseen = (rare or sum(by_word.values(), Counter[int]())).most_common(1)[0][0]
    words, tags, names = list(learned.forms), list(learned.tags), list(judged.tags)
    usual = {words[word]: tags[counts.most_common(1)[0][0]] for word, counts in by_word.items()}
    guess = [usual.get(form, tags[unseen]) for form in judged.forms]  # of each form

    def truths() -> Iterator[list[str]]:
        return ([names[tag] for tag in judged.tags_of[k]] for k in own)

    def guesses() -> Iterator[list[str]]:
        return ([guess[form] for form in judged.forms_of[k]] for k in own)

    units, pairs = Units(own, len(judged)), zip(truths(), guesses(), strict=True)
    if score == "entity_f1":
        return {USUAL: scores.entity_f1(np.array([scores.entity_counts(a, b) for a, b in pairs]), units)}
    right = np.array([sum(map(str.__eq__, a, b)) for a, b in pairs])
    return {USUAL: Tally.of(units, (right, judged.forms_of.lengths[own]), share=True)}


def read(path: Path | None, options: Options, bad: BadRows) -> tuple[Gathered, NDArray[np.int64], NDArray[np.int64]]:
    """Returns the sentences and the indices of the training and validation sets."""
    files = [path, *([] if options.validation is None else [Path(options.validation)])]
    odd = [file for file in files if file is None or conll.form(file) != ".conllu"]
    if options.tag != "upos" and odd:
        source = odd[0] or examples.TAGGED
        raise InputError(
            f"--tag {options.tag} selects a column of a CoNLL-U file, but {source} does not end in .conllu"
        )
    found, source = Gathered(), path or examples.TAGGED
    found.add(examples.tagged_code() if path is None else conll.sentences(path, options.tag, bad=bad))
    count = len(found)
    if options.validation is not None:
        found.add(conll.sentences(Path(options.validation), options.tag, bad=bad))
        train, validation = np.arange(count), np.arange(count, len(found))
        if not len(validation):
            raise InputError(f"{options.validation} has no sentence; give at least one")
    else:
        if count < 2:
            raise InputError(
                f"{source} has {count} sentences; give at least 2, one for training and one for validation"
            )
        train, validation = held_out(count, options.held_out, options.seed)
    if not len(train):
        raise InputError(f"{source} has no sentence for training; give more, or a smaller --held-out")
    return found, train, validation


def fitted(options: Options, vocabulary: Vocabulary) -> Options:
    """Returns the options of a new model, of which `crf` depends on the tags if it is None."""
    return options if options.crf is not None else replace(options, crf=scores.is_bio(vocabulary.tags))


def begin(path: Path | None, options: Options, device: str, bad: BadRows, start: Run | None = None) -> Tagging:
    """Returns a task that trains a model on a file. start: a run from whose model it starts; None for a new one."""
    check_made_for(start, options, CONFIG)
    sentences, train, validation = read(path, options, bad)
    vocabulary = Vocabulary.learn(sentences, options.min_count, train) if start is None else Vocabulary.load(start)
    vocabulary.width = sentences.width  # the form is that of these data, whatever the run read that it starts from
    options = fitted(options, vocabulary) if start is None else replace(options, crf=bool(options.crf))
    torch.manual_seed(options.seed)
    task = Tagging(_tagger(vocabulary, options, device, path), sentences, train, validation, path)
    if start is not None:
        scores.check_known(task.encoded.unknown(train), "tags", path, start)
    return started(task, start)


def resume(run: Run, path: Path | None, options: Options, device: str) -> Tagging:
    """Returns the task of a run. Its data are read again; its model does not have its parameters yet."""
    tagger = _tagger(Vocabulary.load(run), options, device, path)
    return Tagging(tagger, *read(path, options, BadRows(options.skip_bad)), path)


def load(record: Record | Path, device: str = "cpu") -> Tagger:
    """Returns the tagger of a run, with the parameters that were best on the validation sentences."""
    record = Run(record) if isinstance(record, Path) else record
    options, config = record.options(Options, CONFIG)
    vocabulary = Vocabulary.load(record)
    model = record.model(lambda: _model(vocabulary, options), device)
    return Tagger(model, vocabulary, options, data_of(config), record.digest())


def _tagger(vocabulary: Vocabulary, options: Options, device: str, path: Path | None) -> Tagger:
    return Tagger(_model(vocabulary, options).to(device), vocabulary, options, path)


def _model(vocabulary: Vocabulary, options: Options) -> TaggingModel:
    v = vocabulary
    return TaggingModel(len(v.words) + 1, len(v.characters) + 1, len(v.tags), options)
