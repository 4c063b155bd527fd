# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  prefix:
    description: What the names of managed snapshots begin with.
    type: str
    default: auto
  timestamp_format:
    description:
      - Format of the timestamp that the names end with, as .NET custom format (as cv4pve-autosnap takes it) or, where it
        holds a C(%), as C(strftime) format. Names of months and days are English.
      - It must be possible to read the time back from it.
      - Use the same format for all labels, and keep it; snapshots with another format are foreign.
    type: str
    default: yyMMddHHmmss
  timezone:
    description:
      - Time zone of names and of the hours, days and weeks of retention, such as V(Europe/Vienna) or V(UTC).
      - If not set, the time zone of the machine that runs the module.
    type: str
  description:
    description:
      - The marker. It is written as description of new snapshots, and a snapshot with any other description is foreign.
    type: str
    default: cv4pve-autosnap
  adopt:
    description: Further markers whose snapshots are managed as well.
    type: list
    elements: str
    default: [cv4pve-autosnap, eve4pve-autosnap]
"""
