# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""One watcher for all running tasks: few looks, and each when it is likely to find something (design 5.8).

Where several tasks of ours run on a node, one task list tells of all of them; a single one is asked for
its status. When to look is learned from the tasks that ended before: a node is looked at when the time
that ended tasks have probably waited unseen adds up to WASTE of a task's usual time. While nothing is
known, looks are quick first and back off.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

from . import errors
from .session import Session
from .tasks import TaskTimeout, Upid, exit_status, is_running

POLL_FIRST = 0.5  # seconds; also the pause after a look that nobody answered
POLL_MIN = 0.2
POLL_MAX = 5.0
UNKNOWN_GROWTH = 0.4  # while no task has ended yet, the next look comes when one is older by this share
OVERDUE_GROWTH = 0.1  # a task that takes longer than all before it may end at any time
WASTE = 0.08  # of a task's usual time, see above
BUSY_WEIGHT = 0.02  # of an ended create on a node where others' deletes go first anyway
SAMPLES = 16  # durations remembered of each type of task
PAGE = 500
PATIENCE = 120.0  # seconds that a node may be silent while one of its tasks is awaited
LIMITED_MAX = 60.0  # seconds that a server may ask us to wait at a time
LIMITED_PATIENCE = 600.0  # the same in a row, while a task is awaited
HOST_PATIENCE = 30.0  # the same where no API host answers at all
RUNNING = object()


@dataclass
class _Awaited:
    """A task; times are monotonic seconds. ``seen`` is when it was last known to run."""

    upid: Upid
    waiter: Any
    started: float
    seen: float
    deadline: Optional[float]
    timeout: float


@dataclass
class _Node:
    tasks: Dict[str, _Awaited] = field(default_factory=dict)
    looked: float = float("-inf")
    due: float = 0.0
    looking: bool = False
    list_refused: bool = False
    silent_since: Optional[float] = None
    limited_since: Optional[float] = None


@dataclass(frozen=True)
class Look:
    """One look at a node's tasks, to be made in a thread of its own."""

    node: str
    upids: Tuple[Upid, ...]
    use_list: bool


@dataclass
class Seen:
    """What a look found: by UPID RUNNING, an exit status or an error. ``problem`` where the node was silent."""

    results: Dict[str, object] = field(default_factory=dict)
    list_refused: bool = False
    problem: Optional[errors.PveError] = None


class Watcher:
    """Knows what is awaited. Not for several threads at once; only ``look`` is."""

    def __init__(
        self, session: Session, hungry: Callable[[str], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``hungry`` tells whether a node waits for creates to end, so that it can begin a delete."""
        self._session = session
        self._hungry = hungry
        self._clock = clock
        self._nodes: Dict[str, _Node] = {}
        self._durations: Dict[str, Deque[float]] = {}
        self._all_durations: Deque[float] = deque(maxlen=SAMPLES)

    def add(self, upid: str, timeout: float, waiter: Any) -> None:
        """Await a task; ``waiter`` is handed back with its end. ValueError for what is no UPID or awaited already."""
        task = Upid.parse(upid)
        if task.text in self._nodes.get(task.node, _Node()).tasks:
            raise ValueError("it is awaited already: {0}".format(upid))
        now = self._clock()
        durations = self._durations.get(task.type) or self._all_durations
        # looks() thinks about it then; to do so for every task that begins costs more than the calls.
        shortest = min(durations, default=0.0)
        think = now + min(POLL_MAX, timeout or POLL_MAX, shortest)
        node = self._nodes.setdefault(task.node, _Node())
        node.due = min(node.due, think) if node.tasks else think
        node.tasks[upid] = _Awaited(task, waiter, now, now, now + timeout if timeout else None, timeout)

    def waiters(self) -> List[Any]:
        """Everybody who waits."""
        return [task.waiter for node in self._nodes.values() for task in node.tasks.values()]

    def due(self) -> Optional[float]:
        """When the next look should be made (monotonic seconds); None when nothing is awaited."""
        times = [node.due for node in self._nodes.values() if node.tasks and not node.looking]
        return min(times) if times else None

    def looks(self) -> List[Look]:
        """The looks whose time has come, at most one for each node until its answer is taken."""
        now = self._clock()
        found = []
        for name, node in self._nodes.items():
            if not node.tasks or node.looking or node.due > now:
                continue
            node.due = self._next(name, node)
            if node.due <= now:
                node.looking = True
                use_list = len(node.tasks) > 1 and not node.list_refused
                found.append(Look(name, tuple(task.upid for task in node.tasks.values()), use_list))
        return found

    def look(self, look: Look) -> Seen:
        """Ask the node. Never raises."""
        seen = Seen()
        try:
            if look.use_list:
                self._list(look, seen)
            for upid in look.upids:
                if upid.text not in seen.results:
                    seen.results[upid.text] = self._status(upid)
        except errors.PveError as error:
            seen.problem = error
        except Exception as error:
            # Whatever it is, the node is looked at again: a look without an answer would be waited for for ever.
            seen.problem = errors.NodeUnreachable("an answer about its tasks was not understood: {0!r}".format(error))
        return seen

    def taken(self, look: Look, seen: Seen) -> List[Tuple[Any, object]]:
        """Take in what a look found; the waiters that are done, each with an exit status or an error."""
        now = self._clock()
        node = self._nodes[look.node]
        node.looking = False
        node.looked = now
        node.list_refused = node.list_refused or seen.list_refused
        limited = isinstance(seen.problem, errors.RateLimited)
        node.limited_since = (node.limited_since or now) if limited else None
        node.silent_since = None if seen.problem is None or limited else node.silent_since or now
        done: List[Tuple[Any, object]] = []
        for upid in look.upids:
            task = node.tasks[upid.text]
            result = seen.results.get(upid.text, RUNNING)
            if result is RUNNING:
                result = self._patience(node, task, seen.problem, now)
            elif isinstance(result, str):
                self._learn(task, now)
            if result is RUNNING:
                task.seen = task.seen if seen.problem else now
                continue
            del node.tasks[upid.text]
            done.append((task.waiter, result))
        if node.tasks:
            node.due = self._next(look.node, node)
        if isinstance(seen.problem, errors.RateLimited):
            # The server lives, and says when it wants to be asked again.
            wait = now + min(LIMITED_MAX, seen.problem.retry_after or POLL_MAX)
            node.due = min([wait, *(task.deadline for task in node.tasks.values() if task.deadline is not None)])
        return done

    def drop(self, reason: str) -> List[Tuple[Any, Exception]]:
        """Stop waiting for everything; each waiter with a TaskTimeout that names its task."""
        dropped: List[Tuple[Any, Exception]] = []
        for node in self._nodes.values():
            if not node.looking:
                words = "the task still runs: {0}; it goes on" if node.silent_since is None else (
                    "how the task ended is not known, since its node does not answer: {0}")
                dropped += [
                    (task.waiter, TaskTimeout(words.format(reason), upid=upid)) for upid, task in node.tasks.items()]
                node.tasks.clear()
        return dropped

    def _patience(
        self, node: _Node, task: _Awaited, problem: Optional[errors.PveError], now: float
    ) -> object:
        """RUNNING while there is still time, else the error to give up with."""
        if isinstance(problem, errors.Interrupted):
            return RUNNING  # drop() follows
        if problem is not None and errors.is_fatal(problem) and not isinstance(problem, errors.HostUnreachable):
            return problem
        limit = HOST_PATIENCE if isinstance(problem, errors.HostUnreachable) else PATIENCE
        if problem is not None and node.silent_since is not None and now - node.silent_since >= limit:
            return type(problem)(problem.message, problem.status, upid=task.upid.text)
        if node.limited_since is not None and now - node.limited_since >= LIMITED_PATIENCE and problem is not None:
            return errors.NodeUnreachable(problem.message, problem.status, upid=task.upid.text)
        if task.deadline is not None and now >= task.deadline:
            if problem is not None:
                return TaskTimeout(
                    "how the task ended is not known, since node {0} has not answered for {1:.0f} s ({2}); look there".format(
                        task.upid.node, now - task.seen, problem.message), upid=task.upid.text)
            return TaskTimeout(
                "the task still ran after {0:.0f} s; it goes on (raise 'timeout' if it needs longer)".format(
                    task.timeout), upid=task.upid.text)
        return RUNNING

    def _learn(self, task: _Awaited, now: float) -> None:
        """It ended somewhere between the last look that saw it and this one."""
        durations = self._durations.setdefault(task.upid.type, deque(maxlen=SAMPLES))
        durations.append((task.seen + now) / 2 - task.started)
        self._all_durations.append(durations[-1])

    def _next(self, name: str, node: _Node) -> float:
        """When to look at a node again, see the module's text."""
        if node.silent_since is not None:
            return node.looked + POLL_FIRST
        latest = max(node.looked, min(task.started for task in node.tasks.values())) + POLL_MAX
        likely: List[Tuple[float, float]] = []
        busy = not self._hungry(name)
        for task in node.tasks.values():
            durations = self._durations.get(task.upid.type) or self._all_durations
            age = task.seen - task.started
            if durations:
                later = [task.started + seconds for seconds in durations if seconds > age] or [
                    task.seen + OVERDUE_GROWTH * age]
                usual = sum(durations) / len(durations)
                weight = BUSY_WEIGHT if busy and "del" not in task.upid.type else 1.0
                likely += [(end, weight / len(later) / (WASTE * usual)) for end in later]
            else:
                latest = min(latest, task.seen + max(POLL_FIRST, UNKNOWN_GROWTH * age))
            latest = latest if task.deadline is None else min(latest, task.deadline)
        return max(min(latest, _filled(likely)), node.looked + POLL_MIN)

    def _list(self, look: Look, seen: Seen) -> None:
        """Read the node's task list as far as needed; nothing in it is known of what it does not show."""
        wanted = {upid.text for upid in look.upids}
        since = min(upid.start for upid in look.upids)
        start = 0
        while wanted - set(seen.results):
            try:
                answer = self._session.read_once(
                    "nodes", look.node, "tasks", source="all", since=since, limit=PAGE, start=start)
            except errors.PveError as error:
                if isinstance(error, (errors.NodeUnreachable, errors.RateLimited)) or errors.is_fatal(error):
                    raise
                seen.list_refused = isinstance(error, errors.PermissionDenied)
                return
            for item in answer.data or []:
                if item.get("upid") in wanted:
                    seen.results[item["upid"]] = RUNNING if is_running(item) else errors.bounded(str(item.get("status", "")))
            start += PAGE
            if not answer.data or start >= (answer.total or 0):
                return

    def _status(self, upid: Upid) -> object:
        """The state of one task; an error where the server does not know it any more."""
        try:
            status = self._session.read_once("nodes", upid.node, "tasks", upid.text, "status").data
        except errors.BadParameter as error:
            return errors.TaskFailed(
                "; ".join(error.errors.values()) or error.message, error.status, upid=upid.text)
        except errors.PermissionDenied as error:
            return TaskTimeout(
                "how the task ended may not be seen ({0}); it may go on".format(error.message), error.status, upid=upid.text)
        except errors.PveError as error:
            if isinstance(error, (errors.NodeUnreachable, errors.RateLimited)) or errors.is_fatal(error):
                raise
            raise errors.NodeUnreachable(error.message, error.status) from error
        ended = errors.understood("task " + upid.text, lambda: exit_status(status))
        return RUNNING if ended is None else ended


def _filled(likely: List[Tuple[float, float]]) -> float:
    """When a sum of ramps, each (begin, slope), reaches 1; infinite where there is none."""
    total = slope = 0.0
    at = 0.0
    for begin, more in sorted(likely):
        if slope and total + slope * (begin - at) >= 1:
            break
        total += slope * (begin - at)
        at = begin
        slope += more
    return at + (1 - total) / slope if slope else float("inf")
