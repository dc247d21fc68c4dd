"""What would be published, as `make dist` checks it: python tests/published.py contents | layers | commands.

The last two are run by the Python of a fresh environment, isolated (-I), and say whether it is elman as installed there
that works.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def contents() -> None:
    """The sdist is what is under version control, the wheel is the package, and neither has anything else."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = set(listed.stdout.splitlines())
    (sdist,), (wheel,) = (ROOT / "dist").glob("*.tar.gz"), (ROOT / "dist").glob("*.whl")
    with tarfile.open(sdist) as archive:
        same("the sdist", {name.split("/", 1)[1] for name in archive.getnames()}, tracked | {"PKG-INFO"})
    with zipfile.ZipFile(wheel) as archive:
        package = {name for name in archive.namelist() if ".dist-info/" not in name}
    same("the wheel", package, {name.removeprefix("src/") for name in tracked if name.startswith("src/")})
    print(f"{sdist.name}: {sdist.stat().st_size:,} bytes; {wheel.name}: {wheel.stat().st_size:,} bytes")


def same(what: str, found: set[str], wanted: set[str]) -> None:
    if found != wanted:
        sys.exit(f"{what} lacks {sorted(wanted - found)}, and should not have {sorted(found - wanted)}")


def layers() -> None:
    """The library alone: forward, backward, the same numbers as torch.nn, compiled kernels, types."""
    from importlib.metadata import metadata, version

    import torch

    import elman

    home = Path(elman.__file__).parent
    assert home.is_relative_to(sys.prefix), home
    assert version("elman") == elman.__version__
    assert metadata("elman")["License-Expression"] == "Apache-2.0"
    assert (home / "py.typed").is_file()

    peer, layer = torch.nn.LSTM(8, 16), elman.LSTM(8, 16)
    layer.load_state_dict(peer.state_dict())
    x = torch.randn(20, 4, 8)
    for each in (peer, layer):
        each(x)[0].square().sum().backward()
    torch.testing.assert_close(layer(x)[0], peer(x)[0])
    for own, other in zip(layer.parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)
    print(elman.describe(layer, x))
    assert elman.describe(layer, x).engines[0].engine == "cpu"


def commands() -> None:
    """With what training needs: the program of this environment trains for five seconds, in an empty folder."""
    run("cells")
    run("doctor")
    run("train", "lm", "--run", "first", "--minutes", "0.083", "--hidden-size", "64", "--evaluations", "2")
    run("sample", "first", "--length", "60", "--seed", "1")
    run("explain", "first", "--output", "page.html")  # made from files that are no modules
    assert "class Network" in Path("page.html").read_text(encoding="utf-8")
    said = run("export", "first", "model.onnx", status=2)
    assert said == "elman: exporting needs onnx, which is not installed: pip install 'elman[onnx]'\n", said


def run(*arguments: str, status: int = 0) -> str:
    """Runs a command, which has to end with this status. Returns what it says on standard error."""
    program = Path(sysconfig.get_path("scripts")) / "elman"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([program, *arguments], env=environment, check=False, stderr=subprocess.PIPE, text=True)
    assert done.returncode == status, done
    return done.stderr


if __name__ == "__main__":
    check = {"contents": contents, "layers": layers, "commands": commands}[sys.argv[1]]
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        os.environ["ELMAN_CACHE"] = f"{empty}/code"  # what an earlier version compiled does not count
        check()
