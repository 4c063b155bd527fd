# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task log says of the freeze, by the sentences of qemu-server (api-facts 2.7)."""

from __future__ import annotations

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.model import LXC, QEMU, GuestConfig
from ansible_collections.pve.autosnap.plugins.module_utils.policy.consistency import foreseen, judge
from ansible_collections.pve.autosnap.plugins.module_utils.pve.cluster import _config

DISK = "snapshotting 'drive-scsi0' (ceph:vm-100-disk-0)"
FAILED = "VM 100 qmp command 'guest-fsfreeze-freeze' failed - got timeout"


def config(agent: str = "1") -> GuestConfig:
    return _config(QEMU, {"agent": agent} if agent else {})


@pytest.mark.parametrize(("lines", "value"), [
    ([DISK], "frozen"),
    (["still waiting on guest fs freeze - timeout in 50 minutes", DISK], "frozen"),
    (["unable to check guest fs freeze status - Agent error: unknown", DISK], "frozen"),
    (["skipping guest filesystem freeze - disabled in VM options", DISK], "not_frozen"),
    (["skipping guest filesystem freeze - agent configured but not running?", DISK], "not_frozen"),
    (["skipping guest filesystem freeze - already frozen", DISK], "not_frozen"),
    (["unable to freeze guest fs - child process has failed to execute fsfreeze hook", DISK], "not_frozen"),
    (["unable to freeze guest fs - unexpected status 'thawed'", DISK], "not_frozen"),
    (["querying status after freezing guest fs failed - timeout after 60 minutes", DISK], "not_frozen"),
    (["guest-fsfreeze-freeze problems - " + FAILED, DISK], "not_frozen"),
    (["QEMU Guest Agent is not running - VM 100 qmp command 'guest-ping' failed - got timeout", DISK], "not_frozen"),
    (["WARN: unable to freeze guest fs - x", DISK], "not_frozen"),
    (["saving VM state and RAM using storage 'local'", DISK], "memory"),
    # What a guest may be called must not be taken for a sentence.
    (["snapshotting 'drive-scsi0' (ceph:unable to freeze guest fs - 1)"], "frozen"),
])
def test_a_log_is_read(lines: list[str], value: str) -> None:
    found = judge([*lines, "TASK OK"], config(), vmstate=False)
    assert found.value == value
    assert found.reason == (lines[0] if value == "not_frozen" else "")


@pytest.mark.parametrize("log", [
    [], ["no content"], ["unable to open file - No such file or directory"], [DISK], [DISK, "TASK ERROR: x"],
    [DISK, "TASK OK", "more"]])
def test_a_log_that_does_not_tell_is_unknown(log: list[str]) -> None:
    found = judge(log, config(), vmstate=False)
    assert (found.value, found.proven) == ("unknown", False)
    assert found.reason.startswith("the task log cannot be read")


@pytest.mark.parametrize("line", [
    "guest-fsfreeze-thaw problems - VM 100 qmp command 'guest-fsfreeze-thaw' failed - got timeout",
    "unable to thaw guest fs - Agent error: x", "unable to thaw guest filesystem"])
@pytest.mark.parametrize("first", ["", "skipping guest filesystem freeze - already frozen"])
def test_a_thaw_that_failed_is_told_beside_it(first: str, line: str) -> None:
    found = judge([first, DISK, line, "TASK WARNINGS: 1"], config(), vmstate=False)
    assert found.stuck == line
    assert found.value == ("not_frozen" if first else "frozen")


def test_a_vm_that_stopped_before_its_ram_was_saved() -> None:
    assert judge([DISK, "TASK OK"], config(), vmstate=True).value == "stopped"


@pytest.mark.parametrize(("kind", "agent", "running", "vmstate", "value"), [
    (LXC, "", True, False, "container"),
    (LXC, "", False, False, "container"),
    (QEMU, "1", False, False, "stopped"),
    (QEMU, "1", False, True, "stopped"),
    (QEMU, "", True, False, "not_frozen"),
    (QEMU, "0,fstrim_cloned_disks=1", True, False, "not_frozen"),
    (QEMU, "1,freeze-fs=0", True, False, "not_frozen"),
    (QEMU, "enabled=1,guest-fsfreeze=0", True, False, "not_frozen"),
    (QEMU, "", True, True, None),
    (QEMU, "fstrim_cloned_disks=1,enabled=1", True, False, None),
    (QEMU, "1,freeze-fs-on-backup=0", True, False, None),
])
def test_what_is_known_without_the_log(kind: str, agent: str, running: bool, vmstate: bool, value: str | None) -> None:
    found = foreseen(kind, config(agent), running, vmstate)
    assert (found and found.value) == value


def test_a_switch_whose_meaning_changed_is_not_guessed_at() -> None:
    """freeze-fs-on-backup=0: ignored by snapshots before 9.1.5, heeded without a line until 9.1.10, with one since."""
    off = config("1,freeze-fs-on-backup=0")
    assert judge([DISK, "TASK OK"], off, vmstate=False).value == "unknown"
    assert judge(["skipping guest filesystem freeze - disabled in VM options", DISK, "TASK OK"], off, False).value == "not_frozen"
