# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Read what a run needs: resources, selection, then config and snapshot list of every guest."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Callable, Container, Dict, Iterable, List, Optional, Sequence, Tuple, TypeVar, cast

from ..arguments import Target
from ..model import Guest, GuestConfig, SnapshotList
from ..policy import selection
from ..pve import errors
from ..pve.agent import Agent
from ..pve.cluster import Cluster, Resources
from ..pve.session import Session
from ..pve.tasks import SUCCESS, Tasks, Upid

READERS = 32
LOOKS = 3  # at a guest with an unfinished snapshot, until nothing new appears in it
ITS_OWN = 120  # seconds from a task's start within which it has begun its snapshot
UNSEEN_WORK = 3600  # seconds that a task which cannot be seen may still take
SNAPSHOT_LOCKS = frozenset(("snapshot", "snapshot-delete"))
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class GuestState:
    """What was read of one guest; where it could not be read there is a ``problem``, and the rest is empty.

    ``silence`` is why its agent does not answer, an empty text where it does or was not asked. ``working`` when somebody
    still works on what is unfinished in it, or may: that is in progress, and not broken. ``seen`` when its task was seen.
    """

    guest: Guest
    config: GuestConfig = GuestConfig(None, False, None, 0, False, ())
    snapshots: SnapshotList = SnapshotList((), False)
    problem: Optional[errors.PveError] = None
    silence: str = ""
    working: bool = False
    seen: bool = False

    @property
    def unfinished(self) -> frozenset[str]:
        """Names of the snapshots that are half made or half deleted."""
        return frozenset(snapshot.name for snapshot in self.snapshots.snapshots if snapshot.snapstate)


@dataclass(frozen=True)
class Situation:
    """Everything a plan is made from. ``server_time`` is the server's clock, Unix seconds.

    ``pools`` are the members of every pool that a term names, in lower case.
    """

    resources: Resources
    states: Tuple[GuestState, ...]
    templates: Tuple[Guest, ...]
    undecided: Tuple[Tuple[Guest, str], ...]
    unmatched: Tuple[selection.Unmatched, ...]
    server_time: int
    pools: Dict[str, frozenset[int]]


def read_situation(
    session: Session, cluster: Cluster, target: Target, with_config: bool = True, more_terms: Sequence[selection.Term] = (),
    ask_agents: bool = False,
) -> Situation:
    """Read the cluster once, select, and read each selected guest (two calls each, in parallel).

    With ``ask_agents``, also whether the agents that are enabled in running VMs answer (one call each). A guest with an
    unfinished snapshot is looked at again (two or three calls).

    The pools of ``more_terms`` are read too; these terms select nobody.
    Raises the errors that leave nothing to work on: no host, no way in, an exclusion that cannot be decided.
    """
    resources = cluster.resources()
    session.expect_nodes([node.name for node in resources.nodes])
    away = [node for node in resources.nodes if node.status == "offline"]
    if 2 * len(away) >= len(resources.nodes) > 1 and session.prefer_quorum():
        resources = cluster.resources()
    offline = {node.name for node in resources.nodes if node.status == "offline"}
    guests, configs = _name(cluster, resources.guests, offline)
    named = {pool for term in target.terms for pool in term.pools}
    members, visible_pools = cluster.pool_members(sorted(named | {pool for term in more_terms for pool in term.pools}))
    _must_be_decidable("guests", target.terms, visible_pools)
    _must_be_decidable("expect", more_terms, visible_pools)
    pools = {pool: frozenset(ids) for pool, ids in members.items()}
    visible = {guest.vmid for guest in guests}
    invisible = {vmid: pool for pool in sorted(named) for vmid in pools.get(pool, ()) if vmid not in visible}
    hidden = [Guest(vmid, "", "", "unknown") for vmid in sorted(invisible)]
    chosen = selection.select(
        target.terms, [*guests, *hidden], pools, frozenset(invisible))
    templates = [guest for guest in chosen.selected if guest.template]
    undecided = [
        (guest, "member of pool '{0}', but not visible: grant VM.Audit on /vms/{1} or on the pool".format(
            invisible[guest.vmid], guest.vmid))
        if guest.vmid in invisible else
        (guest, "could not be decided: its name is unknown since node {0} does not answer".format(guest.node))
        for guest in chosen.undecided
    ]
    newer = _Newer(cluster)
    agent, tasks = Agent(session), Tasks(session, cluster)

    def read_at(guest: Guest) -> GuestState:
        if not with_config:
            return GuestState(guest, snapshots=cluster.snapshots(guest))
        config, snapshots = configs.get(guest.vmid) or cluster.config(guest), cluster.snapshots(guest)
        asked = ask_agents and config.agent and snapshots.running
        return GuestState(guest, config, snapshots, silence=agent.silence(guest) if asked else "")

    def read_settled(guest: Guest) -> GuestState:
        state = read_at(guest)
        return _looked_at_again(state, cluster, tasks, session.clock.now()) if state.unfinished else state

    def read(guest: Guest) -> GuestState:
        if guest.node in offline:
            return GuestState(guest, problem=errors.NodeUnreachable("node {0} is offline".format(guest.node)))
        try:
            try:
                return read_settled(guest)
            except errors.PveError as error:
                moved = newer.guest(guest.vmid) if error.kind == errors.MOVED else None
                if moved is None or moved.node == guest.node:
                    raise
                return read_settled(moved)
        except errors.PveError as error:
            if errors.is_fatal(error):
                raise
            return GuestState(guest, problem=error)

    states = in_parallel(read, [guest for guest in chosen.selected if not guest.template])
    templates += [state.guest for state in states if state.config.template]
    return Situation(
        resources=resources,
        states=tuple(state for state in states if not state.config.template),
        templates=tuple(templates),
        undecided=tuple(undecided),
        unmatched=chosen.unmatched,
        server_time=session.clock.now(),
        pools=pools,
    )


def _must_be_decidable(option: str, terms: Sequence[selection.Term], visible: Container[str]) -> None:
    """Undecided for an exclusion by a pool that cannot be seen: who is in it would be taken though he is excluded."""
    for term in terms:
        for pool in term.pools if term.exclude else ():
            if pool not in visible:
                raise errors.Undecided(
                    "option '{0}': whom '{1}' excludes cannot be decided, since the pool '{2}' cannot be seen, so nothing was "
                    "done; is its name right, and does the token have Pool.Audit on /pool/{2}?".format(option, term.text, pool))


def _looked_at_again(state: GuestState, cluster: Cluster, tasks: Tasks, server_time: int) -> GuestState:
    """A guest with an unfinished snapshot, with a lock and a list that go together.

    List and lock were read one after the other, so what looks broken may just have been begun: the lock is read between
    two lists that show the same.
    """
    for _number in range(LOOKS):
        before = state.unfinished
        lock = cluster.config(state.guest).lock
        state = replace(state, guest=replace(state.guest, lock=lock), snapshots=cluster.snapshots(state.guest))
        if not state.unfinished - before:
            if lock not in SNAPSHOT_LOCKS or not state.unfinished:
                return state
            upid, result = tasks.newest(state.guest)
            return replace(state, working=_at_work(state, upid, result, server_time), seen=result == "running")
    return replace(state, working=True, seen=True)


def _at_work(state: GuestState, upid: str, result: str, server_time: int) -> bool:
    """Whether a task still works on what is unfinished under the lock of a snapshot; ``upid`` and ``result`` are those of
    the last one that can be seen.

    Where that is another one, as without Sys.Audit, somebody does for as long as a task may well take.
    """
    newest = max(snapshot.snaptime for snapshot in state.snapshots.snapshots if snapshot.snapstate)
    if result in ("", "running") or SUCCESS.match(result) or newest > Upid.parse(upid).start + ITS_OWN:
        return result == "running" or server_time - newest < UNSEEN_WORK
    return False


class _Newer:
    """A second look at the resources, taken once and only when a guest is not where the first one had it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._guests: Optional[Dict[int, Guest]] = None

    def guest(self, vmid: int) -> Optional[Guest]:
        """The guest as the cluster shows it now."""
        with self._lock:
            if self._guests is None:
                self._guests = {guest.vmid: guest for guest in self._cluster.resources().guests}
            return self._guests.get(vmid)


def _name(
    cluster: Cluster, guests: Sequence[Guest], offline: Iterable[str]
) -> Tuple[List[Guest], Dict[int, GuestConfig]]:
    """Guests that the cluster shows without a name get name and template flag from their config."""
    nameless = [guest for guest in guests if guest.name is None and guest.node not in offline]

    def read(guest: Guest) -> Tuple[Guest, Optional[GuestConfig]]:
        try:
            config = cluster.config(guest)
        except errors.PveError as error:
            if errors.is_fatal(error):
                raise
            return guest, None
        return replace(guest, name=config.name or "", template=config.template), config

    found = {guest.vmid: (guest, config) for guest, config in in_parallel(read, nameless)}
    named = [found[guest.vmid][0] if guest.vmid in found else guest for guest in guests]
    return named, {vmid: config for vmid, (_guest, config) in found.items() if config is not None}


def in_parallel(function: Callable[[_In], _Out], items: Sequence[_In]) -> List[_Out]:
    """The function's answers in the order of ``items``; READERS at once, or as many as the machine has threads for.

    Raises what the function raised on the first item that failed; no further one is begun then.
    """
    answers: Dict[int, _Out] = {}
    failures: Dict[int, BaseException] = {}
    todo = iter(enumerate(items))
    lock = threading.Lock()

    def work() -> None:
        while not failures:
            with lock:
                number, item = next(todo, (-1, None))
            if number < 0:
                return
            try:
                answers[number] = function(cast(_In, item))
            except BaseException as error:  # pylint: disable=broad-exception-caught
                failures[number] = error

    threads = []
    for _number in range(min(READERS, len(items)) - 1):
        thread = threading.Thread(target=work, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            break
        threads.append(thread)
    work()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[min(failures)]
    return [answers[number] for number in range(len(items))]
