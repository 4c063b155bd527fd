# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are killed, or told to end, at random points, while the server loses and trickles answers too."""

from __future__ import annotations

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from attacked import LONG
from cluster import Cluster
from server import Exchange, Hostile

POINTS = ("login", "read", "create", "delete", "wait", "record")
WHEN = {
    "login": r"POST /access/ticket", "read": r"GET .*/(config|snapshot|resources)", "create": r"POST .*/snapshot",
    "delete": r"DELETE .*", "wait": r"GET .*/tasks.*", "record": ""}
KILLS = 204 if LONG else 18
TERMS = 54 if LONG else 6
COMMANDS = {"pre": ["/bin/rest"], "post": ["/bin/wake"], "timeout": "5s", "on_error": "continue"}
PRELUDE = (
    "from ansible_collections.pve.autosnap.plugins.module_utils.pve import tasks; tasks.LOST_WAIT = 3.0; tasks.LOST_POLL = 0.3")
MEASURED = "import coverage; coverage.process_startup()" if "COVERAGE_PROCESS_START" in os.environ else ""
PROMISED = 2 * 2.0 + 5.0 + 10.0  # seconds from a SIGTERM: the calls on their way, the grace of writes, the watchdog's


def start(server: Hostile, prelude: str = "", **options: Any) -> subprocess.Popen[str]:
    """Begin autosnap_snap in a process of its own, after the Python of ``prelude``."""
    given = {
        "guests": ["@all"], "label": "daily", "keep": 2, "api_timeout": "2s", "lock_timeout": "0", "guest_commands": COMMANDS,
        **server.connection(password=True), **options}
    process = subprocess.Popen(
        [sys.executable, "-c", "\n".join([
            MEASURED, PRELUDE, prelude,
            "from ansible_collections.pve.autosnap.plugins.modules.autosnap_snap import main", "main()"])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "STATE_DIRECTORY": str(server.directory / "state")})
    assert process.stdin is not None
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": given}))
    process.stdin.close()
    process.stdin = None
    return process


class Striker:
    """Loses and trickles some answers, and sends a signal to the run at its point."""

    def __init__(self, chance: random.Random, point: str, number: signal.Signals) -> None:
        self.chance = chance
        self.point = point
        self.number = number
        self.count = 1 if point == "login" else chance.randint(1, 3)
        self.process: subprocess.Popen[str] | None = None
        self.struck = 0.0

    def strike(self, after: float = 0.0) -> None:
        time.sleep(after)
        if self.process is not None and not self.struck:
            self.struck = time.monotonic()
            self.process.send_signal(self.number)

    def __call__(self, exchange: Exchange) -> Any:
        if self.struck:
            return None
        if self.point != "record" and re.fullmatch(WHEN[self.point], exchange.what):
            self.count -= 1
            if self.count <= 0:
                if self.chance.random() < 0.5:
                    exchange.take()
                threading.Thread(target=self.strike, args=(self.chance.uniform(0, 0.03),), daemon=True).start()
                return None
        luck = self.chance.random()
        if luck < 0.05 and exchange.path != "/access/ticket":
            exchange.take()
            exchange.reset()
        if luck > 0.98 and "/n1/" in exchange.path:
            exchange.take()
            exchange.trickle(b"HTTP/1.1 200 O" + b"K" * 100)
            return True
        return None

    def watch_record(self, server: Hostile) -> None:
        """Strike while the record is being written."""
        lines = self.chance.randint(0, 8)
        while self.process is not None and self.process.poll() is None and not self.struck:
            found = [lines_of(path) for path in (server.directory / "state").glob("*.run*")]
            if max(found, default=-1) >= lines:
                self.strike(self.chance.uniform(0, 0.01))
            time.sleep(0.002)


def lines_of(path: pathlib.Path) -> int:
    """How many lines a record has; none where it was renamed or removed just now."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return -1


def struck_run(seed: int, number: signal.Signals, server: Hostile) -> tuple[Striker, str]:
    """A run that gets a signal at the point of its seed, to its end; what it printed."""
    point = POINTS[seed % len(POINTS)]
    striker = Striker(random.Random(seed), point, number)
    server.attack = striker
    striker.process = start(server)
    if point == "record":
        threading.Thread(target=striker.watch_record, args=(server,), daemon=True).start()
    output, _errors = striker.process.communicate(timeout=120)
    return striker, output


def check(server: Hostile, before: dict[int, set[str]]) -> None:
    """Nothing foreign touched, enough kept, and no snapshot made twice by one run."""
    for guest in server.cluster.guests.values():
        assert guest.snapshots["by_hand"]["description"] == "made by hand"
        assert len(server.cluster.whole(guest.vmid)) >= 2
        made = [name for kind, vmid, name in server.cluster.writes if kind == "qmsnapshot" and vmid == guest.vmid]
        assert len(set(made)) <= 1, "two snapshots of one run: {0}".format(made)
        gone = before[guest.vmid] - set(guest.snapshots)
        assert gone <= {name for kind, vmid, name in server.cluster.writes if kind == "qmdelsnapshot" and vmid == guest.vmid}


@pytest.mark.parametrize("seed", range(KILLS), ids=lambda seed: "{0}-{1}".format(POINTS[seed % len(POINTS)], seed))
def test_sigkill(seed: int) -> None:
    """Claims go with the process, laws hold, and the next run works."""
    with Hostile(Cluster(guests=4, seconds=0.1)) as server:
        before = {vmid: set(guest.snapshots) for vmid, guest in server.cluster.guests.items()}
        striker, _output = struck_run(seed, signal.SIGKILL, server)
        assert striker.process is not None and striker.process.returncode == -signal.SIGKILL
        check(server, before)
        server.attack = lambda exchange: None
        time.sleep(0.3)
        output, problems = start(server, label="hourly").communicate(timeout=120)
        result = json.loads(output.strip().splitlines()[-1])
        assert [entry["status"] for entry in result["guests"]] == ["created"] * 4, (striker.point, output[-1500:], problems)
        assert "another run of this control node" not in output


@pytest.mark.parametrize("seed", range(1000, 1000 + TERMS), ids=lambda seed: "{0}-{1}".format(POINTS[seed % len(POINTS)], seed))
def test_sigterm(seed: int) -> None:
    """It ends within the promised time, and every command after a snapshot that is owed was tried."""
    with Hostile(Cluster(guests=4, seconds=0.1)) as server:
        before = {vmid: set(guest.snapshots) for vmid, guest in server.cluster.guests.items()}
        striker, output = struck_run(seed, signal.SIGTERM, server)
        assert striker.struck
        took = time.monotonic() - striker.struck
        check(server, before)
        assert took <= PROMISED
        assert json.loads(output.strip().splitlines()[-1])
        for guest in server.cluster.guests.values():
            words = [command[0] for command in guest.commands]
            if "/bin/rest" in words:
                assert words[-1] == "/bin/wake", (guest.vmid, words, output[-1500:])
