# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The channel on which a run tells how far it has come, and what is made of it."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import threading
from typing import Any

import pytest
from ansible_collections.pve.autosnap.plugins.callback import progress as callback
from ansible_collections.pve.autosnap.plugins.module_utils.jobs.progress import Progress


@pytest.fixture(name="reader")
def fixture_reader(tmp_path: pathlib.Path) -> Any:
    """A socket as the callback opens it, and its path."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(path)
        reader.settimeout(60)
        yield reader, path


def told(reader: socket.socket) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(reader.recv(65536))
    return message


def test_each_datagram_stands_for_itself(reader: Any) -> None:
    source, path = reader
    run = Progress("snap", "daily", "pve1", 3, path)
    run.begun(100)
    run.begun(101)
    run.waits(101)
    run.waits(101)
    run.ended(100, "web1", "created", "", False)
    run.ended(101, "web2", "failed", "x" * 500, True)
    run.close()
    seen = [told(source) for _number in range(6)]
    assert [(m["event"], m["done"], m["running"], m["failed"]) for m in seen] == [
        ("running", 0, 1, 0), ("running", 0, 2, 0), ("running", 0, 1, 0), ("running", 1, 0, 0), ("running", 2, 0, 1),
        ("end", 2, 0, 1)]
    assert [guest["status"] for m in seen for guest in m["guests"]] == ["created", "failed"]
    assert len(seen[4]["guests"][0]["reason"]) == 120 and seen[4]["host"] == "pve1"


def test_no_guest_is_lost_on_a_reader_that_is_slow(reader: Any) -> None:
    """The kernel holds ten datagrams; a run that has nothing to do ends guests by the thousand."""
    source, path = reader
    run = Progress("snap", "daily", "pve1", 1000, path)

    def work() -> None:
        for vmid in range(1000):
            run.ended(vmid, "a", "unchanged", "", False)
        run.close()

    thread = threading.Thread(target=work)
    thread.start()
    seen: list[int] = []
    while True:
        message = told(source)
        seen += [guest["vmid"] for guest in message["guests"]]
        if message["event"] == "end":
            break
    thread.join()
    assert seen == list(range(1000))


@pytest.mark.parametrize("path", ["", "/nowhere/at/all", "/dev/null"])
def test_nobody_listens(path: str) -> None:
    run = Progress("snap", "daily", "pve1", 1, path)
    run.begun(1)
    run.ended(1, "a", "created", "", False)
    run.close()


def test_a_reader_that_died_or_sleeps_holds_nobody_up(reader: Any) -> None:
    source, path = reader
    run = Progress("snap", "daily", "pve1", 5000, path)
    done = threading.Event()

    def work() -> None:
        for vmid in range(5000):
            run.ended(vmid, "a" * 60, "created", "", False)
        run.close()
        done.set()

    threading.Thread(target=work, daemon=True).start()
    assert done.wait(30), "it waits for who does not read"
    source.close()
    run = Progress("snap", "daily", "pve1", 1, path)
    run.ended(1, "a", "created", "", False)
    run.close()


def shown(terminal: bool, *messages: dict[str, Any]) -> str:
    read, write = os.pipe()
    screen = callback.Screen(write, terminal)
    for message in messages:
        screen.show(message)
    os.close(write)
    with os.fdopen(read, "rb") as out:
        return out.read().decode()


def message(event: str, done: int, *guests: dict[str, Any], process: int = 7) -> dict[str, Any]:
    return {"version": 1, "process": process, "job": "snap", "label": "daily", "host": "pve{0}".format(process), "total": 200,
            "event": event, "done": done, "running": 16, "failed": 2, "guests": list(guests)}


WEB = {"vmid": 100, "name": "web\x1b[2J1", "status": "failed", "reason": "no\nspace", "done": 1}


def test_a_log_gets_one_line_for_each_guest() -> None:
    text = shown(False, message("running", 0), message("running", 2, WEB, {**WEB, "vmid": 101, "done": 2}), message("end", 2))
    assert text == ("pve7 snap daily 1/200 100 web?[2J1: failed (no space)\n"
                    "pve7 snap daily 2/200 101 web?[2J1: failed (no space)\n")


def test_a_terminal_gets_one_line_that_is_kept_up_to_date() -> None:
    text = shown(True, message("running", 57), message("end", 57))
    first, second, third = text.split("\r\033[K")
    assert (first, third) == ("", "")
    assert second == "snap daily: 57/200 done, 16 running, 127 waiting, 2 failed"


def test_two_runs_at_once_are_told_apart() -> None:
    text = shown(True, message("running", 57), message("running", 3, process=8))
    assert text.split("\r\033[K")[-1].startswith("pve7 snap daily: 57/200") and "   pve8 snap daily: " in text


def test_what_is_no_message_is_left_out(reader: Any) -> None:
    source, path = reader
    read, write = os.pipe()
    thread = threading.Thread(target=callback.listen, args=(source, callback.Screen(write, False)), daemon=True)
    thread.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for text in (b"\xff\xfe", b"[]", b"{}", b'{"version": 1}', json.dumps(
                message("running", 1, {**WEB, "name": "a", "status": "created", "reason": ""})).encode()):
            sender.sendto(text, path)
    assert os.read(read, 1000) == b"pve7 snap daily 1/200 100 a: created\n"
    for end in (read, write):
        os.close(end)


def test_a_guest_that_waits_for_somebody_else_is_told_while_it_waits(reader: Any) -> None:
    source, path = reader
    run = Progress("snap", "daily", "pve1", 2, path)
    run.begun(100)
    for _look in range(3):
        run.held_up(100, "web1", "locked (backup), for 600 s at the most")
    run.begun(100)
    run.ended(100, "web1", "created", "", False)
    run.close()
    seen = []
    while not seen or seen[-1]["event"] != "end":
        seen.append(told(source))
    assert [(m["done"], m["running"], [held["vmid"] for held in m["held_up"]]) for m in seen] == [
        (0, 1, []), (0, 0, [100]), (0, 1, []), (1, 0, []), (1, 0, [])]
    assert [guest["status"] for m in seen for guest in m["guests"]] == ["waits", "created"]
    log = shown(False, *seen)
    assert "pve1 snap daily 0/2 100 web1: waits (locked (backup), for 600 s at the most)\n" in log
    assert "; 100: locked (backup" in shown(True, *seen)
