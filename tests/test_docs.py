"""What the documents say is run: code blocks, commands, names."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

import elman
import elman.explain
import tiny_runs
from forks import RUN, Child, Forks

ROOT = Path(__file__).parent.parent
CHINESE = {"README.zh.md": "README.md", "docs/zh/tutorial.md": "docs/tutorial.md"}  # each with what it translates
IN_CHINESE = [ROOT / name for name in CHINESE]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(set((ROOT / "docs").rglob("*.md")) - {*IN_CHINESE})]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


# Pages that are read, and run, from top to bottom, with what they print.
PAGES = [
    ROOT / "docs" / name for name in ("engine.md", "onnx.md", "tutorial.md", "your-own-cell.md", "your-own-task.md")
]


def python_blocks() -> list[object]:
    single = [path for path in DOCUMENTS if path not in PAGES]
    found = [(path, number, block) for path in single for number, block in enumerate(blocks(path, "python"))]
    return [pytest.param(block, id=f"{path.name}-{number}") for path, number, block in found]


@pytest.mark.parametrize("block", python_blocks())
def test_python_blocks_run(
    block: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    # In a file of its own, since a cell's source may be asked for.
    exec(compile(block, "<document>", "exec"), {"__name__": "document"})
    shown = re.findall(r"^print\(.*\)  # (\[.*\])$", block, re.MULTILINE)
    assert not shown or shown == capsys.readouterr().out.splitlines()


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning")  # of torch, about its own code, when it exports
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_print_what_they_show(
    page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "document", ModuleType("document"))  # where a dataclass looks for its module
    names = {"__name__": "document"}
    steps = re.findall(
        r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?",
        page.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert sum(bool(shown) for _, shown in steps) >= 3
    for block, shown in steps:
        exec(compile(block, page.name, "exec"), names)
        printed = "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())
        if shown:
            assert printed == shown


def test_readme_has_python_blocks() -> None:
    assert len(blocks(ROOT / "README.md", "python")) >= 3


def commands() -> list[tuple[str, str]]:
    """Every line beginning with `elman ` or `make ` in a shell block. One that `torchrun` starts stands for itself."""
    every = [(path.name, line) for path in DOCUMENTS for block in blocks(path, "sh") for line in block.splitlines()]
    lines = [(name, line.split(" -m -- ")[-1]) for name, line in every]
    return [(name, line.split("#")[0].strip()) for name, line in lines if line.startswith(("elman ", "make "))]


@pytest.mark.parametrize("translated", CHINESE)
def test_a_translation_has_the_blocks_of_its_original(translated: str) -> None:
    for language in ("python", "text", "sh"):
        assert blocks(ROOT / translated, language) == blocks(ROOT / CHINESE[translated], language)


def test_make_targets_exist() -> None:
    targets = {line.split()[1] for _, line in commands() if line.startswith("make ")} | {
        "demo",
        "test",
        "lint",
        "bench",
    }
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


# What makes the training of a task quick; given last, it overrules what a document says.
QUICK = {
    "lm": ["--epochs", "0.02", "--hidden-size", "8", "--held-out", "0.02", "--batch-size", "4", "--window", "16"],
    "tag": ["--epochs", "0.02", "--hidden-size", "8"],
    "classify": ["--epochs", "0.1", "--hidden-size", "8"],
    "multilabel": ["--epochs", "0.1", "--hidden-size", "8"],
    "regress": ["--epochs", "0.1", "--hidden-size", "8"],
    "transcribe": ["--epochs", "0.1", "--hidden-size", "8"],
    "translate": ["--epochs", "0.1", "--hidden-size", "8"],
    "forecast": ["--epochs", "0.05", "--hidden-size", "8", "--horizon", "24", "--lookback", "48"],
}


def write_the_files_that_documents_name(directory: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8") * 4 + "It was a dark and stormy night"
    sentence = "".join(f"{k}\t{w}\t_\t{t}\t_\t_\t0\t_\t_\t_\n" for k, w, t in ((1, "it", "PRON"), (2, "rains", "VERB")))
    steps = "".join(f"{k},{'up' if k % 2 else 'down'},{(-1) ** k * t},0.5\n" for k in range(40) for t in range(5))
    of_both = "".join(f"{k},{'up' if k % 2 else 'down'},{k},{t},0.5,p{k % 12}\n" for k in range(40) for t in range(5))
    hours = "".join(f"2026-01-{1 + t // 24:02} {t % 24:02}:00:00,{t % 24},{t % 7}\n" for t in range(30 * 24))
    walk = "".join(f"{t % 5},{t % 3},0.5,{'sits' if t % 20 < 9 else 'walks'}\n" for t in range(120))
    furnace = "".join(f"{t % 5},{t % 3},0.5,{900 + t % 7 if t % 2 else ''}\n" for t in range(120))
    sales = "".join(f"{t},{s},{t % 7},{'sale' if t % 5 else ''},big,{t % 3}\n" for s in "ab" for t in range(400))
    gone = "".join(
        f"{k},{'up' if k % 2 else 'down'},{t},{t if (t + k) % 3 else ''},1\n" for k in range(40) for t in range(5)
    )
    strokes = "".join(f"{k},{'ab'[k % 2] * (t % 2)}b,{t},{k % 2},0.5\n" for k in range(40) for t in (1, 3, 5, 7))
    contents = {
        ("letters.txt",): "abab\nbb\nab\n" * 200,
        ("strokes.csv", "test-strokes.csv", "new-strokes.csv"): "id,text,x,y,lifted\n" + strokes,
        ("words.csv", "test-words.csv", "new-words.csv"): "word,sounds\n"
        + "".join(f"{'ab'[k % 2] * (1 + k % 5)},{'A B'[:: 1 + k % 2]}\n" for k in range(40)),
        ("patients.csv",): "id,kind,hour,pulse,heat\n" + gone,
        ("events.csv",): "id,kind,event,host,seconds\n" + steps.replace(",0.5", ",h1,0.5"),
        ("walk.csv", "next-day.csv", "new-walk.csv"): "x,y,z,activity\n" + walk,
        ("furnace.csv", "new-day.csv"): "gas,air,load,temperature\n" + furnace,
        ("novel.txt", "other.txt", "other-chapter.txt", "plays.txt", "server.log", "today.log"): text,
        ("train.conllu", "dev.conllu", "test.conllu", "new.conllu"): (sentence + "\n") * 40,
        ("gestures.csv",): "id,kind,x,y\n" + steps,
        ("boilers.csv", "new-boilers.csv"): "id,load,heat,x,y\n"
        + "".join(f"{k},{k},{k * k if k % 3 else ''},{t},0.5\n" for k in range(40) for t in range(5)),
        ("tickets.csv", "test-tickets.csv", "new-tickets.csv"): "message,topics\n"
        + "".join(
            f"Where is my {'bill' if k % 2 else 'parcel'}?,{';'.join(['billing', 'delivery'][: k % 3])}\n"
            for k in range(40)
        ),
        ("faults.csv",): "id,x,leak,wear,noise\n"
        + "".join(
            f"{k},{t + k % 3},{k % 2},{int(k % 3 == 1)},{'' if k % 4 else 'yes'}\n" for k in range(40) for t in range(5)
        ),
        ("plant.csv", "new-plant.csv"): "gas,air,load,events\n"
        + "".join(
            f"{t % 5},{t % 3},0.5,{'start' if t % 20 < 9 else ''}{';vent' if t % 7 < 2 else ''}\n" for t in range(120)
        ),
        ("pumps.csv",): "id,hours_left,x,y\n" + steps.replace("up", "1").replace("down", "0"),
        ("test.csv", "new.csv"): "id,kind,hours_left,x,y,person\n" + of_both,
        ("shops.csv",): "day,shop,sales,event,size,visits\n" + sales,
        ("load.csv", "later.csv", "now.csv", "past.csv"): "date,load,heat\n" + hours,
    }
    for names, content in contents.items():
        for name in names:
            (directory / name).write_text(content, encoding="utf-8")
    recordings = [f"clips/{'dog' if k % 2 else 'cat'}/{k}.wav" for k in range(20)]
    for k, name in enumerate([*recordings, "new.wav", "street.wav"]):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        tone = np.sin(np.arange(2400) * (0.2 + 0.4 * (k % 2)))
        soundfile.write(directory / name, 0.5 * tone, 16000)
    said = "".join(f"{name},{'wuff' if k % 2 else 'mew'},p{k % 7}\n" for k, name in enumerate(recordings))
    sounds = "".join(f"{name},0.0{k % 9},0.1,{'dog' if k % 2 else 'door'}\n" for k, name in enumerate(recordings))
    (directory / "heard.csv").write_text(f"file,begin,end,sound\n{sounds}", encoding="utf-8")
    for name in ("said.csv", "test-said.csv"):
        (directory / name).write_text("file,said,voice\n" + said, encoding="utf-8")


@pytest.mark.usefixtures("no_pictures")
def test_every_elman_command_in_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one folder, with training cut to a fraction of an epoch."""
    from elman.datasets import examples

    write_the_files_that_documents_name(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(examples, "LINES", 200)
    ran, trained = set[str](), set[str]()
    for name, line in commands():
        if not line.startswith("elman ") or line in ran:  # some are in more than one document
            continue
        ran.add(line)
        words = re.findall(r'"([^"]*)"|(\S+)', line)
        arguments = [quoted or plain for quoted, plain in words][1:]
        if arguments[0] == "train" and "--resume" not in arguments:
            trained.add(arguments[1])
            again = ["--overwrite"] if "--run" in arguments else []
            quick = QUICK[arguments[1]]
            if "--start-from" in arguments:  # whose run has the size of its model
                size = quick.index("--hidden-size")
                quick = quick[:size] + quick[size + 2 :]
            arguments += [*quick, "--evaluations", "1", *again]
        if arguments[0] == "tune":
            arguments += [*QUICK[arguments[1]], "--trials", "1"]
        if arguments[0] == "cross-validate":
            arguments += [*QUICK[arguments[1]], "--evaluations", "1", "--folds", "2"]
        done = tiny_runs.elman(*arguments)
        assert done.status == 0, f"{name}: {line}\n{done.err}"
    assert len(ran) >= 20
    assert trained == set(QUICK)


@pytest.mark.parametrize("script", ["make_cli.py", "make_mistakes.py"])
def test_a_page_is_what_the_program_prints(script: str, forks: Forks) -> None:
    (done,) = forks.run(Child(RUN, (str(ROOT / "docs" / script), "--check")))
    assert done.returncode == 0, done.stdout + done.stderr


def public() -> list[object]:
    return [pytest.param(getattr(of, name), id=name) for of in (elman, elman.explain) for name in of.__all__]


@pytest.mark.parametrize("value", public())
def test_every_public_name_is_documented(value: object) -> None:
    assert (inspect.getdoc(value) or "").strip()
    if inspect.isclass(value) and issubclass(value, elman.Recurrent):
        assert "Source: " in (value.__doc__ or "") or value in (elman.Recurrent, elman.Frozen)
        assert (inspect.getdoc(value.forward) or "").strip()


def test_the_reference_has_every_public_name() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    listed = set(re.findall(r"^::: elman\.([\w.]+)$", pages, re.MULTILINE))
    assert {*elman.__all__, *(f"explain.{name}" for name in elman.explain.__all__)} <= listed


def test_every_cell_names_its_source() -> None:
    for cell in elman.cells.BUILT_IN.values():
        assert "Source: " in (cell.step.__doc__ or ""), cell.name
        assert re.search(r"\(\d{4}\)", cell.reference), cell.name


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*DOCUMENTS, *IN_CHINESE]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
