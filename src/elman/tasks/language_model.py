"""Language modelling: predict the next token from all tokens before it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from itertools import tee
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from elman import cells
from elman.datasets import vocabulary as vocabularies
from elman.datasets.reading import BadRows
from elman.datasets.store import Store
from elman.datasets.tables import JSON_LINES
from elman.datasets.text import DEFAULT, Block, Corpus, blocks, read
from elman.datasets.vocabulary import Vocabulary
from elman.errors import InputError
from elman.initialise import gate_bias
from elman.recurrent import Recurrent
from elman.tasks.ngram import witten_bell
from elman.tasks.options import LanguageModelOptions as Options
from elman.tasks.scores import Judged, between, figure, how_sure, on_baselines
from elman.tasks.separate import check_made_for, check_same, csv_row, many, started
from elman.tasks.tallies import Tally, along, stretches, values
from elman.training.dropout import Dropout
from elman.training.record import DATA, Entries, Record, data_of, device_of
from elman.training.run import Run
from elman.training.task import Batch
from elman.training.tbptt import Window, tbptt

PER = {"characters": "character", "bytes": "byte", "bpe": "token", "words": "word"}  # what one of a unit is called

BITS = "bits per character"
FEW = 0.001  # a share of unknown tokens whose spelling would add little to the bits of a text
MUCH = 0.05  # one that leaves the figures with little meaning
PART = 1 << 20  # tokens of a text that are judged at a time
SHORT = 100  # tokens of a part of a text, at least, by which a score is judged
WARM = 1000  # tokens that only warm up the state, where a text is read in parts
SAMPLED = 100  # tokens of the text that is written after every evaluation

# What config.json says of the data.
CONFIG: Entries = {
    **DATA,
    "data.train_tokens": int,
    "data.validation_tokens": int,
    "data.excerpt": str,
}


class LanguageModel(nn.Module):
    """An embedding, recurrent layers of any cell, and a linear layer onto the vocabulary.

    If tied, the linear layer is P h times the embedding's own weights: fewer parameters where the vocabulary is large
    (O. Press & L. Wolf, Using the output embedding to improve language models, 2017).

    forward(tokens, state) takes tokens (T, B) of any integer type, and the state of the recurrent layers, None for
    zeros. It returns logits (T, B, size) and the new state.
    """

    def __init__(self, size: int, options: Options):
        super().__init__()
        dropout = options.dropout if options.num_layers > 1 else 0.0
        self.embedding = nn.Embedding(size, options.embedding_size)
        self.recurrent = Recurrent(
            cells.by_name(options.cell),
            options.embedding_size,
            options.hidden_size,
            options.num_layers,
            dropout=dropout,
            weight_dropout=options.weight_dropout,
        )
        forget = options.forget_bias
        if forget is None and options.unit in ("characters", "bytes"):
            forget = -1.0  # what comes next depends on the last few most of all: see bench/tasks.md
        if forget is not None and "f" in self.recurrent.cell.gates:
            gate_bias(self.recurrent, f=forget)
        self.dropout = Dropout(options.dropout)
        # A word may be guessed from the others. A character that is not read can hardly be made up for.
        self.input_dropout = Dropout(options.dropout if options.unit in ("bpe", "words") else 0.0)
        self.output = nn.Linear(options.hidden_size, options.embedding_size if options.tied else size)
        self.bias = nn.Parameter(torch.zeros(size)) if options.tied else None

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        x = self.input_dropout(self.embedding(tokens.long()))  # (T, B, E)
        h, state = self.recurrent(x, state)  # (T, B, H)
        return self.logits(self.dropout(h)), state

    def logits(self, h: Tensor) -> Tensor:
        """Returns the logits (..., size) of outputs of the recurrent layers (..., H)."""
        y = self.output(h)
        return y if self.bias is None else linear(y, self.embedding.weight, self.bias)


class LanguageModelling:
    """The task: predict the next token of a text, read as parallel streams with the state carried on.

    As `elman.training.task.Task` has it.
    """

    name, data, measure = "lm", "text", "nats"
    score, higher_is_better = "validation_nats", False
    start: Path | None = None  # the run whose model the training starts from

    def __init__(self, model: LanguageModel, corpus: Corpus, options: Options, file: Path | None = None):
        """file: where the corpus comes from; None for the built-in text."""
        self.model, self.corpus, self.options, self.file = model, corpus, options, file
        self.source = str(file or DEFAULT)
        self.digest = corpus.digest
        self.length = stream_length(corpus.train, options)  # time steps in an epoch
        self.steps_per_epoch = self.length // options.window
        self.unit = PER[options.unit]
        self.score_unit = f"nats per {self.unit}"
        self.state: Any = None
        self.columns = slice(None)  # the streams of this process

    def use(self, trained: TrainedLanguageModel) -> None:
        """trained: the model to go on with, on the same vocabulary."""
        self.model = trained.model

    def anew(self, options: Options) -> LanguageModelling:
        """Returns a task on the same data, which is shared, with other options and a new model."""
        torch.manual_seed(options.seed)
        model = LanguageModel(self.corpus.vocabulary.size, options).to(device_of(self.model))
        task = LanguageModelling(model, self.corpus, options, self.file)
        task.baselines = self.baselines  # counting n-grams takes longer than reading
        return task

    def share(self, rank: int, world: int) -> None:
        """Reads from now on only a part of the streams."""
        own, rest = divmod(self.options.batch_size, world)
        if rest:
            raise InputError(
                f"--batch-size {self.options.batch_size} cannot be divided evenly among {world} processes; give a multiple of {world}"
            )
        self.columns = slice(rank * own, (rank + 1) * own)

    def batches(self, epoch: int, at: int) -> Iterator[Batch]:
        """Yields windows of the streams; at: time steps of this epoch that have been trained on."""
        if at == 0:
            self.state = None
        if at == self.length:
            return
        x, y = (part[:, self.columns] for part in streams(self.corpus.train, self.options, epoch))
        for window in tbptt((x[at:], y[at:]), k1=self.options.window, state=self.state):

            def loss(window: Window = window) -> Tensor:
                window.data = tuple(part.to(device_of(self.model)) for part in window.data)
                logits, target = window.run(self.model)  # (T, B, size), (T, B)
                self.state = window.carried
                return cross_entropy(logits.flatten(0, 1), target.long().flatten())

            steps = window.stop - window.fresh
            yield Batch(loss, steps, steps * x.shape[1])

    def evaluate(self) -> dict[str, float]:
        score = evaluate(self.model, self.corpus.validation, self.corpus.validation_characters)
        return {
            "validation_nats": score.nats,
            "bits_per_character": math.nan if self.many_unknown else score.bits_per_character,
            "perplexity": score.perplexity,
        }

    def about(self) -> dict[str, Any]:
        data = {
            "path": None if self.file is None else str(self.file.resolve()),
            "train_tokens": len(self.corpus.train),
            "validation_tokens": len(self.corpus.validation),
            "excerpt": self.corpus.excerpt,
        }
        return {"data": data, "baselines": self.baselines}

    @cached_property
    def baselines(self) -> dict[str, float]:
        """The results of `n_grams` on the validation text."""
        return values(n_grams(self.corpus.train, self.corpus.validation, self.corpus.vocabulary.size))

    @cached_property
    def unknown(self) -> int:
        """How many tokens of the validation text are not in the vocabulary. Which they are, the model does not predict."""
        return count_unknown(self.corpus.validation, self.corpus.vocabulary)

    @property
    def many_unknown(self) -> bool:
        return _many(self.unknown, self.corpus.validation)

    def baseline(self, name: str) -> str:
        before = int(name.removesuffix("-gram")) - 1 if name != "unigram" else 0
        return (
            f"counts how often each {self.unit} follows the {before} before it"
            if before
            else f"counts how often each {self.unit} occurs"
        )

    def write(self, directory: Path) -> None:
        self.corpus.vocabulary.save(directory)

    def introduction(self) -> list[tuple[str, str]]:
        train, validation = len(self.corpus.train), len(self.corpus.validation)
        unit = "tokens" if self.unit == "token" else self.options.unit
        return [("text", f"{self.source}: {train:,} {unit} for training, {validation:,} for validation")]

    def result(self, row: Mapping[str, str]) -> str:
        nats, bits, perplexity = (float(row[name]) for name in ("validation_nats", "bits_per_character", "perplexity"))
        of = f"{bits:.3f} bits" if self.unit == "character" else f"{bits:.3f} bits per character"
        if not self.corpus.validation_characters:
            of = "no character begins in the validation text"
        if self.many_unknown:
            of = f"{self.unknown / len(self.corpus.validation):.1%} of the {self.unit}s are unknown"
        return (
            f"{nats:.4f} nats per {self.unit} ({of}; as unsure as between {perplexity:.1f} equally likely {self.unit}s)"
        )

    def remark(self) -> str:
        """Returns a short text that the model generates now, always from the same random numbers."""
        generator, training = torch.Generator().manual_seed(self.options.seed), self.model.training
        try:
            text = "".join(sample(self.model, self.corpus.vocabulary, "", SAMPLED, 0.8, 1.0, generator))
        except InputError as error:  # the weights are too large for numbers
            text = f"({error})"
        self.model.train(training)
        return text

    def conclusion(self) -> list[tuple[str, str]]:
        return []

    def draw(self, directory: Path) -> list[Path]:
        return []

    def carried(self) -> dict[str, Tensor]:
        states = () if self.state is None else (self.state,) if isinstance(self.state, Tensor) else self.state
        return dict(zip(self.model.recurrent.cell.states, states, strict=False))

    def carry(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        names, o = self.model.recurrent.cell.states, self.options
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        wanted = dict.fromkeys(names, (o.num_layers, o.batch_size, o.hidden_size))
        if tensors and shapes != wanted:
            raise InputError(
                f"{path} does not fit its config.json: its states are {shapes}, but the model needs {wanted}; restore one of them or train again"
            )
        states = tuple(tensors[name][:, self.columns] for name in names if tensors)
        self.state = None if not states else states[0] if len(states) == 1 else states


def n_grams(train: Tensor, test: Tensor, size: int) -> dict[str, Tally]:
    """Returns the nats per token of n-gram models on a text: of order 1, and of the best of orders 2 to 5."""
    by_order = along(witten_bell(train.numpy(), test.numpy()[1:], size, 5), len(test) - 1, SHORT)
    best = min(range(1, 5), key=lambda n: by_order[n].value)
    return {"unigram": by_order[0], f"{best + 1}-gram": by_order[best]}


def count_unknown(tokens: Tensor, vocabulary: Vocabulary) -> int:
    """Returns how many tokens of a text stand for what the vocabulary lacks."""
    if vocabulary.unknown is None:
        return 0
    parts = tokens.split(1 << 20)  # a comparison of all would take as much memory as the tokens
    return sum(int((part == vocabulary.unknown).sum()) for part in parts)


def _many(unknown: int, tokens: Tensor) -> bool:
    """Returns whether the bits of a text could not tell it, since the spelling of unknown tokens has no part in them."""
    return unknown > FEW * len(tokens)


def stream_length(tokens: Tensor, options: Options) -> int:
    """Returns the time steps in an epoch, all in whole windows. Raises InputError if the text is too short for one."""
    length = (len(tokens) - options.window) // options.batch_size // options.window * options.window
    if length < options.window:
        need = options.window * (options.batch_size + 1)
        raise InputError(
            f"the training part of the text has {len(tokens):,} tokens, but {options.batch_size} streams with a window of {options.window} need {need:,}; "
            f"give more text{_smaller(len(tokens), options)}"
        )
    return length


def _smaller(count: int, options: Options) -> str:
    """Returns, as the rest of a sentence, a batch size and a window for which `count` tokens are enough; nothing for fewer than 2."""
    sizes = {"--batch-size": options.batch_size, "--window": options.window}
    while sizes["--window"] * (sizes["--batch-size"] + 1) > count:
        larger = max(sizes, key=lambda name: sizes[name])
        if sizes[larger] == 1:
            return ""
        sizes[larger] //= 2
    return f", or {' '.join(f'{name} {size}' for name, size in sizes.items())}"


def streams(tokens: Tensor, options: Options, epoch: int) -> tuple[Tensor, Tensor]:
    """Returns x and y, both (T, B): the text as B parallel streams, and for each token of x the token after it.

    Both are views of `tokens`. An epoch starts at a random place in the first window of the text, so that every
    epoch cuts the text into other streams and windows.
    """
    length, batch = stream_length(tokens, options), options.batch_size
    random = torch.Generator().manual_seed(options.seed + epoch)
    start = int(torch.randint(options.window, (), generator=random))
    x = tokens[start : start + length * batch].view(batch, length).t()
    y = tokens[start + 1 : start + 1 + length * batch].view(batch, length).t()
    return x, y


def _read(path: Path | None, options: Options, vocabulary: Vocabulary | None = None) -> Corpus:
    o = options
    apart = None if o.validation is None else Path(o.validation)
    return read(path, o.unit, o.held_out, o.vocabulary_size, vocabulary, apart)


def begin(
    path: Path | None, options: Options, device: str, bad: BadRows, start: Run | None = None
) -> LanguageModelling:
    """Returns a task that trains a model on a text. start: a run from whose model it starts; None for a new one."""
    check_made_for(start, options, CONFIG)
    corpus = _read(path, options, None if start is None else vocabularies.load(start))
    train, validation = len(corpus.train), len(corpus.validation)
    if validation < 2:
        larger = ", or a larger --held-out" if options.validation is None and train + validation >= 4 else ""
        raise InputError(
            f"{options.validation or f'{options.held_out} of {path or DEFAULT}'} gives {validation} validation tokens, but at least 2 are needed; give more text{larger}"
        )
    stream_length(corpus.train, options)
    torch.manual_seed(options.seed)
    model = LanguageModel(corpus.vocabulary.size, options).to(device)
    return started(LanguageModelling(model, corpus, options, path), start)


def resume(run: Run, path: Path | None, options: Options, device: str) -> LanguageModelling:
    """Returns the task of a run. Its text is read again; its model does not have its parameters yet."""
    vocabulary = vocabularies.load(run)
    corpus = _read(path, options, vocabulary)
    return LanguageModelling(LanguageModel(vocabulary.size, options).to(device), corpus, options, path)


class TrainedLanguageModel(NamedTuple):
    model: LanguageModel
    vocabulary: Vocabulary
    config: dict[str, Any]  # config.json, and in its `data` the digest of the text, None if it is not known

    @property
    def remarks(self) -> list[str]:
        return []  # there are no predictions

    @property
    def predicts(self) -> str:
        return "a text"

    def evaluate(self, path: Path, like: Judged | None = None) -> Judged:
        """Returns how well the model predicts each token of a text from all tokens before it, and what `predict` yields."""
        corpus = read(path, self.vocabulary.unit, held_out=1.0, vocabulary=self.vocabulary)
        tokens, unit = corpus.validation, f"nats per {PER[self.vocabulary.unit]}"
        if len(tokens) < 2:
            raise InputError(f"{path} has {len(tokens)} token; at least 2 are needed, one to read and one to predict")
        unknown, characters, kept = (
            count_unknown(tokens, self.vocabulary),
            corpus.validation_characters,
            Store(np.float64),
        )
        for nats in nats_of(self.model, tokens):
            kept.append(nats)
        spent = kept.array()  # of which there may be more than memory holds
        mean = mean_of((spent[begin : begin + PART] for begin in range(0, len(spent), PART)), len(spent))
        # If as many of the same tokens are unknown, they are the same.
        found = {unit: mean._replace(counted=f"{corpus.digest} {unknown}")}
        if characters and not _many(unknown, tokens):
            found[BITS] = self._bits(path, spent, characters, stretches(characters, SHORT))
        figures = self._figures(tokens, unknown, unit, found)
        by = many(characters, "character")
        return Judged(figures, partial(self.predict, path), found, by, by)

    def _figures(
        self, tokens: Tensor, unknown: int, unit: str, found: Mapping[str, Tally]
    ) -> Iterator[tuple[str, str]]:
        nats, lacking = found[unit], _many(unknown, tokens)
        yield f"{PER[self.vocabulary.unit]}s", str(len(tokens))
        if self.vocabulary.unknown is not None:
            effect = "the figures say little" if unknown > MUCH * len(tokens) else "bits per character are not given"
            why = f", {unknown / len(tokens):.1%}: not in the model's vocabulary, so {effect}" if lacking else ""
            yield "unknown", f"{unknown}{why}"
        yield unit, figure(nats)
        if not lacking:
            none = "not known, because no character begins in this text"
            yield BITS, figure(found[BITS]) if BITS in found else none
        ends = nats.interval and (_exp(nats.interval[0]), _exp(nats.interval[1]))
        yield "perplexity", f"{_exp(nats.value):.4f}{between(ends)}"
        parts, of_bits = len(nats.sums), len(found.get(BITS, nats).sums)
        more = f", and {of_bits} for bits per character" if of_bits != parts else ""
        yield how_sure(max(parts, of_bits), f"{many(parts, 'part')} of the text{more}", "the text")
        yield from on_baselines(data_of(self.config), lambda: self._baselines(tokens), unit, nats)

    def _bits(self, path: Path, spent: NDArray[np.float64], characters: int, parts: int) -> Tally:
        """Returns bits per character over parts of a text, each of as many characters, whatever its tokens are.

        spent: the nats of each token. The first one, which is not predicted, is taken to cost what others cost.
        """
        sums, begun, place = np.zeros(parts), 0, 0  # begun: characters before this block; place: tokens
        for block in filter(len, blocks(path, self.vocabulary.unit)):
            starts = self.vocabulary.starts(block)
            count = len(block)
            if isinstance(block, bytes):
                heads = np.cumsum((np.frombuffer(block, np.uint8) & 0xC0) != 0x80)
                starts, count = heads[starts] - 1, int(heads[-1])  # -1 of what ends a character of the block before
            of = (np.maximum(0, begun + starts) * parts // characters).clip(max=parts - 1)
            sums += np.bincount(of, spent[place : place + len(of)], parts)
            begun, place = begun + count, place + len(of)
        ends = -(-np.arange(parts + 1) * characters // parts)
        return Tally(np.stack([sums * len(spent) / (len(spent) - 1) / math.log(2), np.diff(ends)], -1))

    def _baselines(self, tokens: Tensor) -> dict[str, Tally]:
        """Returns the results of `n_grams`, counted in the training text of the model."""
        return n_grams(self.corpus().train, tokens, self.vocabulary.size)

    def corpus(self) -> Corpus:
        """Returns the text that the model was trained on, with its held-out part, read again.

        Raises InputError if it cannot be read, or has changed.
        """
        path, options = data_of(self.config), Options(**self.config["options"])
        corpus = _read(path, options, self.vocabulary)
        check_same(self.config["data"]["digest"], corpus.digest, path or DEFAULT, options.validation)
        return corpus

    def predict(self, path: Path, form: str) -> Iterator[str]:
        """Yields a row of CSV, or JSON, for each line of a text: how much it surprises the model."""
        per, header = PER[self.vocabulary.unit], form not in JSON_LINES
        for number, line in enumerate(self.lines(path), 1):
            row: dict[str, Any] = {"line": number, f"{per}s": line.tokens}
            if self.vocabulary.unknown is not None:
                row["unknown"] = line.unknown
            each = line.nats / line.tokens if line.tokens else None  # a token may go on over the end of a line
            row |= {"nats": line.nats, f"nats_per_{per}": each, "text": line.text}
            if header:
                yield csv_row(row)
                header = False
            if form in JSON_LINES:
                rounded = {name: float(f"{v:.6g}") if isinstance(v, float) else v for name, v in row.items()}
                yield json.dumps(rounded, ensure_ascii=False) + "\n"
            else:
                yield csv_row("" if value is None else value for value in row.values())

    def lines(self, path: Path) -> Iterator[Line]:
        """Yields the lines of a text, which the model reads in order, with the sums over the tokens that begin in each.

        The end of a line is a part of it. Raises InputError if the text is empty.
        """
        vocabulary = self.vocabulary
        every, read = tee((b, vocabulary.encode(b)) for b in blocks(path, vocabulary.unit) if b)
        costs = surprises(self.model, (torch.from_numpy(ids.copy()) for _, ids in read))
        begun, sums, first = list[Block](), np.zeros(3), True  # `begun` and `sums` are of the line that is not over
        for (block, ids), cost in zip(every, costs, strict=True):
            lines = block.split("\n") if isinstance(block, str) else block.split(b"\n")
            ends = np.cumsum([len(line) + 1 for line in lines[:-1]])
            line_of = np.searchsorted(ends, vocabulary.starts(block), side="right")
            predicted = np.ones(len(ids), bool)
            predicted[0], first = not first, False
            columns = predicted, predicted & (ids == vocabulary.unknown), cost.numpy()
            by_line = np.stack([np.bincount(line_of, column, len(lines)) for column in columns], 1)
            for place, line in enumerate(lines):
                if place:
                    yield _line(begun, sums)
                    begun, sums = [], np.zeros(3)
                begun.append(line)
                sums = sums + by_line[place]
        if not begun:
            raise InputError(f"{path} is empty; give a file with text")
        if any(begun):
            yield _line(begun, sums)


def load(record: Record | Path, device: str = "cpu") -> TrainedLanguageModel:
    """Returns the model of a run with its best parameters on the validation text, its vocabulary, and its config.json."""
    record = Run(record) if isinstance(record, Path) else record
    options, config = record.options(Options, CONFIG)
    vocabulary = vocabularies.load(record)
    model = record.model(lambda: LanguageModel(vocabulary.size, options), device)
    data = config["data"] | {"digest": record.digest()}
    return TrainedLanguageModel(model, vocabulary, config | {"data": data})


class Line(NamedTuple):
    """A line of a text, and how well it was predicted."""

    text: str  # without its end
    tokens: int  # that were predicted
    unknown: int  # tokens that the vocabulary lacks
    nats: float  # negative log-likelihood of the tokens


def _line(parts: list[Block], sums: NDArray[np.float64]) -> Line:
    """Returns a line of its parts. Bytes that are no UTF-8 are replaced."""
    text = "".join(p for p in parts if isinstance(p, str)) or b"".join(p for p in parts if isinstance(p, bytes))
    text = text if isinstance(text, str) else text.decode("utf-8", "replace")
    tokens, unknown, nats = sums.tolist()
    return Line(text.removesuffix("\r"), int(tokens), int(unknown), nats)


class Score(NamedTuple):
    """How well a text was predicted."""

    tokens: int  # that were predicted: all but the first
    characters: int  # in the whole text; of bytes, those that begin a character
    nats: float  # mean negative log-likelihood per token

    @property
    def bits_per_character(self) -> float:
        # `characters` includes those of the first token, which is not predicted, so its average share is taken out.
        return self.nats * (self.tokens + 1) / self.characters / math.log(2) if self.characters else math.nan

    @property
    def perplexity(self) -> float:
        return _exp(self.nats)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def evaluate(model: LanguageModel, tokens: Tensor, characters: int) -> Score:
    """Returns the score of predicting every token but the first from all tokens before it, as `surprises` has it."""
    return Score(len(tokens) - 1, characters, mean_of(nats_of(model, tokens), len(tokens)).value)


def nats_of(model: LanguageModel, tokens: Tensor) -> Iterator[NDArray[np.float64]]:
    """Yields what `surprises` yields for a text, tokens (N,), some at a time."""
    was_training = model.training
    yield from (nats.numpy() for nats in surprises(model, tokens.split(PART)))
    model.train(was_training)


def mean_of(spent: Iterable[NDArray[np.float64]], count: int) -> Tally:
    """Returns the mean of the nats of all tokens of a text but the first, over parts of it.

    spent: those of some tokens after the other. count: how many tokens there are.
    """
    pieces = (nats[None, 0 if n else 1 :] for n, nats in enumerate(spent))
    (found,) = along(pieces, count - 1, SHORT)
    return found


@torch.inference_mode()
def surprises(model: LanguageModel, parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yields for each part of a text, tokens (N,), the nats that each token costs after all tokens before it.

    These are -log p(token), (N,) in float64 on the CPU. The first token of the text is not predicted, and costs nothing.

    A part of 8,000 tokens or more is cut into up to 64 rows that are read at once, a row for every 4,000 tokens. Each
    row and part but the first begins with at least 1,000 tokens of the one before, which only warm up the state.
    """
    model.eval()
    before = torch.empty(0, dtype=torch.int64)
    for part in parts:
        read = torch.cat([before, part.long()])
        nats = torch.zeros(len(read), dtype=torch.float64)
        nats[1:] = _surprises(model, read)
        yield nats[len(before) :]
        before = read[-WARM - 1 :]  # the last of which predicts the next part's first token


def _surprises(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Returns the nats of all tokens (N,) but the first, (N - 1,)."""
    count = max(0, len(tokens) - 1)
    rows = max(1, min(64, len(tokens) // 4000))
    warm = WARM if rows > 1 else 0
    length = -(-(count - warm) // rows) + warm
    starts = [round(r * (count - length) / max(rows - 1, 1)) for r in range(rows)]

    device, state = device_of(model), None
    found = torch.empty(count, dtype=torch.float64)
    for begin in range(0, length, 256):
        places = torch.arange(begin, min(begin + 256, length))[:, None] + torch.tensor(starts)  # (256, rows)
        logits, state = model(tokens[places].to(device), state)
        loss = cross_entropy(logits.flatten(0, 1), tokens[places + 1].to(device).flatten(), reduction="none")
        # Where two rows overlap, the first one comes last, when it has read more than the second, and replaces its numbers.
        found[places.flatten()] = loss.double().cpu()
    return found


@torch.inference_mode()
def sample(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    temperature: float,
    top_p: float,
    generator: torch.Generator,
) -> Iterator[str]:
    """Yields a prompt, then the text of `length` more tokens, one step of the model per token.

    Spaces at the end of a prompt of words are left out, since the next word brings its own.
    temperature: the logits are divided by it; 0 always takes the likeliest token.
    top_p: a token is drawn from the smallest set of likeliest tokens whose probabilities reach top_p in sum
        (A. Holtzman et al., The curious case of neural text degeneration, ICLR 2020).
    Raises InputError if the prompt has a character that is not in the vocabulary, or if the vocabulary is empty.
    """
    if vocabulary.unknown is not None and vocabulary.size == 1:
        raise InputError(
            f"the model's vocabulary has no {PER[vocabulary.unit]}, so that the model has nothing to write; train again with a larger vocabulary"
        )
    model.eval()
    device = device_of(model)
    check_text(prompt, "the prompt")
    if vocabulary.unit == "words" and _ends_in_no_word(prompt, vocabulary):
        prompt = prompt.rstrip(" ")  # a word has the space before it
    prompt_tokens = torch.from_numpy(vocabulary.encode(prompt or "\n").copy()).long()
    if vocabulary.unknown is not None and prompt and bool((prompt_tokens == vocabulary.unknown).any()):
        pieces = vocabularies.WORD.findall(prompt) if vocabulary.unit == "words" else prompt
        strange = pieces[int((prompt_tokens == vocabulary.unknown).nonzero()[0, 0])]
        raise InputError(
            f"the prompt has {strange!r}, a {PER[vocabulary.unit]} that is not in the model's vocabulary; leave it out"
        )
    decode = vocabulary.decoder()
    yield prompt
    logits, state = model(prompt_tokens[:, None].to(device))
    for _ in range(length):
        token = choose(logits[-1, 0].float().cpu(), temperature, top_p, vocabulary.unknown, generator)
        yield decode(token)
        logits, state = model(torch.tensor([[token]], device=device), state)


def _ends_in_no_word(text: str, vocabulary: Vocabulary) -> bool:
    """Returns whether a text ends in spaces that are no word of a vocabulary of words."""
    last = vocabularies.WORD.findall(text)[-1:]
    return bool(last and not last[0].strip(" ") and vocabulary.encode(last[0])[0] == vocabulary.unknown)


def check_text(text: str, what: str) -> None:
    """Raises InputError for a text with lone surrogates, to which Python decodes arguments that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} is not UTF-8: character {error.start + 1} is {text[error.start]!r}; convert it to UTF-8"
        ) from error


def choose(logits: Tensor, temperature: float, top_p: float, never: int | None, generator: torch.Generator) -> int:
    """Returns a token drawn from logits (size,), but never the token `never`."""
    if never is not None:
        logits = logits.index_fill(0, torch.tensor([never]), -math.inf)
    if not math.isfinite(logits.max()):
        raise InputError(f"the model predicts {float(logits.max())}; train again with a lower learning rate")
    if temperature == 0:
        return int(logits.argmax())
    # Without the largest logit, exponents are at most 0: they cannot overflow, however small the temperature.
    probability, order = torch.softmax((logits - logits.max()).double() / temperature, 0).sort(descending=True)
    outside = probability.cumsum(0) - probability >= top_p  # the likelier tokens already add up to top_p
    return int(order[torch.multinomial(probability.masked_fill(outside, 0.0), 1, generator=generator)])
