# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  keep:
    description:
      - How many snapshots of the label to keep per guest, the newest ones.
      - Mutually exclusive with O(retention).
    type: int
  retention:
    description:
      - Rules with the words and the meaning of Proxmox VE's own prune options, applied per guest and label.
      - They run in the order in which they stand here; each keeps the newest snapshot of so many further periods, and a
        period in which an earlier rule kept one is not counted again.
      - The newest whole snapshot always stays.
    type: dict
    suboptions:
      within:
        description: Keep everything that is not older than this, counted back from the newest snapshot, such as V(7d).
        type: str
      last:
        description: Keep so many of the newest snapshots.
        type: int
      hourly:
        description: Keep the newest of so many hours.
        type: int
      daily:
        description: Keep the newest of so many days.
        type: int
      weekly:
        description: Keep the newest of so many ISO weeks.
        type: int
      monthly:
        description: Keep the newest of so many months.
        type: int
      yearly:
        description: Keep the newest of so many years.
        type: int
"""
