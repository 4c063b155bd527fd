# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Snapshots that look like ours and are not, or not for sure: nobody will ever prune them, so somebody must be told.

A name in another timestamp format may be read as one of another label: ``autodaily20261120020000`` is ``daily`` in
``yyyyMMddHHmmss``, and ``daily20`` in ``yyMMddHHmmss``.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

from ..model import Snapshot
from .naming import DAYS, DEFAULT_FORMAT, MONTHS, Recognition, TimestampFormat

# What other jobs and other tools write. The default is also known with milliseconds behind it.
FORMATS = tuple(map(TimestampFormat, (
    DEFAULT_FORMAT, "yyMMddHHmm", "yyMMdd", "yyyyMMddHHmmss", "yyyyMMddHHmm", "yyyyMMdd", "ddMMyyHHmmss", "ddMMyyyyHHmmss",
    "MMddyyyyHHmmss", "yyyy-MM-dd-HH-mm-ss", "yyyy_MM_dd_HH_mm_ss", "yyyyMMdd-HHmmss", "yyyyMMdd_HHmmss", "yyMMdd-HHmmss",
    "yyMMdd_HHmmss")))
MILLISECONDS = 3  # digits
DIGITS_MIN = 4  # fewer at the end of a name are no timestamp of anybody
# With one of these at its end a label may be cut off from a timestamp that begins with it.
_WORDS = tuple(name for full in (*DAYS, *MONTHS) for name in (full, full[:3]))
YEARS = range(2000, 2100)
_DIGITS = frozenset("0123456789")


def ambiguous(recognition: Recognition, name: str, label: str) -> bool:
    """Whether a name that is read as ``label`` may as well be one of a shorter label in another timestamp format."""
    if label[-1] in "-_" or len(label) > 3 and label.endswith(_WORDS):
        return True
    if label[-1] not in _DIGITS:
        return False
    rest = name[len(recognition.prefix):]
    return any(_timestamp(rest[cut:], recognition) for cut in range(1, len(label)))


def _timestamp(text: str, recognition: Recognition) -> bool:
    """Whether a text is a timestamp of another format than ours."""
    for form in FORMATS:
        read = form.parse(text) if form.text != recognition.format.text else None
        if read is not None and read.year in YEARS:
            return True
    return text.isascii() and text[-MILLISECONDS:].isdigit() and FORMATS[0].parse(text[:-MILLISECONDS]) is not None


def _in_another_format(recognition: Recognition, snapshot: Snapshot, labels: Optional[Sequence[str]]) -> bool:
    if not recognition.marked(snapshot.description) or not snapshot.name.startswith(recognition.prefix):
        return False
    label = recognition.label_of(snapshot)
    if label is not None and (labels is not None and label in labels or not ambiguous(recognition, snapshot.name, label)):
        return False
    rest = snapshot.name[len(recognition.prefix):]
    found = [rest] if labels is None else [rest[len(label):] for label in labels if rest.startswith(label)]
    return any(sum(character in _DIGITS for character in text) >= DIGITS_MIN for text in found)


def _unmarked(recognition: Recognition, snapshot: Snapshot, labels: Optional[Sequence[str]]) -> bool:
    if recognition.marked(snapshot.description):
        return False
    label = recognition.label_in(snapshot.name)
    return label is not None and (labels is None or label in labels)


def sentences(
    recognition: Recognition, labels: Optional[Sequence[str]], guests: Dict[int, Sequence[Snapshot]]
) -> List[str]:
    """What a run of these labels (None: every label) must say of the snapshots of its guests, by id."""
    found: List[str] = []
    for judge, words in (
        (_in_another_format, "perhaps of another timestamp_format than this run's: no run with this one would ever prune it"),
        (_unmarked, "named as ours are, and has another description: it is foreign, and no run will ever prune it"),
    ):
        those: List[Tuple[int, str]] = [
            (vmid, snapshot.name) for vmid, snapshots in sorted(guests.items())
            for snapshot in sorted(snapshots, key=lambda s: (s.snaptime, s.name)) if judge(recognition, snapshot, labels)]
        if those:
            more = ". So it is with {0} more".format(len(those) - 1) if len(those) > 1 else ""
            found.append("guest {0}: snapshot {1} is {2}{3}".format(*those[0], words, more))
    return found
