# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Errors of the Proxmox VE API as types, and the classifier of their texts (api-facts 10)."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Optional, Tuple, TypeVar

TEXT_MAX = 1000  # characters of what a server says; its own sentences are far shorter
FIELDS_MAX = 20
_Found = TypeVar("_Found")

BUSY = "busy"
BROKEN_LOCK = "snapshot_lock"
HIBERNATED = "hibernated"
CONTENTION = "contention"
MOVED = "moved"
GONE = "gone"
CLASH = "clash"
UNSUPPORTED = "unsupported"
TEMPLATE = "template"
QUORUM = "quorum"
UNKNOWN_RESULT = "unknown_result"
OTHER = "other"

_LOCKED = re.compile(r"^(?:VM|CT) is locked \(([a-z-]+)\)")

# Order matters: the first match decides. Texts end with blanks in exit statuses (recording 448).
_KINDS: Tuple[Tuple[str, str], ...] = (
    (r"^(?:VM|CT) is locked \((?:suspended|suspending)\)", HIBERNATED),
    (r"^(?:VM|CT) is locked \((?:snapshot|snapshot-delete)\)", BROKEN_LOCK),
    (r"^(?:VM|CT) is locked \(", BUSY),
    (r"can't lock file '.*(?:lock-\d+\.conf|pve-config-\d+\.lock|pve-migrate-\d+)' - got timeout", BUSY),
    (r"Failed to obtain guest migration lock", BUSY),
    (r"needed by replication job", BUSY),
    (r"no quorum|'?/etc/pve/.*' - Permission denied", QUORUM),
    (r"cfs-lock '.*' error: got lock request timeout", CONTENTION),
    (r"pve-storage-.* - got timeout", CONTENTION),
    (r"Configuration file '.*' does not exist", MOVED),
    (r"^snapshot '.*' does not exist", GONE),
    (r"^snapshot name '.*' already used", CLASH),
    (r"snapshot feature is not available", UNSUPPORTED),
    (r"if it's a template", TEMPLATE),
    (r"^unexpected status$|^no exit status$|no such task|received interrupt"
     r"|^unable to (?:get last line|open file|read tail|extract last line)", UNKNOWN_RESULT),
)
_COMPILED = tuple((re.compile(pattern), kind) for pattern, kind in _KINDS)


def bounded(text: str) -> str:
    """A server's text, cut to a length that can be shown and searched in no time."""
    return text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + " ..."


def classify(text: str) -> str:
    """The class of an HTTP message or of a task's exit status."""
    stripped = bounded(text).strip()
    for pattern, kind in _COMPILED:
        if pattern.search(stripped):
            return kind
    return OTHER


def lock_of(text: str) -> Optional[str]:
    """The lock that ``VM is locked (backup)`` names, or None."""
    match = _LOCKED.search(text.strip())
    return match.group(1) if match else None


class PveError(Exception):
    """An answer of Proxmox VE that is a refusal or a failure.

    ``status`` is the HTTP status (None without an answer), ``errors`` the map of refused parameters.
    ``uncertain`` when a write may have been carried out whose end was not seen, ``slow`` when the request was
    taken and no answer came in time, ``refused`` when no connection was made, ``elsewhere`` when nothing ran and another API
    host may do better.
    """

    code = "error"
    uncertain = False
    slow = False
    refused = False
    elsewhere = False

    def __init__(
        self,
        message: str,
        status: Optional[int] = None,
        errors: Optional[Dict[str, str]] = None,
        upid: Optional[str] = None,
    ) -> None:
        self.message = bounded(message)
        super().__init__(self.message)
        self.status = status
        self.errors = {bounded(key): bounded(text) for key, text in list((errors or {}).items())[:FIELDS_MAX]}
        self.upid = upid

    def say(self, message: str) -> None:
        """Say it in other words."""
        self.message = bounded(message)
        self.args = (self.message,)

    def hide(self, hidden: Callable[[str], str]) -> None:
        """Take secrets out of every text in it (law 12)."""
        self.say(hidden(self.message))
        self.errors = {hidden(key): hidden(text) for key, text in self.errors.items()}

    @property
    def kind(self) -> str:
        """The class of the message, see classify()."""
        return classify(self.message)

    def failure(self) -> Dict[str, Any]:
        """The structured form for a module's result."""
        return {
            "code": self.code,
            "kind": self.kind,
            "message": self.message,
            "status": self.status,
            "errors": self.errors,
            "upid": self.upid,
        }


class DependencyMissing(PveError):
    """proxmoxer or requests cannot be imported."""

    code = "dependency"


class NoThread(PveError):
    """The machine has no room for the one thread that watches over the calls."""

    code = "machine"


class AuthenticationFailed(PveError):
    """401: the credentials are refused."""

    code = "authentication"


class PermissionDenied(PveError):
    """403: a privilege is missing; the message names the path and the first missing one."""

    code = "permission"


class BadParameter(PveError):
    """400: the request is wrong, before anything ran."""

    code = "parameter"


class UntrustedCertificate(PveError):
    """The server's certificate is not trusted."""

    code = "certificate"


class HostUnreachable(PveError):
    """No API host answers any more."""

    code = "host"


class NodeUnreachable(PveError):
    """595, 596, 599, or a node name that does not resolve: the guest's node does not answer."""

    code = "node"


class NodeSlow(NodeUnreachable):
    """No answer about a node came in ``api_timeout``, or none from behind a gateway, though the API host itself answers."""


class NodeBroken(NodeUnreachable):
    """No whole answer about a node comes, though the API host itself answers."""


class ClusterChanged(PveError):
    """After a failover the other host turned out to belong to another cluster (law 15)."""

    code = "cluster"


class NoQuorum(PveError):
    """No API host that is left has quorum: nothing can be written."""

    code = "quorum"


class NotProxmox(PveError):
    """200 with a body that is not the API's."""

    code = "answer"


class NotUnderstood(PveError):
    """An answer of the API's form whose content has another shape, type or size than anything known."""

    code = "answer"


class Undecided(PveError):
    """Whom an exclusion means cannot be seen."""

    code = "selector"


class NoLongerWanted(PveError):
    """What was to be deleted is not as it was any more, when the delete had to be sent again (law 5).

    ``lost`` when the answer to the one before was lost, so that it may have been carried out in part.
    """

    code = "changed"
    lost = False


class RateLimited(PveError):
    """429: the server, or what stands before it, wants to be left alone for ``retry_after`` seconds. Nothing ran."""

    code = "rate"

    def __init__(self, message: str, retry_after: Any = None) -> None:
        super().__init__(message, 429)
        text = str(retry_after or "")
        self.retry_after = float(text) if re.match(r"\A[0-9]{1,6}\Z", text) else 0.0


class LostWrite(PveError):
    """A POST or DELETE that may have been carried out, but whose answer was lost (law 8)."""

    code = "lost"
    uncertain = True

    @property
    def kind(self) -> str:
        """Its text is about the connection, or about what failed while it was looked for: it names no class."""
        return OTHER


class Interrupted(PveError):
    """The run was told to stop, or its time is up, before the call was sent."""

    code = "interrupted"


class TaskFailed(PveError):
    """A task that ended with an exit status other than OK or WARNINGS; ``upid`` is set."""

    code = "task"


def understood(what: str, read: Callable[[], _Found]) -> _Found:
    """What ``read`` makes of an answer; whatever goes wrong in it is a NotUnderstood that names ``what`` (law 9)."""
    try:
        return read()
    except PveError:
        raise
    except Exception as error:
        raise NotUnderstood("the answer about {0} was not understood: {1}: {2}".format(
            what, type(error).__name__, str(error)[:100])) from None


# After one of these there is no point in going on with other guests.
FATAL = (
    AuthenticationFailed, UntrustedCertificate, HostUnreachable, ClusterChanged, DependencyMissing, Interrupted, NoThread,
    NoQuorum)


def is_fatal(error: PveError) -> bool:
    """True when the whole run must stop: no way in, another cluster, or no quorum."""
    return isinstance(error, FATAL)
