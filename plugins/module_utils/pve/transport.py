# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""HTTP to the API hosts: a deadline for each whole call, bounded answers, no redirects, no cookies, no plain http.

A time-out of requests is one per ``recv``: a server that sends a byte now and then holds a call for ever. So each
call has a deadline, and a thread that cuts the connection of a call whose time is up, or that the end of the run
makes useless. Name resolution alone cannot be cut.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
import traceback
import weakref
import zlib
from http import cookiejar
from typing import Any, Callable, Iterable, Iterator, List, Optional, Set

from . import errors
from .credentials import Secrets

try:
    import requests
    import urllib3

    REQUESTS_ERROR: Optional[str] = None
    RequestFailed: Any = requests.exceptions.RequestException
except ImportError:
    REQUESTS_ERROR = traceback.format_exc()
    RequestFailed = OSError

try:
    # The https backend of proxmoxer ends the process on import where requests is missing.
    if REQUESTS_ERROR is not None:
        raise ImportError("requests")
    from proxmoxer.backends.https import ProxmoxHttpSession

    PROXMOXER_ERROR: Optional[str] = None
except ImportError:
    PROXMOXER_ERROR = traceback.format_exc()
    ProxmoxHttpSession = object

POOL_SIZE = 64  # connections are opened as they are needed; who finds none free waits
IDLE_MAX = 3.0  # seconds; Proxmox VE closes after 5 (api-facts 6)
TICK = 0.2  # seconds between two looks at the calls
STOP_GRACE = 5.0  # seconds that a write has to be answered when the run ends: its task's name is worth the wait
MB = 1024 * 1024
ANSWER_MAX = 64 * MB  # decoded; ten thousand guests are 5 MB of /cluster/resources, the largest answer that we ask for
AGENT_ANSWER_MAX = 24 * MB  # the agent keeps 16 MB of a command's output
NODE_ANSWER_MAX = 2 * MB  # about a guest or a node: 3,000 snapshots are half of one, and 32 such calls run at once
BLOCK = 64 * 1024
READ = "read"
WRITE = "write"
OWED = "owed"  # sent whatever ends the run: only its own deadline cuts it


class Handle:
    """A duplicate of a connection's socket: TLS wraps the original, and http.client closes it before some bodies."""

    def __init__(self, original: socket.socket) -> None:
        self._socket = socket.socket(fileno=os.dup(original.fileno()))

    def cut(self) -> None:
        """End whatever reads from the connection or writes to it, in any thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def __del__(self) -> None:
        own = self.__dict__.get("_socket")
        if own is not None:
            own.close()


class Call:
    """One request on its way. ``cut`` is why its connection was cut, ``deadline`` and ``until`` are monotonic seconds.

    ``until`` is when its time is up even where its own deadline would be later; ``requested`` when a part of the request
    may have left.
    """

    __slots__ = ("kind", "until", "deadline", "handle", "requested", "cut")

    def __init__(self, kind: str, until: float = float("inf")) -> None:
        self.kind = kind
        self.until = until
        self.deadline: Optional[float] = None
        self.handle: Optional[Handle] = None
        self.requested = False
        self.cut = ""


class Calls:
    """The calls under way, and the thread that cuts them. Safe to share between threads."""

    def __init__(self, timeout: float) -> None:
        """``timeout`` is the time in seconds that a whole call may take from the moment it has a connection."""
        self.timeout = timeout
        self.stopped: Callable[[], Optional[str]] = lambda: None
        self._lock = threading.Lock()
        self._open: Set[Call] = set()
        self._own = threading.local()
        self._stop_seen: Optional[float] = None
        self._watched = False

    @contextlib.contextmanager
    def call(self, kind: str, until: float = float("inf")) -> Iterator[Call]:
        """The call that this thread makes. NoThread where the machine has no room for the one that watches."""
        self._watch()
        call = Call(kind, until)
        before = getattr(self._own, "call", None)
        self._own.call = call
        with self._lock:
            self._open.add(call)
        try:
            yield call
        finally:
            with self._lock:
                self._open.discard(call)
            self._own.call = before

    @property
    def own(self) -> Call:
        """This thread's call."""
        call: Optional[Call] = getattr(self._own, "call", None)
        return call if call is not None else Call(READ)

    def begin(self, handle: Optional[Handle]) -> None:
        """This thread's call has its connection, without a handle where that is not open yet: its time begins."""
        with self._lock:
            self.own.handle = handle
            self.own.deadline = min(time.monotonic() + self.timeout, self.own.until)

    def opened(self, handle: Handle) -> None:
        """The connection is open now; where its time is up already it is cut at once."""
        with self._lock:
            self.own.handle = handle
            if self.own.cut:
                handle.cut()

    def give_back(self) -> None:
        """Another call may use this thread's connection from now on."""
        with self._lock:
            self.own.handle = None

    def look(self) -> None:
        """Cut what has no time left, and what nobody needs since the run ends."""
        now = time.monotonic()
        reason = self.stopped()
        self._stop_seen = None if reason is None else self._stop_seen or now
        with self._lock:
            for call in self._open:
                call.cut = call.cut or self._reason(call, now, reason)
                if call.cut and call.handle is not None:
                    call.handle.cut()

    def _reason(self, call: Call, now: float, stop: Optional[str]) -> str:
        if call.deadline is not None and now >= call.deadline:
            return "there was no whole answer in {0:.0f} s".format(self.timeout)
        patience = {READ: 0.0, WRITE: STOP_GRACE}.get(call.kind)
        if stop is not None and patience is not None and now - (self._stop_seen or now) >= patience:
            return stop
        return ""

    def _watch(self) -> None:
        with self._lock:
            if self._watched:
                return
            try:
                threading.Thread(target=_look_again, args=(weakref.ref(self),), daemon=True).start()
            except RuntimeError:
                raise errors.NoThread(
                    "this machine starts no further thread, and without one no call has a deadline; raise the limit of "
                    "processes (ulimit -u, or TasksMax of the service)") from None
            self._watched = True


def _look_again(calls: weakref.ref[Calls]) -> None:
    """Look at the calls as long as somebody has them."""
    while True:
        time.sleep(TICK)
        found = calls()
        if found is None:
            return
        found.look()
        del found


class _Options(List[Any]):
    """Options of a socket, asked for before each address is tried: a call that was cut tries no further one."""

    def __init__(self, calls: Calls, options: Iterable[Any]) -> None:
        super().__init__(options)
        self._calls = calls

    def __iter__(self) -> Iterator[Any]:
        if self._calls.own.cut:
            raise OSError(self._calls.own.cut)
        return super().__iter__()


def _watched_pool(pool: Any, calls: Calls) -> Any:
    """A class of connection pools, of https or of a proxy, whose connections can be cut."""

    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        """Its handle goes to the call that uses it."""

        def _new_conn(self) -> Any:
            options: Any = self.__dict__.get("socket_options")
            self.socket_options = _Options(calls, options or ())
            made = super()._new_conn()
            self.autosnap_handle = Handle(made)
            calls.opened(self.autosnap_handle)
            return made

        def putrequest(self, *args: Any, **kwargs: Any) -> Any:
            calls.own.requested = True
            return super().putrequest(*args, **kwargs)

        def close(self) -> None:
            self.__dict__.pop("autosnap_handle", None)
            super().close()

    class Pool(pool):  # type: ignore[misc]
        """A connection that idled too long is closed before it is used again."""

        ConnectionCls = Connection

        def _get_conn(self, timeout: Optional[float] = None) -> Any:
            connection = super()._get_conn(timeout=timeout)
            idle_since = getattr(connection, "autosnap_idle_since", None)
            if idle_since is not None and time.monotonic() - idle_since > IDLE_MAX:
                connection.close()
            calls.begin(getattr(connection, "autosnap_handle", None))
            return connection

        def _put_conn(self, connection: Any) -> None:
            calls.give_back()
            if connection is not None:
                connection.autosnap_idle_since = time.monotonic()
            super()._put_conn(connection)

    return Pool


def adapter(calls: Calls, secrets: Secrets) -> Any:
    """The transport of https requests, over an http proxy too: it gives answers that are whole and bounded."""

    class Adapter(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self._watch(self.poolmanager)

        def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
            known = proxy in self.proxy_manager
            manager = super().proxy_manager_for(proxy, **kwargs)
            if not known:
                self._watch(manager)
            return manager

        @staticmethod
        def _watch(manager: Any) -> None:
            manager.pool_classes_by_scheme = {
                scheme: _watched_pool(pool, calls) for scheme, pool in manager.pool_classes_by_scheme.items()}

        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            """Read to the end in here, under the deadline: who asks for the content later finds it."""
            try:
                response = super().send(request, *args, **{**kwargs, "stream": True})
                try:
                    _refuse_redirect(response)
                    response._content = secrets.hidden_bytes(_body(response, _limit(str(request.url))))
                    response._content_consumed = True  # type: ignore[attr-defined]
                except BaseException:
                    response.close()
                    raise
            except RequestFailed:
                if not calls.own.cut:
                    raise
            if calls.own.cut:
                # Also where nothing failed: headers may end with the connection, and look whole.
                raise requests.exceptions.ReadTimeout(calls.own.cut)
            return response

    return Adapter(pool_connections=4, pool_maxsize=POOL_SIZE, pool_block=True)


def _refuse_redirect(response: Any) -> None:
    """TooManyRedirects for an answer that sends us elsewhere; where to is never parsed, since that may fail."""
    if 300 <= response.status_code < 400:
        target = re.sub(r"[^A-Za-z0-9.:/\[\]_-].*", "", str(response.headers.get("Location") or "")[:100])
        raise requests.exceptions.TooManyRedirects(
            "it answers with a redirect ({0}{1}), and none is followed; name the API itself as api_host".format(
                response.status_code, " to " + target if target else ""))


def _limit(url: str) -> int:
    """Bytes that the answer may have."""
    if "/agent/" in url:
        return AGENT_ANSWER_MAX
    return NODE_ANSWER_MAX if "/nodes/" in url else ANSWER_MAX


def _body(response: Any, limit: int) -> bytes:
    """The decoded body; ContentDecodingError for one that is too large or encoded in a way that was not asked for."""
    encoding = str(response.headers.get("Content-Encoding") or "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise requests.exceptions.ContentDecodingError("the answer is encoded as {0!r}, which was not asked for".format(
            encoding[:40]))
    inflate = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 16)
    body = bytearray()
    try:
        for block in response.raw.stream(BLOCK, decode_content=False):
            body += block if inflate is None else inflate.decompress(block, limit + 1 - len(body))
            if len(body) > limit:
                break
    except zlib.error:
        raise requests.exceptions.ContentDecodingError("the answer cannot be decompressed") from None
    except urllib3.exceptions.ReadTimeoutError as error:
        raise requests.exceptions.ReadTimeout(error) from error
    except Exception as error:
        # A connection that was cut ends in many ways, depending on where it was.
        raise requests.exceptions.ConnectionError(error) from error
    if len(body) > limit:
        raise requests.exceptions.ContentDecodingError("the answer has more than {0} MB".format(limit >> 20))
    if inflate is not None and body and not inflate.eof:
        raise requests.exceptions.ConnectionError("the compressed answer ends too early")
    return bytes(body)


class Http(ProxmoxHttpSession):  # type: ignore[misc]
    """proxmoxer's session, which follows no redirect, keeps no cookie and speaks https only."""

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        """As in requests; TooManyRedirects for an answer that sends us elsewhere."""
        response = super().request(method, url, *args, **{**kwargs, "allow_redirects": False})
        _refuse_redirect(response)
        return response


class NoAuth:
    """A request of its own right, such as a login: nothing of the session goes with it."""

    def __init__(self, verify: Any, timeout: Any) -> None:
        self.verify_ssl = verify
        self.timeout = timeout

    def get_cookies(self) -> Any:
        """None, as proxmoxer's session asks for them."""
        return requests.cookies.cookiejar_from_dict({})  # type: ignore[no-untyped-call]

    def __call__(self, request: Any) -> Any:
        return request


def http_session(user_agent: str, transport: Any) -> Any:
    """A session over ``transport`` alone; its ``auth`` is to be set."""
    http = Http()
    http.headers.update({"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "gzip"})
    # A cookie of a load balancer must not stand in for the ticket, which is a header of its own.
    http.cookies.set_policy(cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    http.adapters.clear()
    http.mount("https://", transport)
    return http
