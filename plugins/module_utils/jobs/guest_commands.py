# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Commands in the guests, by their agents: one before a snapshot, one after it."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, Generator, List, Optional, TypeVar

from ..arguments import GuestCommands
from ..model import Guest
from ..pve import errors
from ..pve.agent import Agent, Ended
from ..pve.tasks import Pause, TaskTimeout
from .ending import Owed, nothing_owed
from .hooks import OUTPUT_MAX, OUTPUT_TOTAL

PRE = "pre"
POST = "post"
POLL_FIRST = 0.2  # seconds, then twice as long each time
POLL_MAX = 2.0

Steps = Generator[object, Any, str]
Where = Callable[[bool], Guest]
_Answer = TypeVar("_Answer")


class CommandRunner:
    """Runs them, and keeps what became of each. Safe to share between threads."""

    def __init__(self, agent: Agent, wanted: Optional[GuestCommands], owed: Owed = nothing_owed) -> None:
        self._agent = agent
        self._owed = owed
        self._wanted = wanted
        self._lock = threading.Lock()
        self._room = OUTPUT_TOTAL
        self.calls: List[Dict[str, Any]] = []

    @property
    def on_error(self) -> str:
        """What to do when one goes wrong."""
        return self._wanted.on_error if self._wanted else "continue"

    def run(self, where: Where, phase: str) -> Steps:
        """Run the command of a phase; a sentence on what went wrong, an empty text where all is well.

        ``where`` tells the guest with the node that it is on, and with True looks it up anew. The command after the
        snapshot is started whatever happens; where the run ends, its end is not waited for.
        """
        command = getattr(self._wanted, phase, ())
        if not command:
            return ""
        began = time.monotonic()
        ended = Ended(None, "")
        start = self._agent.start_regardless if phase == POST else self._agent.start
        try:
            # That after the snapshot is owed: it is tried also when the run has to end.
            with self._owed(self._agent.owed_seconds if phase == POST else 0.0):
                pid = _there(where, lambda guest: start(guest, command))
        except errors.PveError as error:
            problem = "could not be started: {0}".format(error.message)
        else:
            try:
                ended = yield from self._its_end(where, pid)
                problem = _problem(ended)
            except errors.PveError as error:
                problem = "was started, but its end was not seen: {0}".format(error.message)
            except (AttributeError, TypeError, ValueError) as error:
                # An answer of a shape never seen must not keep the command after the snapshot from being started.
                problem = "was started, but the answer about it was not understood: {0!r}".format(error)
        self._note(where(False), phase, ended, round(time.monotonic() - began, 1), problem)
        return problem and "guest command {0} {1}".format(phase, problem)

    def foresee(self, guest: Guest) -> None:
        """Note what a real run would do."""
        for phase in (PRE, POST):
            if getattr(self._wanted, phase, ()):
                self.calls.append({"vmid": guest.vmid, "phase": phase, "would_run": True})

    def _its_end(self, where: Where, pid: int) -> Generator[object, Any, Ended]:
        timeout = self._wanted.timeout if self._wanted else 0.0
        deadline = time.monotonic() + timeout
        pause = POLL_FIRST
        while True:
            ended = _there(where, lambda guest: self._agent.ended(guest, pid))
            if ended is not None:
                return ended
            left = deadline - time.monotonic()
            if left <= 0:
                raise TaskTimeout("it still ran after {0:.0f} s, and goes on as process {1}".format(timeout, pid))
            yield Pause(min(pause, left), "the run ended before it")
            pause = min(POLL_MAX, 2 * pause)

    def _note(self, guest: Guest, phase: str, ended: Ended, duration: float, problem: str) -> None:
        with self._lock:
            output = ended.output[:min(OUTPUT_MAX, self._room)]
            self._room -= len(output)
            self.calls.append({
                "vmid": guest.vmid, "phase": phase, "rc": ended.code, "output": output, "duration": duration,
                "problem": problem})


def _there(where: Where, call: Callable[[Guest], _Answer]) -> _Answer:
    """A call about a guest; on one that moved meanwhile, with its agent and what runs in it, once more on its new node."""
    try:
        return call(where(False))
    except errors.PveError as error:
        if error.kind != errors.MOVED:
            raise
        return call(where(True))


def _problem(ended: Ended) -> str:
    if ended.code == 0:
        return ""
    how = "was ended by a signal" if ended.code is None else "ended with exit code {0}".format(ended.code)
    return "{0}: {1}".format(how, ended.output.strip()[-200:] or "no output")
