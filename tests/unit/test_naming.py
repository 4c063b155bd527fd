# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, labels and timestamp formats."""

from __future__ import annotations

import datetime

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.model import Snapshot
from ansible_collections.pve.autosnap.plugins.module_utils.policy import naming
from hypothesis import assume, given
from hypothesis import strategies as st

LEGACY = naming.LEGACY_MARKERS
GOOD_FORMATS = (
    "yyMMddHHmmss", "ddMMyyHHmmss", "yyyyMMdd_dddd_HHmmss", "MMM_dd_yyyy_HHmm", "yyyy-MM-dd-HH-mm-ss", "yyyyMMddhhmmsstt",
    "'at'yyMMddHHmm", "%Y%m%d-%H%M%S", "%d%b%Y_%I%M%p", "%Y%j%H%M", "dddd_dd_MM_yyyy_HHmm", "yyyyMMdd\\THHmmss",
)


def recognition(text: str = naming.DEFAULT_FORMAT, markers: tuple[str, ...] = LEGACY) -> naming.Recognition:
    return naming.Recognition("auto", naming.TimestampFormat(text), markers, datetime.timezone.utc)


def snapshot(name: str, description: str = "cv4pve-autosnap") -> Snapshot:
    return Snapshot(name, 1, description)


@given(st.sampled_from(GOOD_FORMATS), st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2099, 12, 31)))
def test_a_time_survives_being_written_and_read(text: str, time: datetime.datetime) -> None:
    timestamp_format = naming.TimestampFormat(text)
    written = timestamp_format.format(time)
    read = timestamp_format.parse(written)
    assert read is not None
    assert timestamp_format.format(read) == written
    assert read.date() == time.date()


@given(
    st.sampled_from(GOOD_FORMATS), st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2099, 12, 31)),
    st.from_regex(r"\A[A-Za-z0-9_-]{1,12}\Z"), st.from_regex(r"\A[A-Za-z0-9_-]{1,6}\Z"),
)
def test_no_label_reads_the_names_of_a_longer_one(
    text: str, time: datetime.datetime, label: str, more: str
) -> None:
    ours = recognition(text)
    name = "auto" + label + more + ours.format.format(time)
    assume(len(name) <= naming.NAME_MAX)
    assert ours.label_of(snapshot(name)) == label + more


def test_short_fields_are_not_read() -> None:
    """strptime would read ``2`` + eleven digits; a name is only ours when it is written the same way again."""
    ours = recognition()
    assert ours.label_of(snapshot("autodaily2261122021500")) == "daily2"
    assert ours.label_of(snapshot("autodaily26112202150")) is None
    assert ours.label_of(snapshot("autodaily261322021500")) is None
    assert ours.format.parse("26112202150\n") is None
    assert ours.format.parse("٢٦١١٢٢٠٢١٥٠٠") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dMyyyy", "cannot be read back"),
        ("hhmm", "cannot be read back"),
        ("HHmmss", "cannot be read back"),
        ("yyyyMMddhhmm", "cannot be read back"),
        ("d_M_yyyy", "another label"),
        ("dd.MM.yyyy-HH.mm.ss", "'.' is not allowed"),
        ("yyMMdd HHmm", "' ' is not allowed"),
        ("yyMMdd\n", "'\\n' is not allowed"),
        ("yyyyMMddHHmmssfff", "'fff' is not supported"),
        ("%Q", "'%Q' is not supported"),
        ("%", "'%' is not supported"),
        ("'open", "is not closed"),
        ("", "empty"),
        ("''", "empty"),
    ],
)
def test_a_format_that_cannot_serve_is_refused(text: str, words: str) -> None:
    with pytest.raises(naming.NamingError, match="(?s)" + words.replace("'.'", "'\\.'").replace("\\n", "\\\\n")):
        naming.TimestampFormat(text)


def test_a_leading_literal_of_one_letter_is_refused_where_it_may_repeat() -> None:
    naming.TimestampFormat("'T'yyMMdd")
    with pytest.raises(naming.NamingError, match="another label"):
        naming.TimestampFormat("Hyyyy_MM_dd")


@pytest.mark.parametrize(
    ("description", "ours"),
    [
        ("cv4pve-autosnap", True),
        ("cv4pve-autosnap\n", True),
        ("eve4pve-autosnap", True),
        ('cv4pve-autosnap\nautosnap: {"job": 7}', True),
        ('cv4pve-autosnap\nautosnap: {"job": 7}\n', True),
        ("cv4pve-autosnap\nkeep this one", False),
        ('cv4pve-autosnap\nautosnap: {"job": 7}\nmore', False),
        ("cv4pve-autosnap keep", False),
        ("keep cv4pve-autosnap", False),
        ("", False),
        ("made by hand", False),
    ],
)
def test_a_snapshot_is_ours_by_its_description(description: str, ours: bool) -> None:
    assert (recognition().label_of(snapshot("autodaily261122021500", description)) == "daily") is ours


def test_a_name_that_is_taken_moves_on_by_seconds() -> None:
    ours = recognition()
    assert ours.free_name("daily", 0, []) == "autodaily700101000000"
    assert ours.free_name("daily", 0, ["autodaily700101000000", "autodaily700101000001"]) == "autodaily700101000002"
    by_day = recognition("yyMMdd")
    assert by_day.free_name("daily", 0, ["autodaily700101"]) is None


@pytest.mark.parametrize(
    ("label", "text", "words"),
    [
        ("da ily", naming.DEFAULT_FORMAT, "may only have"),
        ("daily\n", naming.DEFAULT_FORMAT, "may only have"),
        ("tägl", naming.DEFAULT_FORMAT, "may only have"),
        ("d" * 25, naming.DEFAULT_FORMAT, "41 characters"),
        ("daily", "yyMMdd'-'", "must end with"),
        ("daily26", "MMddyyHHmm", "names of the label 'daily'"),
    ],
)
def test_a_label_that_cannot_serve_is_refused(label: str, text: str, words: str) -> None:
    with pytest.raises(naming.NamingError, match=words):
        naming.check_names(label, recognition(text))


def test_the_longest_names_fit() -> None:
    naming.check_names("d" * 24, recognition())
    naming.check_names("daily", recognition("yyyyMMdd_dddd_HHmmss"))


def test_the_name_needs_a_letter_first() -> None:
    no_prefix = naming.Recognition("", naming.TimestampFormat("yyMMddHHmmss"), LEGACY)
    with pytest.raises(naming.NamingError, match="must begin with a letter"):
        naming.check_names("7days", no_prefix)
    with pytest.raises(naming.NamingError, match="must begin with a letter"):
        naming.check_prefix("1auto")
    naming.check_prefix("")
    naming.check_prefix("auto-")


@pytest.mark.parametrize(
    "unseen", ["\u200b", "\u00a0", "\u2060", "\ufeff", "\u2028", "\x00", "\x0b", "\u3164", "\u202e", "\ud800"])
def test_a_character_that_nobody_sees_makes_it_foreign(unseen: str) -> None:
    ours, name = recognition(), "autodaily261122021500"
    assert ours.label_of(snapshot(name, "cv4pve-autosnap \n")) == "daily"
    for description in ("cv4pve-autosnap" + unseen, unseen + "cv4pve-autosnap", "cv4pve" + unseen + "-autosnap"):
        assert ours.label_of(snapshot(name, description)) is None
    for other in ("auto" + unseen + "daily261122021500", "autodaily" + unseen + "261122021500", name + unseen):
        assert ours.label_of(snapshot(other)) is None
