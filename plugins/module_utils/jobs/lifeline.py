# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The Ansible that started this module: when it is gone, the module ends as by SIGTERM.

Its own parent is no sign: when ansible-playbook is killed, its worker and two shells live on, and wait for the module.
So the chain of parents is noted at the start, up to the main process of Ansible, or of sshd where it was started over
ssh; under ``async`` up to the wrapper. A link is broken when its process is gone or has got another parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

PROC = "/proc"  # macOS has none; there ps tells, which costs a process for each link
TICK = 1.0  # seconds between two looks
PS_TICK = 5.0
PS = ("ps", "-ww", "-o", "ppid=,stat=,lstart=,command=", "-p")
LINKS_MAX = 64
# No launcher that somebody named after Ansible, which may start it in the background and end.
PROGRAMS = frozenset((
    "ansible", "ansible-playbook", "ansible-pull", "ansible-console", "ansible-runner", "ansible_runner", "ansible-navigator"))
GONE = "gone"
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Link:
    """A process of the chain; ``born`` is when it was started, in any form. ``parent`` is 0 for the last one."""

    pid: int
    born: str
    parent: int


def watch() -> None:
    """From now on this process gets a SIGTERM when the Ansible that started it is gone."""
    links = chain(os.getpid())
    if links:
        try:
            threading.Thread(target=_watch, args=(links,), daemon=True).start()
        except RuntimeError:
            pass  # Where no thread can be started the first call says so.


def _watch(links: Sequence[Link]) -> None:
    while not broken(links):
        time.sleep(TICK if os.path.isdir(PROC) else PS_TICK)
    os.kill(os.getpid(), signal.SIGTERM)


def chain(pid: int) -> List[Link]:
    """The links from a process up to Ansible or sshd; [] where neither is among its parents."""
    links: List[Link] = []
    end = 0
    here = _link(pid)
    while isinstance(here, Link) and here.pid > 1 and len(links) < LINKS_MAX:
        links.append(here)
        words = _words(here.pid)
        if end and not _is_ansible(words):
            break
        if here.pid != pid and (_is_wrapper(words) or _is_sshd(words)):
            end = len(links)
            break
        if _is_ansible(words):
            end = len(links)
        here = _link(here.parent)
    return [*links[:end - 1], Link(links[end - 1].pid, links[end - 1].born, 0)] if end else []


def broken(links: Sequence[Link]) -> bool:
    """Whether a process of the chain is gone, or has got another parent."""
    for link in links:
        now = _link(link.pid)
        if now == GONE:
            return True
        if isinstance(now, Link) and (now.born != link.born or link.parent and now.parent != link.parent):
            return True
    return False


def _link(pid: int) -> object:
    """A Link, GONE, or UNREADABLE where the machine does not tell."""
    if not os.path.isdir(PROC):
        return _by_ps(pid)[0]
    try:
        with open("{0}/{1}/stat".format(PROC, pid), encoding="utf-8", errors="replace") as handle:
            fields = handle.read().rpartition(")")[2].split()
        return GONE if fields[0] in ("Z", "X") else Link(pid, fields[19], int(fields[1]))
    except (FileNotFoundError, ProcessLookupError):
        return GONE
    except (OSError, ValueError, IndexError):
        return UNREADABLE


def _by_ps(pid: int) -> Tuple[object, List[str]]:
    """What ps tells of a process: a Link, GONE or UNREADABLE, and its command line."""
    try:
        # AnsibleModule is on another floor, and its run_command would not do in a thread.
        told = subprocess.run(  # pylint: disable=ansible-bad-function
            [*PS, str(pid)], env={**os.environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL, capture_output=True, timeout=5,
            check=False)
        words = told.stdout.decode("utf-8", "replace").split()
        if not words:
            return GONE if told.returncode == 1 and not told.stderr else UNREADABLE, []
        return GONE if words[1].startswith("Z") else Link(pid, " ".join(words[2:7]), int(words[0])), words[7:]
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return UNREADABLE, []


def _words(pid: int) -> List[str]:
    """The command line of a process, [] where it cannot be read."""
    if not os.path.isdir(PROC):
        return _by_ps(pid)[1]
    try:
        with open("{0}/{1}/cmdline".format(PROC, pid), "rb") as handle:
            return handle.read(65536).decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def _program(words: Sequence[str]) -> str:
    """The name of what runs: for Python that of the script or the module."""
    if not words:
        return ""
    name = os.path.basename(words[0])
    if not name.lower().startswith("python"):  # macOS has a Python in its frameworks
        return name
    rest = list(words[1:])
    while rest and rest[0].startswith("-") and rest[0] != "-m":
        rest.pop(0)
    named: Optional[str] = rest[1] if rest[:1] == ["-m"] and len(rest) > 1 else rest[0] if rest else None
    return os.path.basename(named or "")


def _is_ansible(words: Sequence[str]) -> bool:
    return _program(words) in PROGRAMS


def _is_wrapper(words: Sequence[str]) -> bool:
    return "async_wrapper" in _program(words)


def _is_sshd(words: Sequence[str]) -> bool:
    """``sshd: user@notty``, ``sshd-session: user@pts/0``, as one word or as several."""
    return os.path.basename(words[0].split(" ")[0] if words else "").startswith("sshd")
