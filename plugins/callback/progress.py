# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows how far snapshot runs have come while their modules work."""

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: notification
short_description: Show how far snapshot runs have come
version_added: 0.1.0
description:
  - While M(pve.autosnap.autosnap_snap) or M(pve.autosnap.autosnap_clean) works on this machine, shows on a terminal one line
    that is kept up to date, and elsewhere, such as in a log, one line for each guest that is done with.
  - A module on another machine, or one that runs as another user, does not reach this one, and then nothing is shown. Runs are
    not affected by it in any way.
requirements:
  - C(callbacks_enabled = pve.autosnap.progress) in the section C([defaults]) of C(ansible.cfg), or
    C(ANSIBLE_CALLBACKS_ENABLED=pve.autosnap.progress) in the environment.
author:
  - pve.autosnap contributors (@pve-autosnap)
"""

import atexit
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from typing import Any, Dict, Optional

from ansible.plugins.callback import CallbackBase
from ansible_collections.pve.autosnap.plugins.module_utils.text import one_line

VARIABLE = "AUTOSNAP_PROGRESS"
DATAGRAM_MAX = 65536
RATE_MIN_SECONDS = 1.0


class CallbackModule(CallbackBase):
    """Listens on a socket of its own, in a thread, since the main thread waits for the modules."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "pve.autosnap.progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._directory = ""
        self._socket: Optional[socket.socket] = None

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Before the workers fork: they hand the variable on to the modules."""
        try:
            self._directory = tempfile.mkdtemp(prefix="autosnap-")
            path = os.path.join(self._directory, "progress")
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.bind(path)
            os.chmod(path, 0o600)
        except OSError as error:
            self._display.warning("pve.autosnap.progress: nothing is shown, since there can be no socket ({0})".format(error))
            self._remove()
            return
        os.environ[VARIABLE] = path
        atexit.register(self._remove)
        output = sys.__stdout__
        if output is not None:
            screen = Screen(output.fileno(), output.isatty())
            threading.Thread(target=listen, args=(self._socket, screen), daemon=True).start()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The last thing of a playbook."""
        os.environ.pop(VARIABLE, None)
        self._remove()

    def _remove(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = ""


def listen(source: socket.socket, screen: Screen) -> None:
    """Show what comes until the socket is closed; what cannot be read is left out."""
    while True:
        try:
            told = json.loads(source.recv(DATAGRAM_MAX))
        except ValueError:
            continue
        except OSError:
            return
        if isinstance(told, dict) and told.get("version") == 1:
            try:
                screen.show(told)
            except (KeyError, TypeError, ValueError):
                continue


class Screen:
    """A terminal, or a log. Written to without Python's own locks: this is a thread, and its process forks."""

    def __init__(self, descriptor: int, terminal: bool) -> None:
        self._descriptor = descriptor
        self._terminal = terminal
        self._runs: Dict[int, Dict[str, Any]] = {}
        self._began: Dict[int, float] = {}

    def show(self, told: Dict[str, Any]) -> None:
        """Take in one datagram."""
        process = int(told["process"])
        self._began.setdefault(process, time.monotonic())
        if told["event"] == "end":
            self._runs.pop(process, None)
        else:
            self._runs[process] = told
        if self._terminal:
            self._write("\r\033[K" + "   ".join(self._line(run) for run in self._runs.values()))
        else:
            self._write("".join(self._guest(told, guest) + "\n" for guest in told["guests"]))

    def _line(self, run: Dict[str, Any]) -> str:
        """What is so now, within the width of the terminal."""
        host = run["host"] if len(self._runs) > 1 else ""
        text = "{0}: {1}/{2} done, {3} running, {4} waiting, {5} failed{6}".format(
            one_line(" ".join(part for part in (host, run["job"], run["label"]) if part)), run["done"], run["total"],
            run["running"], run["total"] - run["done"] - run["running"], run["failed"], self._rate(run))
        for held in run.get("held_up") or []:
            text += one_line("; {0}: {1}".format(held["vmid"], held["reason"]))
        try:
            width = os.get_terminal_size(self._descriptor).columns or 80
        except OSError:
            width = 80
        return text[:max(10, width // max(1, len(self._runs)) - 4)]

    def _rate(self, run: Dict[str, Any]) -> str:
        """Guests a minute, and the time that is left at that."""
        seconds = time.monotonic() - self._began[int(run["process"])]
        if seconds < RATE_MIN_SECONDS or not run["done"]:
            return ""
        left = seconds / run["done"] * (run["total"] - run["done"])
        return ", {0:.0f}/min, {1} left".format(run["done"] * 60 / seconds, _clock(left))

    @staticmethod
    def _guest(told: Dict[str, Any], guest: Dict[str, Any]) -> str:
        return one_line("{0} {1} {2}/{3} {4} {5}: {6}{7}".format(
            told["host"], " ".join(part for part in (told["job"], told["label"]) if part), guest["done"], told["total"],
            guest["vmid"], guest["name"], guest["status"], " ({0})".format(guest["reason"]) if guest["reason"] else ""))

    def _write(self, text: str) -> None:
        try:
            os.write(self._descriptor, text.encode(errors="replace"))
        except OSError:
            pass


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return "{0}:{1:02d}".format(minutes, rest)
