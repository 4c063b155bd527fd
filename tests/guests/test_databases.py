# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real databases under a writing load, on a disk that is copied while qemu-ga holds it frozen. MongoDB is not to be had here."""

from __future__ import annotations

import glob
import os
import pathlib
import pwd
import subprocess
import threading
import time
from typing import Any

import pytest
from conftest import Guest, until

pytestmark = [pytest.mark.real, pytest.mark.thorough]
WRITERS = 3


class Writer:
    """Writes one number after the other through a client program, and notes when the server said that each is committed."""

    def __init__(self, database: Database, first: int) -> None:
        self.committed: list[tuple[int, float]] = []
        self._database = database
        self._stop = threading.Event()
        self._client = subprocess.Popen(
            database.guest.inside(*database.client()), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._thread = threading.Thread(target=self._write, args=(first,), daemon=True)
        self._thread.start()

    def _write(self, first: int) -> None:
        assert self._client.stdin is not None and self._client.stdout is not None
        number = first
        while not self._stop.is_set():
            self._client.stdin.write(self._database.insert(number) + "\n")
            answer = self._client.stdout.readline().strip()
            assert answer in (str(number), "OK"), answer
            self.committed.append((number, time.monotonic()))
            number += WRITERS

    def stop(self) -> None:
        """Its last write is waited for."""
        self._stop.set()
        self._thread.join(60)
        self._client.terminate()
        self._client.wait(30)


class Database:
    """A server on the guest's disk. ``where`` is its directory, of which a copy can be started as well."""

    hook = ""
    owner = ""
    program = ""

    def __init__(self, guest: Guest, where: pathlib.Path, fresh: bool = True) -> None:
        self.guest = guest
        self.where = where
        # A socket's path may not be long.
        self.run = guest.directory / ("run-" + where.parent.name)
        self.run.mkdir()
        self.user = pwd.getpwnam(self.owner)
        for path in (self.run, where) if fresh else (self.run,):
            guest.run("mkdir", "-p", str(path))
            guest.run("chown", self.owner, str(path))
        if fresh:
            self.create()
        self.server = guest.start(self.serve(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: subprocess.run(
            guest.inside(*self.client()), input=self.ping(), capture_output=True, text=True, check=False).stdout.strip()
            in ("1", "PONG"))

    def as_owner(self, *command: str) -> list[str]:
        """A command as the server's own user."""
        return ["runuser", "-u", self.owner, "--", *command]

    def ask(self, text: str) -> list[str]:
        """Lines that the client prints."""
        return subprocess.run(
            self.guest.inside(*self.client()), input=text + "\n", capture_output=True, text=True, check=True).stdout.splitlines()

    def create(self) -> None:
        """Make an empty one."""

    def serve(self) -> list[str]:
        """The server's command."""
        raise NotImplementedError

    def client(self) -> list[str]:
        """The client's command, which reads what to do from its input and answers each line."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Those of the hook."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what the writers write to."""

    def ping(self) -> str:
        return "SELECT 1;\n"

    def insert(self, number: int) -> str:
        return "INSERT INTO numbers VALUES ({0}); SELECT {0};".format(number)

    def numbers(self) -> set[int]:
        """What it holds."""
        return {int(line) for line in self.ask("SELECT n FROM numbers;")}


class MariaDb(Database):
    hook = "mysql"
    owner = "mysql"

    def create(self) -> None:
        self.guest.run(
            "mariadb-install-db", "--no-defaults", "--datadir={0}".format(self.where), "--user=mysql", "--skip-test-db",
            "--auth-root-authentication-method=socket")

    def serve(self) -> list[str]:
        # Commits are not written at once: without the flush of the hook some of them would be lost.
        return [
            "mariadbd", "--no-defaults", "--datadir={0}".format(self.where), "--socket={0}/sock".format(self.run),
            "--skip-networking", "--user=mysql", "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-log-at-timeout=2700",
            "--innodb-log-file-size=16M", "--pid-file={0}/pid".format(self.run)]

    def client(self) -> list[str]:
        database = ["test"] if (self.run / "prepared").exists() else []
        return [
            "mariadb", "--no-defaults", "--socket={0}/sock".format(self.run), "--batch", "--skip-column-names", "--unbuffered",
            *database]

    def settings(self) -> dict[str, Any]:
        return {"socket": "{0}/sock".format(self.run)}

    def prepare(self) -> None:
        self.ask("CREATE DATABASE IF NOT EXISTS test; CREATE TABLE test.numbers (n INT PRIMARY KEY) ENGINE=InnoDB; "
                 "CREATE TABLE test.others (n INT) ENGINE=MyISAM;")
        (self.run / "prepared").touch()

    def insert(self, number: int) -> str:
        return "INSERT INTO numbers VALUES ({0}); INSERT INTO others VALUES ({0}); SELECT {0};".format(number)

    def numbers(self) -> set[int]:
        (self.run / "prepared").touch()
        checked = self.ask("CHECK TABLE numbers, others EXTENDED;")
        assert all(line.endswith("status\tOK") for line in checked), checked
        others = {int(line) for line in self.ask("SELECT n FROM others;")}
        found = super().numbers()
        assert others <= found and len(found - others) <= WRITERS
        return found


class PostgreSql(Database):
    hook = "postgresql"
    owner = "postgres"

    @property
    def bin(self) -> str:
        return sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]

    def create(self) -> None:
        self.guest.run(*self.as_owner(self.bin + "/initdb", "--pgdata={0}".format(self.where), "--auth=trust"))

    def serve(self) -> list[str]:
        return self.as_owner(
            self.bin + "/postgres", "-D", str(self.where), "-c", "unix_socket_directories={0}".format(self.run),
            "-c", "listen_addresses=")

    def client(self) -> list[str]:
        return ["psql", "-X", "-q", "-A", "-t", "-h", str(self.run), "-U", "postgres", "-d", "postgres"]

    def settings(self) -> dict[str, Any]:
        return {"socket": self.run}

    def prepare(self) -> None:
        self.ask("CREATE TABLE numbers (n INT PRIMARY KEY);")


class Redis(Database):
    hook = "redis"
    owner = "redis"

    def serve(self) -> list[str]:
        # No other save than the hook's.
        return self.as_owner(
            "redis-server", "--port", "0", "--unixsocket", "{0}/sock".format(self.run), "--unixsocketperm", "777",
            "--dir", str(self.where), "--save", "")

    def client(self) -> list[str]:
        return ["redis-cli", "-s", "{0}/sock".format(self.run)]

    def settings(self) -> dict[str, Any]:
        return {"socket": "{0}/sock".format(self.run)}

    def ping(self) -> str:
        return "PING\n"

    def insert(self, number: int) -> str:
        return "SET {0} {0}".format(number)

    def numbers(self) -> set[int]:
        return {int(line) for line in self.ask("KEYS *") if line}


def under_load(database: Database) -> list[Writer]:
    database.prepare()
    writers = [Writer(database, first) for first in range(1, WRITERS + 1)]
    until(lambda: all(len(writer.committed) > 20 for writer in writers))
    return writers


def between(writers: list[Writer], begin: float, end: float) -> int:
    """How many writes were committed in a span of time."""
    return sum(begin < moment < end for writer in writers for _number, moment in writer.committed)


def stop(database: Database) -> None:
    database.server.terminate()
    database.server.wait(60)


class Copied:
    """What became of the writes to a database whose disk was copied while it was frozen."""

    def __init__(self, guest: Guest, kind: type[Database], hooked: bool = True) -> None:
        database = kind(guest, guest.mountpoint / "data")
        if hooked:
            guest.dispatcher.install(database.hook, **database.settings())
        writers = under_load(database)
        try:
            asked = time.monotonic()
            assert guest.freeze() == {"return": 1}, guest.dispatcher.log
            frozen = time.monotonic()
            self.committed = {number for writer in writers for number, _moment in writer.committed}
            time.sleep(1)
            image = guest.copy()
            thawing = time.monotonic()
            assert guest.thaw() == {"return": 1}, guest.dispatcher.log
            until(lambda: between(writers, thawing, time.monotonic()) > 20)
            thawed = time.monotonic()
        finally:
            for writer in writers:
                writer.stop()
        self.while_frozen = between(writers, frozen, thawing)
        guest.mount(image, guest.directory / "copy")
        # In a guest that was rolled back there is no other server.
        guest.run("rm", "-f", str(guest.directory / "copy" / "data" / "postmaster.pid"))
        copy = kind(guest, guest.directory / "copy" / "data", fresh=False)
        self.held = copy.numbers()
        self.now = database.numbers()
        stop(copy)
        stop(database)
        moments = sorted(moment for writer in writers for _number, moment in writer.committed)
        longest = max(later - earlier for earlier, later in zip(moments, moments[1:]) if later < asked or earlier > thawing)
        print("{0}: {1} committed before the freeze, {2} of them in the copy, which holds {3}; {4} committed while frozen for "
              "{5:.2f} s, {6} in the {7:.2f} s after; the longest pause outside {8:.0f} ms".format(
                  kind.__name__, len(self.committed), len(self.committed & self.held), len(self.held), self.while_frozen,
                  thawing - frozen, between(writers, thawing, thawed), thawed - thawing, longest * 1000))
        print(guest.dispatcher.log)


@pytest.mark.parametrize("kind", [MariaDb, PostgreSql, Redis], ids=lambda kind: kind.__name__)
def test_a_copy_of_the_frozen_disk_holds_all_that_was_committed(guest: Guest, kind: type[Database]) -> None:
    copied = Copied(guest, kind)
    assert copied.committed <= copied.held
    assert copied.while_frozen == 0
    assert len(copied.now) > len(copied.held)


def test_without_its_hook_redis_loses_what_it_had_not_saved(guest: Guest) -> None:
    copied = Copied(guest, Redis, hooked=False)
    assert copied.committed and not copied.held


def test_postgresql_needs_no_hook_for_that(guest: Guest) -> None:
    """The checkpoint makes the start of a copy shorter, no more."""
    copied = Copied(guest, PostgreSql, hooked=False)
    assert copied.committed <= copied.held


@pytest.mark.parametrize("kind", [MariaDb, Redis], ids=lambda kind: kind.__name__)
def test_without_a_thaw_writes_go_on_after_the_time_limit(guest: Guest, kind: type[Database]) -> None:
    """The hook alone: on a frozen file system nobody could write anyway."""
    database = kind(guest, guest.mountpoint / "data")
    guest.dispatcher.configure(hold=2)
    guest.dispatcher.install(database.hook, **database.settings())
    writers = under_load(database)
    try:
        assert guest.dispatcher.run("freeze").returncode == 0, guest.dispatcher.log
        frozen = time.monotonic()
        until(lambda: between(writers, frozen, time.monotonic()) > 20)
        first = min(moment for writer in writers for _number, moment in writer.committed if moment > frozen)
        late = guest.dispatcher.run("thaw")
    finally:
        for writer in writers:
            writer.stop()
    print("{0}: no write for {1:.2f} s, hold is 2 s; the thaw ends with {2}: {3}".format(
        kind.__name__, first - frozen, late.returncode, late.stderr.strip()))
    print(guest.dispatcher.log)
    assert late.returncode == 1 and "released before the thaw" in late.stderr
    assert "no thaw within 2 s: released now" in guest.dispatcher.log
    stop(database)


def test_the_lock_is_given_back_when_its_session_is_killed(guest: Guest) -> None:
    """As when the agent's service is stopped, with all its processes."""
    database = MariaDb(guest, guest.mountpoint / "data")
    hook = guest.dispatcher.install("mysql", **database.settings())
    writers = under_load(database)
    try:
        assert guest.dispatcher.run("freeze").returncode == 0, guest.dispatcher.log
        group = int((guest.dispatcher.state / hook.name / "pid").read_text())
        os.killpg(group, 9)
        killed = time.monotonic()
        until(lambda: between(writers, killed, time.monotonic()) > 20)
        late = guest.dispatcher.run("thaw")
    finally:
        for writer in writers:
            writer.stop()
    print(guest.dispatcher.log)
    assert late.returncode == 1 and "the lock had been given back before the thaw" in guest.dispatcher.log
    assert database.ask("SELECT @@GLOBAL.innodb_flush_log_at_trx_commit;") == ["0"], "as it was"
    stop(database)


def test_a_lock_that_is_not_to_be_had_is_given_up_and_refuses_the_freeze(guest: Guest) -> None:
    """A query that runs for longer than the hook may: nobody must wait behind the lock for it."""
    database = MariaDb(guest, guest.mountpoint / "data")
    hook = guest.dispatcher.install("mysql", timeout=4, **database.settings())
    database.prepare()
    database.ask("INSERT INTO numbers VALUES (0); INSERT INTO others VALUES (0);")
    long = subprocess.Popen(guest.inside(*database.client()), stdin=subprocess.PIPE, text=True)
    assert long.stdin is not None
    long.stdin.write("LOCK TABLES numbers WRITE;\n")
    long.stdin.flush()
    until(lambda: "test\tnumbers\t1\t0" in database.ask("SHOW OPEN TABLES WHERE In_use > 0;"))
    answer = guest.freeze()
    print(answer, guest.dispatcher.log)
    assert "fsfreeze hook has failed with status 1" in answer["error"]["desc"]
    assert "Lock wait timeout exceeded" in guest.dispatcher.log
    assert not (guest.dispatcher.state / hook.name).exists()
    long.terminate()
    long.wait(30)
    assert database.ask("INSERT INTO numbers VALUES (1); SELECT 1;") == ["1"]
    stop(database)


def test_a_server_that_is_down_refuses_the_freeze(guest: Guest) -> None:
    """But for PostgreSQL, whose checkpoint makes nothing safer."""
    for kind in ("mysql", "redis"):
        hook = guest.dispatcher.install(kind, socket=guest.directory / "nowhere", port=1)
        assert "fsfreeze hook has failed with status 1" in guest.freeze()["error"]["desc"], kind
        hook.unlink()
    guest.dispatcher.install("postgresql", socket=guest.directory / "nowhere", port=1)
    assert guest.freeze() == {"return": 1} and guest.thaw() == {"return": 1}
    print(guest.dispatcher.log)
    assert "warning: no checkpoint" in guest.dispatcher.log


def test_redis_goes_on_reading_and_an_append_only_file_is_enough(guest: Guest) -> None:
    database = Redis(guest, guest.mountpoint / "data")
    guest.dispatcher.install("redis", **database.settings())
    database.ask("CONFIG SET appendonly yes")
    until(lambda: "aof_rewrite_in_progress:0" in database.ask("INFO persistence"))
    saves = [line for line in database.ask("INFO persistence") if line.startswith("rdb_saves")]
    database.ask("SET 1 1")
    assert guest.dispatcher.run("freeze").returncode == 0, guest.dispatcher.log
    assert database.ask("GET 1") == ["1"]
    assert [line for line in database.ask("INFO persistence") if line.startswith("rdb_saves")] == saves
    assert guest.dispatcher.run("thaw").returncode == 0, guest.dispatcher.log
    stop(database)
