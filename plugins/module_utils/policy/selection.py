# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The selector: which guests a string such as ``@all,-@tag-test,100:110`` says.

The result is the union of the inclusions minus the union of the exclusions, whatever the order.
A term is true, false or undecided for a guest (undecided where the cluster cannot tell its name).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from ..model import LXC, QEMU, Guest

_RANGE = re.compile(r"\A([0-9]{1,9}):([0-9]{1,9})\Z")
_NUMBER = re.compile(r"\A[0-9]{1,9}\Z")  # Proxmox VE has no longer ids; a longer number is a name
FORMS = (
    "100, web01, 100:110, %web%, web*, @all, @node-NAME, @pool-NAME, @tag-NAME, @type-qemu, @type-lxc, "
    "-TERM to exclude, TERM&TERM for both"
)


class SelectorError(ValueError):
    """A term that no guest could ever match; the message names it and says what is possible."""


@dataclass(frozen=True)
class _Atom:
    kind: str
    value: str
    low: int = 0
    high: int = 0


@dataclass(frozen=True)
class Term:
    """One term of a selector as the user wrote it; all of its atoms must match."""

    text: str
    exclude: bool
    atoms: Tuple[_Atom, ...]

    @property
    def pools(self) -> Tuple[str, ...]:
        """The pools that the term names, in lower case."""
        return tuple(atom.value for atom in self.atoms if atom.kind == "pool")

    @property
    def by_name(self) -> bool:
        """True when a guest's name decides."""
        return any(atom.kind in ("name", "pattern") for atom in self.atoms)


@dataclass(frozen=True)
class Unmatched:
    """A term that selected or excluded nobody, and what may be the reason."""

    term: str
    exclude: bool
    reason: str


@dataclass(frozen=True)
class Selection:
    """``selected`` guests; ``undecided`` ones, which a term by name may or may not mean; ``unmatched`` terms."""

    selected: Tuple[Guest, ...]
    undecided: Tuple[Guest, ...]
    unmatched: Tuple[Unmatched, ...]


def parse(items: Sequence[str]) -> List[Term]:
    """The terms of a selector; SelectorError names the first one that cannot be understood."""
    terms = [_term(text.strip()) for item in items for text in item.split(",") if text.strip()]
    if not any(not term.exclude for term in terms):
        raise SelectorError("it includes nobody; add a term such as @all (terms: {0})".format(FORMS))
    return terms


def _term(text: str) -> Term:
    exclude = text.startswith("-")
    body = text[1:].strip() if exclude else text
    return Term(text, exclude, tuple(_atom(part.strip(), text) for part in body.split("&")))


def _atom(text: str, term: str) -> _Atom:
    lower = text.lower()
    if not text or text.startswith("-"):
        raise SelectorError("'{0}' is not a term; '-' goes before a whole term, '&' between two (terms: {1})".format(term, FORMS))
    if lower in ("all", "@all"):
        return _Atom("all", "")
    for start in ("@node-", "@all-", "all-"):
        if lower.startswith(start):
            return _Atom("node", _rest(lower, start, term))
    for kind in ("pool", "tag", "type"):
        start = "@{0}-".format(kind)
        if lower.startswith(start):
            return _checked(_Atom(kind, _rest(lower, start, term)), term)
    if lower.startswith("@"):
        raise SelectorError("'{0}' is not a term (terms: {1})".format(term, FORMS))
    if _NUMBER.match(text):
        return _Atom("range", text, int(text), int(text))
    if ":" in text:
        match = _RANGE.match(text)
        if not match or int(match.group(1)) > int(match.group(2)):
            raise SelectorError("'{0}' is not a range of ids; write it as 100:110, the lower id first".format(term))
        return _Atom("range", text, int(match.group(1)), int(match.group(2)))
    if "%" in text or "*" in text:
        return _Atom("pattern", lower.replace("%", "*"))
    return _Atom("name", lower)


def _rest(lower: str, start: str, term: str) -> str:
    rest = lower[len(start):]
    if not rest:
        raise SelectorError("'{0}' lacks a name after '{1}'".format(term, start))
    return rest


def _checked(atom: _Atom, term: str) -> _Atom:
    if atom.kind == "type" and atom.value not in (QEMU, LXC):
        raise SelectorError("'{0}' is not a term; the types are @type-qemu and @type-lxc".format(term))
    return atom


def in_pool(pool: Optional[str], wanted: str) -> bool:
    """True when ``pool`` is the pool ``wanted`` (lower case) or one of its sub-pools."""
    lower = (pool or "").lower()
    return lower == wanted or lower.startswith(wanted + "/")


def select(
    terms: Sequence[Term], guests: Sequence[Guest], pools: Dict[str, frozenset[int]], invisible: frozenset[int] = frozenset()
) -> Selection:
    """Apply the terms.

    ``pools`` maps a pool in lower case to the ids of its members (sub-pools included) as the pool
    itself names them. ``invisible`` are the ids of guests that only a pool knows: nothing else of them
    is known, ``@all`` does not mean them, and one that is meant is undecided.
    """
    verdicts = {
        term: [_matches(term, guest, pools, guest.vmid in invisible) for guest in guests] for term in terms}
    selected, undecided = [], []
    for number, guest in enumerate(guests):
        included = _any([verdicts[term][number] for term in terms if not term.exclude])
        excluded = _any([verdicts[term][number] for term in terms if term.exclude])
        if included is False or excluded is True:
            continue
        if included is True and excluded is False and guest.vmid not in invisible:
            selected.append(guest)
        else:
            undecided.append(guest)
    nameless = any(guest.name is None for guest in guests)
    unmatched = tuple(
        Unmatched(term.text, term.exclude, _reason(term, nameless)) for term in terms if True not in verdicts[term])
    return Selection(tuple(selected), tuple(undecided), unmatched)


def _reason(term: Term, nameless: bool) -> str:
    if term.by_name and nameless:
        return "could not be decided: the cluster does not tell the names of some guests"
    if term.pools:
        return "matched no guest; is the pool's name right, and does the token have Pool.Audit and VM.Audit on it?"
    return "matched no guest; is it spelt right, and does the token have VM.Audit on the guest?"


def _any(values: Sequence[Optional[bool]]) -> Optional[bool]:
    if True in values:
        return True
    return None if None in values else False


def _matches(term: Term, guest: Guest, pools: Dict[str, frozenset[int]], invisible: bool) -> Optional[bool]:
    verdicts = [_atom_matches(atom, guest, pools, invisible) for atom in term.atoms]
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _atom_matches(atom: _Atom, guest: Guest, pools: Dict[str, frozenset[int]], invisible: bool) -> Optional[bool]:
    if invisible and atom.kind in ("node", "type", "tag"):
        return None
    if atom.kind == "all":
        return not invisible
    if atom.kind == "range":
        return atom.low <= guest.vmid <= atom.high
    if atom.kind == "node":
        return guest.node.lower() == atom.value
    if atom.kind == "type":
        return guest.type == atom.value
    if atom.kind == "tag":
        return atom.value in [tag.lower() for tag in guest.tags]
    if atom.kind == "pool":
        return in_pool(guest.pool, atom.value) or guest.vmid in pools.get(atom.value, frozenset())
    if guest.name is None:
        return None
    if atom.kind == "name":
        return guest.name.lower() == atom.value
    return _like(guest.name.lower(), atom.value)


def _like(name: str, pattern: str) -> bool:
    """Whether a name has the parts between the stars, in their order: each is looked for once, behind the one before."""
    first, *middle, last = pattern.split("*")
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
