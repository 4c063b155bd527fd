# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""What a control node remembers of a cluster: which guests its runs work on now, and runs that were cut off.

All files lie in one state directory and begin with the cluster's key. A record is JSON Lines: the plan
first, then a line for each task and each guest's end, so that it is whole at every moment but for a last
line that was cut off. Its process holds a lock on it, which the kernel gives back when the process dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import threading
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ..pve import errors
from ..pve.tasks import Tasks, Upid
from .outcome import Outcome
from .plan import Plan
from .records import VERSION, Damaged, Left, left_behind, lock_file, set_aside

RUNNING = "running"
SILENT = "unknown: its node does not answer"
ELSEWHERE = "unknown: its node is none of this cluster"
UNASKED = "unknown: too many tasks were left to ask for each"
ASKED_MAX = 200  # tasks of earlier runs that are asked for in one run
NOT_STARTED = "not started"
UNANSWERED = "unknown: a write was sent, and its answer was not seen"


def cluster_key(nodes: Sequence[str]) -> str:
    """The same for every run on a cluster: a hash of its sorted node names."""
    return _hash("\n".join(sorted(nodes)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


class Claims:
    """Byte-range locks, one byte for each guest's id: two runs of this control node never share a guest.

    There is one file for each API host, and a guest is claimed in all of them: two clusters may have nodes of the
    same names, but no API host in common.
    """

    def __init__(self, directory: str, key: str, hosts: Sequence[str]) -> None:
        self._lock = threading.Lock()
        # Closing any descriptor of a file would give all its locks back, so each is opened once.
        self._files: List[int] = []
        try:
            for host in sorted(set(hosts)):
                path = os.path.join(directory, "{0}-{1}.lock".format(key, _hash(host)))
                self._files.append(lock_file(path))
        except OSError:
            self.close()
            raise

    def take(self, vmid: int) -> bool:
        """Claim a guest; False while another run has it. OSError where the file system has no locks."""
        with self._lock:
            for index, file in enumerate(self._files):
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, vmid)
                except OSError as error:
                    self._unlock(self._files[:index], vmid)
                    if error.errno in (errno.EACCES, errno.EAGAIN):
                        return False
                    raise
            return True

    def give_back(self, vmid: int) -> None:
        """Let other runs have the guest."""
        with self._lock:
            self._unlock(self._files, vmid)

    @staticmethod
    def _unlock(files: Sequence[int], vmid: int) -> None:
        for file in files:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, vmid)

    def close(self) -> None:
        """Give back all that is left."""
        for file in self._files:
            _close(file)


class Record:
    """The record of this run. Safe to share between threads; what cannot be written never ends the run."""

    def __init__(self, directory: str, key: str, header: Mapping[str, Any]) -> None:
        """OSError where it cannot be begun."""
        self._lock = threading.Lock()
        self._torn = False
        self._open: Set[int] = {guest["vmid"] for guest in header["plan"]}
        self._path = os.path.join(directory, "{0}-{1}-{2}.run".format(key, time.time_ns(), os.getpid()))
        new = self._path + ".new"
        self._file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            if not self._write(header):
                raise OSError(errno.ENOSPC, "the disk is full")
            os.fsync(self._file)
            os.rename(new, self._path)
        except OSError:
            _unlink(new)
            os.close(self._file)
            raise

    def note(self, vmid: int, **values: Any) -> None:
        """One line about a guest; with a ``status`` it is done with."""
        if "status" in values:
            self._open.discard(vmid)
        with self._lock:
            try:
                self._torn = not self._write({"vmid": vmid, **values})
            except OSError:
                self._torn = True

    def close(self) -> None:
        """The end of the run: a record is only kept for what is unfinished."""
        if not self._open:
            _unlink(self._path)
        _close(self._file)

    def _write(self, values: Mapping[str, Any]) -> bool:
        """One write, so that a line is there or not; after one that was cut off the next begins anew."""
        line = ("\n" if self._torn else "") + json.dumps(values) + "\n"
        return os.write(self._file, line.encode("utf-8")) == len(line)


class State:
    """The state directory, as one run on one cluster sees it; without one, nothing is remembered."""

    def __init__(self, directory: str, nodes: Sequence[str], hosts: Sequence[str]) -> None:
        self._directory = directory
        self._nodes = sorted(nodes)
        self._hosts = list(hosts)
        self._key = cluster_key(nodes)
        self._claims: Optional[Claims] = None
        self._record: Optional[Record] = None
        self._told: List[str] = []
        self._damaged: List[str] = []
        self._asked = 0
        self.warnings: List[str] = []
        self.problem = ""

    def begin(self, job: str, plan: Plan) -> None:
        """Start the record and the claims; where that cannot be, ``problem`` says so and the run goes on."""
        header = {
            "version": VERSION, "job": job, "began": int(time.time()), "pid": os.getpid(), "nodes": self._nodes,
            "hosts": self._hosts,
            "plan": [
                {"vmid": guest.guest.vmid, "node": guest.guest.node, "create": guest.create,
                 "deletes": [snapshot.name for snapshot in (*guest.repairs, *guest.prunes)]}
                for guest in plan.guests if guest.has_work],
        }
        for path in self._damaged:
            set_aside(path)
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            self._claims = Claims(self._directory, self._key, self._hosts)
            self._record = Record(self._directory, self._key, header)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.problem = (
            "option 'state_dir': '{0}' cannot be used ({1}): a run that is cut off cannot be looked up, or two runs of "
            "this control node may meet on a guest; name a directory that can be written and locked".format(
                self._directory, error.strerror))

    def take(self, vmid: int) -> bool:
        """Claim a guest for this run; False while another run of this control node has it."""
        if self._claims is None:
            return True
        try:
            return self._claims.take(vmid)
        except OSError as error:
            self._give_up(error)
            return True

    def sent(self, vmid: int) -> None:
        """Note that a write is about to be sent."""
        if self._record is not None:
            self._record.note(vmid, sent=True)

    def task(self, vmid: int, upid: str) -> None:
        """Note a task that was started."""
        if self._record is not None:
            self._record.note(vmid, upid=upid)

    def ended(self, outcome: Outcome, unfinished: bool) -> None:
        """Note a guest's end, unless the next run has to tell of it; let other runs have the guest."""
        if self._record is not None and not unfinished:
            self._record.note(
                outcome.guest.vmid, status=outcome.status, snapshot=outcome.snapshot, pruned=outcome.pruned)
        if self._claims is not None:
            try:
                self._claims.give_back(outcome.guest.vmid)
            except OSError as error:
                self._give_up(error)

    def close(self, heard: bool = True) -> None:
        """The end of the run: what unfinished() told is forgotten where somebody heard it, and this run's record
        kept where it is needed."""
        for path in self._told if heard else ():
            _unlink(path)
        if self._record is not None:
            self._record.close()
        if self._claims is not None:
            self._claims.close()

    def unfinished(self, tasks: Tasks) -> List[Dict[str, Any]]:
        """What became of the runs that were cut off, one entry for each of their guests that had no end.

        close() removes their records, but for those with a task that still runs or cannot be asked for.
        """
        entries: List[Dict[str, Any]] = []
        silent: Set[str] = set()
        damaged: List[str] = []
        for path in self._records():
            try:
                left = left_behind(path)
            except Damaged as error:
                self._damaged += [] if error.foreign else [path]
                damaged.append("'{0}' is no record that can be read ({1})".format(path, error.strerror))
                continue
            # Two clusters may have nodes of the same names: one of the hosts must be the same too.
            if left is None or not left.hosts & set(self._hosts):
                continue
            if left.unread:
                self.warnings.append("option 'state_dir': {0} lines of '{1}' cannot be read; what is told of that run may be "
                                     "incomplete".format(left.unread, path))
            told, final = self._became(left, tasks, silent)
            entries += told
            if final:
                self._told.append(path)
        if damaged:
            self.warnings.append(
                "option 'state_dir': {0}{1}, so what became of an earlier run is not known; a run sets aside what is its "
                "own".format(damaged[0], " and {0} more".format(len(damaged) - 1) if len(damaged) > 1 else ""))
        return entries

    def _became(self, left: Left, tasks: Tasks, silent: Set[str]) -> Tuple[List[Dict[str, Any]], bool]:
        """Entries of the guests without an end, and whether that is the last word on all of them.

        ``silent`` gathers nodes that do not answer: one call for each of them is enough. What was not asked for is asked for by
        the next run, unless this record alone has too many tasks: it would never go.
        """
        entries = []
        open_ends = (RUNNING, SILENT, UNASKED) if self._asked else (RUNNING, SILENT)
        final = True
        for guest in left.plan:
            if guest.vmid in left.ended:
                continue
            upid = left.last.get(guest.vmid)
            result = NOT_STARTED if upid is None else self._result(tasks, upid, silent) if upid else UNANSWERED
            final = final and not result.startswith(open_ends)
            entries.append({
                "vmid": guest.vmid, "node": errors.bounded(guest.node), "job": left.job, "began": left.began,
                "snapshot": errors.bounded(guest.create), "upid": upid or "", "result": result})
        return entries, final

    def _result(self, tasks: Tasks, upid: str, silent: Set[str]) -> str:
        """RUNNING, the exit status, or why it cannot be told."""
        try:
            node = Upid.parse(upid).node
        except ValueError:
            return "unknown: the record is damaged"
        if node in silent:
            return SILENT
        if node not in self._nodes:
            return ELSEWHERE
        if self._asked == ASKED_MAX:
            return UNASKED
        self._asked += 1
        try:
            return tasks.result(upid) or RUNNING
        except (errors.NodeUnreachable, errors.HostUnreachable):
            silent.add(node)
            return SILENT
        except errors.PveError as error:
            if errors.is_fatal(error):
                raise
            return "unknown: " + error.message

    def _records(self) -> List[str]:
        try:
            names = sorted(os.listdir(self._directory))
        except OSError:
            return []
        return [os.path.join(self._directory, name) for name in names
                if name.startswith(self._key + "-") and name.endswith(".run")]


def _unlink(path: str) -> None:
    """Another run may have told it too."""
    try:
        os.unlink(path)
    except OSError:
        pass


def _close(file: int) -> None:
    """On NFS it is here that a full disk is told of: what the run did must not be lost for that."""
    with contextlib.suppress(OSError):
        os.close(file)
