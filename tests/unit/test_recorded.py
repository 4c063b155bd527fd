# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every recorded answer of an endpoint that we call, fed through pve/."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils.model import Guest
from ansible_collections.pve.autosnap.plugins.module_utils.pve import errors
from ansible_collections.pve.autosnap.plugins.module_utils.pve.cluster import Cluster
from ansible_collections.pve.autosnap.plugins.module_utils.pve.session import Credentials
from ansible_collections.pve.autosnap.plugins.module_utils.pve.tasks import Tasks, Upid
from support import path_of, recorded_response, records, scripted

GUEST = r"nodes/[^/]+/(qemu|lxc)/[^/]+"
KINDS = {
    "ticket": ("POST", r"access/ticket"),
    "resources": ("GET", r"cluster/resources"),
    "nodes": ("GET", r"nodes"),
    "pools": ("GET", r"pools(/.+)?"),
    "config": ("GET", GUEST + r"/config"),
    "list": ("GET", GUEST + r"/snapshot"),
    "create": ("POST", GUEST + r"/snapshot"),
    "delete": ("DELETE", GUEST + r"/snapshot/[^/]+"),
    "tasks": ("GET", r"nodes/[^/]+/tasks"),
    "status": ("GET", r"nodes/[^/]+/tasks/[^/]+/status"),
    "log": ("GET", r"nodes/[^/]+/tasks/[^/]+/log"),
}
ERRORS = {
    400: errors.BadParameter, 401: errors.AuthenticationFailed, 403: errors.PermissionDenied, 500: errors.PveError,
    501: errors.PveError, 506: errors.PveError, 595: errors.NodeUnreachable,
}


def kind_of(record: dict[str, Any]) -> str | None:
    if not record["request"]["path"].startswith("/api2/json/"):
        return None
    if (record["request"].get("params") or {}).get("download"):
        return None  # plain text, which we never ask for
    path = "/".join(path_of(record))
    for kind, (method, pattern) in KINDS.items():
        if record["request"]["method"] == method and re.fullmatch(pattern, path):
            return kind
    return None


CASES = [
    pytest.param(kind, record, id="{0}-{1}-{2}".format(version, record["n"], kind))
    for version in ("8.4", "9.2") for record in records(version) for kind in [kind_of(record)] if kind
]


def test_every_kind_is_there() -> None:
    assert {param.values[0] for param in CASES} == set(KINDS)
    assert len(CASES) > 900


def call(kind: str, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ask our client for what the record's request asked; the server answers as recorded."""
    login = Credentials("u@pve", password="p") if kind == "ticket" else None
    if kind == "ticket":
        return ticket(record, login, monkeypatch)
    session = scripted(lambda request: recorded_response(record), monkeypatch)
    cluster = Cluster(session)
    parts = path_of(record)
    if kind == "resources":
        return cluster.resources()
    if kind in ("config", "list"):
        guest = Guest(int(parts[3]) if parts[3].isdigit() else 0, parts[2], parts[1], "running")
        return cluster.config(guest) if kind == "config" else cluster.snapshots(guest)
    if kind == "create":
        return session.write("post", *parts, snapname="x")
    if kind == "delete":
        return session.write("delete", *parts)
    return session.read(*parts).data


def ticket(record: dict[str, Any], login: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    version = next(r for r in records("9.2") if path_of(r) == ["version"] and r["response"]["status"] == 200)

    def answer(request: Any) -> Any:
        return recorded_response(record if request.url.endswith("/access/ticket") else version)

    return scripted(answer, monkeypatch, credentials=login).read("version").data


@pytest.mark.parametrize(("kind", "record"), CASES)
def test_recorded(kind: str, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    answer = record["response"]
    refusal = NO_ERROR if answer["status"] == 200 else ERRORS[answer["status"]]
    if kind == "ticket" and answer["status"] == 400:
        refusal = errors.AuthenticationFailed
    if answer["reason"].startswith(("hostname lookup", "address lookup")):
        refusal = errors.NodeUnreachable
    if refusal is not NO_ERROR:
        with pytest.raises(refusal) as raised:
            call(kind, record, monkeypatch)
        check_message(raised.value, answer, kind)
        return
    found = call(kind, record, monkeypatch)
    data = answer["json"]["data"]
    {
        "resources": check_resources, "config": check_config, "list": check_list, "create": check_upid,
        "delete": check_upid, "status": check_status,
    }.get(kind, lambda found, data: None)(found, data)


class NO_ERROR(Exception):
    """No refusal is expected."""


def check_message(error: errors.PveError, answer: dict[str, Any], kind: str) -> None:
    assert error.message
    if kind == "ticket" or answer["status"] in (401,):
        return
    text = (answer.get("json") or {}).get("message") or answer["reason"]
    assert text.strip() in error.message
    for field, words in ((answer.get("json") or {}).get("errors") or {}).items():
        assert error.errors[field] == words.strip()


def check_resources(found: Any, data: list[dict[str, Any]]) -> None:
    guests = {item["vmid"]: item for item in data if item["type"] in ("qemu", "lxc")}
    assert [guest.vmid for guest in found.guests] == sorted(guests)
    for guest in found.guests:
        item = guests[guest.vmid]
        assert (guest.name, guest.lock, guest.pool) == (item.get("name"), item.get("lock"), item.get("pool"))
        assert guest.unknown == ("name" not in item)
        assert ";".join(guest.tags) == item.get("tags", "")
    assert len(found.storages) == sum(item["type"] == "storage" for item in data)
    assert all(storage.size for storage in found.storages if storage.available)
    assert len(found.nodes) == sum(item["type"] == "node" for item in data)


def check_config(found: Any, data: dict[str, Any]) -> None:
    assert found.name == (data.get("name") or data.get("hostname"))
    assert found.lock == data.get("lock")
    assert found.memory in (64, 128)
    assert found.template == bool(data.get("template"))
    assert len(found.disks) == sum(bool(re.fullmatch(r"(scsi|mp)\d+|rootfs", key)) for key in data)


def check_list(found: Any, data: list[dict[str, Any]]) -> None:
    real = {item["name"]: item for item in data if item["name"] != "current"}
    assert {s.name for s in found.snapshots} == set(real)
    for snapshot in found.snapshots:
        item = real[snapshot.name]
        assert snapshot.snaptime == item["snaptime"]
        assert snapshot.snapstate == item.get("snapstate")
        assert snapshot.parent == item.get("parent")
        assert snapshot.description == item["description"].rstrip()


def check_upid(found: str, data: str) -> None:
    upid = Upid.parse(found)
    assert found == data
    assert upid.type in ("qmsnapshot", "qmdelsnapshot", "vzsnapshot", "vzdelsnapshot")
    assert upid.start > 1_700_000_000


def check_status(found: dict[str, Any], data: dict[str, Any]) -> None:
    if data["status"] != "stopped":
        return
    if data["exitstatus"] == "OK":
        assert Tasks._judge(data["upid"], data["exitstatus"]).warning is None
        return
    with pytest.raises(errors.TaskFailed) as failed:
        Tasks._judge(data["upid"], data["exitstatus"])
    assert failed.value.message == data["exitstatus"].strip()


EXITS = sorted({
    (record["response"]["json"]["data"]["exitstatus"].strip())
    for version in ("8.4", "9.2") for record in records(version)
    if kind_of(record) == "status" and record["response"]["status"] == 200
    and record["response"]["json"]["data"]["status"] == "stopped"
})


@pytest.mark.parametrize("text", EXITS)
def test_recorded_exit_statuses_are_classified(text: str) -> None:
    expected = {
        "is locked (backup)": errors.BUSY, "is locked (snapshot": errors.BROKEN_LOCK, "got timeout": errors.BUSY,
        "already used": errors.CLASH, "Configuration file": errors.MOVED, "feature is not available": errors.UNSUPPORTED,
        "a template": errors.TEMPLATE, "received interrupt": errors.UNKNOWN_RESULT, "unexpected status": errors.UNKNOWN_RESULT,
        "unable to": errors.UNKNOWN_RESULT,
    }
    kind = next((kind for words, kind in expected.items() if words in text), None)
    if kind is None and text.startswith("snapshot '"):
        kind = errors.GONE
    assert errors.classify(text) == (kind or errors.OTHER)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("VM is locked (suspended)", errors.HIBERNATED),
        ("CT is locked (disk)", errors.BUSY),
        ("Failed to obtain guest migration lock - replication running?", errors.BUSY),
        ("snapshot 'x' needed by replication job '100-0' - run replication first", errors.BUSY),
        ("can't lock file '/var/lock/pve-manager/pve-migrate-100' - got timeout", errors.BUSY),
        ("can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout", errors.BUSY),
        ("cfs-lock 'storage-ceph' error: got lock request timeout", errors.CONTENTION),
        ("can't lock file '/var/lock/pve-manager/pve-storage-lvm' - got timeout", errors.CONTENTION),
        ("cfs-lock 'x' error: no quorum!", errors.QUORUM),
        ("unable to open file '/etc/pve/nodes/n1/qemu-server/100.conf.tmp.77' - Permission denied", errors.QUORUM),
        ("unable to read tail (got 0 bytes)", errors.UNKNOWN_RESULT),
        ("zfs error: cannot destroy snapshot x: dataset is busy", errors.OTHER),
    ],
)
def test_texts_of_the_facts_are_classified(text: str, kind: str) -> None:
    """api-facts 10, for what was not recorded."""
    assert errors.classify(text) == kind


def test_a_lock_is_named() -> None:
    assert errors.lock_of("VM is locked (backup)") == "backup"
    assert errors.lock_of("no") is None


@pytest.mark.parametrize("user", ["a\u202e", "a\x1b[2J", "a\x9b", "a\u200b"])
def test_a_task_s_name_that_steers_a_terminal_is_none(user: str) -> None:
    """It stands in reasons, results and the last words of a run."""
    with pytest.raises(ValueError, match="not a UPID"):
        Upid.parse("UPID:n1:00000001:00000001:6B000000:qmsnapshot:100:{0}@pve:".format(user))
