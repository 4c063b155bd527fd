# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The hook: one executable, called at every phase with what happens in its environment.

Phases and ``CV4PVE_AUTOSNAP_*`` variables are those of cv4pve-autosnap (peers 1.3).
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional

from ..model import LXC, Guest
from ..pve.credentials import HIDDEN
from ..text import one_line
from .ending import Owed, nothing_owed

OUTPUT_MAX = 1024  # bytes of one call's output in the result
OUTPUT_TOTAL = 64 * 1024  # of all calls together
PREFIX = "CV4PVE_AUTOSNAP_"
GRACE = 1.0
TICK = 0.1  # seconds between two looks at whether a hook without output has ended


@dataclass(frozen=True)
class Event:
    """What a hook is told: the phase and, where it is about one guest, what happened to it.

    ``duration`` in seconds, ``ok`` the state so far.
    """

    phase: str
    guest: Optional[Guest] = None
    snapshot: str = ""
    upid: str = ""
    error: str = ""
    duration: float = 0.0
    ok: bool = True


class Hooks:
    """Calls the hook, or in a dry run only notes the calls. Safe to share between threads."""

    def __init__(
        self,
        path: Optional[str],
        timeout: float,
        label: str,
        keep: int,
        vmstate: bool,
        host: str,
        secrets: Iterable[str],
        dry_run: bool,
        owed: Owed = nothing_owed,
    ) -> None:
        self._path = path
        self._owed = owed
        self._timeout = timeout
        self._job = {
            "LABEL": label,
            "KEEP": str(keep),
            "VMSTATE": "1" if vmstate else "0",
            "DEBUG": "0",
            "DRY_RUN": "1" if dry_run else "0",
        }
        self._host = host
        self._environment = clean_environment(os.environ, secrets)
        self._secrets = secrets
        self._dry_run = dry_run
        self._lock = threading.Lock()
        self._room = OUTPUT_TOTAL
        self.calls: List[Dict[str, Any]] = []

    @property
    def configured(self) -> bool:
        """True when there is a hook to call."""
        return self._path is not None

    def call(self, event: Event) -> Optional[str]:
        """Run the hook for a phase; None when it is content, else a sentence on what went wrong."""
        if self._path is None:
            return None
        note: Dict[str, Any] = {"phase": event.phase, "vmid": event.guest.vmid if event.guest else None}
        if self._dry_run:
            note["would_run"] = True
            with self._lock:
                self.calls.append(note)
            return None
        began = time.monotonic()
        # A post or abort follows every pre: the end of the run waits for it.
        with self._owed(self._timeout + 3 * GRACE):
            code, output = self._execute(self._path, event)
        note["rc"] = code
        note["duration"] = round(time.monotonic() - began, 1)
        with self._lock:
            note["output"] = output[:min(OUTPUT_MAX, self._room)]
            self._room -= len(note["output"])
            self.calls.append(note)
        if code == 0:
            return None
        if code is None:
            return "hook {0}: {1}".format(event.phase, output)
        return "hook {0} ended with exit code {1}: {2}".format(event.phase, code, output.strip()[-200:] or "no output")

    def _variables(self, event: Event) -> Dict[str, str]:
        guest = event.guest
        values = {
            **self._job,
            "PHASE": event.phase,
            "VMID": str(guest.vmid) if guest else "",
            "VMNAME": (guest.name or "") if guest else "",
            "VMTYPE": ("lxc" if guest.type == LXC else "qemu") if guest else "",
            "SNAP_NAME": event.snapshot,
            "DURATION": "{0:.3f}".format(event.duration),
            "STATE": "1" if event.ok else "0",
        }
        variables = {PREFIX + name: value for name, value in values.items()}
        variables.update({
            "AUTOSNAP_NODE": guest.node if guest else "",
            "AUTOSNAP_UPID": event.upid,
            "AUTOSNAP_ERROR": hidden(event.error, self._secrets),
            "AUTOSNAP_HOST": self._host,
        })
        return {name: one_line(value) for name, value in variables.items()}

    def _execute(self, path: str, event: Event) -> Any:
        """Exit code and output; no code when it could not run or had to be killed."""
        try:
            # AnsibleModule.run_command has no time limit that also ends the children.
            process = subprocess.Popen(  # pylint: disable=ansible-bad-function
                [path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**self._environment, **self._variables(event)},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return None, "it could not be started ({0})".format(error)
        output = bytearray()
        ended = _drain(process, output, time.monotonic() + self._timeout)
        if not ended:
            _kill(process)
        if process.stdout is not None:
            process.stdout.close()
        if not ended:
            return None, "it was killed after {0:.0f} s".format(self._timeout)
        return process.returncode, bytes(output).decode("utf-8", "replace")


def clean_environment(environment: Mapping[str, str], secrets: Iterable[str]) -> Dict[str, str]:
    """The environment without ``PROXMOX_*`` and without any variable that holds a secret (law 12)."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("PROXMOX_") and not any(secret in value for secret in secrets)
    }


def hidden(text: str, secrets: Iterable[str]) -> str:
    """A text that goes out of this process without the secrets, also the short ones (law 12)."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def _drain(process: subprocess.Popen[bytes], output: bytearray, until: float) -> bool:
    """Read, so that the hook never blocks, and keep the beginning only; False when it still runs at ``until``.

    A child that it left behind may hold the pipe: what it writes later is not waited for.
    """
    ended: Optional[float] = None
    with selectors.DefaultSelector() as selector:
        pipe = process.stdout.fileno() if process.stdout is not None else -1
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if ended is None and process.poll() is not None:
                ended = now
            if now >= (until if ended is None else min(until, ended + GRACE)):
                return ended is not None
            if selector.select(TICK):
                block = os.read(pipe, 65536)
                if not block:
                    break
                output += block[:max(0, OUTPUT_MAX - len(output))]
    try:
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except OSError:
            return
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
