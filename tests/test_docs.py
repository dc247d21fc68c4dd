"""What the documents say is run: code blocks, commands, names."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import elman
import tiny_runs

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


# Pages that are read, and run, from top to bottom, with what they print.
PAGES = [ROOT / "docs" / "engine.md", ROOT / "docs" / "your-own-cell.md"]


def python_blocks() -> list[object]:
    single = [path for path in DOCUMENTS if path not in PAGES]
    found = [(path, number, block) for path in single for number, block in enumerate(blocks(path, "python"))]
    return [pytest.param(block, id=f"{path.name}-{number}") for path, number, block in found]


@pytest.mark.parametrize("block", python_blocks())
def test_python_blocks_run(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    # In a file of its own, since a cell's source may be asked for.
    exec(compile(block, "<document>", "exec"), {"__name__": "document"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_print_what_they_show(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"__name__": "document"}
    steps = re.findall(
        r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?",
        page.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert sum(bool(shown) for _, shown in steps) >= 4
    for block, shown in steps:
        exec(compile(block, page.name, "exec"), names)
        printed = "".join(f"{line.rstrip()}\n" for line in capsys.readouterr().out.splitlines())
        if shown:
            assert printed == shown


def test_readme_has_python_blocks() -> None:
    assert len(blocks(ROOT / "README.md", "python")) >= 3


def commands() -> list[tuple[str, str]]:
    """Every line beginning with `elman ` or `make ` in a shell block."""
    lines = [(path.name, line) for path in DOCUMENTS for block in blocks(path, "sh") for line in block.splitlines()]
    return [(name, line.split("#")[0].strip()) for name, line in lines if line.startswith(("elman ", "make "))]


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


def test_every_elman_command_in_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order and in one folder, with training cut to a fraction of an epoch."""
    text = (ROOT / "README.md").read_text(encoding="utf-8") * 4
    for name in ("novel.txt", "other-chapter.txt"):
        (tmp_path / name).write_text(text + "It was a dark and stormy night", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ran = 0
    for name, line in commands():
        if not line.startswith("elman "):
            continue
        words = re.findall(r'"([^"]*)"|(\S+)', line)
        arguments = [quoted or plain for quoted, plain in words][1:]
        if "train" in arguments:
            if "--resume" not in arguments:
                arguments += [
                    "--epochs",
                    "0.02",
                    "--hidden-size",
                    "8",
                    "--held-out",
                    "0.02",
                    "--batch-size",
                    "4",
                    "--window",
                    "16",
                ]
            arguments = [
                "0.02" if before == "--minutes" else word
                for before, word in zip(["", *arguments], arguments, strict=False)
            ]
        done = tiny_runs.elman(*arguments)
        assert done.status == 0, f"{name}: {line}\n{done.err}"
        ran += 1
    assert ran >= 4


def test_command_line_page_is_what_help_prints() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_cli.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def public() -> list[object]:
    return [pytest.param(getattr(elman, name), id=name) for name in elman.__all__]


@pytest.mark.parametrize("value", public())
def test_every_public_name_is_documented(value: object) -> None:
    assert (inspect.getdoc(value) or "").strip()
    if inspect.isclass(value) and issubclass(value, elman.Recurrent):
        assert "Source: " in (value.__doc__ or "") or value in (elman.Recurrent, elman.Frozen)
        assert (inspect.getdoc(value.forward) or "").strip()


def test_every_cell_names_its_source() -> None:
    for cell in elman.cells.BUILT_IN.values():
        assert "Source: " in (cell.step.__doc__ or ""), cell.name
        assert re.search(r"\(\d{4}\)", cell.reference), cell.name


def test_links_between_documents_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
