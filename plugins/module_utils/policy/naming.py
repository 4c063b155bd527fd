# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Snapshot names: ``prefix`` + ``label`` + timestamp, and which snapshots are ours.

A timestamp format is compiled once into tokens, each of which can write a part of a time and say
what it may look like. From these come the formatter, the parser, and the proof that no other
label's names can be read as ours. Names of months and days are English, whatever the locale.
"""

from __future__ import annotations

import datetime
import itertools
import re
from dataclasses import dataclass
from typing import Callable, Dict, FrozenSet, Iterable, List, Optional, Sequence, Set, Tuple

from ..model import BLANKS, Snapshot

DEFAULT_FORMAT = "yyMMddHHmmss"
LEGACY_MARKERS = ("cv4pve-autosnap", "eve4pve-autosnap")
NAME_MAX = 40  # api-facts 2.1
NAME = re.compile(r"\A[A-Za-z][A-Za-z0-9_-]+\Z")
NAME_CHARACTERS = re.compile(r"\A[A-Za-z0-9_-]+\Z")
RESERVED = frozenset(("current", "pending", "vzdump"))
FREE_NAME_SECONDS = 3600

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_DIGITS = frozenset("0123456789")


class NamingError(ValueError):
    """A label, prefix or timestamp format that cannot be used; ``option`` names which."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


@dataclass(frozen=True)
class _Token:
    """A piece of a timestamp: ``field`` is set from the ``shapes`` a text may have."""

    field: str
    write: Callable[[datetime.datetime], str]
    shapes: Tuple[Tuple[FrozenSet[str], ...], ...]


def _number(field: str, get: Callable[[datetime.datetime], int], *widths: int) -> _Token:
    return _Token(
        field,
        lambda t: "{0:0{1}d}".format(get(t), widths[0]),
        tuple((_DIGITS,) * width for width in widths),
    )


def _words(field: str, index: Callable[[datetime.datetime], int], words: Sequence[str]) -> _Token:
    return _Token(
        field,
        lambda t: words[index(t)],
        tuple(tuple(frozenset(c) for c in word) for word in words),
    )


def _literal(text: str) -> _Token:
    return _Token("", lambda t: text, (tuple(frozenset(c) for c in text),))


def _hour12(time: datetime.datetime) -> int:
    return time.hour % 12 or 12


_YEAR4 = _number("year", lambda t: t.year, 4)
_YEAR2 = _number("year2", lambda t: t.year % 100, 2)
_MONTH = _number("month", lambda t: t.month, 2)
_DAY = _number("day", lambda t: t.day, 2)
_HOUR = _number("hour", lambda t: t.hour, 2)
_HOUR12 = _number("hour12", _hour12, 2)
_MINUTE = _number("minute", lambda t: t.minute, 2)
_SECOND = _number("second", lambda t: t.second, 2)
_MONTH_NAME = _words("month_name", lambda t: t.month - 1, MONTHS)
_MONTH_ABBR = _words("month_abbr", lambda t: t.month - 1, [m[:3] for m in MONTHS])
_DAY_NAME = _words("", lambda t: t.weekday(), DAYS)
_DAY_ABBR = _words("", lambda t: t.weekday(), [d[:3] for d in DAYS])
_AM_PM = _words("am_pm", lambda t: t.hour // 12, ("AM", "PM"))

_STRFTIME: Dict[str, _Token] = {
    "Y": _YEAR4, "y": _YEAR2, "m": _MONTH, "d": _DAY, "H": _HOUR, "I": _HOUR12, "M": _MINUTE,
    "S": _SECOND, "B": _MONTH_NAME, "b": _MONTH_ABBR, "h": _MONTH_ABBR, "A": _DAY_NAME,
    "a": _DAY_ABBR, "p": _AM_PM, "j": _number("yearday", lambda t: t.timetuple().tm_yday, 3),
}
_DOTNET: Dict[str, _Token] = {
    "yyyy": _YEAR4, "yy": _YEAR2, "MMMM": _MONTH_NAME, "MMM": _MONTH_ABBR, "MM": _MONTH,
    "M": _number("month", lambda t: t.month, 1, 2), "dddd": _DAY_NAME, "ddd": _DAY_ABBR, "dd": _DAY,
    "d": _number("day", lambda t: t.day, 1, 2), "HH": _HOUR, "H": _number("hour", lambda t: t.hour, 1, 2),
    "hh": _HOUR12, "h": _number("hour12", _hour12, 1, 2), "mm": _MINUTE,
    "m": _number("minute", lambda t: t.minute, 1, 2), "ss": _SECOND,
    "s": _number("second", lambda t: t.second, 1, 2), "tt": _AM_PM,
}
_DOTNET_LETTERS = "dfFghHKmMstyz"


def _dotnet_tokens(text: str) -> List[_Token]:
    """The tokens of a .NET custom format string, as cv4pve-autosnap takes it (peers 1.1)."""
    tokens = []
    position = 0
    while position < len(text):
        char = text[position]
        if char in "'\"":
            end = text.find(char, position + 1)
            if end < 0:
                raise NamingError("timestamp_format", "the quote {0} is not closed".format(char))
            tokens.append(_literal(text[position + 1:end]))
            position = end + 1
        elif char == "\\" and position + 1 < len(text):
            tokens.append(_literal(text[position + 1]))
            position += 2
        elif char in _DOTNET_LETTERS:
            run = len(text[position:]) - len(text[position:].lstrip(char))
            word = text[position:position + run]
            if word not in _DOTNET:
                raise NamingError("timestamp_format", "'{0}' is not supported".format(word))
            tokens.append(_DOTNET[word])
            position += run
        else:
            tokens.append(_literal(char))
            position += 1
    return tokens


def _strftime_tokens(text: str) -> List[_Token]:
    tokens = []
    position = 0
    while position < len(text):
        if text[position] != "%":
            tokens.append(_literal(text[position]))
            position += 1
            continue
        directive = text[position + 1:position + 2]
        if directive not in _STRFTIME:
            raise NamingError("timestamp_format", "'%{0}' is not supported".format(directive))
        tokens.append(_STRFTIME[directive])
        position += 2
    return tokens


class _Automaton:
    """A small non-deterministic automaton over the texts of a token sequence."""

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self.edges: List[List[Tuple[FrozenSet[str], int]]] = [[]]
        ends = 0
        for token in tokens:
            start, ends = ends, self._state()
            for shape in token.shapes:
                at = start
                for char in shape[:-1]:
                    following = self._state()
                    self.edges[at].append((char, following))
                    at = following
                self.edges[at].append((shape[-1], ends))
        self.final = ends

    def _state(self) -> int:
        self.edges.append([])
        return len(self.edges) - 1

    def after(self, text: str) -> Set[int]:
        """The states that ``text`` can lead to."""
        states = {0}
        for char in text:
            states = {to for at in states for chars, to in self.edges[at] if char in chars}
        return states

    def closure(self, states: Set[int]) -> Set[int]:
        """All states that at least one more character can lead to."""
        reached: Set[int] = set()
        todo = set(states)
        while todo:
            found = {to for at in todo for chars, to in self.edges[at]} - reached
            reached |= found
            todo = found
        return reached

    def meets(self, starts: Set[int], other: _Automaton) -> bool:
        """True when some text is accepted from one of ``starts`` here and from the start there."""
        todo = [(start, 0) for start in starts]
        seen = set(todo)
        while todo:
            here, there = todo.pop()
            if here == self.final and there == other.final:
                return True
            for chars, to in self.edges[here]:
                for others, other_to in other.edges[there]:
                    if chars & others and (to, other_to) not in seen:
                        seen.add((to, other_to))
                        todo.append((to, other_to))
        return False


class TimestampFormat:
    """A timestamp format: .NET custom tokens, or strftime where it holds a ``%``.

    Raises NamingError for a format that has unknown parts, makes characters that a snapshot name
    must not have, cannot be read back to the time it was made from, or whose texts could end in
    another text of the same format (another label's names would be read as ours).
    """

    def __init__(self, text: str) -> None:
        self.text = text
        tokens = _strftime_tokens(text) if "%" in text else _dotnet_tokens(text)
        self._tokens = [token for token in tokens if token.shapes != ((),)]
        if not self._tokens:
            raise NamingError("timestamp_format", "it is empty")
        bad = sorted(
            set(itertools.chain.from_iterable(itertools.chain.from_iterable(
                itertools.chain.from_iterable(t.shapes) for t in self._tokens))) - _ALPHABET)
        if bad:
            raise NamingError(
                "timestamp_format",
                "{0!r} is not allowed in a snapshot name (letters, digits, - and _ are)".format(bad[0]))
        self._pattern = re.compile(r"\A" + "".join(self._group(t) for t in self._tokens) + r"\Z")
        self._automaton = _Automaton(self._tokens)
        self._check_read_back()
        if self.could_follow(self):
            raise NamingError(
                "timestamp_format",
                "a name of another label could be read as one of this label, since the format begins with a "
                "part of varying length; begin it with a part of fixed length, such as yyyy, yy or dd")

    @staticmethod
    def _group(token: _Token) -> str:
        words = sorted(
            ("".join("[0-9]" if chars == _DIGITS else re.escape(min(chars)) for chars in shape) for shape in token.shapes),
            key=len, reverse=True)
        return "({0})".format("|".join(words))

    def _check_read_back(self) -> None:
        for probe in (
            datetime.datetime(2026, 1, 2, 3, 4, 5), datetime.datetime(2026, 11, 22, 13, 45, 56),
            datetime.datetime(2026, 12, 31, 23, 59, 59), datetime.datetime(2027, 1, 11, 1, 11, 1),
            datetime.datetime(2028, 2, 29, 12, 0, 10), datetime.datetime(2028, 10, 1, 0, 30, 0),
        ):
            read = self.parse(self.format(probe))
            if read is None or not self._same(read, probe):
                raise NamingError(
                    "timestamp_format",
                    "a time cannot be read back from it: '{0}' does not tell which time it stands for"
                    .format(self.format(probe)))

    def _same(self, read: datetime.datetime, probe: datetime.datetime) -> bool:
        fields = {token.field for token in self._tokens}
        parts = ["year", "month", "day"]
        if fields & {"hour", "hour12"}:
            parts.append("hour")
        if "minute" in fields:
            parts.append("minute")
        if "second" in fields:
            parts.append("second")
        return all(getattr(read, part) == getattr(probe, part) for part in parts)

    def format(self, time: datetime.datetime) -> str:
        """The text of a local time."""
        return "".join(token.write(time) for token in self._tokens)

    def parse(self, text: str) -> Optional[datetime.datetime]:
        """The local time of a text, or None unless formatting it again gives the same characters."""
        match = self._pattern.match(text)
        if match is None:
            return None
        read = {token.field: value for token, value in zip(self._tokens, match.groups())}
        try:
            time = _assemble(read)
        except ValueError:
            return None
        return time if self.format(time) == text else None

    def could_follow(self, other: TimestampFormat, between: Optional[str] = None) -> bool:
        """True when ``between`` + a text of ours is a text of ``other``.

        ``between`` is the end of a label; None stands for any text of one character or more.
        """
        machine = other._automaton
        starts = machine.closure({0}) if between is None else machine.after(between)
        return machine.meets(starts, self._automaton)


def _assemble(read: Dict[str, str]) -> datetime.datetime:
    """A time from the fields of a match; ValueError where they are not a time."""
    year = int(read["year"]) if "year" in read else 2000 + int(read.get("year2", "0"))
    hour = int(read.get("hour", "0"))
    if "hour12" in read and "hour" not in read:
        hour = int(read["hour12"]) % 12 + (12 if read.get("am_pm") == "PM" else 0)
    minute, second = int(read.get("minute", "0")), int(read.get("second", "0"))
    if "yearday" in read:
        day = datetime.datetime(year, 1, 1) + datetime.timedelta(days=int(read["yearday"]) - 1)
        return datetime.datetime(day.year, day.month, day.day, hour, minute, second)
    month = int(read.get("month", "1"))
    if "month_name" in read:
        month = MONTHS.index(read["month_name"]) + 1
    elif "month_abbr" in read:
        month = [m[:3] for m in MONTHS].index(read["month_abbr"]) + 1
    return datetime.datetime(year, month, int(read.get("day", "1")), hour, minute, second)


def local_time(time: int, timezone: Optional[datetime.tzinfo]) -> datetime.datetime:
    """A Unix time as naive local time in ``timezone`` (None: the machine's)."""
    if timezone is None:
        return datetime.datetime.fromtimestamp(time)
    return datetime.datetime.fromtimestamp(time, timezone).replace(tzinfo=None)


@dataclass(frozen=True)
class Recognition:
    """How our own snapshots are made and known again.

    ``markers[0]`` is the marker that we write; all of them count as ours. ``made_by`` is JSON in one line, or empty.
    """

    prefix: str
    format: TimestampFormat
    markers: Tuple[str, ...]
    timezone: Optional[datetime.tzinfo] = None
    made_by: str = ""

    @property
    def written(self) -> str:
        """The description of a new snapshot."""
        return self.markers[0] + ("\nautosnap: " + self.made_by if self.made_by else "")

    def name(self, label: str, time: int) -> str:
        """The snapshot name of ``label`` at a Unix time."""
        return self.prefix + label + self.format.format(local_time(time, self.timezone))

    def free_name(self, label: str, time: int, taken: Iterable[str]) -> Optional[str]:
        """The first name from ``time`` on that is not taken, or None within FREE_NAME_SECONDS."""
        names = set(taken)
        for second in range(FREE_NAME_SECONDS):
            name = self.name(label, time + second)
            if name not in names:
                return name
        return None

    def label_of(self, snapshot: Snapshot) -> Optional[str]:
        """The label of a managed snapshot, None for a foreign one.

        No suffix of a timestamp is a timestamp (TimestampFormat proves it), so at most one split fits.
        """
        return self.label_in(snapshot.name) if self.marked(snapshot.description) else None

    def label_in(self, name: str) -> Optional[str]:
        """The label in a name, whoever's it is; None where it is no name of ours."""
        if not name.startswith(self.prefix) or len(name) > NAME_MAX or not NAME_CHARACTERS.match(name):
            return None
        rest = name[len(self.prefix):]
        for cut in range(1, len(rest)):
            if self.format.parse(rest[cut:]) is not None:
                return rest[:cut]
        return None

    def marked(self, description: str) -> bool:
        """True for a marker alone, or a marker line followed by one line ``autosnap: {...}``."""
        lines = description.rstrip(BLANKS).split("\n")
        if lines[0].rstrip(BLANKS) not in self.markers:
            return False
        return len(lines) == 1 or (
            len(lines) == 2 and lines[1].startswith("autosnap: {") and lines[1].endswith("}"))


def check_label(label: str) -> None:
    """NamingError unless a label may be part of a snapshot name."""
    if not NAME_CHARACTERS.match(label):
        raise NamingError("label", "{0!r} may only have letters, digits, - and _".format(label))


def check_prefix(prefix: str) -> None:
    """NamingError unless names can begin with ``prefix``."""
    if prefix and not re.match(r"\A[A-Za-z][A-Za-z0-9_-]*\Z", prefix):
        raise NamingError(
            "prefix", "'{0}' must begin with a letter and may only have letters, digits, - and _".format(prefix))


def check_names(label: str, recognition: Recognition) -> None:
    """NamingError unless every name of ``label`` is one that Proxmox VE takes and that is only ours.

    Rules: api-facts 2.1 (2 to 40 characters, a letter first; a trailing - or _ breaks state volumes
    on LVM-thin). A label whose end and timestamp together look like a default timestamp is refused:
    the job of the shorter label would take these snapshots for its own.
    """
    check_label(label)
    for time in _longest_times():
        name = recognition.prefix + label + recognition.format.format(time)
        if len(name) > NAME_MAX:
            raise NamingError(
                "label",
                "the name '{0}' has {1} characters, Proxmox VE takes {2}; shorten the label, the prefix or "
                "the timestamp format".format(name, len(name), NAME_MAX))
        if not NAME.match(name):
            raise NamingError("label", "the name '{0}' must begin with a letter".format(name))
        if not name[-1].isalnum():
            raise NamingError("timestamp_format", "the name '{0}' must end with a letter or digit".format(name))
        if name in RESERVED:
            raise NamingError("label", "the name '{0}' is reserved".format(name))
    default = TimestampFormat(DEFAULT_FORMAT)
    for cut in range(1, len(label)):
        if recognition.format.could_follow(default, label[cut:]):
            raise NamingError(
                "label",
                "names of '{0}' could be read as names of the label '{1}' with the format {2}; use another "
                "label or the same format for all".format(label, label[:cut], DEFAULT_FORMAT))


def _longest_times() -> Iterable[datetime.datetime]:
    """Times whose texts are as long as they get: each month and each day of the week."""
    for month in range(1, 13):
        for day in range(22, 29):
            yield datetime.datetime(2026, month, day, 22, 58, 59)
