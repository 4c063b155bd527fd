# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""How far a run has come, told to whoever listens (the callback ``pve.autosnap.progress``).

A datagram to the UNIX socket that AUTOSNAP_PROGRESS names, one JSON object each. It is sent without blocking and every
error is ignored: a run must not wait for who watches it. Each datagram stands for itself, so a lost one costs nothing.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any, Dict, Optional, Set

VARIABLE = "AUTOSNAP_PROGRESS"
REASON_MAX = 120  # characters; a datagram stays small


class Progress:
    """Counts guests, and tells after each change. ``name`` is that of the job, ``total`` the number of its guests."""

    def __init__(self, name: str, label: str, total: int, path: Optional[str] = None) -> None:
        self._head = {"version": 1, "process": os.getpid(), "job": name, "label": label, "total": total}
        self._path = os.environ.get(VARIABLE, "") if path is None else path
        self._socket: Optional[socket.socket] = None
        self._lock = threading.Lock()
        self._running: Set[int] = set()
        self._done = 0
        self._failed = 0

    def begun(self, vmid: int) -> None:
        """A guest is worked on."""
        with self._lock:
            self._running.add(vmid)
            self._send("running")

    def waits(self, vmid: int) -> None:
        """A guest stands in line again."""
        with self._lock:
            if vmid in self._running:
                self._running.discard(vmid)
                self._send("running")

    def ended(self, vmid: int, name: str, status: str, reason: str, red: bool) -> None:
        """A guest is done with."""
        with self._lock:
            self._running.discard(vmid)
            self._done += 1
            self._failed += red
            self._send("guest", {"vmid": vmid, "name": name, "status": status, "reason": reason[:REASON_MAX], "red": red})

    def close(self) -> None:
        """The run is over."""
        with self._lock:
            self._send("end")
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _send(self, event: str, guest: Optional[Dict[str, Any]] = None) -> None:
        """Under the lock, so that the numbers only grow."""
        if not self._path:
            return
        told = {
            **self._head, "event": event, "done": self._done, "running": len(self._running), "failed": self._failed,
            "guest": guest}
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(json.dumps(told).encode(), self._path)
        except (OSError, ValueError):
            pass
