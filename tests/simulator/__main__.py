# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serve a simulated cluster: ``python -m simulator WORLD.yml --directory DIR``.

Writes ``ready`` (host:port) and ``ca.crt`` into DIR once it listens, ends with its standard input or after
``--seconds``, and then writes ``stats.json``: API calls, and how many tasks ran at once at the most.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pathlib
import sys

from fakepve.certs import make_cert

from . import world


async def serve(arguments: argparse.Namespace) -> None:
    """Listen until standard input ends."""
    directory = pathlib.Path(arguments.directory)
    pve = world.build(world.load(arguments.world))
    certificate, key, _der = make_cert(str(directory), "ca", pve.hosts)
    await pve.start(certificate, key)
    (directory / "ready").write_text("{0}:{1}\n".format(pve.hosts[0], pve.port), encoding="utf-8")
    reader = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait([asyncio.ensure_future(reader)], timeout=arguments.seconds)
    await pve.stop()
    (directory / "stats.json").write_text(json.dumps({"calls": len(pve.log), "peak": pve.running_peak}), encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world")
    parser.add_argument("--directory", required=True)
    parser.add_argument("--seconds", type=float, default=3600.0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
