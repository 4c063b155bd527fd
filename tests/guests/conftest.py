# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inside of a guest: a file system of its own, a real qemu-ga with our dispatcher, and whoever writes to it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
from typing import Any, Callable, Iterator

import pytest

ROLE = pathlib.Path(__file__).parents[2] / "roles" / "guest_agent"
DISPATCHER = ROLE / "files" / "fsfreeze-hook"
HOOKS = ROLE / "files" / "hooks"
TOOL = pathlib.Path(__file__).parents[1] / "tools" / "guests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked ``real`` needs programs of Debian's, root, and a file system of its own; that is far from everywhere.

    Databases are for AUTOSNAP_ALL.
    """
    if not os.environ.get("AUTOSNAP_ALL"):
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    run = subprocess.run([str(TOOL), "ready"], capture_output=True, text=True, check=False)
    reason = "" if run.returncode == 0 else (run.stdout + run.stderr).strip()
    for item in items if reason else ():
        if item.get_closest_marker("real"):
            item.add_marker(pytest.mark.skip(reason=reason))


def until(true: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true answer; an AssertionError when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come to that in {0} s".format(seconds))


class Dispatcher:
    """A copy of the dispatcher with a directory, a state and a log of its own."""

    def __init__(self, directory: pathlib.Path, **settings: Any) -> None:
        self.path = directory / "fsfreeze-hook"
        self.hooks = directory / "fsfreeze-hook.d"
        self.state = directory / "state"
        self.log_file = directory / "log"
        self.hooks.mkdir()
        shutil.copy(DISPATCHER, self.path)
        self.configure(**settings)

    def configure(self, **settings: Any) -> None:
        """Its settings, as the role writes them."""
        given = {"state": self.state, "log": self.log_file, "hold": 60, **settings}
        self.path.with_name("fsfreeze-hook.conf").write_text("".join("{0}='{1}'\n".format(*item) for item in given.items()))

    def hook(self, name: str, body: str, mode: int = 0o755) -> pathlib.Path:
        """A hook written in the shell."""
        path = self.hooks / name
        path.write_text("#!/bin/sh\n" + body)
        path.chmod(mode)
        return path

    def install(self, kind: str, name: str = "", **settings: Any) -> pathlib.Path:
        """A hook of the role with its settings."""
        path = self.hooks / (name or "50-" + kind)
        shutil.copy(HOOKS / kind, path)
        path.with_name(path.name + ".conf").write_text("".join("{0}='{1}'\n".format(*item) for item in settings.items()))
        return path

    def run(self, phase: str) -> subprocess.CompletedProcess[str]:
        """Call it as qemu-ga does."""
        return subprocess.run([str(self.path), phase], capture_output=True, text=True, timeout=120, check=False)

    @property
    def log(self) -> str:
        """What it has written down, the seconds that calls took left out."""
        said = self.log_file.read_text() if self.log_file.exists() else ""
        return re.sub(r"(status \d+) after \d+ s", r"\1", said)


@pytest.fixture
def dispatcher(tmp_path: pathlib.Path) -> Dispatcher:
    """One without hooks."""
    return Dispatcher(tmp_path)


class Guest:
    """A file system that may be frozen, and a qemu-ga that does it, both in a mount namespace of their own."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.dispatcher = Dispatcher(directory)
        self.image = directory / "disk.img"
        self.mountpoint = directory / "disk"
        self.mountpoint.mkdir()
        self._children: list[subprocess.Popen[Any]] = []
        self._holder = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sleep", "infinity"])
        until(lambda: os.readlink("/proc/{0}/ns/mnt".format(self._holder.pid)) != os.readlink("/proc/self/ns/mnt"))
        self.make_disk(self.image)
        self.mount(self.image, self.mountpoint)
        self.socket = directory / "agent.sock"
        self.start([
            "qemu-ga", "--method=unix-listen", "--path={0}".format(self.socket), "--statedir={0}".format(directory),
            "--pidfile={0}".format(directory / "pid"), "--logfile={0}".format(directory / "agent.log"),
            "--fsfreeze-hook={0}".format(self.dispatcher.path)])
        until(self.socket.exists)
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(120)
        self._connection.connect(str(self.socket))
        self._answers = self._connection.makefile()

    def close(self) -> None:
        """Nothing of it is left; the mounts end with the namespace."""
        for child in reversed(self._children):
            child.terminate()
            child.wait(30)
        self._connection.close()
        self._holder.terminate()
        self._holder.wait()

    def inside(self, *command: str) -> list[str]:
        """A command in its mount namespace."""
        return ["nsenter", "--target", str(self._holder.pid), "--mount", "--wdns=/", *command]

    def run(self, *command: str) -> str:
        """What a command in its mount namespace prints."""
        return subprocess.run(self.inside(*command), stdout=subprocess.PIPE, text=True, timeout=120, check=True).stdout

    def start(self, command: list[str], **more: Any) -> subprocess.Popen[Any]:
        """A program that lives as long as the guest."""
        child = subprocess.Popen(self.inside(*command), **more)
        self._children.append(child)
        return child

    @staticmethod
    def make_disk(image: pathlib.Path) -> None:
        """An empty file system in a file."""
        with image.open("wb") as file:
            file.truncate(600 * 1024 * 1024)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)

    def mount(self, image: pathlib.Path, where: pathlib.Path) -> None:
        """Nobody but its own namespace sees it."""
        where.mkdir(exist_ok=True)
        self.run("mount", "-o", "loop", str(image), str(where))
        assert str(where) not in pathlib.Path("/proc/self/mountinfo").read_text()

    def agent(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Ask qemu-ga; its whole answer."""
        self._connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer

    def freeze(self) -> dict[str, Any]:
        """Freeze its own file system, and no other."""
        return self.agent("guest-fsfreeze-freeze-list", mountpoints=[str(self.mountpoint)])

    def thaw(self) -> dict[str, Any]:
        """What PVE asks for after a snapshot."""
        return self.agent("guest-fsfreeze-thaw")

    def copy(self, name: str = "copy") -> pathlib.Path:
        """What a snapshot of its disk holds, mounted."""
        image = self.directory / (name + ".img")
        subprocess.run(["cp", "--sparse=always", str(self.image), str(image)], check=True)
        return image


@pytest.fixture
def guest() -> Iterator[Guest]:
    """In a directory that the users of databases may enter."""
    directory = pathlib.Path(tempfile.mkdtemp(dir="/var/tmp", prefix="autosnap-guest-"))
    directory.chmod(0o755)
    made = Guest(directory)
    yield made
    made.close()
    shutil.rmtree(directory)
