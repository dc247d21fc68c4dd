"""Writes docs/pictures/page.png, the upper part of a page of `elman explain`: python docs/make_page_picture.py RUN.

RUN is a language model, such as that of `elman train lm --run runs/lstm`. It needs the machine's Chromium.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from elman.explain import page

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "pictures" / "page.png"
sys.path.insert(0, str(ROOT / "tests"))
from browser import OPTIONS, executable  # noqa: E402

TEXT = """\
If the first argument is a string, then it must be the name of a module.  The function returns "True" if the module was
found, and otherwise "False".  For example:

   >>> find("string")
   True
"""
MOMENT = TEXT.index('"False')  # where a quotation begins


def main(run: Path) -> None:
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        path = page(run, TEXT).save(Path(directory) / "page.html")
        browser = playwright.chromium.launch(executable_path=executable(), args=OPTIONS)
        shown = browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme="light", locale="en-US")
        shown.goto(f"{path.as_uri()}#t={MOMENT}")
        shown.locator("#along svg").wait_for()  # one of the views that are drawn last
        below = shown.locator("#equations").bounding_box()
        assert below is not None
        drawn = shown.screenshot(
            full_page=True,
            clip={"x": 0, "y": 0, "width": 1280, "height": below["y"] + below["height"] + 8},
        )
        browser.close()
    with Image.open(io.BytesIO(drawn)) as image:  # 256 colours make it a third as large
        image.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(PICTURE)
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
