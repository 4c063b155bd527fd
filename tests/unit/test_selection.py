# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The selector."""

from __future__ import annotations

import random
import re

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.model import Guest
from ansible_collections.pve.autosnap.plugins.module_utils.policy import selection
from hypothesis import given
from hypothesis import strategies as st

GUESTS = (
    Guest(100, "qemu", "pve1", "running", "web01", tags=("prod", "web"), pool="prod"),
    Guest(101, "qemu", "pve1", "running", "Web02", tags=("test",), pool="prod/sub"),
    Guest(102, "lxc", "pve2", "stopped", "db-web", tags=("Prod",)),
    Guest(103, "qemu", "PVE2", "running", "mail", pool="prod2"),
    Guest(200, "lxc", "pve1", "running", "100", pool="other"),
    Guest(201, "qemu", "pve2", "running", "myweb"),
)
POOLS = {"prod": frozenset((100, 101)), "other": frozenset((200,)), "prod/sub": frozenset((101,))}

TABLE = [
    ("100", [100]),
    ("web01", [100]),
    ("WEB02", [101]),
    ("100:110", [100, 101, 102, 103]),
    ("%web%", [100, 101, 102, 201]),
    ("web%", [100, 101]),
    ("%web", [102, 201]),
    ("*web*", [100, 101, 102, 201]),
    ("web*", [100, 101]),
    ("m%l", [103]),
    ("@all", [100, 101, 102, 103, 200, 201]),
    ("all", [100, 101, 102, 103, 200, 201]),
    ("@node-pve1", [100, 101, 200]),
    ("@all-pve2", [102, 103, 201]),
    ("all-pve2", [102, 103, 201]),
    ("@pool-prod", [100, 101]),
    ("@pool-PROD/sub", [101]),
    ("@tag-prod", [100, 102]),
    ("@type-lxc", [102, 200]),
    ("@type-qemu", [100, 101, 103, 201]),
    ("@node-pve1&@type-qemu", [100, 101]),
    ("@all,-111,-100", [101, 102, 103, 200, 201]),
    ("-100,@all", [101, 102, 103, 200, 201]),
    ("@all,-@tag-prod&@type-lxc", [100, 101, 103, 200, 201]),
    (" @all , -100 ", [101, 102, 103, 200, 201]),
    # peers B6: exclusions from pools exclude
    ("@pool-prod,-@tag-test", [100]),
    ("@pool-prod,-100", [101]),
    ("@all,-@pool-prod", [102, 103, 200, 201]),
    ("@pool-prod,100", [100, 101]),
    # peers B7: excluding a range adds nobody, a blank disables nothing
    ("@node-pve1,-200:299", [100, 101]),
    ("@all, -100", [101, 102, 103, 200, 201]),
    # peers B8: x% starts with x
    ("my%", [201]),
]


def ids(selector: str | list[str], guests: tuple[Guest, ...] = GUESTS) -> list[int]:
    items = [selector] if isinstance(selector, str) else selector
    return [guest.vmid for guest in selection.select(selection.parse(items), guests, POOLS).selected]


@pytest.mark.parametrize(("selector", "expected"), TABLE)
def test_selector(selector: str, expected: list[int]) -> None:
    assert ids(selector) == expected


def test_a_list_is_the_same_as_commas() -> None:
    assert ids(["@all,-100", "-101"]) == ids("@all,-100,-101")


@given(st.lists(st.sampled_from([text for text, _expected in TABLE]), min_size=1, max_size=5), st.randoms())
def test_order_does_not_matter(parts: list[str], rng: random.Random) -> None:
    terms = [term.strip() for part in parts for term in part.split(",")]
    shuffled = list(terms)
    rng.shuffle(shuffled)
    assert ids(terms) == ids(shuffled)


@given(st.lists(st.sampled_from([text for text, _expected in TABLE]), min_size=1, max_size=5))
def test_union_minus_union(parts: list[str]) -> None:
    """The whole is the union of the inclusions alone minus the union of the exclusions taken as inclusions."""
    terms = [term.strip() for part in parts for term in part.split(",")]
    included = {vmid for term in terms if not term.startswith("-") for vmid in ids(term)}
    excluded = {vmid for term in terms if term.startswith("-") for vmid in ids(term[1:])}
    assert set(ids(terms)) == included - excluded


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ("", "includes nobody"),
        ("-100", "includes nobody"),
        ("@foo-bar", "'@foo-bar' is not a term"),
        ("@tag-", "lacks a name"),
        ("@node-", "lacks a name"),
        ("@type-vm", "@type-qemu and @type-lxc"),
        ("110:100", "is not a range"),
        ("100:", "is not a range"),
        ("a:b", "is not a range"),
        ("@all,-", "'-' is not a term"),
        ("@all&-100", "is not a term"),
        ("@all&", "is not a term"),
    ],
)
def test_a_term_that_cannot_be_meant_is_refused(selector: str, words: str) -> None:
    with pytest.raises(selection.SelectorError, match=words):
        selection.parse([selector])


def test_what_matched_nothing_is_told() -> None:
    found = selection.select(selection.parse(["100,nosuch,@tag-none,-@tag-gone,@pool-nowhere"]), GUESTS, POOLS)
    assert [(term.term, term.exclude) for term in found.unmatched] == [
        ("nosuch", False), ("@tag-none", False), ("-@tag-gone", True), ("@pool-nowhere", False)]
    assert "Pool.Audit" in found.unmatched[-1].reason


DEAD = Guest(300, "qemu", "pve3", "unknown", tags=("prod",))


@pytest.mark.parametrize(
    ("selector", "selected", "undecided"),
    [
        ("300", [300], []),
        ("@node-pve3", [300], []),
        ("%web%", [100, 101, 102, 201], [300]),
        ("nosuch", [], [300]),
        # names are not unique: one that was found may also be that of a nameless guest
        ("web01", [100], [300]),
        # peers B9: one dead node breaks nothing
        ("@all,-%test%", [100, 101, 102, 103, 200, 201], [300]),
        ("@all,-@tag-test", [100, 102, 103, 200, 201, 300], []),
        ("%web%&@node-pve1", [100, 101], []),
    ],
)
def test_a_nameless_guest_is_never_dropped_in_silence(selector: str, selected: list[int], undecided: list[int]) -> None:
    """Law 10."""
    found = selection.select(selection.parse([selector]), (*GUESTS, DEAD), POOLS)
    assert [guest.vmid for guest in found.selected] == selected
    assert [guest.vmid for guest in found.undecided] == undecided


def test_a_name_that_may_be_on_a_dead_node_could_not_be_decided() -> None:
    found = selection.select(selection.parse(["nosuch"]), (*GUESTS, DEAD), POOLS)
    assert "could not be decided" in found.unmatched[0].reason


HIDDEN = Guest(900, "", "", "unknown")


@pytest.mark.parametrize(
    ("selector", "undecided"),
    [
        ("@pool-hidden", [900]),
        ("@all,-@pool-hidden", []),
        ("@pool-hidden,100,-900", []),
        ("@pool-hidden&@type-lxc,100", [900]),
        ("@all", []),
        ("100,-%x%", []),
    ],
)
def test_members_of_a_pool_that_cannot_be_seen(selector: str, undecided: list[int]) -> None:
    found = selection.select(
        selection.parse([selector]), (*GUESTS, HIDDEN), {"hidden": frozenset((900,))}, frozenset((900,)))
    assert [guest.vmid for guest in found.undecided] == undecided
    assert HIDDEN not in found.selected
    assert not any(term.term == "@pool-hidden" for term in found.unmatched)


@given(st.from_regex(r"\A[ab*]{0,7}[*][ab]{0,3}\Z"), st.text("ab", max_size=10))
def test_a_pattern_means_what_a_regular_expression_would(pattern: str, name: str) -> None:
    expected = re.match(r"\A" + ".*".join(map(re.escape, pattern.split("*"))) + r"\Z", name) is not None
    assert selection._like(name, pattern) == expected


def test_many_stars_take_no_time() -> None:
    """A regular expression tries all ways to share the letters out: a second for each letter more."""
    assert not selection._like("a" * 20_000, "*a" * 5_000 + "*b")
    assert selection._like("a" * 20_000, "*a" * 5_000 + "*")
