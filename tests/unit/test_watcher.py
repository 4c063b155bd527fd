# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the watcher looks, what it asks, and what it makes of the answers."""

from __future__ import annotations

import urllib.parse
from typing import Any

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.pve import errors, watcher
from ansible_collections.pve.autosnap.plugins.module_utils.pve.tasks import TaskTimeout, Upid
from ansible_collections.pve.autosnap.plugins.module_utils.pve.watcher import RUNNING, Look, Watcher
from support import path_of, recorded_response, records, respond, scripted


class Node:
    """A node's tasks, answered as PVE does; ``refuse`` is the status that its list answers with."""

    def __init__(self) -> None:
        self.tasks: dict[str, str] = {}
        self.hidden: set[str] = set()
        self.refuse = 0
        self.silent = False
        self.asked: list[str] = []

    def __call__(self, request: Any) -> Any:
        parts = urllib.parse.urlsplit(request.url)
        path = [urllib.parse.unquote(part) for part in parts.path.split("/")[3:]]
        query = dict(urllib.parse.parse_qsl(parts.query))
        if self.silent:
            return respond(595, reason="No route to host", text="")
        if path[-1] == "status":
            self.asked.append("status")
            text = path[3]
            if text not in self.tasks:
                return respond(400, {"data": None, "errors": {"upid": "no such task"}}, "Parameter verification failed.")
            state = self.tasks[text]
            return respond(200, {"data": {"status": "stopped", "exitstatus": state} if state else {"status": "running"}})
        self.asked.append("list")
        if self.refuse:
            return respond(self.refuse, {"data": None, "message": "no"}, "no")
        items = [{"upid": upid, **({"status": state, "endtime": 1} if state else {"status": "RUNNING"})}
                 for upid, state in self.tasks.items() if upid not in self.hidden]
        start, limit = int(query["start"]), int(query["limit"])
        return respond(200, {"data": items[start:start + limit], "total": len(items)})


class Clock:
    """Monotonic seconds that only move when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def upid(number: int, node: str = "n1", kind: str = "qmsnapshot") -> str:
    return "UPID:{0}:{1:08X}:00000001:6B000000:{2}:{1}:u@pve!t:".format(node, number, kind)


def watched(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch, *upids: str, timeout: float = 0.0) -> Watcher:
    made = Watcher(scripted(node, monkeypatch), lambda node: True, clock)
    for text in upids:
        node.tasks.setdefault(text, "")
        made.add(text, timeout, text)
    return made


def ended(made: Watcher, clock: Clock, after: float = 100.0) -> dict[str, object]:
    """Look once, ``after`` so many seconds."""
    clock.now += after
    done: dict[str, object] = {}
    for look in made.looks():
        done.update(made.taken(look, made.look(look)))
    return done


@pytest.fixture(name="node")
def _node() -> Node:
    return Node()


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


def test_one_list_tells_of_all_tasks_of_a_node(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(node, clock, monkeypatch, *[upid(n) for n in range(20)])
    node.tasks.update({upid(0): "OK", upid(1): "it failed"})
    assert ended(made, clock) == {upid(0): "OK", upid(1): "it failed"}
    assert node.asked == ["list"]
    assert ended(made, clock) == {}


def test_a_single_task_is_asked_for_its_status(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(node, clock, monkeypatch, upid(0))
    assert ended(made, clock) == {}
    node.tasks[upid(0)] = "WARNINGS: 1"
    assert ended(made, clock) == {upid(0): "WARNINGS: 1"}
    assert node.asked == ["status", "status"]
    assert made.due() is None


def test_every_node_is_looked_at_by_itself(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(node, clock, monkeypatch, upid(0), upid(1), upid(2, "n2"))
    clock.now += 100
    looks = made.looks()
    assert [(look.node, look.use_list) for look in looks] == [("n1", True), ("n2", False)]
    assert made.looks() == []


def test_a_long_list_is_read_page_by_page(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "PAGE", 7)
    made = watched(node, clock, monkeypatch, *[upid(n) for n in range(20)])
    node.tasks.update({upid(n): "OK" for n in range(20)})
    assert len(ended(made, clock)) == 20
    assert node.asked == ["list"] * 3


def test_a_task_missing_from_the_list_is_asked_for(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(node, clock, monkeypatch, upid(0), upid(1))
    node.tasks.update({upid(0): "OK", upid(1): "OK"})
    node.hidden = {upid(1)}
    assert ended(made, clock) == {upid(0): "OK", upid(1): "OK"}
    assert node.asked == ["list", "status"]


def test_a_task_that_nobody_knows_is_a_failure(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings 376 and 379: 400 with ``errors.upid``. Its effect decides then (pve/tasks)."""
    made = watched(node, clock, monkeypatch, upid(0))
    del node.tasks[upid(0)]
    failure = ended(made, clock)[upid(0)]
    assert isinstance(failure, errors.TaskFailed)
    assert failure.kind == errors.UNKNOWN_RESULT


@pytest.mark.parametrize(("status", "again"), [(403, "status"), (500, "list")])
def test_a_refused_list_gives_way_to_statuses(
    status: int, again: str, node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal (403) stays; a failure (500) may be over at the next look."""
    made = watched(node, clock, monkeypatch, upid(0), upid(1))
    node.refuse = status
    assert ended(made, clock) == {}
    assert node.asked == ["list", "status", "status"]
    ended(made, clock)
    assert node.asked[3] == again


def test_a_task_that_outlives_its_time(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(node, clock, monkeypatch, upid(0), timeout=30)
    assert ended(made, clock, 29) == {}
    failure = ended(made, clock, 2)[upid(0)]
    assert isinstance(failure, TaskTimeout) and failure.upid == upid(0)


def test_the_first_look_does_not_wait_for_what_other_tasks_took(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = watched(node, clock, monkeypatch, upid(0))
    node.tasks[upid(0)] = "OK"
    ended(made, clock, 150)
    made.add(upid(1, "n2"), 3.0, "short")
    made.add(upid(2, "n3"), 0.0, "long")
    assert made.due() == clock.now + 3.0
    clock.now += 3.0
    [look] = made.looks()
    made.taken(look, made.look(look))
    assert made.due() == clock.now - 3.0 + watcher.POLL_MAX


def test_whatever_goes_wrong_in_a_look_it_is_made_again(
    node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = watched(node, clock, monkeypatch, upid(0))

    def broken(*_path: object, **_params: object) -> None:
        raise RuntimeError("never seen")

    with monkeypatch.context() as patched:
        patched.setattr(made._session, "read_once", broken)
        assert ended(made, clock) == {}
    node.tasks[upid(0)] = "OK"
    assert ended(made, clock, 1) == {upid(0): "OK"}


def test_a_silent_node_is_given_time(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(node, clock, monkeypatch, upid(0), upid(1))
    node.silent = True
    assert ended(made, clock) == {}
    assert ended(made, clock, watcher.PATIENCE - 1) == {}
    node.silent = False
    assert ended(made, clock) == {}
    node.silent = True
    assert ended(made, clock) == {}
    lost = ended(made, clock, watcher.PATIENCE)
    assert all(isinstance(error, errors.NodeUnreachable) and error.upid == text for text, error in lost.items())
    assert len(lost) == 2


def test_dropped_tasks_are_named(node: Node, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(node, clock, monkeypatch, upid(0))
    [(waiter, failure)] = made.drop("the run was stopped by SIGTERM")
    assert waiter == upid(0)
    assert "SIGTERM" in str(failure) and "it goes on" in str(failure)
    assert made.due() is None


def simulated(durations: list[float], monkeypatch: pytest.MonkeyPatch) -> tuple[float, int]:
    """Tasks of these lengths, eight at a time: how long ended ones waited in all, and how many looks it took."""
    node, clock = Node(), Clock()
    made = watched(node, clock, monkeypatch)
    left = list(enumerate(durations))
    ends: dict[str, float] = {}
    wasted = 0.0
    looks = 0
    while left or ends:
        while left and len(ends) < 8:
            number, seconds = left.pop()
            text = upid(number, kind="qmdelsnapshot")
            node.tasks[text] = ""
            ends[text] = clock.now + seconds
            made.add(text, 0, text)
        due = made.due()
        assert due is not None
        clock.now = max(due, clock.now)
        node.tasks.update({text: "OK" for text, end in ends.items() if end <= clock.now})
        for look in made.looks():
            looks += 1
            for waiter, _result in made.taken(look, made.look(look)):
                wasted += clock.now - ends.pop(waiter)
    return wasted, looks


def test_looks_come_when_tasks_are_likely_to_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = [2.0 + 0.8 * ((n * 37) % 21 - 10) / 10 for n in range(200)]
    wasted, looks = simulated(durations, monkeypatch)
    assert looks <= 1.3 * len(durations)
    assert wasted / sum(durations) <= 0.15


@pytest.mark.parametrize("seconds", [0.05, 30.0, 900.0])
def test_looks_fit_tasks_of_any_length(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    wasted, looks = simulated([seconds] * 40, monkeypatch)
    assert wasted / 40 <= max(1.0, seconds * 0.2)
    assert looks <= 40 + 5 * seconds


LISTS = [
    pytest.param(record, id="{0}-{1}".format(version, record["n"])) for version in ("8.4", "9.2") for record in records(version)
    if record["request"]["method"] == "GET" and path_of(record)[:1] == ["nodes"] and path_of(record)[2:] == ["tasks"]
    and record["response"]["status"] == 200 and record["response"]["json"]["data"]
]


@pytest.mark.parametrize("record", LISTS)
def test_recorded_lists(record: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """8.4/395, 409; 9.2/392, 406, 407 and all others: each task of a list is read as running or with its exit status."""
    items = record["response"]["json"]["data"]
    made = Watcher(scripted(lambda request: recorded_response(record), monkeypatch), lambda node: True)
    seen = made.look(Look(path_of(record)[1], tuple(Upid.parse(item["upid"]) for item in items), True))
    assert seen.problem is None
    for item in items:
        running = item.get("status", "RUNNING") == "RUNNING" and "endtime" not in item
        assert seen.results[item["upid"]] == (RUNNING if running else item["status"])
