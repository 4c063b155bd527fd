# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bounded parallel work."""

from __future__ import annotations

import threading
import time
from typing import Any

from ansible_collections.pve.autosnap.plugins.module_utils.jobs.workers import (
    CREATE,
    DELETE,
    Bounds,
    Later,
    Work,
    Workers,
)
from hypothesis import given, settings
from hypothesis import strategies as st


class Meter:
    """Counts what runs at once, by whatever key."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now: dict[Any, int] = {}
        self.peak: dict[Any, int] = {}

    def measured(self, *keys: Any) -> Any:
        def run() -> None:
            with self.lock:
                for key in keys:
                    self.now[key] = self.now.get(key, 0) + 1
                    self.peak[key] = max(self.peak.get(key, 0), self.now[key])
            time.sleep(0.002)
            with self.lock:
                for key in keys:
                    self.now[key] -= 1
        return run


def never() -> None:
    return None


pieces = st.lists(st.tuples(st.sampled_from([CREATE, DELETE]), st.integers(0, 3), st.sets(st.integers(0, 3))), max_size=25)


@settings(max_examples=40, deadline=None)
@given(pieces, st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_no_limit_is_ever_exceeded(
    work: list[tuple[str, int, set[int]]], total: int, per_node: int, per_storage: int, deletes: int
) -> None:
    """Law 14."""
    meter = Meter()
    made = [
        Work(meter.measured("all", kind, ("node", node), *[("storage", s) for s in stores]), kind, str(node), tuple(stores))
        for kind, node, stores in work
    ]
    Workers(Bounds(total, per_node, per_storage, deletes), never).run(made)
    assert meter.peak.get("all", 0) <= total
    assert meter.peak.get(DELETE, 0) <= deletes
    for key, peak in meter.peak.items():
        if isinstance(key, tuple):
            assert peak <= (per_node if key[0] == "node" else per_storage)
    assert all(count == 0 for count in meter.now.values())


def test_everything_runs_once_and_what_follows_too() -> None:
    done: list[str] = []

    def second() -> None:
        done.append("second")

    def first() -> Work:
        done.append("first")
        return Work(second, DELETE, "n")

    Workers(Bounds(2, 2, 2, 2), never).run([Work(first, CREATE, "n")])
    assert done == ["first", "second"]


def test_deletes_wait_for_creates_that_are_ready() -> None:
    order: list[str] = []
    work = [Work(lambda: order.append("delete"), DELETE, "n")] + [
        Work(lambda: order.append("create"), CREATE, "n") for _number in range(3)]
    Workers(Bounds(1, 9, 9, 9), never).run(work)
    assert order == ["create", "create", "create", "delete"]


def test_waiting_work_holds_nobody_up() -> None:
    order: list[str] = []
    tries: list[int] = []

    def locked() -> Any:
        tries.append(1)
        if len(tries) < 3:
            return Later(0.05)
        order.append("locked")
        return None

    Workers(Bounds(1, 1, 1, 1), never).run(
        [Work(locked, CREATE, "n"), Work(lambda: order.append("other"), DELETE, "n")])
    assert order == ["other", "locked"]


def test_stop_drops_what_has_not_started() -> None:
    dropped: list[str] = []
    began: list[int] = []

    def run() -> None:
        began.append(1)
        time.sleep(0.05)

    work = [Work(run, CREATE, "n", dropped=dropped.append) for _number in range(5)]
    Workers(Bounds(1, 1, 1, 1), lambda: "enough" if began else None).run(work)
    assert len(began) == 1
    assert dropped == ["enough"] * 4


def test_an_error_of_our_own_making_stops_only_its_guest() -> None:
    """Law 9."""
    dropped: list[str] = []
    done: list[int] = []

    def broken() -> None:
        raise KeyError("x")

    Workers(Bounds(1, 1, 1, 1), never).run(
        [Work(broken, CREATE, "n", dropped=dropped.append), Work(lambda: done.append(1), CREATE, "n")])
    assert done == [1]
    assert dropped == ["internal error: KeyError: 'x'"]


def test_a_serial_storage_takes_one_at_a_time() -> None:
    meter = Meter()
    Workers(Bounds(9, 9, 9, 9), never).run(
        [Work(meter.measured("s"), CREATE, "n", ("s",), ("s",)) for _number in range(5)])
    assert meter.peak["s"] == 1
