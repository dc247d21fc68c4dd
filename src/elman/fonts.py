"""Fonts for texts in any script: matplotlib's own font has Latin, Greek and Cyrillic letters, and few others."""

from __future__ import annotations

import sys
import unicodedata
import warnings
from collections.abc import Iterable

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

# What is taken first where several fonts have a character. All other fonts follow, by their names.
PREFERRED = ("Noto Sans CJK SC", "Noto Sans CJK", "Noto Sans Mono", "Noto Sans", "Noto", "DejaVu Sans")
# These fonts claim characters that they draw as boxes, as nothing, or as bitmaps, which matplotlib cannot scale.
USELESS = ("Last Resort", "Adobe Blank", "Color Emoji")
_ONE_FONT = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH", "HALFWIDTH", "KANGXI")
_SAID = set[str]()  # missing characters are named once, however many pictures have them


def complete(figure: Figure) -> None:
    """Gives the texts of a figure fonts for the characters that theirs lack. Says which font to install if there is none."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    drawn = {text: _drawn(text.get_text()) for text in texts}
    lacking = {text: characters - _covered(characters, text) for text, characters in drawn.items() if characters}
    families, missing = fallbacks(set().union(*lacking.values()))
    for text, characters in lacking.items():
        if characters and families:
            text.set_fontfamily([*text.get_fontfamily(), *families])
    if missing - _SAID:
        print(advice(missing - _SAID), file=sys.stderr)
        _SAID.update(missing)


def fallbacks(characters: Iterable[str]) -> tuple[list[str], set[str]]:
    """Returns families of installed fonts that together have these characters, and the characters that no font has."""
    missing, found = set(characters), list[str]()
    for installed in (_known, _installed_since):
        for family, file in installed() if missing else ():
            font = font_manager.get_font(file)
            here = {c for c in missing if font.get_char_index(ord(c))}
            if here:
                found.append(family)
                missing -= here
            if not missing:
                break
    return found, missing


def advice(missing: set[str]) -> str:
    """Returns a sentence that names characters that no font has, and the fonts to install."""
    shown = " ".join(sorted(missing)[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    fonts = ", ".join(sorted({_font_for(c) for c in missing}))
    return f"no font of this machine has {shown}, which the pictures show as boxes; install {fonts} and draw again"


def _font_for(character: str) -> str:
    """The font of Google's Noto family for a character. They are named for scripts, as characters are in Unicode."""
    script = unicodedata.name(character, "").split(" ")[0]
    if script.split("-")[0] in _ONE_FONT:
        return "Noto Sans CJK"
    if unicodedata.category(character)[0] in "LM" and script:
        return f"Noto Sans {script.title()}"
    return "Noto Emoji" if ord(character) >= 0x1F000 else "Noto Sans Symbols"


def _drawn(text: str) -> set[str]:
    """The characters that need a glyph. Variation selectors only choose between forms of the character before them."""
    return {c for c in text if c.isprintable() and not c.isspace() and not "\ufe00" <= c <= "\ufe0f"}


def _covered(characters: set[str], text: Text) -> set[str]:
    font = font_manager.get_font(font_manager.findfont(text.get_fontproperties()))
    return {c for c in characters if font.get_char_index(ord(c))}


def _known() -> list[tuple[str, str]]:
    """The families that matplotlib knows, the preferred ones first, each with a file."""
    files: dict[str, str] = {}
    for entry in font_manager.fontManager.ttflist:
        if not any(name in entry.name for name in USELESS):
            files.setdefault(entry.name, entry.fname)

    def order(family: str) -> tuple[int, str]:
        return next((k for k, name in enumerate(PREFERRED) if family.startswith(name)), len(PREFERRED)), family

    return [(family, files[family]) for family in sorted(files, key=order)]


def _installed_since() -> list[tuple[str, str]]:
    """The same with the fonts that were installed after matplotlib made its list, which it keeps for ever."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for file in sorted(set(font_manager.findSystemFonts()) - known):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                font_manager.fontManager.addfont(file)
            except (OSError, RuntimeError, NotImplementedError, ValueError):  # damaged, or made of bitmaps
                continue
    return _known()
