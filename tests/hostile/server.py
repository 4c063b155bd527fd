# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server on raw sockets with TLS, which answers as its cluster does, and as an attack wants it otherwise."""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import ssl
import struct
import tempfile
import threading
import time
from email.utils import formatdate
from typing import Any, Callable
from urllib.parse import parse_qsl

from cluster import PASSWORD, SECRET, TOKEN, Cluster
from fakepve.certs import make_cert

PREFIX = "/api2/json"


class Exchange:
    """One request and the answer that an honest server would give; an attack changes it, or sends something of its own."""

    def __init__(self, server: Hostile, connection: Any, method: str, path: str, headers: dict[str, str], form: dict[str, str]):
        self.server = server
        self.connection = connection
        self.method = method
        self.path = path
        self.request_headers = headers
        self.form = form
        self.status = 200
        self.reason = "OK"
        self.headers: dict[str, str] = {"Content-Type": "application/json;charset=UTF-8", "Date": formatdate(usegmt=True)}
        self.data: Any = None
        self.beside: dict[str, Any] = {}
        self.raw: bytes | None = None
        self.taken = False

    @property
    def what(self) -> str:
        """``POST /nodes/n1/qemu/100/snapshot``."""
        return "{0} {1}".format(self.method, self.path)

    def take(self) -> None:
        """Let the cluster do it, once."""
        if not self.taken:
            self.taken = True
            self.status, self.data, self.beside = self.server.cluster.answer(self.method, self.path, self.form)
            self.reason = "OK" if self.status == 200 else "refused"

    def body(self) -> bytes:
        """The body as it will be sent."""
        if self.raw is not None:
            return self.raw
        return json.dumps({"data": self.data, **self.beside}).encode()

    def message(self) -> bytes:
        """The whole answer."""
        body = self.body()
        headers = {"Content-Length": str(len(body)), **self.headers}
        head = "HTTP/1.1 {0} {1}\r\n".format(self.status, self.reason) + "".join(
            "{0}: {1}\r\n".format(*item) for item in headers.items() if item[1] is not None)
        return head.encode("latin-1", "replace") + b"\r\n" + body

    def send(self, data: bytes) -> None:
        """All of it at once."""
        self.connection.sendall(data)

    def trickle(self, data: bytes, pause: float = 0.3) -> None:
        """A byte now and then, until the client or the test has enough."""
        for number in range(len(data)):
            if self.server.over.is_set():
                return
            self.connection.sendall(data[number:number + 1])
            time.sleep(pause)
        self.server.over.wait(300)

    def reset(self) -> None:
        """A connection that breaks."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionResetError


Attack = Callable[[Exchange], Any]


def honest(_exchange: Exchange) -> None:
    """No attack."""


class Hostile:
    """``with Hostile(cluster, attack) as server:`` listens. An attack that returns True has sent its own answer."""

    def __init__(self, cluster: Cluster | None = None, attack: Attack = honest, listeners: int = 1) -> None:
        self.cluster = cluster or Cluster()
        self.attack = attack
        self.before_tls: Callable[[socket.socket], bool] = lambda plain: False
        self.over = threading.Event()
        self.seen: list[tuple[float, str]] = []
        self.strangers: list[bytes] = []
        self._directory = tempfile.TemporaryDirectory(prefix="autosnap-hostile-")
        self._sockets = [self._listen() for _number in range(listeners)]
        self._elsewhere = self._listen()
        certificate, key, _der = make_cert(self._directory.name, pathlib.Path(self._directory.name).name, ["127.0.0.1"])
        self.ca = certificate
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)

    @staticmethod
    def _listen() -> socket.socket:
        found = socket.create_server(("127.0.0.1", 0), backlog=256)
        return found

    def __enter__(self) -> Hostile:
        for listener in self._sockets:
            threading.Thread(target=self._accept, args=(listener, self._serve), daemon=True).start()
        threading.Thread(target=self._accept, args=(self._elsewhere, self._stranger), daemon=True).start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self.over.set()
        for listener in [*self._sockets, self._elsewhere]:
            listener.close()
        self._directory.cleanup()

    @property
    def hosts(self) -> list[str]:
        """``host:port`` of each listener."""
        return ["127.0.0.1:{0}".format(listener.getsockname()[1]) for listener in self._sockets]

    @property
    def elsewhere(self) -> str:
        """``host:port`` of a listener that nobody should ever talk to; what it hears is in ``strangers``."""
        return "127.0.0.1:{0}".format(self._elsewhere.getsockname()[1])

    @property
    def directory(self) -> pathlib.Path:
        """A place for files that go with the server."""
        return pathlib.Path(self._directory.name)

    def connection(self, password: bool = False) -> dict[str, Any]:
        """The modules' connection options."""
        if password:
            return {"api_host": self.hosts, "ca_path": self.ca, "api_user": "autosnap@pve", "api_password": PASSWORD}
        return {"api_host": self.hosts, "ca_path": self.ca, "api_token": "{0}={1}".format(TOKEN, SECRET)}

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                plain, _address = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._guarded, args=(plain, serve), daemon=True).start()

    @staticmethod
    def _guarded(plain: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        with contextlib.suppress(OSError, ValueError), plain:
            serve(plain)

    def _stranger(self, plain: socket.socket) -> None:
        plain.settimeout(5)
        self.strangers.append(plain.recv(65536))
        plain.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"data\": []}")

    def _serve(self, plain: socket.socket) -> None:
        if self.before_tls(plain):
            return
        plain.settimeout(30)
        with self._context.wrap_socket(plain, server_side=True) as connection:
            connection.settimeout(300)
            reader = connection.makefile("rb")
            while not self.over.is_set() and self._one(connection, reader):
                pass

    def _one(self, connection: Any, reader: Any) -> bool:
        line = reader.readline(65536).decode("latin-1").split()
        if len(line) < 2:
            return False
        headers: dict[str, str] = {}
        while True:
            header = reader.readline(65536).decode("latin-1").strip()
            if not header:
                break
            name, _colon, value = header.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length") or 0)
        body = reader.read(length).decode("utf-8", "replace")
        if len(body) < length:
            return False  # whoever sent it is gone
        path, _mark, query = line[1].partition("?")
        form = dict(parse_qsl(query or body))
        exchange = Exchange(self, connection, line[0], path[len(PREFIX):], headers, form)
        self.seen.append((time.monotonic(), exchange.what))
        if self.attack(exchange) is True:
            return True
        exchange.take()
        exchange.send(exchange.message())
        return True
