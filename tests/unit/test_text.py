# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is shown holds nothing that steers a terminal, a table, a chat or a reader."""

from __future__ import annotations

import json
import unicodedata

import pytest
from ansible_collections.pve.autosnap.plugins.filter import messages
from ansible_collections.pve.autosnap.plugins.module_utils import text
from hypothesis import given
from hypothesis import strategies as st

ANY = st.text(st.characters(blacklist_categories=()), max_size=60)


@given(ANY)
def test_one_line_is_one_line_of_characters_that_are_seen(said: str) -> None:
    shown = text.one_line(said)
    assert shown.isprintable() and len(shown) <= len(said)
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert text.one_line(shown) == shown


@given(ANY)
def test_lines_are_each_such_a_line(said: str) -> None:
    assert all(part.isprintable() for line in text.lines(said).split("\n") for part in line.split("\t"))


@given(st.text("abc ÄöÜ-_.,:;@#日本語😀", max_size=40))
def test_what_is_seen_stays_as_it_is(said: str) -> None:
    assert text.one_line(said) == text.lines(said) == said


@pytest.mark.parametrize(("said", "shown"), [
    ("\x1b[2J\x1b[1;1HPLAY RECAP", "?[2J?[1;1HPLAY RECAP"), ("web\u202e10bew", "web?10bew"), ("a\r\nb\rc\nd", "a b c d"),
    ("a\ud800b", "a?b"), ("a\u200bb\u2060c\ufeffd\u00ade", "a?b?c?d?e"), ("a\u3164b\u115fc", "a?b?c"), ("a\u00a0b", "a b"),
    ("\u009b31m", "?31m"), ("a\tb\x00", "a b?"), ("a\u2028b", "a b"),
    ("cv4pve-autosnap\ufe0f", "cv4pve-autosnap?"),
    ("\u2764\ufe0f \U0001f5a5\ufe0f", "\u2764\ufe0f \U0001f5a5\ufe0f"),
    ("a\U000e0101", "a?"), ("a\U00016fe4", "a?")])
def test_one_line(said: str, shown: str) -> None:
    assert text.one_line(said) == shown


def test_a_result_keeps_its_lines_where_there_are_several() -> None:
    dirty = {"na\nme": "x\ny", "output": "x\r\ny\x1b", "guests": [{"description": "a\nb", "warnings": ("c\nd", 7, None)}]}
    clean = text.cleaned(dirty)
    assert clean == {"na me": "x y", "output": "x\ny?", "guests": [{"description": "a\nb", "warnings": ["c d", 7, None]}]}
    assert dirty["guests"][0]["warnings"] == ("c\nd", 7, None)


@given(st.recursive(ANY | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(ANY, inner), max_leaves=20))
def test_a_clean_result_can_be_written_anywhere(value: object) -> None:
    json.dumps(text.cleaned(value), ensure_ascii=False).encode("utf-8")


HOSTILE = (
    "&commat;here &#64;all http&#58;//evil.example "
    "@channel <!here> [click](http://evil.example) ![x](https://evil.example/x.png) <at>all</at> `code` **b** "
    "www.evil.example")


def test_markdown_shows_it_as_it_is() -> None:
    shown = text.markdown(HOSTILE + " |cell| #1\n# head")
    assert "](" not in shown and "http://" not in shown and "@channel" not in shown and "<!here>" not in shown
    assert "www." not in shown and "\n" not in shown and "![" not in shown


def hostile_digest() -> dict[str, object]:
    return {
        "job_name": "snap", "cluster": "pve", "status": "critical", "summary": {}, "health": {}, "failed": True, "duration": 1.0,
        "message": "m", "problems": [{
            "level": "critical", "vmid": "100\n\x1b[2J\nPLAY RECAP", "name": "@all\u202e\x1b[31m", "node": "pve1",
            "status": "failed", "reason": HOSTILE}]}


@pytest.mark.parametrize("service", ["mattermost", "teams", "slack"])
def test_nobody_is_called_and_nothing_leads_anywhere_but_the_link(service: str) -> None:
    link = "https://example.org/report?a=1"
    request = messages.message_requests(hostile_digest(), {service: {"url": "https://chat.example"}, "link": link})[0]
    body = request["body"]
    card = body["attachments"][0]["content"]["body"] if service == "teams" else []
    told = "\n".join(block["text"] for block in card) or body["text"]
    assert told.endswith(link)
    foreign = told[:-len(link)]
    assert "<!here>" not in foreign and "\x1b" not in foreign and "\u202e" not in foreign
    if service != "slack":
        for live in ("@all", "@channel", "](", "![", "://", "www.", "<at>", "&commat;", "&#64;", "&#58;"):
            assert live not in foreign, live


def test_a_message_is_what_people_read() -> None:
    told = messages.message_text(hostile_digest())
    assert told.splitlines()[0].startswith("100 ?[2J PLAY RECAP @all??[31m on pve1: failed (&commat;here")
