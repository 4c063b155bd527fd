# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""The QEMU guest agent of a VM, over the API: whether it answers, and commands in the guest.

Needs VM.Monitor before Proxmox VE 9; since then VM.GuestAgent.Audit for ping, VM.GuestAgent.Unrestricted for commands
(api-facts 1.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence

from ..model import Guest
from . import errors
from .session import Session


@dataclass(frozen=True)
class Ended:
    """How a command in a guest ended; ``code`` is None where a signal ended it. ``output`` has stdout, then stderr."""

    code: Optional[int]
    output: str


class Agent:
    """The agents of a cluster's VMs. Safe to share between threads."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def silence(self, guest: Guest) -> str:
        """Why the agent does not answer, in Proxmox VE's words; an empty text where it does. Up to 3 s long.

        Raises PermissionDenied, NodeUnreachable, and what ends a run.
        """
        try:
            self._ping(guest)
        except (errors.PermissionDenied, errors.NodeUnreachable):
            raise
        except errors.PveError as error:
            if errors.is_fatal(error) or error.kind == errors.MOVED:
                raise
            return error.message
        return ""

    def _ping(self, guest: Guest) -> None:
        """Sent twice where an answer was lost: it changes nothing."""
        try:
            self._session.write("post", *_path(guest), "ping")
        except errors.LostWrite:
            self._session.write("post", *_path(guest), "ping")

    def start(self, guest: Guest, command: Sequence[str]) -> int:
        """Start a program with its arguments in the guest; its process id there. LostWrite when it may run."""
        return _pid(self._session.write("post", *_path(guest), "exec", command=list(command)))

    def start_regardless(self, guest: Guest, command: Sequence[str]) -> int:
        """The same, also when the run has to end, and once more where the answer was lost."""
        try:
            answer = self._session.write_regardless("post", *_path(guest), "exec", command=list(command))
        except errors.LostWrite:
            answer = self._session.write_regardless("post", *_path(guest), "exec", command=list(command))
        return _pid(answer)

    @property
    def owed_seconds(self) -> float:
        """How long start_regardless() may take, with a look where the guest is now."""
        return 3 * self._session.owed_seconds

    def ended(self, guest: Guest, pid: int) -> Optional[Ended]:
        """How a command ended, None while it runs. The agent tells that once."""
        found = self._session.read(*_path(guest), "exec-status", pid=pid).data
        return errors.understood("a command in guest {0}".format(guest.vmid), lambda: _ended(found))


def _ended(found: Mapping[str, Any]) -> Optional[Ended]:
    if str(found.get("exited")) not in ("1", "True", "true"):
        return None
    code = found.get("exitcode")
    output = str(found.get("out-data") or "") + str(found.get("err-data") or "")
    return Ended(None if code is None else int(code), output)


def _pid(answer: Any) -> int:
    """LostWrite for an answer without one: the program may run."""
    try:
        return errors.understood("the start of a command", lambda: int(answer["pid"]))
    except errors.NotUnderstood as error:
        raise errors.LostWrite(error.message) from None


def _path(guest: Guest) -> Sequence[object]:
    return "nodes", guest.node, guest.type, guest.vmid, "agent"
