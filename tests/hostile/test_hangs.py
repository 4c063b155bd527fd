# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hangs where nothing can be cut, and machines without room for threads: the process ends, with an answer."""

from __future__ import annotations

import json
import pathlib
import re
import signal
import subprocess
import time
from typing import Any

import pytest
from cluster import Cluster
from server import Exchange, Hostile
from simulator.running import until
from test_kills import start as start_module

# A mutex of C that is locked twice: as name resolution, it lets no signal handler of Python run.
BLOCKED = """
import ctypes, socket, threading
libc = ctypes.CDLL(None)
def hang(*args, **kwargs):
    mutex = ctypes.create_string_buffer(256)
    libc.pthread_mutex_init(mutex, None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""
NOTED = """
def noted(*args, **kwargs):
    open({0!r}, "w").close()
    hang()
socket.getaddrinfo = noted
"""
FEW_THREADS = """
import threading
left = [{0}]
def start(self, begin=threading.Thread.start):
    if left[0] <= 0:
        raise RuntimeError("can't start new thread")
    left[0] -= 1
    begin(self)
threading.Thread.start = start
"""


def start(server: Hostile, prelude: str, **options: Any) -> subprocess.Popen[str]:
    return start_module(server, prelude, **options)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, problems = process.communicate(timeout=90)
    assert output.strip(), problems
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return result


def asleep(pid: int) -> bool:
    """Whether the main thread of a process waits for something."""
    return pathlib.Path("/proc/{0}/stat".format(pid)).read_text().rpartition(")")[2].split()[0] == "S"


def wait_until_seen(server: Hostile, pattern: str) -> None:
    until(lambda: any(re.fullmatch(pattern, what) for _when, what in server.seen))


@pytest.mark.parametrize("why", ["SIGTERM", "run_timeout"])
def test_name_resolution_that_hangs_ends_with_the_process(why: str, tmp_path: pathlib.Path) -> None:
    """Nothing can cut it, and the main thread sees no signal in it."""
    with Hostile() as server:
        options = {"run_timeout": "5s"} if why == "run_timeout" else {}
        begun = tmp_path / "begun"
        # ansible-core itself calls it once when it is imported.
        run = start(server, BLOCKED + "import ansible.module_utils.basic\n" + NOTED.format(str(begun)), **options)
        if why == "SIGTERM":
            until(lambda: begun.exists() and asleep(run.pid))
            run.send_signal(signal.SIGTERM)
        result = finish(run)
        assert result["failed"] and why in result["msg"] and "the process was ended" in result["msg"]
        assert run.returncode == 1


def ended(server: Hostile) -> set[int]:
    """The guests whose end is in the run's record."""
    lines = [line for path in (server.directory / "state").glob("*.run") for line in path.read_text().splitlines(keepends=True)]
    return {int(entry["vmid"]) for entry in map(json.loads, (line for line in lines if line.endswith("\n"))) if "status" in entry}


def test_what_is_known_of_the_guests_is_in_the_last_words() -> None:
    """One guest's thread hangs for good; the others are done."""
    hanging = BLOCKED + """
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import acting
original = acting.GuestRun._send_create
def send(self, name):
    if self._guest.vmid == 101:
        hang()
    return (yield from original(self, name))
acting.GuestRun._send_create = send
"""
    with Hostile(Cluster(guests=3)) as server:
        run = start(server, hanging)
        until(lambda: {100, 102} <= ended(server))
        run.send_signal(signal.SIGTERM)
        result = finish(run)
        told = {entry["vmid"]: entry for entry in result["guests"]}
        assert [told[vmid]["status"] for vmid in (100, 101, 102)] == ["created", "timeout", "created"]
        assert result["changed"] and told[100]["snapshot"] and len(told[100]["pruned"]) == 2


@pytest.mark.parametrize("where", [r"POST .*/100/snapshot", r"GET /nodes/n1/tasks.*"])
def test_sigterm_between_pre_and_post_under_a_trickling_server_leaves_no_command_untried(where: str) -> None:
    def attack(exchange: Exchange) -> Any:
        if re.fullmatch(where, exchange.what):
            exchange.take()
            exchange.trickle(b"HTTP/1.1 200 " + b"O" * 1000)
            return True
        return None

    with Hostile(Cluster(guests=1), attack) as server:
        run = start(server, "", api_timeout="60s")
        wait_until_seen(server, where)
        began = time.monotonic()
        run.send_signal(signal.SIGTERM)
        result = finish(run)
        assert [command[0] for command in server.cluster.guests[100].commands] == ["/bin/rest", "/bin/wake"]
        assert "SIGTERM" in result["msg"] and time.monotonic() - began < 20


def test_sigterm_while_the_owed_command_trickles_waits_for_it() -> None:
    """It is bounded by api_timeout alone, and tried twice."""
    def attack(exchange: Exchange) -> Any:
        if exchange.path.endswith("/agent/exec") and exchange.form["command"] == "/bin/wake":
            exchange.take()
            exchange.trickle(b"HTTP/1.1 200 " + b"O" * 1000)
            return True
        return None

    with Hostile(Cluster(guests=1), attack) as server:
        run = start(server, "", api_timeout="4s")
        until(lambda: len(server.cluster.guests[100].commands) == 2)
        run.send_signal(signal.SIGTERM)
        result = finish(run)
        assert [command[0] for command in server.cluster.guests[100].commands] == ["/bin/rest", "/bin/wake", "/bin/wake"]
        assert "guests" in result and "process was ended" not in result["msg"]


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 5, 9])
def test_fewer_threads_are_not_the_end(threads: int) -> None:
    with Hostile(Cluster(guests=6)) as server:
        result = finish(start(server, FEW_THREADS.format(threads)))
        if threads < 2:
            assert result["failed"] and "starts no further thread" in result["msg"] and not server.cluster.writes
        else:
            assert [entry["status"] for entry in result["guests"]] == ["created"] * 6
            assert len(server.cluster.writes) == 18


def test_an_error_of_our_own_is_an_answer_too() -> None:
    """The last handler: no traceback instead of a result, and no secret in it."""
    broken = """
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import run
def bad(*args):
    raise ZeroDivisionError("the password is " + str(args[0]))
run.connect = bad
import ansible_collections.pve.autosnap.plugins.modules.autosnap_snap as module
module.connect = lambda access: bad(access.credentials.password)
"""
    with Hostile() as server:
        run = start(server, broken)
        result = finish(run)
        assert result["failed"] and result["failure"]["code"] == "internal" and "ZeroDivisionError" in result["msg"]
        assert server.connection(password=True)["api_password"] not in json.dumps(result)


def test_a_signal_that_the_main_thread_hears_late_is_no_second_one() -> None:
    """Name resolution takes its time: Python's handler of the first signal runs seconds after the watching thread heard of it."""
    late = BLOCKED.replace("    libc.pthread_mutex_lock(mutex)\n    libc.pthread_mutex_lock(mutex)\n", "") + """
import ansible.module_utils.basic, time, signal
real = socket.getaddrinfo
def slow(*args, **kwargs):
    end = time.monotonic() + 6
    while time.monotonic() < end:
        ctypes.CDLL(None).poll(None, 0, 500)
    return real(*args, **kwargs)
original = signal.signal
def defer(number, handler):
    # As C code that takes six seconds: the handler runs late.
    def late(*args):
        end = time.monotonic() + 5
        while time.monotonic() < end:
            time.sleep(0.1)
        handler(*args)
    return original(number, late if callable(handler) else handler)
signal.signal = defer
"""
    with Hostile(Cluster(guests=1, seconds=20.0)) as server:
        run = start(server, late)
        wait_until_seen(server, "POST .*/snapshot")
        run.send_signal(signal.SIGTERM)
        result = finish(run)
        assert run.returncode == 1 and "SIGTERM" in result["msg"]


def test_a_job_that_is_lost_still_does_what_it_owes() -> None:
    lost = """
from ansible_collections.pve.autosnap.plugins.module_utils.pve import watcher
watcher.Watcher.add = lambda *unused: None
"""
    with Hostile(Cluster(guests=1)) as server:
        result = finish(start(server, lost))
        assert [command[0] for command in server.cluster.guests[100].commands] == ["/bin/rest", "/bin/wake"]
        assert result["failed"] and "waited for nothing" in result["guests"][0]["reason"]


def test_last_words_that_nobody_reads_hold_nothing_up() -> None:
    with Hostile(Cluster(guests=1)) as server:
        run = start(server, BLOCKED + """
import ansible.module_utils.basic
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import ending, outcome
outcome.account = lambda known: {"guests": ["x" * 5_000_000]}
ending.GIVE_UP = 1.0
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import acting
acting.GuestRun._send_create = hang
""", run_timeout="2s")
        assert run.wait(60) == 1
