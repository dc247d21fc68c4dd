"""Pictures of runs: what they show, in which range, in which fonts, and how they are written."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry

from elman import charts, fonts
from elman.errors import InputError


def labels(ticks: Iterable[Any]) -> list[str]:
    return [tick.get_text() for tick in ticks]


# Losses


def metrics_of(**columns: list[float]) -> list[dict[str, str]]:
    count = len(next(iter(columns.values())))
    return [
        {"step": str(n + 1), "epoch": str(n + 1), **{k: str(v[n]) for k, v in columns.items()}} for n in range(count)
    ]


def drawn_in(axis: Any) -> list[tuple[list[float], list[float]]]:
    return [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in axis.lines]


def test_losses_of_a_run():
    rows = metrics_of(train_nats=[2.5, 2.0, 1.5], validation_nats=[3.0, 2.5, 2.0])
    figure = charts.losses(rows, "nats", "validation_nats", {"unigram": 3.1, "5-gram": 1.9}, "byte", 2, "1 x 8 $lstm$")
    (axis,) = figure.axes
    assert drawn_in(axis) == [
        ([1, 2, 3], [2.5, 2.0, 1.5]),
        ([1, 2, 3], [3.0, 2.5, 2.0]),
        ([2, 2], [0, 1]),
        ([2], [2.5]),  # what was kept, on the held-out curve
        ([0, 1], [3.1, 3.1]),
        ([0, 1], [1.9, 1.9]),
    ]
    assert labels(axis.texts) == ["unigram 3.100", "5-gram 1.900"]
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_title()) == ("epochs", "nats per byte", "1 x 8 $lstm$")
    legend = axis.get_legend()
    assert legend is not None
    assert labels(legend.get_texts()) == ["training, since the last point", "validation", "kept: step 2"]


@pytest.mark.parametrize("factor", [10, 0.1])
def test_a_baseline_far_off_is_named_and_does_not_stretch_the_axis(factor: float):
    rows = metrics_of(train_nats=[2.5, 2.0, 1.5], validation_nats=[3.0, 2.5, float("nan")])

    def of(**baselines: float) -> Any:
        return charts.losses(rows, "nats", "validation_nats", baselines, "byte", 2).axes[0]

    alone, near, far = of(), of(near=3.2), of(near=3.2, far=2 * factor)
    assert far.get_ylim() == near.get_ylim() != alone.get_ylim()
    assert labels(far.texts) == [f"↑ far {20:.3f}", "near 3.200"] if factor > 1 else ["near 3.200", "↓ far 0.200"]
    low, high = alone.get_ylim()
    assert low < 1.5 < 3.0 < high
    assert high - low < 1.25 * (3.0 - 1.5)


def test_names_of_baselines_do_not_overlap():
    rows = metrics_of(train_nats=[2.5, 1.5], validation_nats=[3.0, 2.0])
    (axis,) = charts.losses(rows, "nats", "validation_nats", {"a": 2.0, "b": 2.01, "c": 9, "d": 8}, "", 2).axes
    heights = {text.get_text()[-7]: text.get_position()[1] for text in axis.texts}
    assert list(heights) == ["c", "d", "b", "a"]
    assert all(above - below >= 0.069 for above, below in itertools.pairwise(heights.values()))


def test_a_score_has_a_panel_of_its_own():
    rows = metrics_of(train_nats=[2.0, 0.1], validation_nats=[2.0, 0.2], accuracy=[0.01, 0.9])
    figure = charts.losses(rows, "nats", "accuracy", {"largest class": 0.3}, "word", 2, higher_is_better=True)
    loss, accuracy = figure.axes
    assert drawn_in(accuracy)[0] == ([1, 2], [0.01, 0.9])
    assert (accuracy.get_ylabel(), labels(accuracy.texts), labels(loss.texts)) == (
        "accuracy",
        ["largest class 0.300"],
        [],
    )
    assert [axis.get_yscale() for axis in (loss, accuracy)] == ["log", "linear"]  # what rises stays as it is
    low, high = loss.get_ylim()
    assert 0 < low < 0.1 < 2 < high


@pytest.mark.parametrize("scores", [[(0, 0.5)], [(0, 0.5), (1, 0.7)], [(0, 0.5), (1, None), (2, 0.7), (3, None)]])
def test_the_trainings_of_a_search(scores: list[tuple[int, float | None]]):
    figure = charts.trials(scores, "nats per word", False)
    figure.draw_without_rendering()
    axis = figure.axes[0]
    low, high = axis.get_xlim()
    ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
    assert ticks == [number for number, _ in scores]
    assert axis.get_ylabel() == "nats per word (lower is better)"
    assert charts.trials(scores, "accuracy", True).axes[0].get_ylabel() == "accuracy (higher is better)"
    numbers, places = drawn_in(axis)[-1]
    if stopped := [number for number, score in scores if score is None]:
        assert numbers == stopped
        assert [axis.lines[-1].get_transform().transform((0, y))[1] for y in places] == [axis.bbox.y0] * len(stopped)
        assert axis.get_ylim()[0] > 0.4  # they have no score


@pytest.mark.parametrize("horizon", [2, 6, 24])
def test_forecasts_are_at_whole_steps(horizon: int):
    panel = {"past": np.arange(2 * horizon), "truth": np.zeros(horizon), "forecast": np.ones(horizon), "others": {}}
    figure = charts.forecasts({"a": panel, "b": panel}, horizon)
    figure.canvas.draw()
    assert all(re.fullmatch("\N{MINUS SIGN}?[0-9]+", text) for text in labels(figure.axes[-1].get_xticklabels()))
    assert figure.axes[-1].get_xlabel() == "steps from the time of the forecast"


def test_a_score_that_is_the_loss_is_drawn_once():
    rows = metrics_of(train_mae=[2.0, 1.1], validation_mae=[2.0, 1.2], mae=[2.000001, 1.2])
    (axis,) = charts.losses(rows, "mae", "mae", {"naive": 1.5}, "", 2).axes
    assert labels(axis.texts) == ["naive 1.500"]
    assert axis.get_ylabel() == "mean absolute error"


@pytest.mark.parametrize("length", [2, 16, 60])
@pytest.mark.parametrize("count", [2, 14, 20, 40])
def test_all_words_of_a_confusion_matrix_are_inside_the_picture(count: int, length: int):
    names = [f"{k:02}".ljust(length, "m") for k in range(count)]
    figure = charts.confusion(np.eye(count, dtype=np.int64), names, "tag", "words")
    figure.draw_without_rendering()  # a warning of matplotlib would be an error
    matrix, colours = figure.axes
    assert matrix.get_ylabel() == "true tag"
    assert labels(matrix.get_yticklabels()) == labels(matrix.get_xticklabels())
    assert [name[:2] for name in labels(matrix.get_yticklabels())] == [f"{k:02}" for k in range(min(count, 30))]
    for axis in (matrix, colours):
        box = axis.get_tightbbox()
        assert box is not None
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    assert matrix.bbox.width > 0.5 * (0.42 * min(count, 30)) * figure.dpi  # there is room for the counts


# Fonts


def installed(monkeypatch: pytest.MonkeyPatch, known: dict[str, str], since: dict[str, str] | None = None) -> list[str]:
    """Fonts by the characters that they have, in place of those of this machine. Returns which files are added later."""
    entries = [FontEntry(fname=f"/{name}", name=name) for name in known]
    characters, added = {f"/{name}": have for name, have in {**known, **(since or {})}.items()}, list[str]()

    def add(file: str) -> None:
        added.append(file)
        entries.append(FontEntry(fname=file, name=file[1:]))

    monkeypatch.setattr(fonts, "_SAID", set())
    monkeypatch.setattr(font_manager, "fontManager", SimpleNamespace(ttflist=entries, addfont=add))
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [f"/{name}" for name in since or ()])
    monkeypatch.setattr(
        font_manager, "get_font", lambda file: SimpleNamespace(get_char_index=lambda c: chr(c) in characters[file])
    )
    return added


def test_a_font_that_has_the_characters_is_found(monkeypatch: pytest.MonkeyPatch):
    known = {"Last Resort": "中नa", "Other": "中न", "Noto Sans CJK JP": "中あ", "Noto Sans": "a"}
    added = installed(monkeypatch, known, {"New": "ก"})
    assert fonts.fallbacks("中") == (["Noto Sans CJK JP"], set())
    assert fonts.fallbacks("中न") == (["Noto Sans CJK JP", "Other"], set())
    assert fonts.fallbacks("") == ([], set())
    assert added == []
    assert fonts.fallbacks("中ก") == (["Noto Sans CJK JP", "New"], set())  # installed after matplotlib made its list
    assert added == ["/New"]
    assert fonts.fallbacks("中🦜") == (["Noto Sans CJK JP"], {"🦜"})


def test_texts_get_fonts_for_what_theirs_lack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    figure = Figure()
    latin, chinese = figure.text(0, 0, "latin\n\t"), figure.text(0, 0, "a中", family="monospace")
    monkeypatch.setattr(fonts, "fallbacks", lambda characters: (["Noto"] if set(characters) == {"中"} else [], set()))
    fonts.complete(figure)
    assert chinese.get_fontfamily() == ["monospace", "Noto"]
    assert latin.get_fontfamily() == ["sans-serif"]


def test_what_no_font_has_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(fonts, "fallbacks", lambda characters: ([], set(characters)))
    monkeypatch.setattr(fonts, "_SAID", set())
    figure = Figure()
    figure.text(0, 0, "ก中あ\ufe0f a\n b")
    for name in ("a.png", "b.svg"):  # a warning of matplotlib would be an error
        charts.save(figure, tmp_path / name)
    assert capsys.readouterr().err == (
        "no font of this machine has ก あ 中, which the pictures show as boxes; "
        "install Noto Sans CJK, Noto Sans Thai and draw again\n"
    )
    charts.save(charts.confusion(np.eye(2, dtype=np.int64), ["中", "𒀀"], "tag", "words"), tmp_path / "c.png")
    assert re.findall("has (.*), which .* install (.*) and", capsys.readouterr().err) == [("𒀀", "Noto Sans Cuneiform")]


def test_the_fonts_of_scripts():
    for character, font in (
        ("字", "CJK"),
        ("한", "CJK"),
        ("！", "CJK"),
        ("ع", "Arabic"),
        ("न", "Devanagari"),
        ("ा", "Devanagari"),
        ("∮", "Symbols"),
    ):
        assert f"install Noto Sans {font} and" in fonts.advice({character})
    assert "install Noto Emoji and" in fonts.advice({"🦜"})
    assert "has 丁 七 万 丈 三 and 2 more, which" in fonts.advice(set("一丁七万丈三上") - {"一"} | {"下"})


# Files


def test_pictures_are_written_in_the_format_of_their_name(tmp_path: Path):
    figure = charts.losses(
        metrics_of(train_nats=[3], validation_nats=[3]),
        "nats",
        "validation_nats",
        {},
        "byte",
        1,
    )
    for name, start in (
        ("a.png", b"\x89PNG"),
        ("a", b"\x89PNG"),
        ("a.PNG", b"\x89PNG"),
        ("a.svg", b"<?xml"),
        ("a.pdf", b"%PDF"),
    ):
        charts.save(figure, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(InputError, match=re.escape("a.txt: pictures are not written as .txt; choose png, svg or pdf")):
        charts.save(figure, tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "old"


# Steps


def test_labels_of_steps_are_bars_where_they_are():
    truth, said = np.array([0, 0, -2, 1, 1, 1]), np.array([0, 2, 2, 1, 1, 1])
    figure = charts.labelled_steps(np.zeros((6, 9)), truth, said, ["$a", "b", "c" * 99 + "d"], 40)
    patches: list[Any] = list(figure.axes[1].patches)
    bars = [(b.get_y() + b.get_height() / 2, b.get_x(), b.get_width()) for b in patches]
    assert bars == [(1.1, 40.5, 2), (1.1, 43.5, 3), (0, 40.5, 1), (0, 41.5, 2), (0, 43.5, 3)]
    same = {(b.get_facecolor(), b.get_width()) for b in patches if b.get_width() == 3}
    assert len(same) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["$a", "b", "c" * 15 + "…" + "c" * 13 + "d"]
    assert len(figure.axes[0].lines) == 6
    assert "the first 6 of 9 channels" in figure.axes[0].get_title()
    figure.draw_without_rendering()


def test_many_classes_of_one_step_and_of_many_are_drawn():
    charts.labelled_steps(np.zeros((1, 1)), np.array([-2]), np.array([0]), ["a"], 0).draw_without_rendering()
    every = np.arange(50)
    figure = charts.labelled_steps(np.zeros((50, 1)), every, every[::-1], [str(k) for k in every], 0)
    assert len(figure.legends[0].get_texts()) == charts.LEGEND
    figure.draw_without_rendering()


def test_values_of_steps_that_are_far_apart_are_points():
    truth = np.full((20, 1), np.nan)
    truth[[3, 11], 0] = 2.5, 1
    figure = charts.valued_steps(np.ones((20, 2)), truth, np.ones((20, 1, 3)), np.ones((20, 1)), ["x"], 7)
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    assert lines["true"].get_marker() == "."
    assert lines["predicted"].get_marker() in ("", "None")
    assert np.asarray(lines["true"].get_xdata()).tolist() == list(range(8, 28))
    figure.draw_without_rendering()
    every = np.stack([truth[:, 0], np.arange(20.0)], 1)
    whole = charts.valued_steps(np.ones((20, 2)), every, every[..., None], every, ["$x$", "_y"], 0)
    assert [axis.lines[0].get_marker() in ("", "None") for axis in whole.axes[1:]] == [False, True]
    assert [axis.get_ylabel() for axis in whole.axes[1:]] == ["$x$", "_y"]
    assert [axis.get_xlabel() for axis in whole.axes] == ["", "", "step"]
    whole.draw_without_rendering()


def test_of_very_many_values_some_are_drawn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(charts, "POINTS", 10)
    truth = np.arange(35.0)[:, None]
    band = np.stack([truth - 1, truth + (truth < 30)], -1)
    figure = charts.agreement(truth, truth, band, ["x"], "steps")
    assert len(np.asarray(figure.axes[0].collections[-1].get_offsets())) == 9
    assert "100%" in figure.axes[0].get_legend().get_texts()[0].get_text()  # pyright: ignore[reportOptionalMemberAccess]


def test_each_value_has_a_panel():
    """Also one that is called like mathematics; of one that the validation lacks there is nothing to draw."""
    truth = np.arange(40.0).reshape(10, 4)
    truth[:, 2] = np.nan
    truth[1:, 3] = np.nan
    figure = charts.agreement(truth, truth + 1, (truth + 1)[..., None], ["$x", "y", "z", "a" * 99], "sequences")
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in shown][:2] == ["$x", "y"]
    assert [len(np.asarray(axis.collections[0].get_offsets())) for axis in shown] == [10, 10, 1]
    figure.draw_without_rendering()
    many = np.arange(30.0)[None]
    names = [*map(str, range(30))]
    figure = charts.agreement(many, many, many[..., None], names, "steps")
    assert len(figure.axes) == charts.PANELS
    assert figure.get_suptitle() == "the first 9 of 30 values"
    assert charts.valued_steps(np.ones((1, 2)), many, many[..., None], many, names, 0).get_suptitle() == "the first 6 of 30 values"  # fmt: skip


# Probabilities


def test_how_often_what_is_likeliest_is_right():
    sure, right, count = np.array([0.5, 0.7, 0.9]), np.array([0.4, 0.75, 0.9]), np.array([25, 25, 26])
    for apart in (True, False):
        (axis,) = charts.reliability(sure, right, count, 0.05, "words", apart).axes
        (_, diagonal), bins = drawn_in(axis)
        assert diagonal == pytest.approx(np.linspace(0, 1, 201))
        assert bins == (sure.tolist(), right.tolist())
        assert axis.get_title() == "words of the validation set: calibration error 0.0500"
        assert axis.get_legend_handles_labels()[1][-1] == "3 bins of 25 words"
        low, high = axis.get_xlim()
        assert low < 0.4 < 0.9 < high
        assert axis.get_ylim() == (low, high)
        # What bins are within by chance is known only if labels know nothing of each other.
        assert len(axis.collections) == apart
    (band,) = charts.reliability(sure, right, count, 0.05, "words", True).axes[0].collections
    corners = np.asarray(band.get_paths()[0].vertices)
    at_half = corners[corners[:, 0] == 0.5, 1]
    assert (at_half.min(), at_half.max()) == pytest.approx((0.5 - 1.96 * 0.1, 0.5 + 1.96 * 0.1))
