# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated cluster that runs in a thread of its own, for tests in the same process."""

from __future__ import annotations

import asyncio
import pathlib
import re
import tempfile
import threading
import time
from typing import Any, Callable, Coroutine

from fakepve.certs import make_cert

from .fake import SimulatedPve
from .world import build


class Running:
    """``with Running(world) as cluster:`` listens; ``cluster.pve`` is the simulator, ``ca`` its CA file."""

    def __init__(self, world: dict[str, Any], hosts: int = 1) -> None:
        self._hosts = ["127.0.0.{0}".format(number + 1) for number in range(hosts)]
        self._world = world
        self._directory = tempfile.TemporaryDirectory(prefix="autosnap-")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.pve: SimulatedPve = build(world, self._hosts)
        self.ca = ""

    def __enter__(self) -> Running:
        # Another name each time: some versions of OpenSSL mistake two authorities of the same name.
        name = "ca-" + pathlib.Path(self._directory.name).name
        certificate, key, _der = make_cert(self._directory.name, name, self._hosts)
        self.ca = certificate
        self._thread.start()
        self.call(self.pve.start(certificate, key))
        return self

    def __exit__(self, *_unused: object) -> None:
        try:
            self.call(self._end())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._directory.cleanup()
        for error in self.pve.action_errors:
            raise error

    async def _end(self) -> None:
        """End what still runs, in the order in which nobody waits for anybody: answers that come late, tasks, watchers."""
        await self.pve.deafen()
        # Those too whose handshake is not done, which no server knows of yet.
        for transport in list(getattr(self._loop, "_transports", {}).values()):
            transport.abort()
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=5)
        # What was aborted is told so in the next turns of the loop, TLS in one, its socket in another.
        for _turn in range(5):
            await asyncio.sleep(0)
        await self.pve.stop()
        await self._loop.shutdown_asyncgens()

    @property
    def hosts(self) -> list[str]:
        """``host:port`` of every API host."""
        return ["{0}:{1}".format(host, self.pve.port) for host in self._hosts]

    @property
    def directory(self) -> pathlib.Path:
        """A place for files that go with the cluster."""
        return pathlib.Path(self._directory.name)

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the simulator's thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def when_written(self, action: Callable[[], Any]) -> None:
        """Do something (a plain or a coroutine function) as soon as the first write has been answered."""
        self.when_seen(r"(POST|DELETE) .*/nodes/", action)

    def when_seen(self, pattern: str, action: Callable[[], Any], count: int = 1) -> None:
        """The same, as soon as ``count`` requests (``GET /path``) that match the regular expression were carried out: a plain
        action comes before the last of their answers leaves, a coroutine begins right after."""
        async def begin() -> None:
            self.pve.watch(re.compile(pattern), count, action)

        self.call(begin())

    def hold(self, *vmids: int) -> None:
        """From now on the tasks of these guests do not end, until let_go()."""
        async def begin() -> None:
            for vmid in vmids:
                self.pve.gates[vmid] = asyncio.Event()

        self.call(begin())

    def let_go(self, *vmids: int) -> None:
        """Let the tasks of these guests end."""
        for vmid in vmids:
            self._loop.call_soon_threadsafe(self.pve.gates.pop(vmid).set)

    def connection(self) -> dict[str, Any]:
        """The modules' connection options, with the first token of the world."""
        token = next(iter(self.pve.apitokens.items()))
        return {"api_host": self.hosts, "api_token": "{0}={1}".format(*token), "ca_path": self.ca}


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something is so, and say what it was."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not become so within {0} s".format(seconds))
