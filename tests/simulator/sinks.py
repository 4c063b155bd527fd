# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever is told of runs."""

from __future__ import annotations

import http.server
import socket
import threading
from typing import Any

from aiosmtpd.controller import Controller


class Listening(Controller):
    """A mail server on a socket that is there already: a port that is free now may be taken a moment later."""

    def __init__(self, handler: object, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        super().__init__(handler, hostname=host, port=port, ready_timeout=60)
        self._listener = listener

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._listener)


class Sinks:
    """A web server and a mail server that remember what they are told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.mails: list[str] = []
        sinks = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                sinks.requests.append((self.command, self.path, body))
                sinks.headers.append(dict(self.headers))
                self.send_response(500 if "/broken" in self.path else 200)
                self.end_headers()

            do_GET = do_POST = _take

            def log_message(self, *_unused: Any) -> None:
                """Quiet."""

        class Mails:
            async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
                sinks.mails.append(envelope.content.decode())
                return "250 OK"

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        listener = socket.create_server(("127.0.0.1", 0))
        self.smtp_port = int(listener.getsockname()[1])
        self._smtp = Listening(Mails(), listener)
        self._smtp.start()

    @property
    def url(self) -> str:
        """Address of the web server."""
        return "http://127.0.0.1:{0}".format(self._http.server_port)

    def close(self) -> None:
        """Stop both."""
        self._http.shutdown()
        self._smtp.stop()
