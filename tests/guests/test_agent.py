# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real qemu-ga that freezes a file system of the test's own, with the dispatcher as its hook."""

from __future__ import annotations

import subprocess

import pytest
from conftest import Guest
from simulator.running import until

pytestmark = pytest.mark.real


def test_freeze_status_and_thaw(guest: Guest) -> None:
    guest.dispatcher.hook("10-note", "echo $1 of somebody")
    assert guest.agent("guest-fsfreeze-status") == {"return": "thawed"}
    answers = [("freeze-list", guest.freeze()), ("status", guest.agent("guest-fsfreeze-status"))]
    writer = subprocess.Popen(guest.inside("sh", "-c", "echo written >{0}/file".format(guest.mountpoint)))
    with pytest.raises(subprocess.TimeoutExpired):
        writer.wait(0.5)
    answers += [("thaw", guest.thaw()), ("status", guest.agent("guest-fsfreeze-status"))]
    assert writer.wait(30) == 0
    for name, answer in answers:
        print("guest-fsfreeze-{0}: {1}".format(name, answer))
    print(guest.dispatcher.log)
    assert [answer for _name, answer in answers] == [{"return": 1}, {"return": "frozen"}, {"return": 1}, {"return": "thawed"}]
    assert guest.run("cat", "{0}/file".format(guest.mountpoint)) == "written\n"
    said = [line.split(" ", 1)[1] for line in guest.dispatcher.log.splitlines()]
    assert said == [
        "10-note freeze: status 0: freeze of somebody ", "ready to be frozen",
        "10-note thaw: status 0: thaw of somebody ", "thawed"]


def test_a_hook_that_fails_refuses_the_freeze(guest: Guest) -> None:
    guest.dispatcher.hook("10-note", '[ "$1" = thaw ]')
    answer = guest.freeze()
    print(answer)
    assert "fsfreeze hook has failed with status 1" in answer["error"]["desc"]
    assert guest.agent("guest-fsfreeze-status") == {"return": "thawed"}
    guest.run("touch", "{0}/file".format(guest.mountpoint))


def test_the_release_does_not_wait_for_the_log_on_a_frozen_file_system(guest: Guest) -> None:
    guest.dispatcher.configure(hold=1, log=guest.mountpoint / "log")
    note = guest.dispatcher.path.parent / "note"
    guest.dispatcher.hook("10-note", "echo $1 >>{0}".format(note))
    guest.freeze()
    until(lambda: note.read_text() == "freeze\nthaw\n")
    assert subprocess.run([str(guest.dispatcher.path), "release"], timeout=10, check=False).returncode == 0, "as systemd calls it"
    assert guest.agent("guest-fsfreeze-status") == {"return": "frozen"}
    answer = guest.thaw()
    print(answer)
    assert "fsfreeze hook has failed with status 1" in answer["error"]["desc"], "PVE's log tells that it came too late"
    assert guest.agent("guest-fsfreeze-status") == {"return": "thawed"}
    log = guest.run("cat", "{0}/log".format(guest.mountpoint))
    assert "no thaw within 1 s: released now" in log
