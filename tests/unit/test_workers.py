# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bounded parallel work."""

from __future__ import annotations

import threading
from typing import Any, Callable, Generator

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.arguments import Parallel
from ansible_collections.pve.autosnap.plugins.module_utils.jobs import reading, workers
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.workers import (
    CREATE,
    DELETE,
    Bounds,
    Dropped,
    Later,
    Slot,
    Stop,
    Workers,
)
from ansible_collections.pve.autosnap.plugins.module_utils.pve import watcher
from ansible_collections.pve.autosnap.plugins.module_utils.pve.session import Session
from ansible_collections.pve.autosnap.plugins.module_utils.pve.tasks import Pause, TaskEnd, TaskTimeout
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TOKEN

Steps = Generator[object, Any, None]


class Meter:
    """Counts what runs at once, by whatever key."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now: dict[Any, int] = {}
        self.peak: dict[Any, int] = {}

    def count(self, keys: list[Any], by: int) -> None:
        with self.lock:
            for key in keys:
                self.now[key] = self.now.get(key, 0) + by
                self.peak[key] = max(self.peak.get(key, 0), self.now[key])


class Job:
    """A job made of a generator function."""

    def __init__(self, make: Callable[[], Steps]) -> None:
        self.make = make
        self.errors: list[Exception] = []

    def steps(self) -> Steps:
        return self.make()

    def crashed(self, error: Exception) -> None:
        self.errors.append(error)


def work(*jobs: Callable[[], Steps], creates: int = 9, deletes: int = 9, bounds: Bounds | None = None,
         stop: Callable[[], Stop | None] = lambda: None) -> list[Job]:
    made = [Job(job) for job in jobs]
    bounds = bounds or Bounds(Parallel(creates, 9, 9), Parallel(deletes, 9, 9))
    Workers(bounds, Session(["127.0.0.1"], 1, TOKEN), stop, 8).run(made)
    return made


def in_slot(slot: Slot, do: Callable[[], object]) -> Callable[[], Steps]:
    def steps() -> Steps:
        yield slot
        do()
    return steps


limits = st.builds(Parallel, st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))
pieces = st.lists(st.tuples(st.sampled_from([CREATE, DELETE]), st.integers(0, 3), st.sets(st.integers(0, 3))), max_size=25)


@settings(max_examples=40, deadline=None)
@given(pieces, limits, limits)
def test_no_limit_is_ever_exceeded_and_everything_ends(
    wanted: list[tuple[str, int, set[int]]], creates: Parallel, deletes: Parallel
) -> None:
    """Law 14. A slot is held through a Pause, as it is while a task runs."""
    meter = Meter()

    def job(kind: str, node: int, stores: set[int]) -> Callable[[], Steps]:
        keys = [kind, (kind, "node", node), *[(kind, "storage", store) for store in stores]]

        def steps() -> Steps:
            yield Slot(kind, str(node), tuple(stores))
            meter.count(keys, 1)
            yield Pause(0.002, "")
            meter.count(keys, -1)
        return steps

    work(*[job(*piece) for piece in wanted], bounds=Bounds(creates, deletes))
    for kind, bound in ((CREATE, creates), (DELETE, deletes)):
        assert meter.peak.get(kind, 0) <= bound.total
        for key, peak in meter.peak.items():
            if key[:2] in ((kind, "node"), (kind, "storage")):
                assert peak <= (bound.per_node if key[1] == "node" else bound.per_storage)
    assert all(count == 0 for count in meter.now.values())


def test_deletes_wait_for_creates_that_are_ready() -> None:
    order: list[str] = []
    come: list[str] = []

    def first() -> Steps:
        yield Slot(CREATE, "n", serial=("s",))
        while len(come) < 4:
            yield Pause(0.01, "")
        yield Pause(0.3, "")  # the last of them is about to wait

    def later(kind: str) -> Callable[[], Steps]:
        def steps() -> Steps:
            yield Later(0.1)
            come.append(kind)
            yield Slot(kind, "n", serial=("s",))
            order.append(kind)
        return steps

    work(first, later(DELETE), *[later(CREATE) for _number in range(3)])
    assert order == [CREATE, CREATE, CREATE, DELETE]


def test_the_slot_is_free_while_a_job_waits() -> None:
    order: list[str] = []

    def locked() -> Steps:
        for _number in range(2):
            yield Slot(CREATE, "n")
            yield Later(0.05)
        yield Slot(CREATE, "n")
        order.append("locked")

    work(locked, in_slot(Slot(CREATE, "n"), lambda: order.append("other")), creates=1)
    assert order == ["other", "locked"]


def test_the_next_slot_gives_the_first_one_back() -> None:
    order: list[str] = []

    def both(name: str) -> Callable[[], Steps]:
        def steps() -> Steps:
            yield Slot(CREATE, "n")
            order.append(name + " create")
            yield Slot(DELETE, "n")
            order.append(name + " delete")
        return steps

    work(both("a"), both("b"), creates=1, deletes=1)
    assert sorted(order) == ["a create", "a delete", "b create", "b delete"]


def test_the_busiest_node_is_served_first() -> None:
    order: list[str] = []

    come: list[str] = []

    def hold(node: str, begin: int, end: int) -> Callable[[], Steps]:
        """Come when ``begin`` others have their slot, and stay until ``end`` of all have it, and all have come."""
        def steps() -> Steps:
            while len(order) < begin:
                yield Later(0.01)
            come.append(node)
            yield Slot(CREATE, node)
            order.append(node)
            while len(order) < end or len(come) < 4:
                yield Pause(0.01, "")
            yield Pause(0.3, "")  # the last of them is about to wait
        return steps

    work(hold("a", 0, 3), hold("c", 1, 2), hold("a", 2, 3), hold("b", 2, 3), creates=2)
    assert order == ["a", "c", "a", "b"]


def stopped_after(began: list[int], at_once: bool) -> Callable[[], Stop | None]:
    return lambda: Stop("enough", at_once) if began else None


def test_stop_drops_what_has_not_started() -> None:
    began: list[int] = []
    seen: list[object] = []

    def steps() -> Steps:
        try:
            yield Slot(CREATE, "n")
            began.append(1)
            yield Pause(0.05, "what it was")
            seen.append("done")
        except Dropped as dropped:
            seen.append(dropped.reason)

    work(*[steps] * 5, creates=1, stop=stopped_after(began, at_once=False))
    assert seen.count("enough") == 4
    assert seen.count("done") == 1


def test_stop_at_once_waits_for_nothing() -> None:
    began: list[int] = []
    seen: list[str] = []

    def steps() -> Steps:
        yield Slot(CREATE, "n")
        began.append(1)
        try:
            yield Pause(60, "what became of it is not known")
        except TaskTimeout as error:
            seen.append(error.message)

    work(steps, stop=stopped_after(began, at_once=True))
    assert seen == ["what became of it is not known: enough"]


def test_an_error_of_our_own_making_stops_only_its_guest() -> None:
    """Law 9."""
    done: list[int] = []

    def broken() -> Steps:
        yield Slot(CREATE, "n")
        raise KeyError("x")

    jobs = work(broken, in_slot(Slot(CREATE, "n"), lambda: done.append(1)), creates=1)
    assert done == [1]
    assert [str(error) for job in jobs for error in job.errors] == ["'x'"]


def test_a_serial_storage_takes_one_at_a_time_of_both_kinds() -> None:
    meter = Meter()

    def steps(kind: str) -> Callable[[], Steps]:
        def run() -> Steps:
            yield Slot(kind, "n", ("s",), ("s",))
            meter.count(["s"], 1)
            yield Pause(0.01, "")
            meter.count(["s"], -1)
        return run

    work(*[steps(kind) for kind in (CREATE, DELETE) * 4])
    assert meter.peak["s"] == 1


def test_an_error_in_the_loop_ends_every_job_and_none_in_silence() -> None:
    """Law 9: who is left has an error; nobody waits for ever, and nothing new begins."""
    asked: list[int] = []
    begun: list[int] = []

    def stop() -> Stop | None:
        asked.append(1)
        if len(asked) == 4:
            raise MemoryError("no room")
        return None

    def steps() -> Steps:
        yield Slot(CREATE, "n")
        begun.append(1)
        yield Pause(0.2, "")

    jobs = work(*[steps] * 6, creates=2, stop=stop)
    assert [str(error) for job in jobs for error in job.errors] == ["no room"] * 6
    assert len(begun) <= 2


def test_no_room_for_another_thread_costs_nobody_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a limit of the container: what is there does the work."""
    started: list[threading.Thread] = []
    original = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        original(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    done: list[int] = []
    jobs = work(*[in_slot(Slot(CREATE, "n"), lambda: done.append(1))] * 20)
    assert len(done) == 20 and len(started) == 2
    assert not any(job.errors for job in jobs)


def test_a_job_that_waits_for_nothing_that_could_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose task's name was taken for another's; not even a stop would reach it."""
    monkeypatch.setattr(workers, "LOST_MAX", 0.5)
    monkeypatch.setattr(workers, "PATIENCE", 0.2)
    monkeypatch.setattr(watcher.Watcher, "add", lambda *_unused: None)

    def lost() -> Steps:
        yield TaskEnd("UPID:n1:00000001:00000001:6B000001:qmsnapshot:100:u@pve!t:", 60.0)

    [job] = work(lost)
    assert "waited for nothing" in str(job.errors[0])


def test_a_task_that_is_awaited_already_costs_only_the_second_job() -> None:
    ends: list[str] = []

    def twice() -> Steps:
        try:
            yield TaskEnd("UPID:n1:00000001:00000001:6B000001:qmsnapshot:100:u@pve!t:", 0.1)
        except ValueError as error:
            ends.append(str(error))
        except Exception:
            ends.append("ended")

    assert not any(job.errors for job in work(twice, twice, stop=lambda: Stop("x", True) if ends else None))
    assert sorted(ends) == ["ended", "it is awaited already: UPID:n1:00000001:00000001:6B000001:qmsnapshot:100:u@pve!t:"]


@pytest.mark.parametrize("room", [0, 1, 5, 99])
def test_in_parallel_uses_the_threads_that_there_are(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = threading.Thread.start
    left = [room]

    def start(self: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        begin(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert reading.in_parallel(lambda number: number * 2, list(range(50))) == list(range(0, 100, 2))
    with pytest.raises(ZeroDivisionError):
        reading.in_parallel(lambda number: 1 // (number - 3), list(range(50)))
    assert reading.in_parallel(str, []) == []
