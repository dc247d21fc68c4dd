"""The options of a task, stated once. A run saves them in its config.json, and the command line is made from them.

This file does not import torch, so that `--help` is quick.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from elman.errors import InputError


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    choices: Sequence[str] = (),
    search: Sequence[Any] = (),
    of_model: bool = False,
    later: bool = False,
) -> Any:
    """A field of a class of options.

    help: a sentence for the command line. least and most: limits that are allowed; above: one that is not.
    search: where `elman tune` looks for a good value: the least and the largest number, or words to choose from.
    of_model: whether a model is made for one value, so that a training which starts from a model keeps it.
    later: whether runs may lack it, which were begun before there was this option.
    """
    limits = {"least": least, "most": most, "above": above, "choices": tuple(choices)}
    own = {"help": help, "search": tuple(search), "of_model": of_model, "later": later}
    return dataclasses.field(default=default, metadata={**own, **limits})


def learning_rate_option(default: float, search: Sequence[float] = ()) -> Any:
    help = "Peak learning rate, reached after warm-up; it then follows half a cosine down to zero."
    return option(default, help, above=0, search=search)


def flag(name: str) -> str:
    """Returns an option as it is written on the command line."""
    return "--" + name.replace("_", "-")


def with_names(text: str, names: Iterable[str]) -> str:
    """Returns a text in which these options stand as Python has them, where it has them as the command line does."""
    flags = "|".join(sorted(map(flag, names), key=len, reverse=True))
    return re.sub(rf"(?<![\w-])({flags})(?![\w-])", lambda found: found[1][2:].replace("-", "_"), text)


def said(name: str, value: Any) -> str:
    """Returns how something was begun with this value of an option, as the command line has it."""
    if value is None or value is False:
        return f"without {flag(name)}"
    return f"with {flag(name)}" if value is True else f"with {flag(name)} {value}"


def most_threads() -> int:
    """Returns how many threads a training may have: far more than help, and few enough for OpenMP to start them."""
    return max(64, 4 * (os.cpu_count() or 1))


def check_precision(precision: str, device: str) -> None:
    """Raises InputError if a device, such as "cpu" or "cuda:0", has no such precision."""
    if precision == "bf16" and device == "cpu":
        problem = "--precision bf16 is for GPUs, and this runs on the CPU"
        raise InputError(f"{problem}; leave it out", f"{problem}; run on a GPU")


@dataclass(frozen=True)
class Options:
    """The options of the training loop of every task. A task adds its own options in a subclass.

    Training ends after `epochs` or `minutes`, whichever comes first.
    """

    task: ClassVar[str]  # its name on the command line

    learning_rate: float = learning_rate_option(1e-3)
    weight_decay: float = option(0.01, "AdamW's weight decay.", least=0, most=1e6)
    clip: float = option(1.0, "Largest norm of the gradient.", above=0)
    epochs: float | None = option(
        None,
        "Passes over the training data. With --epochs alone, a resumed run equals an uninterrupted one bit for bit.",
        above=0,
    )
    minutes: float | None = option(None, "Minutes of training; 3 if neither this nor --epochs is given.", above=0)
    evaluations: int = option(12, "Number of evaluations in a run, evenly spaced.", least=1)
    patience: int | None = option(
        None, "Stop after this many evaluations without a better score; default: never.", least=1
    )
    seed: int = option(0, "Seed of all random numbers.", least=0, most=2**63 - 1)
    precision: str = option(
        "float32",
        "float32; or bf16, for GPUs: products in bfloat16, sums and weights in float32.",
        choices=("float32", "bf16"),
    )
    threads: int = option(1, "Threads on the CPU; more than one helps wide layers on an idle machine.", least=1)

    def check(self) -> None:
        """Raises InputError for the first option whose value makes no sense."""
        for field in fields(self):
            limits = {name: field.metadata[name] for name in ("least", "most", "above", "choices")}
            if problem := _problem(getattr(self, field.name), **limits):
                raise InputError(problem.format(name=field.name, flag=flag(field.name)))
        if self.epochs is None and self.minutes is None:
            raise InputError("training needs a limit: give --epochs or --minutes")
        if self.threads > most_threads():
            raise InputError(
                f"--threads must be {most_threads()} or less on this machine with {os.cpu_count() or 1} cores, got {self.threads}"
            )

    def useless(self, file: Path | None) -> dict[str, str]:
        """Returns the options that have no effect on this file with the others as they are, and why.

        The command line refuses them where they are given. From Python they have values in any case.
        """
        return {}

    @classmethod
    def from_json(cls, content: dict[str, Any], where: str) -> Self:
        """Returns the options stored in a config.json. Raises InputError, naming the file, if they are not valid.

        An option that is `later` may be missing: a run of an earlier version did without it, as its default does.
        """
        known = {field.name for field in fields(cls)}
        later = {field.name: field.default for field in fields(cls) if field.metadata["later"]}
        if odd := sorted({*content, *later} ^ known):
            raise InputError(f"{where} does not fit this version of elman: options {', '.join(odd)}; train again")
        for field in fields(cls):
            value = (later | content)[field.name]
            if kind := cls.wrong_type(field, value):
                raise InputError(
                    f"{where} is damaged: {field.name} is {value!r} but should be {kind}; restore it or train again"
                )
        options = cls(**content)
        try:
            # Threads are those of the machine that began the run.
            replace(options, threads=min(options.threads, most_threads())).check()
        except InputError as error:
            raise InputError(
                f"{where} is damaged: {with_names(str(error), known)}; restore it or train again"
            ) from error
        return options

    @staticmethod
    def wrong_type(field: dataclasses.Field[Any], value: Any) -> str:
        """Returns what the value of an option should be, if it is of another type; "" if it is not."""
        fits = {
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": isinstance(value, (int, float)) and not isinstance(value, bool),
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
            "None": value is None,
        }
        return "" if any(fits[kind] for kind in str(field.type).split(" | ")) else str(field.type)


def _problem(value: Any, least: Any, most: Any, above: Any, choices: tuple[str, ...]) -> str | None:
    """Returns what is wrong with a value, in words with places for the option's name and flag; None if nothing is."""
    if choices and value not in choices:
        return f"unknown {{name}} {value!r}: choose one of {', '.join(choices)}"
    if value is None:
        return None
    if above is not None and not above < value < math.inf:
        finite = "" if math.isfinite(value) else " and finite"
        return f"{{flag}} must be greater than {above}{finite}, got {value}"
    if least is not None and most is not None and isinstance(value, float):
        return None if least <= value <= most else f"{{flag}} must lie between {least} and {most}, got {value}"
    if least is not None and not least <= value:
        return f"{{flag}} must be {least} or more, got {value}"
    if most is not None and not value <= most:
        return f"{{flag}} must be {most} or less, got {value}"
    return None
