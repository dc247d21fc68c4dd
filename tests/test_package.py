"""What a package index and a reader are told: version, licence, needs, citation, changes."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from datetime import date
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import elman

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
# Of the Citation File Format 1.2.0: what must be there, and all that may be.
NEEDED = {"cff-version", "message", "title", "authors"}
ALLOWED = NEEDED | {"abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license"}
ALLOWED |= {"license-url", "preferred-citation", "references", "repository", "repository-artifact", "repository-code"}
ALLOWED |= {"type", "url", "version"}


def test_version_has_one_source() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/elman/__init__.py"
    assert str(CITATION["version"]) == elman.__version__


def test_citation() -> None:
    assert CITATION.keys() >= NEEDED
    assert CITATION.keys() <= ALLOWED
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] == "software"
    assert CITATION["license"] == PROJECT["project"]["license"]
    assert [author["name"] for author in CITATION["authors"]] == [a["name"] for a in PROJECT["project"]["authors"]]
    assert all(isinstance(word, str) for word in CITATION["keywords"])
    date.fromisoformat(CITATION["date-released"])  # a string: YAML would make a date of it without quotes


def test_changes_have_their_form() -> None:
    """As Keep a Changelog has it: Unreleased first, then versions with their dates, the newest first."""
    first, *released = re.findall(r"^## (.*)$", CHANGES, re.MULTILINE)
    assert first == "[Unreleased]"
    found = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in released]
    versions = [(tuple(map(int, one.groups()[:3])), one[4]) for one in found if one]
    assert len(versions) == len(released)
    assert versions == sorted(versions, reverse=True)
    newest, day = versions[0]
    assert ".".join(map(str, newest)) == elman.__version__
    assert day == CITATION["date-released"]
    kinds = set(re.findall(r"^### (.*)$", CHANGES, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Numerics"}


def needs(*extras: str) -> set[str]:
    """The distributions that the package asks for, with these extras."""
    optional = PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in optional[extra])]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def imported() -> set[str]:
    """The distributions of others that the package imports, anywhere."""
    homes, names = packages_distributions(), set[str]()
    for path in (ROOT / "src" / "elman").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    names -= sys.stdlib_module_names | {"elman"}
    return {canonicalize_name(homes[name][0]) if name in homes else name for name in names}


def test_whatever_is_imported_is_asked_for() -> None:
    found = imported()
    assert found <= needs("train", "onnx", "gpu", "tensorboard")
    assert found >= needs("train")  # and nothing is asked for in vain


def test_every_need_of_the_developers_is_pinned() -> None:
    pinned = {
        canonicalize_name(Requirement(line).name)
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    assert needs("train", "onnx", "gpu", "tensorboard", "dev") - {"elman"} == pinned
