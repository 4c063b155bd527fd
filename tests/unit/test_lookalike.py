# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that may be of another label in another timestamp format, and what a run says of them."""

from __future__ import annotations

import datetime

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.model import Snapshot
from ansible_collections.pve.autosnap.plugins.module_utils.policy import lookalike, naming
from ansible_collections.pve.autosnap.plugins.module_utils.policy.retention import sort_snapshots
from hypothesis import given
from hypothesis import strategies as st

MARKER = naming.LEGACY_MARKERS[0]
TIMES = st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2099, 12, 31))
LABELS = st.from_regex(r"\A[A-Za-z0-9_-]{0,8}[A-Za-z]\Z").filter(lambda label: not label.endswith(lookalike._WORDS))


def ours(text: str = naming.DEFAULT_FORMAT) -> naming.Recognition:
    return naming.Recognition("auto", naming.TimestampFormat(text), (MARKER,), datetime.timezone.utc)


@given(LABELS, TIMES, st.sampled_from(lookalike.FORMATS), st.sampled_from(lookalike.FORMATS))
def test_a_name_of_another_known_format_is_never_taken_for_another_label(
    label: str, time: datetime.datetime, form: naming.TimestampFormat, mine: naming.TimestampFormat
) -> None:
    """It is foreign, of its own label, or ambiguous."""
    recognition = ours(mine.text)
    name = "auto" + label + form.format(time)
    read = recognition.label_in(name)
    assert read in (None, label) or lookalike.ambiguous(recognition, name, read)


@given(LABELS, TIMES)
def test_a_label_that_ends_with_a_letter_is_never_ambiguous(label: str, time: datetime.datetime) -> None:
    assert not lookalike.ambiguous(ours(), "auto" + label + ours().format.format(time), label)


@pytest.mark.parametrize("label", ["daily2", "h1", "every15", "vm100", "web-01", "w52", "site_3"])
def test_labels_that_end_with_a_digit_are_labels(label: str) -> None:
    assert not lookalike.ambiguous(ours(), "auto" + label + "261122021500", label)


@pytest.mark.parametrize("form", [
    "-yyMMddHHmmss", "_yyMMddHHmmss", "dddyyMMddHHmmss", "ddddyyMMddHHmmss", "MMMyyMMddHHmmss", "%a%y%m%d%H%M%S",
    "yyyyMMddHHmmss"])
def test_a_timestamp_that_begins_with_something_else_is_ambiguous_too(form: str) -> None:
    name = "autodaily" + naming.TimestampFormat(form).format(datetime.datetime(2026, 11, 20, 2, 0, 0))
    read = ours().label_in(name)
    assert read not in (None, "daily") and lookalike.ambiguous(ours(), name, read)


@pytest.mark.parametrize(("name", "read"), [
    ("autodaily20261120020000", "daily20"), ("autodaily261120020000123", None), ("autodaily20000107010203", "daily20")])
def test_what_is_ambiguous_is_neither_whole_nor_foreign(name: str, read: str | None) -> None:
    snapshot = Snapshot(name, 1_795_000_000, MARKER)
    for named, whole in (((), []), (("daily20",), ["daily20"]), (("daily",), [])):
        found = sort_snapshots([snapshot], ours(), 1_796_000_000, False, named)
        assert list(found.whole) == (whole if read else [])
        assert [label for label, _snapshot in found.ambiguous] == ([read] if read and not whole else [])


@pytest.mark.parametrize("form", [
    "yyyy-MM-dd_HH-mm-ss", "yyMMdd-HHmm", "yyMMddHH", "yyyy-MM-dd", "%Y-%m-%dT%H-%M-%S", "dd-MM-yyyy-HH-mm-ss",
    "MMM_dd_yyyy_HHmm", "%Y%j%H%M", "yyyyMMddhhmmsstt"])
def test_every_other_format_of_its_own_label_is_told_of(form: str) -> None:
    name = "autodaily" + naming.TimestampFormat(form).format(datetime.datetime(2026, 11, 20, 2, 0, 0))
    [told] = lookalike.sentences(ours(), ("daily",), {100: [Snapshot(name, 1, MARKER)]})
    assert name in told and "perhaps of another timestamp_format" in told
    assert lookalike.sentences(ours(), ("weekly",), {100: [Snapshot(name, 1, MARKER)]}) == []


def test_what_a_run_says_once() -> None:
    guests = {
        100: [Snapshot("autodaily20261120020000", 1, MARKER), Snapshot("autodaily261121020000", 2, MARKER)],
        101: [Snapshot("autodaily20261121020000", 3, MARKER), Snapshot("autodaily261122020000", 4, "mine"),
              Snapshot("autoweekly261122020000", 5, "mine"), Snapshot("before_upgrade", 6, "mine")]}
    first, second = lookalike.sentences(ours(), ("daily",), guests)
    assert first.startswith("guest 100: snapshot autodaily20261120020000 is perhaps of another timestamp_format")
    assert first.endswith(". So it is with 1 more")
    assert second.startswith("guest 101: snapshot autodaily261122020000 is named as ours are") and "more" not in second
    assert lookalike.sentences(ours(), None, guests)[1].endswith(". So it is with 1 more")
    assert lookalike.sentences(ours(), ("monthly",), guests) == []
    assert lookalike.sentences(ours(), ("daily20",), {100: guests[100]}) == []
