# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""What ends a run before its work is done, and what ends the process where the run cannot end by itself."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any, Callable, ContextManager, Dict, Iterator, Optional

from ..text import cleaned

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAME_SIGNAL = 3.0  # seconds
GIVE_UP = 10.0  # seconds after the end of the last wait that is owed until the process is ended, whatever hangs
LAST_WORDS = 3.0  # seconds that its last words may take
TICK = 0.5
Owed = Callable[[float], ContextManager[None]]


def nothing_owed(_seconds: float) -> ContextManager[None]:
    """For who has no run that could end."""
    return contextlib.nullcontext()


class Ending:
    """Why a run must end before its work is done: ``run_timeout`` seconds have passed, or a signal came.

    ``with`` it, the first signal is noted; a later one acts as if this were not there. Those of the first seconds
    are the same one: systemd signals every process of a unit, and ansible-playbook hands on what it gets.

    A thread of its own watches: name resolution, which nothing can cut, keeps the main thread from seeing a signal.
    Where the run has not come to its end GIVE_UP seconds after the last wait that is owed, it ends the process with
    ``account``, the part of the result that is known.
    """

    def __init__(self, run_timeout: float) -> None:
        self.account: Callable[[], Dict[str, Any]] = dict
        self.signal = ""
        self._deadline = time.monotonic() + run_timeout if run_timeout else None
        self._before: Dict[int, Any] = {}
        self._handled = 0.0
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._owed: Dict[int, float] = {}
        self._last_end = 0.0
        self._over = threading.Event()
        self._ear, self._mouth = socket.socketpair()
        self._wakeup = -1

    def __enter__(self) -> Ending:
        # Only the main thread may set handlers; a module runs in it.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
            self._mouth.setblocking(False)
            self._wakeup = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self._over.set()
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
        if self.signal:
            # The same one may still come from others while the result is written: it must not cost the exit status.
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reason(self) -> Optional[str]:
        """Why it must end now, None while it may go on."""
        if self.signal:
            return "the run was stopped by {0}".format(self.signal)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "run_timeout has passed"
        return None

    @contextlib.contextmanager
    def owed(self, seconds: float) -> Iterator[None]:
        """What is done in here comes to its end though the run must end; it takes ``seconds`` at the most."""
        with self._lock:
            number = next(self._numbers)
            self._owed[number] = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                del self._owed[number]
                self._last_end = time.monotonic()

    def _note(self, number: int, _frame: Optional[FrameType]) -> None:
        # Counted from the first time that this ran: the thread may have heard of the signal long before.
        self.signal = self.signal or signal.Signals(number).name
        if not self._handled:
            self._handled = time.monotonic()
        elif time.monotonic() - self._handled > SAME_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _watch(self) -> None:
        since: Optional[float] = None
        self._ear.settimeout(TICK)
        while not self._over.is_set():
            self._hear()
            reason = self.reason()
            if reason is None:
                continue
            since = since or time.monotonic()
            with self._lock:
                latest = max(since, self._last_end, *self._owed.values())
            if time.monotonic() >= latest + GIVE_UP and not self._over.is_set():
                self._end_the_process(reason)

    def _hear(self) -> None:
        """Note the signals that came meanwhile; back after TICK where none did."""
        with contextlib.suppress(OSError):
            for number in self._ear.recv(64):
                if number in SIGNALS and not self.signal:
                    self.signal = signal.Signals(number).name

    def _end_the_process(self, reason: str) -> None:
        result: Dict[str, Any] = {"changed": False}
        with contextlib.suppress(Exception):
            result.update(cleaned(self.account()))
        result.update(failed=True, msg=(
            "{0}, and something in it did not end within {1:.0f} s more, so the process was ended; the tasks that it "
            "started go on, and the next run says what became of them".format(reason, GIVE_UP)))
        # Whoever should read it may hang too.
        left, until = (json.dumps(result) + "\n").encode(), time.monotonic() + LAST_WORDS
        with contextlib.suppress(OSError):
            os.set_blocking(1, False)
            while left and time.monotonic() < until:
                try:
                    left = left[os.write(1, left):]
                except BlockingIOError:
                    time.sleep(0.05)
        os._exit(1)
