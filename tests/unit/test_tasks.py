# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lost writes: when they are sent again, and which tasks are taken for theirs (law 8)."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from ansible_collections.pve.autosnap.plugins.module_utils.model import Guest
from ansible_collections.pve.autosnap.plugins.module_utils.pve import errors
from ansible_collections.pve.autosnap.plugins.module_utils.pve.cluster import Cluster
from ansible_collections.pve.autosnap.plugins.module_utils.pve.tasks import Done, Pause, TaskEnd, Tasks
from support import respond, scripted

GUEST = Guest(100, "qemu", "n1", "running")
NAME = "autodaily261125021500"


def upid(number: int) -> str:
    return "UPID:n1:{0:08X}:00000001:{1:08X}:qmsnapshot:100:u@pve!t:".format(number, 0x6B000000 + number)


class Server:
    """Loses the answer to the first POST; ``tasks`` and ``snapshots`` are what it lists."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.posts: list[float] = []
        self.tasks: list[dict[str, Any]] = []
        self.snapshots: list[dict[str, Any]] = []

    def __call__(self, request: Any) -> Any:
        if request.method == "POST":
            self.posts.append(self.now)
            return requests.ReadTimeout("slow") if len(self.posts) == 1 else respond(200, {"data": upid(9)})
        return respond(200, {"data": self.snapshots if request.url.endswith("/snapshot") else self.tasks})


def steps_of(server: Server, monkeypatch: pytest.MonkeyPatch, started: list[str]) -> Any:
    session = scripted(server, monkeypatch)
    monkeypatch.setattr(session.clock, "now", lambda: 1_790_000_000)
    made = Tasks(session, Cluster(session), lambda: server.now)
    return made.create(GUEST, NAME, "x", False, 60.0, started.append)


def wait(server: Server, steps: Any, seconds: float) -> Any:
    """Through all pauses that end within ``seconds``; the first effect of another kind, or the last pause."""
    until = server.now + seconds
    effect = next(steps)
    while isinstance(effect, Pause) and server.now + effect.seconds <= until:
        server.now += effect.seconds
        effect = steps.send(None)
    return effect


def test_a_lost_write_is_sent_again_only_after_35_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxmox VE's own proxy waits 30 s for its target (api-facts 5.2)."""
    server = Server()
    assert isinstance(wait(server, steps_of(server, monkeypatch, []), 60), TaskEnd)
    assert 35 <= server.posts[1] - server.posts[0] < 40


def test_an_earlier_task_of_somebody_else_is_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.tasks = [{"upid": upid(1), "endtime": 1, "status": "OK"}]
    started: list[str] = []
    wait(server, steps_of(server, monkeypatch, started), 60)
    assert started == [upid(9)] and len(server.posts) == 2


def test_the_task_that_ended_with_the_effect_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.tasks = [{"upid": upid(2), "endtime": 2, "status": "OK"}, {"upid": upid(1), "endtime": 1, "status": "OK"}]
    server.snapshots = [{"name": NAME, "snaptime": 1_790_000_000, "description": "x\n"}, {"name": "current"}]
    started: list[str] = []
    with pytest.raises(StopIteration) as ended:
        next(steps_of(server, monkeypatch, started))
    assert ended.value.value == Done(upid(2))
    assert started == [upid(2)]


@pytest.mark.parametrize("other", [{"description": "mine"}, {"snaptime": 1_789_990_000}, {"snapstate": "prepare"}])
def test_a_snapshot_of_the_same_name_is_not_ours_by_its_name_alone(
    other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    server.snapshots = [{"name": NAME, "snaptime": 1_790_000_000, "description": "x", **other}, {"name": "current"}]
    assert isinstance(wait(server, steps_of(server, monkeypatch, []), 60), TaskEnd)
    assert len(server.posts) == 2


def test_a_task_that_still_runs_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.tasks = [{"upid": upid(3), "status": "RUNNING"}]
    started: list[str] = []
    steps = steps_of(server, monkeypatch, started)
    assert next(steps) == TaskEnd(upid(3), 60.0)
    server.snapshots = [{"name": NAME, "snaptime": 1_790_000_000, "description": "x"}, {"name": "current"}]
    with pytest.raises(StopIteration) as ended:
        steps.send("OK")
    assert ended.value.value == Done(upid(3)) and started == [upid(3)] and len(server.posts) == 1


@pytest.mark.parametrize("odd", [
    "UPID:n2:00000001:00000001:6B000001:qmsnapshot:100:u@pve!t:", "UPID:n1:00000001:00000001:6B000001:qmsnapshot:101:u@pve!t:",
    "UPID:n1:00000001:00000001:6B000001:qmigrate:100:u@pve!t:", "UPID:../x:00000001:00000001:6B000001:qmsnapshot:100:u@pve!t:",
    "UPID:n1:00000001:00000001:6B000001:qmsnapshot:100:u@pve!t:\n", "x" * 10_000, None, 7, {}])
def test_an_answer_that_names_no_new_task_of_this_write_is_a_lost_write(odd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = scripted(lambda request: respond(200, {"data": odd}), monkeypatch)
    with pytest.raises(errors.LostWrite) as raised:
        Tasks(session, Cluster(session))._upid(GUEST, "qmsnapshot", odd)
    assert len(raised.value.message) < 400


def test_the_name_of_a_task_that_is_known_is_no_answer_to_another_write(monkeypatch: pytest.MonkeyPatch) -> None:
    session = scripted(lambda request: respond(200, {"data": None}), monkeypatch)
    made = Tasks(session, Cluster(session))
    assert made._upid(GUEST, "qmsnapshot", upid(1)) == upid(1)
    with pytest.raises(errors.LostWrite, match="known already"):
        made._upid(GUEST, "qmsnapshot", upid(1))
