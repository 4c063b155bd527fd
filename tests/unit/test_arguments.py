# Copyright (c) 2026, pve.autosnap contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection arguments, durations and sizes."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from ansible_collections.pve.autosnap.plugins.module_utils import arguments
from ansible_collections.pve.autosnap.plugins.module_utils.arguments import InputError
from ansible_collections.pve.autosnap.plugins.module_utils.pve.session import base_url


def connection(environ: dict[str, str] | None = None, **given: Any) -> arguments.Connection:
    values = {name: option.get("default") for name, option in arguments.CONNECTION.options.items()}
    return arguments.connection({**values, "api_host": ["pve1"], **given}, environ or {})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), (30, 30), ("30s", 30), ("15m", 900), ("26h", 93600), ("7d", 604800), (" 5 m ", 300), ("0", 0)])
def test_durations(text: Any, seconds: int) -> None:
    assert arguments.duration("x", text) == seconds


@pytest.mark.parametrize("text", ["", "1w", "-1", "1.5h", "5m\nx", "h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InputError, match="option 'timeout'"):
        arguments.duration("timeout", text)


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("50G", 50 * 1024 ** 3), ("1.5TiB", 3 * 1024 ** 4 // 2), ("10KB", 10240)])
def test_sizes(text: str, size: int) -> None:
    assert arguments.size("x", text) == size


@pytest.mark.parametrize(
    ("host", "expected"),
    [("pve1", "pve1:8006"), ("pve1:443", "pve1:443"), ("192.0.2.1", "192.0.2.1:8006"), ("[2001:db8::1]:443", "[2001:db8::1]:443"),
     ("2001:db8::1", "[2001:db8::1]:8006")])
def test_hosts(host: str, expected: str) -> None:
    assert base_url(host, 8006) == "https://{0}/api2/json".format(expected)


@pytest.mark.parametrize(
    ("given", "hosts"),
    [(["pve1"], ["pve1"]), (["pve1, pve2:443  pve3"], ["pve1", "pve2:443", "pve3"]), (["https://pve1"], ["pve1"]),
     (["https://pve1:443/"], ["pve1:443"]), (["https://pve1/api2/json", "https://pve1:8443/api2/json/"], ["pve1", "pve1:8443"]),
     (["[2001:db8::1]:443", "https://[fe80::1%eth0]/"], ["[2001:db8::1]:443", "[fe80::1%eth0]"]),
     (["2001:db8::1"], ["[2001:db8::1]"]),
     (["pve1", " pve1 ", "pve2,"], ["pve1", "pve2"]), (["192.0.2.1:8006"], ["192.0.2.1:8006"])])
def test_what_is_a_host(given: list[str], hosts: list[str]) -> None:
    found = connection(api_host=given, api_token="u@pve!t=long-enough")
    assert list(found.hosts) == hosts and found.warnings == ()
    assert all(base_url(host, 8006).startswith("https://" + host) for host in hosts)


@pytest.mark.parametrize("host", [
    "http://pve1", "pve1/x", "pve1:x", "", " , ", "pve1#x", "pve1?x", "root@pve1", "https://root@pve1",
    "https://pve1/api2", "pve1/", "https://pve1/api2/json?x=1", "https://pve1:8006#", "pve1:0", "pve1:65536", "pve1:123456",
    "ftp://pve1", "//pve1", "[pve1]",
    "pve1\x00", "pve1\\x", "https://", "-pve1", "pve1:\u0661\u0662", "\u202epve1", "a:b:c", "%2e", "pve1%00", "HTTPS//pve1",
    "[:::]:8006", "[1.2.3.4]"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(InputError, match="option 'api_host'"):
        connection(api_host=[host], api_token="u@pve!t=long-enough")


@pytest.mark.parametrize("option", ["api_token", "api_token_secret", "api_password"])
def test_an_empty_secret_is_refused(option: str) -> None:
    with pytest.raises(InputError, match="option '{0}': it is empty".format(option)):
        connection(api_user="u@pve", **{option: ""})


def test_a_short_secret_is_warned_of_but_no_one_time_code() -> None:
    assert connection(api_user="u@pve", api_password="long-enough", api_otp="1234").warnings == ()
    [warning] = connection(api_user="u@pve", api_password="short").warnings
    assert warning.startswith("option 'api_password': the secret has fewer than 8 characters") and "short" not in warning
    [warning] = connection(api_token="u@pve!t=abc").warnings
    assert warning.startswith("option 'api_token'") and "abc" not in warning


def test_certificates_that_are_not_verified_are_warned_of() -> None:
    [warning] = connection(api_token="u@pve!t=long-enough", validate_certs=False).warnings
    assert warning.startswith("option 'validate_certs'")


@pytest.mark.parametrize(("mode", "words"), [
    (0o600, ""), (0o640, ""), (0o644, "others can read '{0}'"), (0o602, "others can write '{0}'"),
    (0o666, "others can read and write '{0}'")])
@pytest.mark.parametrize(("option", "content"), [("api_token_file", "u@pve!t=long-enough"), ("api_password_file", "long-enough")])
def test_a_secret_that_others_can_read_is_warned_of(
    option: str, content: str, mode: int, words: str, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    file.chmod(mode)
    expected = ["option '{0}': {1}; run chmod 600 on it".format(option, words.format(file))] if words else []
    assert list(connection(api_user="u@pve", **{option: str(file)}).warnings) == expected


@pytest.mark.parametrize("option", ["hook", "state_dir"])
def test_what_others_can_write_is_warned_of(option: str, tmp_path: pathlib.Path) -> None:
    given = {name: spec.get("default") for name, spec in arguments.SNAP.options.items()}
    given.update(guests=["@all"], label="daily", state_dir=str(tmp_path))
    place = tmp_path / "place"
    place.mkdir() if option == "state_dir" else place.touch()
    place.chmod(0o755)
    assert arguments.snap({**given, option: str(place)}).limits.warnings == ()
    place.chmod(0o777)
    [warning] = arguments.snap({**given, option: str(place)}).limits.warnings
    assert warning == "option '{0}': others can write '{1}'; run chmod o-w on it".format(option, place)


def test_an_option_wins_over_every_method_of_the_environment() -> None:
    environ = {"PROXMOX_TOKEN": "env@pve!t=env-secret", "PROXMOX_PASSWORD": "env", "PROXMOX_USER": "env@pve"}
    assert connection(environ).credentials.user == "env@pve"
    given = connection(environ, api_user="me@pve", api_password="mine")
    assert (given.credentials.user, given.credentials.password, given.credentials.token_id) == ("me@pve", "mine", None)
    assert set(given.secrets) == {"mine"}


def test_missing_halves_come_from_the_environment() -> None:
    found = connection({"PROXMOX_TOKEN_SECRET": "s3"}, api_token_id="u@pve!t").credentials
    assert (found.user, found.token_id, found.token_secret) == ("u@pve", "t", "s3")
    found = connection({"PROXMOX_USER": "u@pve", "PROXMOX_PASSWORD": "p"}).credentials
    assert (found.user, found.password) == ("u@pve", "p")


def test_files(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "secret"
    file.write_text("pass word\n")
    found = connection(api_user="u@pam", api_password_file=str(file))
    assert found.credentials.password == "pass word"
    assert set(found.secrets) == {"pass word"}
    assert connection({"PROXMOX_USER": "u@pam", "PROXMOX_PASSWORD_FILE": str(file)}).credentials.password == "pass word"


@pytest.mark.parametrize("content", [None, b"", b"a\nb\n", b"\xff\xfe"])
def test_a_file_that_cannot_be_used(tmp_path: pathlib.Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match="option 'api_token_file'"):
        connection(api_token_file=str(file))


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({}, "api_token_id"),
        ({"api_token": "nonsense"}, "api_token"),
        ({"api_token": "u@pve!t= s"}, "api_token"),
        ({"api_token_secret": "s"}, "api_token_id"),
        ({"api_token_id": "u@pve!t", "api_token_secret": "s3cret\n"}, "api_token_secret"),
        ({"api_token_id": "u@pve!t", "api_token_secret": "s3crét"}, "api_token_secret"),
        ({"api_token": "u@pve!t=s3crét"}, "api_token"),
        ({"api_token_id": "u@pve!t"}, "api_token_secret"),
        ({"api_token_id": "t", "api_token_secret": "s"}, "api_token_id"),
        ({"api_password": "p"}, "api_user"),
        ({"api_user": "root", "api_password": "p"}, "api_user"),
        ({"api_token": "u@pve!t=s", "api_timeout": "0"}, "api_timeout"),
    ],
)
def test_credentials_that_are_not_enough(given: dict[str, Any], option: str) -> None:
    with pytest.raises(InputError, match="option '{0}'".format(option)):
        connection(**given)


def test_no_secret_shows_in_a_repr() -> None:
    text = repr(connection(api_token="u@pve!t=very-secret"))
    assert "very-secret" not in text


def test_specs_merge_with_their_constraints() -> None:
    kwargs = arguments.CLEAN.to_kwargs()
    assert ["keep", "retention"] in kwargs["mutually_exclusive"]
    assert ["keep", "retention"] in kwargs["required_one_of"]
    assert "required_one_of" in arguments.SNAP.to_kwargs()
    assert kwargs["argument_spec"] is not arguments.CLEAN.options


@pytest.mark.parametrize("option", ["timeout", "lock_timeout", "api_timeout", "min_interval", "run_timeout", "hook_timeout"])
@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000, "99999999999d", "٣", "1e9", "9999999999"])
def test_a_number_of_any_length_is_a_sentence(option: str, value: str) -> None:
    with pytest.raises(arguments.InputError, match="option '{0}'".format(option)) as raised:
        arguments.duration(option, value)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("value", ["9" * 5000, 10 ** 400, ["9" * 5000], -1, True, "٣"])
def test_expect_guests_of_any_length_is_a_sentence(value: object) -> None:
    with pytest.raises(arguments.InputError, match="expect_guests") as raised:
        arguments._expected(value)
    assert len(str(raised.value)) < 200
