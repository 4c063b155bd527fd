# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""fakepve with the behaviour that a snapshot client meets on real servers.

Every override names the row of differences that it closes, by a number of a recording
(``tests/recordings``, file 9.2 unless said otherwise). The names overridden are private to fakepve,
which is why it is pinned exactly; ``tests/unit/test_replay.py`` notices when they stop working.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import ssl
import time
import urllib.parse
from typing import Any, Callable

from aiohttp import web
from fakepve import FakePve
from fakepve.lxc import FakeCt
from fakepve.model import FakeVm, PveError, TaskError
from fakepve.server import FORMATS, USER, bad_request, ok, params

PARAMETER = "Parameter verification failed."
KEEP_ALIVE = 5.0
CLUSTER_RESOURCE_TYPES = ("vm", "storage", "node", "sdn")
LIST_TRAILER = re.compile(r"[ \t\r\n]+\Z")


class Fault:
    """What happens to requests that fit: see SimulatedPve.fault()."""

    def __init__(
        self, method: str, path: str, times: int | None, before: bool, status: int | None, reason: str, host: int | None,
        after: int, delay: float, taken: bool = False,
    ) -> None:
        self.delay = delay
        self.taken = taken
        self.method = method
        self.path = re.compile(path)
        self.times = times
        self.before = before
        self.status = status
        self.reason = reason
        self.host = host
        self.after = after

    def takes(self, request: web.Request) -> bool:
        """True when the fault strikes this request; counts it."""
        if request.method != self.method or not self.path.search(request.path):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


class SimulatedPve(FakePve):
    """A cluster of nodes behind one or several API addresses."""

    def __init__(self, hosts: list[str] | None = None, port: int = 0) -> None:
        super().__init__(host=(hosts or ["127.0.0.1"])[0], port=port)
        self.hosts = hosts or ["127.0.0.1"]
        self.auth_delay = 0.0
        self.create_seconds = 0.0
        self.delete_seconds = 0.0
        self.guest_seconds: dict[tuple[int, str], float] = {}
        self.task_errors: dict[tuple[int, str], list[str]] = {}
        self.half_deletes: set[int] = set()
        self.half_delete_text = ""
        self.half_creates: dict[int, str] = {}
        self.host_nodes: list[str] = []
        self.cut_off: set[str] = set()
        self.gates: dict[int, asyncio.Event] = {}
        self._watches: list[tuple[re.Pattern[str], int, Callable[[], Any]]] = []
        self._acting: set[asyncio.Task[Any]] = set()
        self.action_errors: list[BaseException] = []
        self.freeze_errors: dict[int, str] = {}
        self.thaw_errors: dict[int, str] = {}
        self.nameless_nodes: set[str] = set()
        self.stale_seconds = 0.0
        self.half_tickets: dict[str, str] = {}
        self.otp = ""
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, dict[str, str], int, str]] = []
        self.running_now = 0
        self.running_peak = 0
        self.running_by: dict[str, int] = {}
        self.peak_by: dict[str, int] = {}
        self.expected_privsep = True
        self.clock_offset: dict[str, int] = {}
        self._chaos: tuple[random.Random, float, float, float] | None = None
        self.api_workers = 0
        self.api_seconds = 0.0
        self._api_slots: dict[str, asyncio.Semaphore] = {}
        self._sites: dict[int, web.TCPSite] = {}
        self._by_id: dict[int, Any] = {}
        self._context: ssl.SSLContext | None = None

    # ------------------------------------------------------------ life cycle

    async def start(self, certfile: str, keyfile: str) -> None:
        """Listen on every host; the first one chooses the port where it is 0. Keep-alive as pveproxy (5 s)."""
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certfile, keyfile)
        self.runner = web.AppRunner(self._build_app(), keepalive_timeout=KEEP_ALIVE, access_log=None)
        await self.runner.setup()
        for index in range(len(self.hosts)):
            await self.revive_host(index)

    async def deafen(self) -> None:
        """No API host listens any more; connections that there are go on."""
        while self._sites:
            await self._sites.popitem()[1].stop()

    async def revive_host(self, index: int) -> None:
        """Let an API host listen again."""
        site = web.TCPSite(self.runner, self.hosts[index], self.port, ssl_context=self._context)
        await site.start()
        self._sites[index] = site
        if not self.port:
            self.port = self.runner.addresses[0][1]

    async def kill_host(self, index: int) -> None:
        """An API host stops listening and its connections break, those too that were being made."""
        address = self.hosts[index]
        await self._sites.pop(index).stop()
        for _number in range(5):
            for connection in list(self.runner.server.connections):
                transport = connection.transport
                if transport is not None and not transport.is_closing() and transport.get_extra_info("sockname")[0] == address:
                    transport.abort()
            await asyncio.sleep(0.02)

    # ------------------------------------------------------------------ lookup

    def vm(self, vmid: int) -> Any:
        guest = self.guest(vmid)
        return guest if isinstance(guest, FakeVm) else None

    def ct(self, vmid: int) -> Any:
        guest = self.guest(vmid)
        return guest if isinstance(guest, FakeCt) else None

    def guest(self, vmid: int) -> Any:
        """O(1), where fakepve scans its lists."""
        if len(self._by_id) != len(self.vms) + len(self.cts):
            self._by_id = {guest.vmid: guest for guest in [*self.vms, *self.cts]}
        return self._by_id.get(vmid)

    # ------------------------------------------------------------------- login

    def allowed(self, user: str, path: str, priv: str) -> bool:
        """A token has only its own rights (233-248), unless it was made without privilege separation."""
        if self.acl is None or user == "root@pam":
            return True
        if "!" in user and not self.expected_privsep:
            user = user.split("!", 1)[0]
        paths = [path]
        if path.startswith("/vms/"):
            vmid = int(path.split("/")[2])
            paths += ["/vms"] + ["/pool/" + name for name, ids in self.pools.items() if vmid in ids]
        return any(
            priv in privs and (granted == "/" or any(p == granted or p.startswith(granted + "/") for p in paths))
            for granted, privs in self.acl.get(user, [])
        )

    def _authenticate(self, request: web.Request) -> str | None:
        if request.path in [prefix + "/access/ticket" for prefix in FORMATS]:
            return None
        header = request.headers.get("Authorization", "")
        match = re.match(r"PVEAPIToken[= ](.*)", header)
        if match and not request.cookies.get("PVEAuthCookie"):
            tokenid, _sep, secret = urllib.parse.unquote(match.group(1)).partition("=")
            if self.apitokens.get(tokenid) != secret:
                raise PveError(401, "Authentication failed!")
            return tokenid
        ticket = request.cookies.get("PVEAuthCookie")
        if not ticket:
            raise PveError(401, "No ticket")
        session = self.tickets.get(ticket) or self.tickets.get(urllib.parse.unquote(ticket))
        if session is None or session["expires"] < time.time():
            raise PveError(401, "Authentication failed!")
        if request.method not in ("GET", "HEAD") and request.headers.get("CSRFPreventionToken") != session["csrf"]:
            raise PveError(401, "Permission denied - invalid csrf token")
        return str(session["user"])

    def check_password(self, user: str, password: str) -> bool:
        """A valid ticket of the user is a password too (13)."""
        session = self.tickets.get(password)
        if session and session["user"] == user and session["expires"] > time.time():
            return True
        return bool(super().check_password(user, password))

    async def _ticket(self, request: web.Request) -> web.Response:
        values = await params(request)
        raw = (await request.read()).decode()
        user = str(values.get("username", ""))
        if "password" not in values:
            if "password=" in raw:
                values["password"] = ""
            else:
                raise bad_request(password="property is missing and it is not optional")
        if "realm" in values and "@" not in user:
            user += "@" + str(values["realm"])
        challenge = values.get("tfa-challenge")
        if challenge:
            if self.half_tickets.get(str(challenge)) != user or values["password"] != "totp:" + self.otp:
                raise PveError(401, "authentication failure")
        elif "@" not in user or not self.check_password(user, str(values["password"])):
            raise PveError(401, "authentication failure")
        elif self.otp:
            ticket, csrf = self.issue_ticket(user)
            del self.tickets[ticket]
            half = "PVE:!tfa!" + ticket[4:]
            self.half_tickets[half] = user
            return ok({"ticket": half, "username": user, "NeedTFA": 1, "CSRFPreventionToken": csrf})
        ticket, csrf = self.issue_ticket(user)
        return ok({"ticket": ticket, "CSRFPreventionToken": csrf, "username": user, "cap": self._caps(user)})

    def _caps(self, user: str) -> dict[str, dict[str, int]]:
        """The area of each privilege held on / (2)."""
        caps: dict[str, dict[str, int]] = {
            area: {} for area in ("access", "dc", "mapping", "nodes", "sdn", "storage", "vms")}
        areas = {"VM": "vms", "Datastore": "storage", "Sys": "nodes"}
        for path, privs in (self.acl or {}).get(user, []):
            for priv in privs if path == "/" else ():
                if priv.split(".")[0] in areas:
                    caps[areas[priv.split(".")[0]]][priv] = 1
        return caps

    async def _permissions(self, v: dict[str, Any], user: str) -> dict[str, dict[str, int]]:
        """Every known path below a propagated grant (30-34); for a pool its members, not propagated (33)."""
        known = ["/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"]
        known += ["/pool/" + name for name in self.pools]
        known += sorted({path for grants in (self.acl or {}).values() for path, _privs in grants if path.startswith("/vms/")})
        known += ["/vms/{0}".format(vmid) for ids in self.pools.values() for vmid in ids]
        found: dict[str, dict[str, int]] = {}
        for path in [v["path"]] if v.get("path") else sorted(set(known)):
            for granted, privs in (self.acl or {}).get(user, []):
                if granted == "/" or path == granted or path.startswith(granted + "/"):
                    found.setdefault(path, {}).update(dict.fromkeys(privs, 1))
                elif path.startswith("/vms/") and int(path[5:]) in self.pools.get(granted[len("/pool/"):], ()):
                    found.setdefault(path, {}).update(dict.fromkeys(privs, 0))
        return found

    # -------------------------------------------------------------- middleware

    def fault(
        self, method: str, path: str, times: int | None = 1, *, before: bool = False, status: int | None = None,
        reason: str = "", after: int = 0, delay: float = 0.0, taken: bool = False,
    ) -> None:
        """Strike requests whose path matches the regular expression ``path``.

        With ``status`` they are answered so, with an empty body; where ``taken``, they are carried out nevertheless.
        Without, the connection is cut:
        ``before`` the request is carried out, or after it (the answer is lost). ``after`` lets so
        many pass first. With ``delay`` they are carried out, and the answer comes so many seconds late.
        """
        self.faults.append(Fault(method, path, times, before, status, reason, None, after, delay, taken))

    def misbehave(self, seed: int, dropped: float, delayed: float, delay: float) -> None:
        """From now on drop a share of all answers, half of them after the request was carried out, and send a share
        ``delay`` seconds after it was."""
        self._chaos = (random.Random(seed), dropped, delayed, delay)

    def _chance(self, request: web.Request) -> Fault | None:
        """The fault that strikes this request by chance, as misbehave() said."""
        if self._chaos is None:
            return None
        draw, dropped, delayed, delay = self._chaos
        number = draw.random()
        if number >= dropped + delayed:
            return None
        return Fault(request.method, "", 1, number < dropped / 2, None, "", None, 0, 0.0 if number < dropped else delay)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        fault = next((fault for fault in self.faults if fault.takes(request)), None) or self._chance(request)
        if fault is not None and (fault.before or fault.status is not None and not fault.taken):
            self._note(request, fault.status or 0)
            if fault.status is None:
                return self._cut(request)
            return _empty(fault.status, fault.reason)
        if request.method == "DELETE" and request.can_read_body:
            return _closed(web.Response(
                status=501, reason="Unexpected content for method 'DELETE'",
                text="Unexpected content for method 'DELETE'"))
        await self._serve(request)
        try:
            response = await super()._middleware(request, handler)
        except web.HTTPNotFound:
            response = web.json_response({"data": None}, status=501, reason=self._unimplemented(request))
        if response.status == 501 and "not implemented" in (response.reason or ""):
            response = web.json_response({"data": None}, status=501, reason=self._unimplemented(request))
        if response.status == 401 and not request.path.endswith("/access/ticket"):
            await asyncio.sleep(self.auth_delay)
            response = _empty(401, response.reason or "")
        elif response.status == 595:
            response = _empty(595, "Connection refused")
        if response.status >= 400:
            _closed(response)
        self._note(request, response.status)
        if fault is not None and fault.delay:
            await asyncio.sleep(fault.delay)
        elif fault is not None and fault.taken:
            return _empty(fault.status or 500, fault.reason)
        elif fault is not None:
            return self._cut(request)
        return response

    async def _serve(self, request: web.Request) -> None:
        """A node has few API workers, and each request takes one for a while (simulator.md 3.2)."""
        if not self.api_workers:
            return
        match = re.search(r"/nodes/([^/]+)/", request.path)
        node = match.group(1) if match else sorted(self.nodes)[0]
        async with self._api_slots.setdefault(node, asyncio.Semaphore(self.api_workers)):
            await asyncio.sleep(self.api_seconds)

    @staticmethod
    def _unimplemented(request: web.Request) -> str:
        path = request.path
        for prefix in FORMATS:
            path = path[len(prefix):] if path.startswith(prefix) else path
        return "Method '{0} {1}' not implemented".format(request.method, path)

    def _note(self, request: web.Request, status: int) -> None:
        user = request.get(USER) or ""
        self.log.append((request.method, request.path, dict(request.query), status, str(user)))
        self._look()

    def watch(self, pattern: re.Pattern[str], count: int, action: Callable[[], Any]) -> None:
        """Do something when so many requests that match are in the log: before the last of their answers leaves."""
        self._watches.append((pattern, count, action))
        self._look()

    def _look(self) -> None:
        for watch in list(self._watches):
            pattern, count, action = watch
            if sum(1 for method, path, *_rest in self.log if pattern.match(method + " " + path)) < count:
                continue
            self._watches.remove(watch)
            try:
                done = action()
            except Exception as error:
                self.action_errors.append(error)
                continue
            if asyncio.iscoroutine(done):
                task = asyncio.ensure_future(done)
                self._acting.add(task)
                task.add_done_callback(self._acted)

    def _acted(self, task: asyncio.Task[Any]) -> None:
        self._acting.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.action_errors.append(error)

    @staticmethod
    def _cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionResetError("simulator: connection cut")

    async def _answer(
        self, request: web.Request, handler: Callable[..., Any], generic: Any, path_node: str | None
    ) -> web.StreamResponse:
        """``localhost`` is the first node (270); an unknown node is refused everywhere (268, 500)."""
        if path_node == "localhost":
            request.match_info["node"] = sorted(self.nodes)[0]
        elif path_node and path_node not in self.nodes:
            return web.json_response(
                {"data": None, "message": _lookup(path_node) + "\n"}, status=500, reason=_lookup(path_node))
        answer: web.StreamResponse = await super()._answer(request, handler, generic, path_node)
        return answer

    # --------------------------------------------------------------- resources

    async def _resources(self, request: web.Request) -> web.Response:
        """``type`` is checked (43, 232); ``pool`` and pools need Pool.Audit (40, 546); storages Datastore.Audit (545)."""
        user = request[USER]
        kinds = request.query.getall("type", [])
        if len(kinds) > 1:
            raise bad_request(type="type check ('string') failed - got ARRAY")
        if kinds and kinds[0] not in CLUSTER_RESOURCE_TYPES:
            raise bad_request(type="value '{0}' does not have a value in the enumeration '{1}'".format(
                kinds[0], ", ".join(CLUSTER_RESOURCE_TYPES)))
        answer = await super()._resources(request)
        items = [item for item in _data(answer) if item["type"] != "storage"]
        pools = [name for name in sorted(self.pools) if self.allowed(user, "/pool/" + name, "Pool.Audit")]
        for item in items:
            if item["type"] == "node":
                item["status"] = self._seen_from(request, item["node"]) or item["status"]
            if item.get("pool") not in pools:
                item.pop("pool", None)
            if item["type"] in ("qemu", "lxc") and item["node"] in self.nameless_nodes:
                for key in set(item) - {"id", "node", "status", "tags", "type", "vmid", "lock", "pool", "hastate"}:
                    del item[key]
                item["status"] = "unknown"
            if item["type"] == "node" and not self.allowed(user, "/nodes/" + item["node"], "Sys.Audit"):
                for key in set(item) - {"id", "type", "node", "status", "level"}:
                    del item[key]
        if not kinds:
            items = [{"type": "pool", "id": "/pool/" + name, "pool": name} for name in pools] + items
        if not kinds or kinds[0] == "storage":
            items += [
                item for node in sorted(self.nodes) if self.nodes[node].get("online", True)
                for item in (self._storage_resource(node, name) for name in sorted(self.storages))
                if item and self.allowed(user, "/storage/" + item["storage"], "Datastore.Audit")
            ]
        return ok(items)

    def _storage_resource(self, node: str, name: str) -> dict[str, Any] | None:
        """Use and size as the storage has them; absent where it is not active (api-facts 5.1)."""
        item = super()._storage_resource(node, name)
        if item is None:
            return None
        store = self.storages[name]
        item.pop("disk")
        item.pop("maxdisk")
        if store.get("active", 1):
            item["maxdisk"] = store.get("size", 100 * 1024 ** 3)
            item["disk"] = store.get("used", 0)
        return dict(item)

    async def _nodes(self, request: web.Request) -> web.Response:
        items = _data(await super()._nodes(request))
        for item in items:
            item["status"] = self._seen_from(request, item["node"]) or item["status"]
            if not self.allowed(request[USER], "/nodes/" + item["node"], "Sys.Audit"):
                for key in ("cpu", "maxcpu", "mem", "maxmem", "disk", "maxdisk", "uptime"):
                    item.pop(key, None)
        return ok(items)

    async def _cluster_status(self, request: web.Request) -> web.Response:
        self.require(request[USER], "/", "Sys.Audit")
        items = _data(await super()._cluster_status(request))
        items[0]["quorate"] = int(not self._lacks_quorum(self._node_of(request)))
        return ok([item for item in items if len(self.nodes) > 1 or item["type"] != "cluster"])

    def _node_of(self, request: web.Request) -> str:
        """The node whose API host was asked: the first one, where ``host_nodes`` does not say another."""
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        return dict(zip(self.hosts, self.host_nodes)).get(address, sorted(self.nodes)[0])

    def _lacks_quorum(self, node: str) -> bool:
        return not self.quorate or node in self.cut_off

    def _seen_from(self, request: web.Request, node: str) -> str | None:
        """Without quorum a host shows itself as unknown and the others as offline (1563); it is so for who is cut off, too."""
        here = self._node_of(request)
        if self._lacks_quorum(here):
            return "unknown" if node == here else "offline"
        return "offline" if node in self.cut_off else None

    def _routes_simulator(self) -> list[tuple[str, str, Any]]:
        one = "/nodes/{node}/"
        return [
            ("GET", "/cluster/tasks", self._no_cluster_tasks),
            ("GET", one + "qemu/{vmid}/feature", self._feature_qemu),
            ("GET", one + "lxc/{vmid}/feature", self._feature_lxc),
            ("DELETE", one + "tasks/{upid}", self._stop_task),
        ]

    async def _no_cluster_tasks(self, v: dict[str, Any], user: str) -> list[Any]:
        """A token sees none of its own there (394, 395)."""
        return []

    async def _feature_qemu(self, v: dict[str, Any], user: str) -> dict[str, Any]:
        vm = self.find(v["node"], v["vmid"])
        can = self._qm_can_snapshot(vm.config) and not vm.template
        return {"hasFeature": 1 if can else 0, "nodes": [vm.node]}

    async def _feature_lxc(self, v: dict[str, Any], user: str) -> dict[str, Any]:
        ct = self._find_ct(v["node"], v["vmid"])
        snapshot_types = ("btrfs", "zfspool", "lvmthin", "rbd")
        types = [self.storages.get(m["volume"].split(":")[0], {}).get("type") for _key, m in ct.volumes()]
        return {"hasFeature": 1 if all(kind in snapshot_types for kind in types) else 0}

    async def _config_get(self, request: web.Request) -> web.Response:
        """``snapshot=`` gives the config of that time (91); the lock shows (56); without ``current=1`` it is the pending one."""
        vm = self._vm(request, "VM.Audit")
        name = request.query.get("snapshot")
        if name:
            if name not in vm.snapshots:
                raise PveError(500, "snapshot '{0}' does not exist".format(name))
            return ok(dict(vm.snapshots[name], digest=vm.digest()))
        answer = await super()._config_get(request)
        if request.query.get("current") == "1":
            return answer  # type: ignore[no-any-return]
        pending = {key: value for key, value in vm.pending.items() if value is not None}
        return ok({key: value for key, value in {**_data(answer), **pending}.items() if vm.pending.get(key, "") is not None})

    async def _apply_config(self, vm: Any, user: str, p: dict[str, Any]) -> None:
        """A running VM's agent is switched on and off by its next start (qemu-server, vmconfig_update_agent)."""
        before = vm.config.get("agent")
        await super()._apply_config(vm, user, p)
        after = vm.config.get("agent")
        if vm.status == "running" and _agent_enabled(before) != _agent_enabled(after):
            vm.pending["agent"] = after
            vm.config.pop("agent")
            if before is not None:
                vm.config["agent"] = before

    async def _qm_snapshot_config_get(self, v: dict[str, Any], user: str) -> dict[str, Any]:
        """No digest (89)."""
        found = await super()._qm_snapshot_config_get(v, user)
        found.pop("digest", None)
        return dict(found)

    # -------------------------------------------------------------------- tasks

    def _task_view(self, task: dict[str, Any], listing: bool = False) -> dict[str, Any]:
        """User and token apart once a task is done (76), in one while it is listed as active (406)."""
        data = super()._task_view(task, listing)
        user, sep, tokenid = task["user"].partition("!")
        active = listing and task["status"] == "running"
        data.pop("saved", None)
        if active:
            data.update(user=task["user"], status="RUNNING", saved="0")
            data.pop("tokenid", None)
            return dict(data)
        data["user"] = user
        if sep:
            data["tokenid"] = tokenid
        return dict(data)

    async def _task_list(self, request: web.Request) -> web.Response:
        """All filters act, ``total`` beside ``data`` (382-392, 406, 407)."""
        node, user = request.match_info["node"], request[USER]
        values = self._verify(request, await params(request))
        source = values.get("source", "archive")
        audit = self.allowed(user, "/nodes/" + node, "Sys.Audit")
        found = []
        since = values.get("since") or 0
        recent = itertools.takewhile(lambda task: task["starttime"] >= since, reversed(self.tasklog))
        for task in sorted(recent, key=lambda t: (t["starttime"], t["pid"]), reverse=True):
            running = task["status"] == "running"
            if task["node"] != node or not (audit or self._task_owner(user, task)):
                continue
            if running and source == "archive" or not running and source == "active":
                continue
            if self._filtered(task, values):
                continue
            found.append(self._task_view(task, True))
        start, limit = values.get("start", 0), values.get("limit", 50)
        body: dict[str, Any] = {"data": found[start:start + limit]}
        if found:
            body["total"] = len(found)
        return web.json_response(body)

    @staticmethod
    def _filtered(task: dict[str, Any], values: dict[str, Any]) -> bool:
        status = task.get("exitstatus", "")
        good = status == "OK"
        state = "ok" if good else "warning" if status.startswith("WARNINGS") else "unknown" if status in (
            "", "unexpected status") else "error"
        wanted = [part for part in re.split(r"[,;\s]+", str(values.get("statusfilter") or "")) if part]
        return (
            values.get("vmid") is not None and task["id"] != str(values["vmid"])
            or bool(values.get("typefilter")) and task["type"] != values["typefilter"]
            or bool(values.get("userfilter")) and str(values["userfilter"]).lower() not in task["user"].lower()
            or values.get("since") is not None and task["starttime"] < values["since"]
            or values.get("until") is not None and task["starttime"] > values["until"]
            or bool(values.get("errors")) and good
            or bool(wanted) and state not in wanted
        )

    def _get_task(self, request: web.Request) -> dict[str, Any]:
        """Unknown: 400 with ``errors.upid`` (376-380)."""
        text = request.match_info["upid"]
        if not re.match(r"UPID:[^:]+:[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:[^:]+:[^:]*:[^:]+:\Z", text):
            raise PveError(400, PARAMETER, {"upid": "unable to parse worker upid"})
        task = self.tasks.get(text)
        if task is None or task["node"] != request.match_info["node"]:
            raise PveError(400, PARAMETER, {"upid": "no such task"})
        return dict(super()._get_task(request))

    async def _task_log(self, request: web.Request) -> web.Response:
        """``total`` beside ``data`` (77); an unknown task's log is one line (377)."""
        values = self._verify(request, await params(request))
        try:
            lines = list(self._get_task(request)["log"])
        except PveError as error:
            if error.errors != {"upid": "no such task"}:
                raise
            lines = ["unable to open file - No such file or directory"]
        if values.get("download"):
            return web.Response(text="".join(line + "\n" for line in lines))
        start, limit = values.get("start", 0), values.get("limit", 50) or len(lines)
        shown = [{"n": n + 1, "t": text} for n, text in enumerate(lines)][start:start + limit]
        return web.json_response({"data": shown, "total": len(lines)})

    async def _stop_task(self, v: dict[str, Any], user: str) -> None:
        task = self.tasks.get(v["upid"])
        if task is not None and task.get("coroutine") is not None:
            task["coroutine"].cancel()

    async def task(
        self, node: str, ttype: str, tid: Any, user: str, body: Callable[[], Any], vm: Any = None, lock: bool = True,
        log: Any = (),
    ) -> str:
        """A task that logs as PVE does (77, 96, 504), may be failed on purpose, and is counted while it runs."""
        wanted = self.task_errors.get((int(tid) if str(tid).isdigit() else 0, ttype)) or []
        forced = wanted.pop(0) if wanted else None
        first = list(log)
        if ttype == "qmsnapshot" and vm is not None and forced is None:
            before, after = self._freeze_lines(vm)
            disks = ["snapshotting 'drive-{0}' ({1})".format(disk, str(vm.config[disk]).split(",", 1)[0]) for disk in _disks(vm)]
            first = [*before, *disks, *after] if self._qm_can_snapshot(vm.config) and not vm.template and not vm.lock else []

        ended = asyncio.Event()

        async def counted() -> Any:
            self._count(node, 1)
            try:
                if forced is not None and not forced.startswith("WARNINGS"):
                    await self.pause(0.01)
                    raise TaskError(forced)
                return await body()
            finally:
                self._count(node, -1)
                ended.set()

        upid = await super().task(node, ttype, tid, user, counted, vm=vm, lock=lock, log=first)
        record = self.tasks[upid]
        if forced is not None and forced.startswith("WARNINGS"):
            record["becomes"] = forced
        if record["status"] == "stopped":
            self._finish_log(record)
        else:
            asyncio.ensure_future(self._finish_later(record, ended))
        return str(upid)

    def _freeze_lines(self, vm: Any) -> tuple[list[str], list[str]]:
        """What the log of a snapshot says of RAM and freeze before and after the disks (api-facts 2.7, qemu-server)."""
        agent = str(vm.config.get("agent") or "")
        if vm.status != "running":
            return [], []
        if vm.vmstate_wanted:
            return ["saving VM state and RAM using storage 'local'", "completed saving the VM state in 1s, saved 90.00 MiB"], []
        old = self.version.startswith(("7.", "8."))
        failed = self.freeze_errors.get(vm.vmid)
        lines = []
        if old and _agent_enabled(agent) and vm.agent is None:
            lines = ["QEMU Guest Agent is not running - VM {0} qmp command 'guest-ping' failed - got timeout".format(vm.vmid)]
        elif old and failed:
            lines = ["guest-fsfreeze-freeze problems - " + failed]
        elif not old and (not _agent_enabled(agent) or re.search("(freeze-fs|guest-fsfreeze|freeze-fs-on-backup)=0", agent)):
            lines = ["skipping guest filesystem freeze - disabled in VM options"]
        elif not old and vm.agent is None:
            lines = ["skipping guest filesystem freeze - agent configured but not running?"]
        elif not old and vm.agent_frozen:
            lines = ["skipping guest filesystem freeze - already frozen"]
        elif failed:
            lines = ["unable to freeze guest fs - " + failed]
        thaw = self.thaw_errors.get(vm.vmid)
        return lines, ["guest-fsfreeze-thaw problems - " + thaw] if thaw else []

    def _count(self, node: str, by: int) -> None:
        self.running_now += by
        self.running_peak = max(self.running_peak, self.running_now)
        self.running_by[node] = self.running_by.get(node, 0) + by
        self.peak_by[node] = max(self.peak_by.get(node, 0), self.running_by[node])

    async def _finish_later(self, record: dict[str, Any], ended: asyncio.Event) -> None:
        await ended.wait()
        while record["status"] != "stopped":
            await asyncio.sleep(0.005)
        self._finish_log(record)

    @staticmethod
    def _finish_log(record: dict[str, Any]) -> None:
        """One ``TASK ERROR`` line, without the error once more before it."""
        status = record["exitstatus"]
        if record.pop("becomes", None) and status == "OK":
            record["exitstatus"] = "WARNINGS: 1"
            record["log"][-1] = "TASK WARNINGS: 1"
        elif status == "unexpected status":
            del record["log"][-2:]
        elif status != "OK" and len(record["log"]) > 1 and record["log"][-2] == status:
            del record["log"][-2]

    # ---------------------------------------------------------------- snapshots

    def _seconds(self, guest: Any, operation: str) -> float:
        default = self.create_seconds if operation == "create" else self.delete_seconds
        return self.guest_seconds.get((guest.vmid, operation), default)

    async def ceph_io(self, vm: Any, keys: Any = None) -> None:
        """The wait between prepare and commit of a create, on any storage; a disabled storage fails (502).

        The new snapshot's time is that of its node, whose clock may be off.
        """
        for snapshot in vm.snapshots.values():
            if snapshot.get("snapstate") == "prepare":
                snapshot["snaptime"] += self.clock_offset.get(vm.node, 0)
        for key in keys if keys is not None else _disks(vm):
            sid = str(vm.config.get(key) or "").split(",", 1)[0].split(":", 1)[0]
            store = self.storages.get(sid, {})
            if store.get("disable"):
                raise TaskError("storage '{0}' is disabled ".format(sid))
            if store.get("active", 1) == 0:
                raise TaskError("storage '{0}' is not online ".format(sid))
        await self.pause(self._seconds(vm, "create"))
        gate = self.gates.get(vm.vmid)
        if gate is not None:
            await gate.wait()

    def _qm_can_snapshot(self, config: dict[str, Any]) -> bool:
        """A qcow2 volume on a storage with volume chains can be snapshotted (547-577)."""
        chains = tuple(name + ":" for name, store in self.storages.items() if store.get("snapshot-as-volume-chain"))
        others = {
            key: value for key, value in config.items()
            if not (chains and str(value).startswith(chains) and ".qcow2" in str(value))}
        return bool(super()._qm_can_snapshot(others))

    def _fail_write(self, kind: str, vmid: int) -> None:
        """Without quorum the config cannot be written, in the task (api-facts 5.3)."""
        if self._lacks_quorum(self.guest(int(vmid)).node):
            raise TaskError("unable to open file '/etc/pve/nodes/n/{0}/{1}.conf.tmp.1' - Permission denied".format(kind, vmid))

    async def _missing(self, kind: str, ttype: str, v: dict[str, Any], user: str) -> str:
        """The guest is not there: the task says so, not the call (257-264)."""
        async def body() -> None:
            raise TaskError("Configuration file 'nodes/{0}/{1}/{2}.conf' does not exist".format(v["node"], kind, v["vmid"]))
        return await self.task(v["node"], ttype, v["vmid"], user, body)

    def need_quorum(self) -> None:
        """Snapshot calls make no check of quorum; their tasks fail."""

    async def _qm_snapshot(self, v: dict[str, Any], user: str) -> str:
        vm = self.guest(int(v["vmid"]))
        if vm is not None:
            vm.vmstate_wanted = bool(v.get("vmstate"))
        return await self._with_quorum(super()._qm_snapshot, "qemu-server", "qmsnapshot", v, user)

    async def _lxc_snapshot(self, user: str, v: dict[str, Any]) -> str:
        if self._absent(v, FakeCt):
            return await self._missing("lxc", "vzsnapshot", v, user)
        return await self._with_quorum(
            lambda values, who: super(SimulatedPve, self)._lxc_snapshot(who, values), "lxc", "vzsnapshot", v, user)

    async def _with_quorum(self, create: Any, kind: str, ttype: str, v: dict[str, Any], user: str) -> str:
        guest = self.guest(int(v["vmid"]))
        if guest is not None and guest.vmid in self.half_creates and not guest.lock:
            async def half() -> None:
                """What fails after the lock leaves it behind, with a half made snapshot (api-facts 2.3)."""
                self.set_lock(guest, "snapshot")
                guest.snapshots[v["snapname"]] = {
                    "snaptime": int(time.time()), "description": str(v.get("description", "")), "snapstate": "prepare"}
                raise TaskError(self.half_creates[guest.vmid])
            return await self.task(guest.node, ttype, guest.vmid, user, half, vm=guest, lock=False)
        if guest is not None and self._lacks_quorum(guest.node):
            async def body() -> None:
                self._fail_write(kind, v["vmid"])
            return await self.task(v["node"], ttype, v["vmid"], user, body)
        return str(await create(v, user))

    def _absent(self, v: dict[str, Any], kind: type) -> bool:
        guest = self.guest(int(v["vmid"]))
        return guest is None or guest.node != v["node"] or not isinstance(guest, kind)

    async def _qm_snapshot_delete(self, v: dict[str, Any], user: str) -> str:
        if self._absent(v, FakeVm):
            return await self._missing("qemu-server", "qmdelsnapshot", v, user)
        return await self._delete(self.guest(int(v["vmid"])), "VM", "qmdelsnapshot", v, user)

    async def _lxc_snapshot_delete(self, user: str, v: dict[str, Any]) -> str:
        if self._absent(v, FakeCt):
            return await self._missing("lxc", "vzdelsnapshot", v, user)
        return await self._delete(self.guest(int(v["vmid"])), "CT", "vzdelsnapshot", v, user)

    async def _delete(self, guest: Any, word: str, ttype: str, v: dict[str, Any], user: str) -> str:
        """A delete that takes time, and that may fail half-way: the lock and ``snapstate: delete`` stay (319-333)."""
        name = v["snapname"]

        async def body() -> str | None:
            if name not in guest.snapshots:
                raise TaskError("snapshot '{0}' does not exist".format(name))
            if guest.lock:
                raise TaskError("{0} is locked ({1})".format(word, guest.lock))
            self._fail_write("qemu-server" if word == "VM" else "lxc", guest.vmid)
            self.set_lock(guest, "snapshot-delete")
            guest.snapshots[name]["snapstate"] = "delete"
            await self.pause(self._seconds(guest, "delete"))
            note = None
            if guest.vmid in self.half_deletes:
                note = self.half_delete_text or (
                    "command '/usr/bin/qemu-img snapshot -d {0} {1}' failed: exit code 1".format(name, _image(self, guest)))
                if not v.get("force"):
                    raise TaskError(note)
            self.drop_snapshot(guest, name)
            self.set_lock(guest, None)
            return note
        return await self.task(guest.node, ttype, guest.vmid, user, body, vm=guest, lock=False)

    @staticmethod
    def drop_snapshot(guest: Any, name: str) -> None:
        """Take a snapshot out and link its children to its parent."""
        parent = guest.snapshots.pop(name).get("parent")
        for other in [*guest.snapshots.values(), guest.config]:
            if other.get("parent") == name:
                if parent:
                    other["parent"] = parent
                else:
                    other.pop("parent")

    @staticmethod
    def set_lock(guest: Any, lock: str | None) -> None:
        """Lock or unlock a guest, in config and status alike."""
        guest.lock = lock
        if lock:
            guest.config["lock"] = lock
        else:
            guest.config.pop("lock", None)

    async def _qm_snapshot_list(self, v: dict[str, Any], user: str) -> list[dict[str, Any]]:
        """Order is random but for ``current`` (C10); trailing blanks are lost, ``0`` reads back empty (334-363)."""
        return _shuffled(await super()._qm_snapshot_list(v, user), lambda text: LIST_TRAILER.sub("", text))

    async def _lxc_snapshot_list(self, user: str, v: dict[str, Any]) -> list[dict[str, Any]]:
        """A description comes back with a newline at its end (216)."""
        return _shuffled(await super()._lxc_snapshot_list(user, v), lambda text: text and text + "\n")


def _shuffled(entries: list[dict[str, Any]], read_back: Callable[[str], str]) -> list[dict[str, Any]]:
    real, current = entries[:-1], entries[-1]
    random.shuffle(real)
    for entry in real:
        entry["description"] = read_back("" if entry["description"] == "0" else entry["description"])
    return [*real, current]


def _disks(guest: Any) -> list[str]:
    if isinstance(guest, FakeCt):
        return [key for key, _mount in guest.volumes()]
    return [key for key in sorted(guest.config)
            if re.match(r"(scsi|virtio|ide|sata)\d+\Z", key) and "media=cdrom" not in str(guest.config[key])]


def _agent_enabled(text: Any) -> bool:
    return bool(re.match("(enabled=)?1(,|$)|.*,enabled=1", str(text or "")))


def _image(fake: SimulatedPve, guest: Any) -> str:
    disk = str(guest.config[_disks(guest)[0]]).split(",", 1)[0]
    sid, name = disk.split(":", 1)
    return "{0}/images/{1}".format(fake.storages.get(sid, {}).get("path", "/var/lib/vz"), name)


def _lookup(node: str) -> str:
    return "hostname lookup '{0}' failed - failed to get address info for: {0}: Name or service not known".format(node)


def _data(response: web.Response) -> Any:
    import json
    return json.loads(response.text or "")["data"]


def _closed(response: Any) -> Any:
    response.force_close()
    return response


def _empty(status: int, reason: str) -> web.Response:
    response = web.Response(status=status, reason=reason, body=b"")
    response.headers.popall("Content-Type", None)
    response.force_close()
    return response
