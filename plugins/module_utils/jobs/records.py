# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Files of the state directory, read though anybody may have damaged them, or put something else in their place.

Whatever lies there, it is a record, a lock, or Damaged: nothing in it stops a run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Set

from ..pve import errors
from ..pve.cluster import TIME_MAX, VMID_MAX

VERSION = 1
RECORD_MAX = 64 * 1024 ** 2  # bytes; one of 10,000 guests has about 8 million
ASIDE = ".damaged"  # what it is called that cannot be read


@dataclass(frozen=True)
class Planned:
    """A guest of a record, with the snapshot that it was to get."""

    vmid: int
    node: str
    create: str


@dataclass
class Left:
    """What a run that was cut off left behind; ``unread`` lines of it cannot be read."""

    job: str
    began: int
    hosts: Set[str]
    plan: List[Planned]
    last: Dict[int, str] = field(default_factory=dict)  # a guest's last task; empty where a write was sent, and no answer noted
    ended: Set[int] = field(default_factory=set)
    unread: int = 0


class Damaged(OSError):
    """What is no file of ours; ``strerror`` says why. It is left alone where it is ``foreign``."""

    def __init__(self, why: str, foreign: bool = False) -> None:
        super().__init__(errno.EPERM, why)
        self.foreign = foreign


def own_file(path: str, flags: int) -> int:
    """A descriptor of a regular file of our own user, opened without following a link and without waiting.

    Damaged for anything else, OSError where it cannot be opened.
    """
    with contextlib.suppress(FileNotFoundError):
        _must_be_ours(os.lstat(path))
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except PermissionError:
        raise Damaged("it may not be opened") from None
    try:
        _must_be_ours(os.fstat(file))
    except Damaged:
        os.close(file)
        raise
    return file


def _must_be_ours(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Damaged("it is no regular file")
    if status.st_uid != os.geteuid():
        # A run of that user may work with it.
        raise Damaged("it belongs to another user", foreign=True)


def lock_file(path: str) -> int:
    """A descriptor of a file that is locked and never written, so that what is in it does not matter.

    What cannot be one is set aside; OSError where that does not help.
    """
    flags = os.O_RDWR | os.O_CREAT
    try:
        file = own_file(path, flags)
    except Damaged as error:
        if error.foreign:
            raise
        set_aside(path)
        file = own_file(path, flags)
    if os.fstat(file).st_nlink == 1:
        # Who can open it can hold its locks.
        os.fchmod(file, 0o600)
    return file


def set_aside(path: str) -> None:
    """Under a name that nobody reads; where that cannot be it stays, and is told of again."""
    with contextlib.suppress(OSError):
        os.rename(path, "{0}.{1}{2}".format(path, time.time_ns(), ASIDE))


def left_behind(path: str) -> Optional[Left]:
    """A record whose process is dead, None for one that still works or is gone; Damaged for what is no record."""
    try:
        file = own_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except Damaged:
        raise
    except OSError as error:
        raise Damaged(error.strerror or "it cannot be opened") from None
    with os.fdopen(file, "rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.fstat(handle.fileno()).st_nlink > 1:
                raise Damaged("it is a file with another name elsewhere")
            data = handle.read(RECORD_MAX + 1)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Damaged(error.strerror or "it cannot be read") from None
    if len(data) > RECORD_MAX:
        raise Damaged("it is larger than {0} bytes".format(RECORD_MAX))
    first, *others = data.split(b"\n")
    try:
        left = _header(json.loads(first))
    except Exception:
        raise Damaged("its first line is not that of a record") from None
    # The last one may have been cut off, and blank ones begin anew after one that was.
    for number, line in enumerate(others, 1):
        if line and not _take_in(left, line) and number < len(others):
            left.unread += 1
    return left


def _header(values: Any) -> Left:
    """The first line of a record; any error where it is none."""
    if values["version"] != VERSION or not isinstance(values["job"], str) or not isinstance(values["plan"], list):
        raise ValueError("no record")
    hosts = values["hosts"]
    if not isinstance(hosts, list) or not hosts or not all(isinstance(host, str) for host in hosts):
        raise ValueError("no record")
    planned = [Planned(_whole(guest["vmid"], VMID_MAX), str(guest["node"]), str(guest["create"])) for guest in values["plan"]]
    return Left(
        errors.bounded(values["job"]), _whole(values["began"], TIME_MAX), set(hosts), planned)


def _whole(value: Any, most: int) -> int:
    if type(value) is not int or not 0 < value <= most:  # pylint: disable=unidiomatic-typecheck
        raise ValueError("no number")
    return value


def _take_in(left: Left, line: bytes) -> bool:
    """One line about a guest; False for what is none."""
    try:
        values = json.loads(line)
        vmid, upid = _whole(values["vmid"], VMID_MAX), values.get("upid", "")
        if "status" in values:
            left.ended.add(vmid)
        elif isinstance(upid, str):
            left.last[vmid] = errors.bounded(upid)
        else:
            return False
    except Exception:
        return False
    return True
