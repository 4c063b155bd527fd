# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""How far a run has come, told to whoever listens (the callback ``pve.autosnap.progress``).

A datagram to the UNIX socket that AUTOSNAP_PROGRESS names, one JSON object each. It is sent without blocking and every
error is ignored: a run must not wait for who watches it. Its numbers are those of the whole run, so a lost one costs
nothing; guests that are done with are told again until a datagram found room.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Set

VARIABLE = "AUTOSNAP_PROGRESS"
REASON_MAX = 120  # characters; a datagram stays small
GUESTS_MAX = 100  # in one datagram
HELD_MAX = 5  # guests that wait for somebody else, in one datagram
GOOD_BYE = 2.0  # seconds that a run gives a slow reader at its end


class Progress:
    """Counts guests, and tells after each change. ``name`` is that of the job, ``total`` the number of its guests,
    ``host`` the API host that tells clusters apart."""

    def __init__(self, name: str, label: str, host: str, total: int, path: Optional[str] = None,
                 hide: Callable[[str], str] = str) -> None:
        """``hide`` takes secrets out of what is told."""
        self._head = {
            "version": 1, "process": os.getpid(), "job": name, "label": label, "host": host, "total": total}
        self._path = os.environ.get(VARIABLE, "") if path is None else path
        self._hide = hide
        self._socket: Optional[socket.socket] = None
        self._lock = threading.Lock()
        self._running: Set[int] = set()
        self._waiting: Dict[int, str] = {}
        self._told: Dict[int, str] = {}
        self._untold: List[Dict[str, Any]] = []
        self._done = 0
        self._failed = 0

    def begun(self, vmid: int) -> None:
        """A guest is worked on."""
        with self._lock:
            self._waiting.pop(vmid, None)
            self._running.add(vmid)
            self._send("running")

    def waits(self, vmid: int) -> None:
        """A guest stands in line again."""
        with self._lock:
            if vmid in self._running:
                self._running.discard(vmid)
                self._send("running")

    def held_up(self, vmid: int, name: str, reason: str) -> None:
        """A guest waits for somebody else; told once for each reason."""
        with self._lock:
            if self._path and self._waiting.get(vmid) != reason:
                self._waiting[vmid] = reason
                self._running.discard(vmid)
                if self._told.get(vmid) != reason:
                    self._told[vmid] = reason
                    self._tell(vmid, name, "waits", reason)
                self._send("running")

    def ended(self, vmid: int, name: str, status: str, reason: str, red: bool) -> None:
        """A guest is done with."""
        with self._lock:
            self._running.discard(vmid)
            self._waiting.pop(vmid, None)
            self._done += 1
            self._failed += red
            if self._path:
                self._tell(vmid, name, status, reason)
            self._send("running")

    def _tell(self, vmid: int, name: str, status: str, reason: str) -> None:
        self._untold.append({
            "vmid": vmid, "name": name, "status": status, "reason": self._hide(reason)[:REASON_MAX], "done": self._done})

    def close(self) -> None:
        """The run is over."""
        with self._lock:
            until = time.monotonic() + GOOD_BYE
            while not self._send("running" if len(self._untold) > GUESTS_MAX else "end") or self._untold:
                if not self._path or time.monotonic() > until:
                    break
                time.sleep(0.01)
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _send(self, event: str) -> bool:
        """Whether it was sent. Under the lock, so that the numbers only grow; what finds no room goes with the next."""
        if not self._path:
            return False
        told = {
            **self._head, "event": event, "done": self._done, "running": len(self._running), "failed": self._failed,
            "held_up": [{"vmid": vmid, "reason": self._hide(reason)[:REASON_MAX]}
                        for vmid, reason in list(self._waiting.items())[:HELD_MAX]],
            "guests": self._untold[:GUESTS_MAX]}
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(json.dumps(told).encode(), self._path)
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            # Nobody listens any more.
            self._path = ""
            return False
        del self._untold[:GUESTS_MAX]
        return True
