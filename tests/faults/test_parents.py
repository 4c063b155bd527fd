# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Ansible that started a module is killed: the module ends as by SIGTERM, and gives its claims back."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, Callable

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import lifeline
from campaign import module, site
from simulator.running import Running, until

BIN = pathlib.Path(sys.executable).parent
COLLECTIONS = os.environ.get("AUTOSNAP_COLLECTIONS", "")


def play(cluster: Running, **keywords: Any) -> pathlib.Path:
    """A playbook with one long snapshot run."""
    path = cluster.directory / "project" / "play.yml"
    path.parent.mkdir(exist_ok=True)
    options = {"guests": ["100"], "label": "daily", **cluster.connection(), "state_dir": str(cluster.directory / "state")}
    path.write_text(json.dumps([{
        "hosts": "localhost", "connection": "local", "gather_facts": False,
        "tasks": [{"name": "Snap", "pve.autosnap.autosnap_snap": options, **keywords}]}]))
    return path


def environment(cluster: Running) -> dict[str, str]:
    return {
        **os.environ, "ANSIBLE_COLLECTIONS_PATH": COLLECTIONS, "ANSIBLE_HOME": str(cluster.directory / "home"),
        "ANSIBLE_ASYNC_DIR": str(cluster.directory / "async"), "PATH": "{0}:{1}".format(BIN, os.environ["PATH"])}


def begin(cluster: Running, *command: str) -> subprocess.Popen[bytes]:
    log = (cluster.directory / "output").open("wb")
    return subprocess.Popen(command, env=environment(cluster), stdout=log, stderr=log, start_new_session=True)


def module_of(cluster: Running) -> int:
    """The process of the module, once its task runs."""
    def found() -> int:
        for record in (cluster.directory / "state").glob("*.run"):
            lines = record.read_text().splitlines()
            if any('"upid"' in line for line in lines):
                return int(json.loads(lines[0])["pid"])
        return 0
    return int(until(found))


def gone(pid: int) -> bool:
    try:
        return pathlib.Path("/proc/{0}/stat".format(pid)).read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def wait_for_the_end(pid: int) -> None:
    until(lambda: gone(pid))


def ansible_playbook(cluster: Running) -> Callable[[], None]:
    process = begin(cluster, str(BIN / "ansible-playbook"), str(play(cluster)))
    return lambda: os.kill(process.pid, signal.SIGKILL)


def ansible_runner(cluster: Running) -> Callable[[], None]:
    path = play(cluster)
    process = begin(cluster, str(BIN / "ansible-runner"), "run", str(path.parent.parent), "-p", path.name)
    return lambda: os.kill(process.pid, signal.SIGKILL)


def timeout(cluster: Running) -> Callable[[], None]:
    process = begin(cluster, "timeout", "--kill-after=1", "600", str(BIN / "ansible-playbook"), str(play(cluster)))
    # As its own clock tells it that the time is over.
    return lambda: os.kill(process.pid, signal.SIGALRM)


@pytest.mark.parametrize("how", [ansible_playbook, ansible_runner, timeout])
def test_the_module_ends_with_the_ansible_that_started_it(how: Callable[[Running], Callable[[], None]]) -> None:
    with Running(site()) as cluster:
        cluster.hold(100)
        kill = how(cluster)
        pid = module_of(cluster)
        assert not gone(pid)
        kill()
        wait_for_the_end(pid)
        # Its claim is free: another guest's snapshot and the locked one's skip are all that is left to say.
        answer = module(cluster, guests=["100"], locked="skip")
        assert answer.of(100)["status"] == "skipped" and "locked" in answer.of(100)["reason"]
        assert [entry["vmid"] for entry in answer.result["unfinished"]] == [100]


def test_under_async_it_outlives_the_playbook_and_ends_with_the_wrapper() -> None:
    with Running(site()) as cluster:
        cluster.hold(100)
        process = begin(cluster, str(BIN / "ansible-playbook"), str(play(cluster, **{"async": 300, "poll": 0})))
        pid = module_of(cluster)
        assert process.wait(300) == 0
        time.sleep(4)
        assert not gone(pid)
        wrapper = lifeline.chain(pid)[-1]
        assert "async_wrapper" in pathlib.Path("/proc/{0}/cmdline".format(wrapper.pid)).read_text()
        os.kill(wrapper.pid, signal.SIGKILL)
        wait_for_the_end(pid)


@pytest.mark.parametrize("words", [
    ["sshd: root@pts/0"], ["sshd-session: root@pts/3"], ["sshd: ansible@notty"], ["sshd:", "root@pts/0"],
    ["/usr/lib/openssh/sshd-session"]])
def test_a_session_of_sshd_is_known_with_and_without_a_terminal(words: list[str]) -> None:
    assert lifeline._is_sshd(words)
    assert not lifeline._is_sshd(["/bin/bash", "sshd"]) and not lifeline._is_sshd([])
    assert lifeline._is_ansible(["/Library/Frameworks/Python.app/Contents/MacOS/Python", "/usr/local/bin/ansible-playbook", "x"])


def test_a_module_that_nobody_of_ansible_started_has_no_chain() -> None:
    assert lifeline.chain(os.getpid()) == [] or "ansible" in str(lifeline._words(lifeline.chain(os.getpid())[-1].pid))


@pytest.mark.parametrize("proc", ["/proc", "/nowhere"])
def test_over_ssh_the_chain_ends_at_sshd(proc: str, tmp_path: pathlib.Path) -> None:
    """A program of that name stands for it. Without /proc, as on macOS, ps tells."""
    shell = tmp_path / "sshd-session"
    shutil.copy(os.path.realpath("/bin/bash"), shell)
    script = tmp_path / "chain.py"
    script.write_text("""
import os
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import lifeline
lifeline.PROC = {0!r}
print(os.getppid(), *(link.pid for link in lifeline.chain(os.getpid())))
""".format(proc))
    outer = subprocess.run(
        [str(shell), "-c", "echo $$; /bin/sh -c '{0} {1}; true'; true".format(sys.executable, script)],
        capture_output=True, text=True, check=True)
    sshd, words = outer.stdout.splitlines()
    assert words.split()[-1] == sshd and len(words.split()) >= 3


@pytest.mark.parametrize("proc", ["/proc", "/nowhere"])
def test_a_new_parent_or_another_birth_breaks_the_chain(proc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "PROC", proc)
    own = lifeline._link(os.getpid())
    assert isinstance(own, lifeline.Link)
    assert not lifeline.broken([own])
    assert lifeline.broken([lifeline.Link(own.pid, own.born, own.parent + 1)])
    assert lifeline.broken([lifeline.Link(own.pid, own.born + "1", own.parent)])
    assert not lifeline.broken([lifeline.Link(own.pid, own.born, 0)])
    process = subprocess.Popen(["true"])
    link = lifeline._link(process.pid)
    process.wait()
    assert not isinstance(link, lifeline.Link) or lifeline.broken([link])
