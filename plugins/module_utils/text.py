# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Foreign text, made fit to be shown: what a server, a guest or a file says must not steer a terminal or a reader.

Only what is shown, returned, logged or written is cleaned. Decisions compare what the server sent.
"""

from __future__ import annotations

import html
import re
from typing import Any

UNSEEN = "?"  # stands for a character that cannot be seen, or that moves those around it
# What Python takes for printable and nobody sees: fillers, joiners, the blank of Braille.
# The one that asks for a coloured picture stays behind a picture.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\uffa0\ufe00-\ufe0e\U00016fe4\U000e0100-\U000e01ef]"
    "|(?<![\u203c-\u3299\U0001f000-\U0001faff])\ufe0f")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_BREAK = re.compile("\r\n?|\u0085|\u2028|\u2029")
# Keys of results whose texts have several lines.
SEVERAL_LINES = frozenset(("output", "description", "before", "after", "exception"))


def one_line(text: str) -> str:
    """The text in one line: no control, format or bidi character, no lone surrogate, no other blank than the space."""
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return _seen(lines(text).replace("\n", " ").replace("\t", " "))


def lines(text: str) -> str:
    """The same with the ends of lines, which are ``\\n``, and with tabs."""
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return "\n".join("\t".join(map(_seen, line.split("\t"))) for line in _BREAK.sub("\n", text).split("\n"))


def _seen(text: str) -> str:
    spaced = _INVISIBLE.sub(UNSEEN, _SPACES.sub(" ", text))
    return "".join(character if character.isprintable() else UNSEEN for character in spaced)


def markdown(text: str) -> str:
    """One line of Markdown that shows the text as it is: no markup, table, HTML, image, mention or link, not even by itself."""
    escaped = html.escape(one_line(text), quote=False)
    for character in "\\`*_[]()|~#!":
        escaped = escaped.replace(character, "\\" + character)
    return escaped.replace("@", "&#64;").replace("://", "&#58;//").replace("www.", "www&#46;")


def cleaned(value: Any, key: str = "") -> Any:
    """A copy of a result, every text in it cleaned, keys too; those of SEVERAL_LINES keep their lines."""
    if isinstance(value, str):
        return lines(value) if key in SEVERAL_LINES else one_line(value)
    if isinstance(value, dict):
        return {one_line(name) if isinstance(name, str) else name: cleaned(item, name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [cleaned(item, key) for item in value]
    return value
