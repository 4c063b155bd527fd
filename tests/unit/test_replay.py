# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulator held against the recordings, request by request.

Compared are status, reason phrase, whether there is a JSON body, its keys, the keys and types of
``data``, error texts, exit statuses and descriptions. The number of records that agree is printed
per section and must not fall below ``agreement.json``; where the two differ our code follows the
recordings (test_recorded.py).
"""

from __future__ import annotations

import collections
import json
import re
from typing import Any

import pytest
import requests
from simulator import world
from simulator.running import Running
from support import RECORDINGS, records

SECRETS = {
    "full": "85d29cfb-4173-4980-93c6-a527a0f79a53", "audit": "audit-secret", "none": "none-secret", "pool": "pool-secret",
    "vmonly": "vmonly-secret", "expired": "expired-secret",
}
UPID = re.compile(r"UPID:[^:]+:[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:[^:]+:[^:]*:[^:]+:")
VOLATILE = {"upid", "pid", "pstart", "starttime", "endtime", "digest", "total", "disk", "maxdisk", "used", "avail", "size"}
SKIPPED = ("stress", "volume-chain", "two-nodes", "storage-off")
AGREEMENT = RECORDINGS / "agreement.json"


class Replay:
    """Sends the requests of one file to the simulator and keeps what later ones need."""

    def __init__(self, cluster: Running, version: str) -> None:
        self.cluster = cluster
        self.version = version
        self.upids: dict[str, str] = {}
        self.ticket = self.csrf = ""
        self.http = requests.Session()
        self.http.trust_env = False

    def shift(self, number: int) -> int:
        """Numbers of the 9.2 file, in this file."""
        return number if self.version == "9.2" or number < 130 else number + 3

    def prepare(self, number: int) -> None:
        """What was done to the real server without a recorded request, before a record."""
        pve = self.cluster.pve
        steps = {
            149: lambda: wipe(pve, 110),
            207: lambda: wipe(pve, 201),
            319: lambda: pve.half_deletes.add(111),
            367: lambda: (pve.set_lock(pve.guest(111), None)),
            472: lambda: pve.set_lock(pve.guest(112), None),
            478: lambda: pve.set_lock(pve.guest(112), None),
        }
        for before, step in steps.items():
            if self.shift(before) == number:
                step()

    def send(self, record: dict[str, Any]) -> requests.Response:
        request = record["request"]
        path = request["path"]
        for old, new in self.upids.items():
            path = path.replace(quoted(old), quoted(new)).replace(old, new)
        headers = self.headers(record)
        values = {key: self.value(value) for key, value in (request.get("params") or {}).items()}
        method = request["method"]
        url = "https://{0}{1}".format(self.cluster.hosts[0], path)
        body: Any = request.get("raw_body")
        if body is not None:
            headers["Content-Type"] = request.get("content_type") or "application/x-www-form-urlencoded"
            return self.http.request(method, url, data=body, headers=headers, verify=self.cluster.ca, timeout=20)
        query, data = (values, None) if method in ("GET", "DELETE") else (None, values)
        return self.http.request(
            method, url, params=query, data=data, headers=headers, verify=self.cluster.ca, timeout=20)

    def value(self, value: Any) -> Any:
        if value == "PVE:autosnap@pve:<TICKET>":
            return self.ticket
        return SECRETS["full"] if value == "<secret:full>" else value

    def headers(self, record: dict[str, Any]) -> dict[str, str]:
        given = {key: str(text).replace("<secret:full>", SECRETS["full"]).replace("<CSRF>", self.csrf)
                 for key, text in (record["request"].get("headers") or {}).items()}
        for key, text in given.items():
            if "<TICKET>" in text:
                ticket = quoted(self.ticket) if "%3A" in text else self.ticket
                given[key] = re.sub(r"PVE(?::|%3A)[^;]*<TICKET>", lambda _match, t=ticket: t, text)
        auth = record["auth"]
        if auth in SECRETS:
            given["Authorization"] = "PVEAPIToken=autosnap@pve!{0}={1}".format(auth, SECRETS[auth])
        elif auth == "root":
            ticket, csrf = self.cluster.pve.issue_ticket("root@pam")
            given.update({"Cookie": "PVEAuthCookie=" + ticket, "CSRFPreventionToken": csrf})
        return given

    def learn(self, record: dict[str, Any], answer: requests.Response) -> None:
        try:
            body = answer.json()
        except ValueError:
            return
        real = (record["response"].get("json") or {}).get("data")
        data = body.get("data") if isinstance(body, dict) else None
        if isinstance(real, str) and UPID.fullmatch(real) and isinstance(data, str):
            self.upids[real] = data
        if isinstance(data, dict) and "ticket" in data:
            self.ticket, self.csrf = data["ticket"], data["CSRFPreventionToken"]


def wipe(pve: Any, vmid: int) -> None:
    guest = pve.guest(vmid)
    guest.snapshots.clear()
    guest.config.pop("parent", None)


def quoted(text: str) -> str:
    return text.replace(":", "%3A").replace("@", "%40").replace("!", "%21")


def shape(value: Any) -> Any:
    """Keys and types; exact text where it is what a client decides on."""
    if isinstance(value, dict):
        return {key: exact(key, item) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return sorted({json.dumps(shape(item), sort_keys=True) for item in value})
    return type(value).__name__


def exact(key: str, value: Any) -> Any:
    if key in ("exitstatus", "message", "parent", "description", "lock", "snapstate", "errors") and not isinstance(value, dict):
        return value
    if key == "errors":
        return {field: str(text).strip() for field, text in value.items()}
    return type(value).__name__ if key in VOLATILE else shape(value)


def agrees(record: dict[str, Any], answer: requests.Response) -> bool:
    real = record["response"]
    if (real["status"], real["reason"].strip()) != (answer.status_code, answer.reason.strip()):
        return False
    try:
        body = answer.json()
    except ValueError:
        body = None
    expected = real.get("json")
    if (expected is None) != (body is None):
        return False
    if expected is None:
        return bool(real.get("text")) == bool(answer.text)
    if "first poll" in record["what"]:
        # Without time passing (time_scale 0) a task has always ended by then; that it may not have is B9.
        for part in (expected, body):
            part["data"].pop("status", None)
            part["data"].pop("exitstatus", None)
    masked = [{key: value for key, value in part.items() if key != "total"} for part in (expected, body)]
    return bool(json.dumps(shape(masked[0])) == json.dumps(shape(masked[1])))


@pytest.mark.parametrize("version", ["8.4", "9.2"])
def test_the_simulator_agrees_with_the_recordings(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    good: collections.Counter[str] = collections.Counter()
    total: collections.Counter[str] = collections.Counter()
    with Running(world.load(RECORDINGS / "world.yml")) as cluster:
        cluster.pve.version = {"8.4": "8.4.21", "9.2": "9.2.11"}[version]
        replay = Replay(cluster, version)
        for record in records(version):
            if record["section"] in SKIPPED or "auth" not in record or "method" not in record["request"]:
                continue
            replay.prepare(record["n"])
            total[record["section"]] += 1
            try:
                answer = replay.send(record)
            except requests.RequestException:
                continue
            replay.learn(record, answer)
            good[record["section"]] += agrees(record, answer)
    floor = json.loads(AGREEMENT.read_text(encoding="utf-8"))[version]
    with capsys.disabled():
        print("\nPVE {0}: {1} of {2} recorded answers agree".format(version, sum(good.values()), sum(total.values())))
        print("  " + ", ".join("{0} {1}/{2}".format(name, good[name], total[name]) for name in sorted(total)))
    fallen = {name: (good[name], least) for name, least in floor.items() if good[name] < least}
    assert not fallen, "fewer records agree than before: {0}".format(fallen)
