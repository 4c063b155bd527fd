# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""How consistent a snapshot is: what the guest was doing when its disks were cut (api-facts 2.7).

Proxmox VE's task ends OK whether or not the file systems were frozen; only its log tells.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional, Sequence

from ..model import LXC, GuestConfig

FROZEN = "frozen"
NOT_FROZEN = "not_frozen"
MEMORY = "memory"
STOPPED = "stopped"
CONTAINER = "container"
UNKNOWN = "unknown"

_PREFIX = r"\A(?:WARN(?:ING)?: |ERROR: )?"
# Each is one line of the log of a snapshot whose file systems Proxmox VE did not freeze.
_NO_FREEZE = re.compile(_PREFIX + (
    r"(?:skipping guest filesystem freeze - |unable to freeze guest fs - |querying status after freezing guest fs failed - "
    r"|guest-fsfreeze-freeze problems - |QEMU Guest Agent is not running - )"))
_NO_THAW = re.compile(_PREFIX + r"(?:guest-fsfreeze-thaw problems - |unable to thaw guest f)")
_RAM = re.compile(r"\Asaving VM state and RAM using storage ")
_END = re.compile(r"\ATASK (?:OK|WARNINGS: \d+)\Z")


@dataclass(frozen=True)
class Consistency:
    """One of the values above, and why; ``stuck`` is Proxmox VE's sentence on a thaw that failed."""

    value: str
    reason: str = ""
    stuck: str = ""

    @property
    def proven(self) -> bool:
        """False where a running guest's file systems were not frozen for all that is known."""
        return self.value not in (NOT_FROZEN, UNKNOWN)


def foreseen(kind: str, config: GuestConfig, running: bool, vmstate: bool) -> Optional[Consistency]:
    """What is known without the log; None where only the log tells. ``vmstate`` when the RAM is to be saved."""
    if kind == LXC:
        return Consistency(CONTAINER)
    if not running:
        return Consistency(STOPPED)
    if vmstate:
        return None
    if not config.agent:
        return Consistency(NOT_FROZEN, "the guest agent is not enabled")
    if not config.freeze:
        return Consistency(NOT_FROZEN, "the agent option says freeze-fs=0")
    return None


def judge(log: Sequence[str], config: GuestConfig, vmstate: bool) -> Consistency:
    """What the log of a snapshot of a running VM tells; ``config`` is that of the guest.

    Before qemu-server 9.1 a freeze that the agent itself refused leaves no line.
    """
    if not log or not _END.match(log[-1]):
        return Consistency(UNKNOWN, "the task log cannot be read: {0}".format(log[-1] if log else "it is empty"))
    stuck = next((line for line in log if _NO_THAW.match(line)), "")
    refused = next((line for line in log if _NO_FREEZE.match(line)), "")
    if any(_RAM.match(line) for line in log):
        return Consistency(MEMORY)
    if vmstate:
        return Consistency(STOPPED, "it was stopped meanwhile: there was no RAM to save")
    if refused:
        return Consistency(NOT_FROZEN, refused, stuck)
    if not config.freeze_on_backup:
        return Consistency(UNKNOWN, (
            "the agent option says freeze-fs-on-backup=0, which Proxmox VE 9.1.5 and newer takes to be about snapshots too, "
            "without a line in the log; write freeze-fs=1 or 0 in its place"), stuck)
    return Consistency(FROZEN, "", stuck)
