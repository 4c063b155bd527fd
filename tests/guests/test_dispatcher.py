# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dispatcher alone, without an agent."""

from __future__ import annotations

import pathlib
import re
import subprocess

import pytest
from conftest import DISPATCHER, HOOKS, Dispatcher, until


def noting(dispatcher: Dispatcher, name: str, more: str = "") -> pathlib.Path:
    """A hook that writes down its calls."""
    return dispatcher.hook(name, 'echo "${{0##*/}} $1" >>{0}\n{1}\n'.format(dispatcher.path.parent / "calls", more))


def calls(dispatcher: Dispatcher) -> list[str]:
    file = dispatcher.path.parent / "calls"
    return file.read_text().splitlines() if file.exists() else []


def test_hooks_are_called_in_order_and_thawed_in_the_opposite_one(dispatcher: Dispatcher) -> None:
    for name in ("20-b", "10-a", "30_C"):
        noting(dispatcher, name, "echo well done")
    assert dispatcher.run("freeze").returncode == 0
    assert calls(dispatcher) == ["10-a freeze", "20-b freeze", "30_C freeze"]
    assert dispatcher.run("thaw").returncode == 0
    assert calls(dispatcher)[3:] == ["30_C thaw", "20-b thaw", "10-a thaw"]
    print(dispatcher.log)
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} 10-a freeze: status 0: well done $", dispatcher.log, re.M)
    assert "ready to be frozen" in dispatcher.log and "thawed" in dispatcher.log
    assert dispatcher.run("thaw").returncode == 0, "PVE thaws also what was not frozen"
    assert len(calls(dispatcher)) == 6


def test_leftovers_are_not_hooks(dispatcher: Dispatcher) -> None:
    for name in ("10-a~", "10-a.bak", "10-a.dpkg-old", "10-a.rpmsave", ".10-a.swp", "#10-a#", "10-a.conf", "10-a.ucf-dist"):
        noting(dispatcher, name)
    noting(dispatcher, "10-not-executable").chmod(0o644)
    (dispatcher.hooks / "10-directory").mkdir()
    noting(dispatcher, "10-a")
    assert dispatcher.run("freeze").returncode == 0
    assert calls(dispatcher) == ["10-a freeze"]


def test_what_was_frozen_is_thawed_when_a_later_one_fails(dispatcher: Dispatcher) -> None:
    noting(dispatcher, "10-a")
    noting(dispatcher, "20-b", '[ "$1" = thaw ] || { echo no >&2; exit 3; }')
    noting(dispatcher, "30-c")
    assert dispatcher.run("freeze").returncode == 1
    assert calls(dispatcher) == ["10-a freeze", "20-b freeze", "20-b thaw", "10-a thaw"]
    assert "20-b freeze: status 3: no" in dispatcher.log
    assert "freeze refused since 20-b failed" in dispatcher.log
    assert dispatcher.run("thaw").returncode == 0
    assert len(calls(dispatcher)) == 4


def test_a_thaw_that_fails_stops_no_other(dispatcher: Dispatcher) -> None:
    noting(dispatcher, "10-a")
    noting(dispatcher, "20-b", '[ "$1" = freeze ]')
    assert dispatcher.run("freeze").returncode == 0
    assert dispatcher.run("thaw").returncode == 1
    assert calls(dispatcher)[2:] == ["20-b thaw", "10-a thaw"]


def test_each_hook_has_its_time(dispatcher: Dispatcher) -> None:
    dispatcher.configure(timeout=60)
    noting(dispatcher, "10-a", '[ "$1" = thaw ] || sleep 60')
    (dispatcher.hooks / "10-a.conf").write_text("timeout='3'\n")
    assert dispatcher.run("freeze").returncode == 1
    assert calls(dispatcher) == ["10-a freeze", "10-a thaw"], "what was killed may have done something"
    assert "10-a freeze: status 124" in dispatcher.log and "not done within 3 s" in dispatcher.log


def test_without_a_thaw_all_is_released_and_that_is_told(dispatcher: Dispatcher) -> None:
    dispatcher.configure(hold=1)
    noting(dispatcher, "10-a")
    noting(dispatcher, "20-b")
    assert dispatcher.run("freeze").returncode == 0
    until(lambda: calls(dispatcher)[2:] == ["20-b thaw", "10-a thaw"] and (dispatcher.state / "expired").exists())
    late = dispatcher.run("thaw")
    assert late.returncode == 1 and "released before the thaw" in late.stderr
    assert "no thaw within 1 s: released now" in dispatcher.log
    assert "what was copied meanwhile is not what was asked for" in dispatcher.log
    assert dispatcher.run("freeze").returncode == 0
    assert dispatcher.run("thaw").returncode == 0
    assert len(calls(dispatcher)) == 8


def test_the_release_of_an_earlier_freeze_leaves_a_later_one_alone(dispatcher: Dispatcher) -> None:
    dispatcher.configure(hold=1)
    noting(dispatcher, "10-a")
    dispatcher.run("freeze")
    dispatcher.run("thaw")
    dispatcher.configure(hold=60)
    dispatcher.run("freeze")
    subprocess.run(["sleep", "1.5"], check=True)
    assert calls(dispatcher) == ["10-a freeze", "10-a thaw", "10-a freeze"]
    assert dispatcher.run("thaw").returncode == 0


def test_a_freeze_after_one_that_was_never_thawed_thaws_first(dispatcher: Dispatcher) -> None:
    noting(dispatcher, "10-a")
    dispatcher.run("freeze")
    dispatcher.run("freeze")
    assert calls(dispatcher) == ["10-a freeze", "10-a thaw", "10-a freeze"]
    dispatcher.run("thaw")


def test_what_could_not_be_thawed_is_tried_again_by_the_next_thaw(dispatcher: Dispatcher) -> None:
    """As when it had to write while the file systems were frozen."""
    dispatcher.configure(hold=1)
    ready = dispatcher.path.parent / "ready"
    noting(dispatcher, "10-a", '[ "$1" = freeze ] || [ -e {0} ]'.format(ready))
    noting(dispatcher, "20-b")
    assert dispatcher.run("freeze").returncode == 0
    until(lambda: (dispatcher.state / "again").exists() and not (dispatcher.state / "frozen").exists())
    ready.touch()
    assert dispatcher.run("thaw").returncode == 1, "it came too late"
    assert calls(dispatcher)[2:] == ["20-b thaw", "10-a thaw", "10-a thaw"]
    assert dispatcher.run("thaw").returncode == 0
    assert len(calls(dispatcher)) == 5


def test_a_thaw_that_fails_again_and_again_is_never_told_as_done(dispatcher: Dispatcher) -> None:
    noting(dispatcher, "10-a", "exit 1")
    assert dispatcher.run("freeze").returncode == 1
    assert dispatcher.run("thaw").returncode == 1
    assert dispatcher.log.endswith(" not everything could be thawed\n")
    noting(dispatcher, "10-a")
    assert dispatcher.run("thaw").returncode == 0
    assert calls(dispatcher) == ["10-a freeze", "10-a thaw", "10-a thaw", "10-a thaw"]


def test_when_the_agent_ends_all_is_released_and_that_is_told(dispatcher: Dispatcher) -> None:
    noting(dispatcher, "10-a")
    assert dispatcher.run("release").returncode == 0 and calls(dispatcher) == []
    dispatcher.run("freeze")
    before = dispatcher.log
    assert dispatcher.run("release").returncode == 0
    assert calls(dispatcher) == ["10-a freeze", "10-a thaw"]
    assert dispatcher.log == before, "the file systems may be frozen"
    assert dispatcher.run("thaw").returncode == 1
    assert "10-a thaw: status 0" in dispatcher.log


def test_a_dispatcher_that_is_killed_leaves_nothing_frozen(dispatcher: Dispatcher) -> None:
    dispatcher.configure(hold=5)
    noting(dispatcher, "10-a")
    noting(dispatcher, "20-b", '[ "$1" = thaw ] || sleep 19')
    process = subprocess.Popen([str(dispatcher.path), "freeze"])
    until(lambda: calls(dispatcher)[:2] == ["10-a freeze", "20-b freeze"])
    process.kill()
    process.wait()
    until(lambda: calls(dispatcher)[2:] == ["20-b thaw", "10-a thaw"])


@pytest.mark.real
def test_without_room_nothing_is_frozen_and_what_is_frozen_is_thawed(dispatcher: Dispatcher, tmp_path: pathlib.Path) -> None:
    """A full /run, which is a small one here."""
    script = """
    mkdir -p {state}; mount -t tmpfs -o size=32k,nr_inodes=20 tmpfs {state}
    {path} freeze; echo "first $?"
    dd if=/dev/zero of={state}/full bs=4k 2>/dev/null
    {path} thaw; echo "thaw $?"
    dd if=/dev/zero of={state}/fuller bs=4k 2>/dev/null
    {path} freeze; echo "second $?"
    rm {state}/full*
    {path} thaw; echo "last $?"
    """.format(state=dispatcher.state, path=dispatcher.path)
    noting(dispatcher, "10-a", "echo a lot of words, more than there is room for")
    noting(dispatcher, "20-b")
    run = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    print(run.stdout, run.stderr)
    assert run.stdout.splitlines() == ["first 0", "thaw 0", "second 1", "last 0"]
    assert calls(dispatcher) == ["10-a freeze", "20-b freeze", "20-b thaw", "10-a thaw"]


def test_the_log_is_rotated_and_no_more_than_four_are_kept(dispatcher: Dispatcher) -> None:
    dispatcher.configure(log_size=100)
    dispatcher.hook("10-a", "echo a lot of words that fill the log, over and over again")
    for _number in range(7):
        dispatcher.run("freeze")
        dispatcher.run("thaw")
    logs = sorted(path.name for path in dispatcher.path.parent.glob("log*"))
    assert logs == ["log", "log.1", "log.2", "log.3", "log.4"]
    assert dispatcher.log_file.stat().st_mode & 0o777 == 0o600
    assert not (dispatcher.state / "said").exists()


def test_a_hook_that_leaves_something_running_is_not_waited_for(dispatcher: Dispatcher) -> None:
    noting(dispatcher, "10-a", '[ "$1" = thaw ] || setsid sleep 30 &')
    assert dispatcher.run("freeze").returncode == 0
    assert dispatcher.run("thaw").returncode == 0
    assert "10-a freeze: status 0" in dispatcher.log


def test_commands(dispatcher: Dispatcher) -> None:
    out = dispatcher.path.parent / "out"
    dispatcher.install("command", freeze="echo frozen >>{0}; echo done".format(out), thaw="echo thawed >>{0}".format(out))
    assert dispatcher.run("freeze").returncode == 0 and dispatcher.run("thaw").returncode == 0
    assert out.read_text() == "frozen\nthawed\n"
    assert "50-command freeze: status 0: done" in dispatcher.log


def test_mongodb_is_locked_and_unlocked_and_its_address_is_no_argument(
    dispatcher: Dispatcher, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that writes down how it was called: there is no MongoDB to be had here."""
    client = tmp_path / "mongosh"
    client.write_text('#!/bin/sh\necho "$MONGO_URI $*" | tr -s "\\n" " " >>{0}\n'.format(tmp_path / "calls"))
    client.chmod(0o755)
    uri = tmp_path / "uri"
    uri.write_text("mongodb://backup:secret@127.0.0.1/admin\n")
    hook = dispatcher.install("mongodb", uri_file=uri)
    environment = {"PATH": "{0}:/usr/bin:/bin".format(tmp_path)}
    for phase, words in (("freeze", "({fsync: 1, lock: true, maxTimeMS: 8000})"), ("thaw", "runCommand({fsyncUnlock: 1})")):
        (tmp_path / "calls").unlink(missing_ok=True)
        subprocess.run([str(hook), phase], env=environment, check=True)
        said = (tmp_path / "calls").read_text()
        assert said.startswith("mongodb://backup:secret@127.0.0.1/admin --quiet") and said.count("secret") == 1
        assert words in said


@pytest.mark.parametrize("path", [DISPATCHER, *sorted(HOOKS.iterdir())], ids=lambda path: path.name)
def test_a_wrong_word_is_refused(path: pathlib.Path) -> None:
    run = subprocess.run([str(path), "melt"], capture_output=True, text=True, check=False)
    more = " | release" if path == DISPATCHER else ""
    assert run.returncode == 2 and run.stderr == "usage: {0} freeze | thaw{1}\n".format(path.name, more)
