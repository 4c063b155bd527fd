# Copyright (c) 2026, pve.autosnap contributors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

# This module util is PRIVATE to the collection: it may change without notice.
"""Argument specs, and the settings made from checked arguments.

Each option is defined once, in a group; a module's spec is a merge of groups. Settings are plain
values; an InputError names the option, the value and the remedy, before anything is touched.
"""

from __future__ import annotations

import copy
import datetime
import ipaddress
import json
import os
import re
import ssl
import stat
import zoneinfo
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible.module_utils.common.parameters import env_fallback

from .policy import health, naming, selection
from .policy.retention import PERIODS, Retention
from .policy.storage_guard import Limits
from .pve.credentials import Credentials, Secrets

_DURATION = re.compile(r"\A\s*([0-9]{1,10})\s*([smhd]?)\s*\Z")
SECONDS_MAX = 100 * 366 * 86400
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"\A\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([KMGT]?)(?:i?B)?\s*\Z")
_BYTES = {"": 1, "K": 1024, "M": 1024 ** 2, "G": 1024 ** 3, "T": 1024 ** 4}
MADE_BY_MAX = 500
_HEADER = re.compile(r"\A[\x21-\x7e]+\Z")  # what a header may hold without being split or refused
# An address of the API too, as it stands in a browser: with https alone, and without anything that leads elsewhere.
_HOST = re.compile(
    r"\A(?P<url>(?i:https)://)?(?P<host>\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]|\w(?:[\w.-]*\w)?\.?)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/(?:api2/json/?)?)?\Z")
_IPV6_ZONE = re.compile(r"%[A-Za-z0-9._-]+\Z")
SHORT = 8  # characters; what a shorter secret masks is half of what is shown
_TOKEN = re.compile(r"\A([^!@\s]+@[^!@\s]+)!([^=\s]+)=(\S+)\Z")


class InputError(ValueError):
    """A wrong argument; the message is one sentence with option, value and remedy."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__("option '{0}': {1}".format(option, message))
        self.option = option


@dataclass(frozen=True)
class ArgumentSpec:
    """Options together with the constraints between them."""

    options: Mapping[str, Dict[str, Any]]
    mutually_exclusive: Tuple[Tuple[str, ...], ...] = ()
    required_one_of: Tuple[Tuple[str, ...], ...] = ()

    def merge(self, *others: ArgumentSpec) -> ArgumentSpec:
        """This spec and the others as one."""
        merged = ArgumentSpec(dict(self.options), self.mutually_exclusive, self.required_one_of)
        for other in others:
            merged = ArgumentSpec(
                {**merged.options, **other.options},
                merged.mutually_exclusive + other.mutually_exclusive,
                merged.required_one_of + other.required_one_of,
            )
        return merged

    def to_kwargs(self) -> Dict[str, Any]:
        """Keyword arguments for AnsibleModule."""
        return {
            "argument_spec": copy.deepcopy(dict(self.options)),
            "mutually_exclusive": [list(group) for group in self.mutually_exclusive],
            "required_one_of": [list(group) for group in self.required_one_of],
        }


def _env(name: str) -> Any:
    return (env_fallback, [name])


CONNECTION = ArgumentSpec(
    {
        "api_host": {"type": "list", "elements": "str", "required": True, "fallback": _env("PROXMOX_HOST")},
        "api_port": {"type": "int", "default": 8006, "fallback": _env("PROXMOX_PORT")},
        "api_user": {"type": "str"},
        "api_password": {"type": "str", "no_log": True},
        "api_otp": {"type": "str", "no_log": True},
        "api_token_id": {"type": "str", "no_log": False},
        "api_token_secret": {"type": "str", "no_log": True},
        "api_token": {"type": "str", "no_log": True},
        "api_token_file": {"type": "path", "no_log": False},
        "api_password_file": {"type": "path", "no_log": False},
        "validate_certs": {"type": "bool", "default": True, "fallback": _env("PROXMOX_VALIDATE_CERTS")},
        "ca_path": {"type": "path", "fallback": _env("PROXMOX_CA_PATH")},
        "api_timeout": {"type": "str", "default": "30s", "fallback": _env("PROXMOX_API_TIMEOUT")},
    },
    mutually_exclusive=(
        ("api_token", "api_token_file", "api_token_secret", "api_password", "api_password_file"),
        ("api_token", "api_token_file", "api_token_id"),
    ),
)
SELECTION = ArgumentSpec(
    {
        "guests": {"type": "list", "elements": "str", "required": True},
        "on_unmatched": {"type": "str", "choices": ["fail", "warn"], "default": "fail"},
    }
)
EXPECT_GUESTS = ArgumentSpec({"expect_guests": {"type": "raw"}})
RECOGNITION = ArgumentSpec(
    {
        "prefix": {"type": "str", "default": "auto"},
        "timestamp_format": {"type": "str", "default": naming.DEFAULT_FORMAT},
        "timezone": {"type": "str"},
        "description": {"type": "str", "default": naming.LEGACY_MARKERS[0]},
        "adopt": {"type": "list", "elements": "str", "default": list(naming.LEGACY_MARKERS)},
    }
)
RETENTION = ArgumentSpec(
    {
        "keep": {"type": "int"},
        "retention": {
            "type": "dict",
            "options": {
                "last": {"type": "int"},
                "hourly": {"type": "int"},
                "daily": {"type": "int"},
                "weekly": {"type": "int"},
                "monthly": {"type": "int"},
                "yearly": {"type": "int"},
                "within": {"type": "str"},
            },
        },
    },
    mutually_exclusive=(("keep", "retention"),),
)
LIMITS = ArgumentSpec(
    {
        "locked": {"type": "str", "choices": ["wait", "skip", "fail"], "default": "wait"},
        "lock_timeout": {"type": "str", "default": "10m"},
        "hook": {"type": "path"},
        "hook_timeout": {"type": "str", "default": "5m"},
        "on_hook_failure": {"type": "str", "choices": ["continue", "skip_guest"], "default": "continue"},
        "timeout": {"type": "str", "default": "30m"},
        "run_timeout": {"type": "str", "default": "0"},
        "max_parallel": {"type": "int", "default": 16},
        "max_parallel_per_node": {"type": "int", "default": 8},
        "max_parallel_per_storage": {"type": "int"},
        "max_parallel_deletes": {"type": "int"},
        "max_parallel_deletes_per_node": {"type": "int"},
        "max_parallel_deletes_per_storage": {"type": "int"},
        "state_dir": {"type": "path"},
        "fail_on": {"type": "str", "choices": ["any", "all", "never"], "default": "any"},
        "verbosity": {"type": "str", "choices": ["normal", "full"], "default": "normal"},
    }
)
STORAGE_LIMITS = ArgumentSpec(
    {
        "max_storage_percent": {"type": "int", "default": 95},
        "min_storage_free": {"type": "str", "default": "0"},
    }
)
SNAP_ONLY = ArgumentSpec(
    {
        "label": {"type": "str", "required": True},
        "vmstate": {"type": "bool", "default": False},
        "only_running": {"type": "bool", "default": False},
        "min_interval": {"type": "str", "default": "0"},
        "made_by": {"type": "dict"},
        "on_storage_full": {"type": "str", "choices": ["skip", "prune_first", "fail"], "default": "skip"},
        "require_frozen": {"type": "str", "choices": ["never", "skip", "fail"], "default": "never"},
        "guest_commands": {
            "type": "dict",
            "options": {
                "pre": {"type": "list", "elements": "str"},
                "post": {"type": "list", "elements": "str"},
                "timeout": {"type": "str", "default": "1m"},
                "on_error": {"type": "str", "choices": ["skip", "fail", "continue"], "default": "skip"},
            },
        },
    }
)
LABELS = {"type": "list", "elements": "str"}

SNAP = CONNECTION.merge(SELECTION, EXPECT_GUESTS, RECOGNITION, RETENTION, LIMITS, STORAGE_LIMITS, SNAP_ONLY)
CLEAN = CONNECTION.merge(
    SELECTION, RECOGNITION, RETENTION, LIMITS,
    ArgumentSpec(
        {
            "label": {**LABELS, "required": True},
            "repair": {"type": "str", "choices": ["report", "retry", "force"], "default": "report"},
        },
        required_one_of=(("keep", "retention"),)),
)
HEALTH = ArgumentSpec(
    {
        "label": {**LABELS, "default": ["*"]},
        "expect": {
            "type": "list",
            "elements": "dict",
            "options": {
                "label": {"type": "str", "required": True},
                "max_age": {"type": "str"},
                "min_count": {"type": "int", "default": 1},
                "guests": {"type": "list", "elements": "str"},
            },
        },
        "max_foreign_age": {"type": "str", "default": "0"},
        "fail_on_status": {"type": "str", "choices": ["never", "warning", "critical"], "default": "never"},
    }
)
AGENT = CONNECTION.merge(SELECTION, ArgumentSpec({"enable": {"type": "bool", "default": False}}))
INFO = CONNECTION.merge(SELECTION, EXPECT_GUESTS, RECOGNITION, RETENTION, STORAGE_LIMITS, HEALTH)


@dataclass(frozen=True)
class Connection:
    """How to reach and enter the cluster; ``secrets`` must never be shown, ``warnings`` must."""

    hosts: Tuple[str, ...]
    port: int
    credentials: Credentials
    verify: Any
    timeout: float
    secrets: Secrets = field(repr=False)
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """Which guests, how our snapshots are known, and how many guests (or which ids) there should be."""

    terms: Tuple[selection.Term, ...]
    fail_unmatched: bool
    recognition: naming.Recognition
    expect_count: int = 0
    expect_ids: Optional[frozenset[int]] = None


@dataclass(frozen=True)
class Parallel:
    """How much of one kind of work may run at once (law 14)."""

    total: int
    per_node: int
    per_storage: int


@dataclass(frozen=True)
class RunLimits:
    """What snap and clean share; times in seconds, 0 for no limit."""

    locked: str
    lock_timeout: float
    hook: Optional[str]
    hook_timeout: float
    veto: bool
    timeout: float
    run_timeout: float
    creates: Parallel
    deletes: Parallel
    slow_storages_serial: bool
    state_dir: str
    repair: str
    fail_on: str
    full: bool
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class GuestCommands:
    """Programs with their arguments, run in each VM before and after its snapshot; empty where there is none.

    ``timeout`` in seconds for each, ``on_error`` is ``skip``, ``fail`` or ``continue``.
    """

    pre: Tuple[str, ...]
    post: Tuple[str, ...]
    timeout: float
    on_error: str


@dataclass(frozen=True)
class SnapSettings:
    """Everything that a snapshot run wants to know."""

    target: Target
    limits: RunLimits
    label: str
    keep: int
    retention: Optional[Retention]
    vmstate: bool
    only_running: bool
    min_interval: int
    guard: Limits
    on_storage_full: str
    require_frozen: str
    guest_commands: Optional[GuestCommands]


@dataclass(frozen=True)
class CleanSettings:
    """Everything that a clean run wants to know; ``labels`` is None for every label."""

    target: Target
    limits: RunLimits
    labels: Optional[Tuple[str, ...]]
    keep: int
    retention: Retention
    keep_newest: bool


@dataclass(frozen=True)
class InfoSettings:
    """What to show and to judge; ``labels`` is None for every label, ``max_foreign_age`` is in seconds, 0 for any."""

    target: Target
    labels: Optional[Tuple[str, ...]]
    retention: Optional[Retention]
    expect: Tuple[health.Expectation, ...]
    max_foreign_age: int
    guard: Limits
    fail_on_status: str


@dataclass(frozen=True)
class AgentSettings:
    """Whose agent options to look at, and whether to switch them on."""

    target: Target
    enable: bool


def duration(option: str, value: Any) -> int:
    """Seconds of ``30``, ``30s``, ``15m``, ``26h`` or ``7d``."""
    match = _DURATION.match(str(value))
    if not match:
        raise InputError(option, "'{0}' is not a duration; write seconds, or 30s, 15m, 26h, 7d".format(_short(value)))
    seconds = int(match.group(1)) * _SECONDS[match.group(2)]
    if seconds > SECONDS_MAX:
        raise InputError(
            option, "'{0}' is more than a hundred years; write a shorter time, or 0 where that means none".format(value))
    return seconds


def _short(value: Any) -> str:
    """A value as it may stand in a sentence."""
    text = str(value)
    return text if len(text) <= 60 else text[:60] + "..."


def size(option: str, value: Any) -> int:
    """Bytes of ``0``, ``50G``, ``1.5TiB``."""
    match = _SIZE.match(str(value))
    if not match:
        raise InputError(option, "'{0}' is not a size; write bytes, or 500M, 50G, 1.5T".format(_short(value)))
    return int(float(match.group(1)) * _BYTES[match.group(2)])


def connection(params: Mapping[str, Any], environ: Optional[Mapping[str, str]] = None) -> Connection:
    """The connection of a module's parameters; a method given as an option wins over the environment."""
    env = os.environ if environ is None else environ
    hosts = _hosts(params["api_host"], params["api_port"])
    warnings: List[str] = []
    credentials = _credentials(params, env, warnings)
    if not params["validate_certs"]:
        warnings.append("option 'validate_certs': certificates are not verified, so who stands in between can read the "
                        "credentials; set ca_path instead")
    return Connection(
        hosts=hosts,
        port=params["api_port"],
        credentials=credentials,
        verify=_verify(params),
        timeout=float(_at_least_one("api_timeout", duration("api_timeout", params["api_timeout"]))),
        secrets=Secrets(credentials.secrets),
        warnings=tuple(warnings),
    )


def _hosts(given: Sequence[str], port: int) -> Tuple[str, ...]:
    """``host`` or ``host:port`` of each, once, in their order; one item may name several."""
    if not 1 <= port <= 65535:
        raise InputError("api_port", "'{0}' is not a port; it is a number from 1 to 65535, usually 8006".format(_short(port)))
    hosts = dict.fromkeys(_host(text) for item in given for text in re.split(r"[\s,]+", str(item)) if text)
    if not hosts:
        raise InputError("api_host", "it is empty; name at least one host of the cluster")
    return tuple(hosts)


def _host(text: str) -> str:
    match = _HOST.match("[{0}]".format(text) if _ipv6(text) else text)
    if match is None or not _fits(**match.groupdict()):
        raise InputError(
            "api_host", "'{0}' is not a host; write host, host:port, [IPv6]:port or https://host:port".format(_short(text)))
    return match.group("host") + (":" + match.group("port") if match.group("port") else "")


def _fits(url: Optional[str], host: str, port: Optional[str], path: Optional[str]) -> bool:
    """What the pattern of a host leaves open."""
    return (
        (not path or bool(url)) and (port is None or 1 <= int(port) <= 65535)
        and (not host.startswith("[") or _ipv6(host[1:-1])))


def _ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(_IPV6_ZONE.sub("", text))
    except ValueError:
        return False
    return True


def _verify(params: Mapping[str, Any]) -> Any:
    path = params["ca_path"]
    if not params["validate_certs"]:
        return False
    if path and not os.path.exists(path):
        raise InputError("ca_path", "'{0}' does not exist; copy /etc/pve/pve-root-ca.pem of a node there".format(path))
    if path and not os.path.isdir(path):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
        except (ssl.SSLError, OSError):
            raise InputError("ca_path", "'{0}' holds no certificate in PEM form; copy /etc/pve/pve-root-ca.pem of a node "
                                        "there".format(path)) from None
    return path or True


def _credentials(params: Mapping[str, Any], env: Mapping[str, str], warnings: List[str]) -> Credentials:
    """The credentials that are given; ``warnings`` gets what is wrong with them all the same."""
    for option in ("api_token", "api_token_secret", "api_password"):
        if params.get(option) is not None and not str(params[option]).strip():
            raise InputError(option, "it is empty; leave it out, or give the secret")
    given = {name: params.get(name) for name in (
        "api_token", "api_token_file", "api_token_id", "api_token_secret", "api_password", "api_password_file")}
    user = params.get("api_user") or env.get("PROXMOX_USER") or ""
    otp = params.get("api_otp") or env.get("PROXMOX_OTP")
    if not any(given.values()):
        given = _from_environment(env)
    for option, secret in (("api_token_file", "api_token"), ("api_password_file", "api_password")):
        if given.get(option):
            given[secret] = _secret_file(option, str(given[option]))
            warnings += _open_to_others(option, str(given[option]), stat.S_IROTH | stat.S_IWOTH, "chmod 600")
    found = _of_method(given, user, otp, env)
    secret = found.password or found.token_secret or ""
    if len(secret) < SHORT:
        warnings.append(
            "option '{0}': the secret has fewer than {1} characters, so whatever has them too is masked in the output; choose a "
            "longer one".format("api_password" if found.password else "api_token", SHORT))
    return found


def _open_to_others(option: str, path: str, bits: int, remedy: str) -> List[str]:
    """A sentence where others may do with a file or a directory what ``bits`` of its mode say; none where it is not there."""
    try:
        mode = os.stat(os.path.expanduser(path)).st_mode
        around = os.stat(os.path.dirname(os.path.abspath(os.path.expanduser(path)))).st_mode
    except OSError:
        return []
    if stat.S_ISREG(mode) and around & stat.S_IWOTH and not around & stat.S_ISVTX:
        return ["option '{0}': others can replace '{1}', since they can write its directory; run chmod o-w on that".format(
            option, path)]
    if not mode & bits or stat.S_ISFIFO(mode):
        return []
    can = " and ".join(word for bit, word in ((stat.S_IROTH, "read"), (stat.S_IWOTH, "write")) if mode & bits & bit)
    return ["option '{0}': others can {1} '{2}'; run {3} on it".format(option, can, path, remedy)]


def _of_method(given: Mapping[str, Any], user: str, otp: Optional[str], env: Mapping[str, str]) -> Credentials:
    if given.get("api_token"):
        return _whole_token(str(given["api_token"]))
    if given.get("api_token_id") or given.get("api_token_secret"):
        return _token(
            user, given.get("api_token_id") or env.get("PROXMOX_TOKEN_ID"),
            given.get("api_token_secret") or env.get("PROXMOX_TOKEN_SECRET"))
    if given.get("api_password"):
        if "@" not in user:
            raise InputError("api_user", "'{0}' has no realm; write it as user@pam or user@pve".format(user))
        return Credentials(user, password=str(given["api_password"]), otp=otp)
    raise InputError(
        "api_token_id",
        "there are no credentials; set api_token_id and api_token_secret (or api_token, api_token_file, api_user "
        "with api_password or api_password_file, or one of the PROXMOX_* variables)")


def _from_environment(env: Mapping[str, str]) -> Dict[str, Any]:
    """The first method of the environment that has its secret."""
    for option, name in (
        ("api_token", "PROXMOX_TOKEN"), ("api_token_file", "PROXMOX_TOKEN_FILE"),
        ("api_token_secret", "PROXMOX_TOKEN_SECRET"), ("api_password", "PROXMOX_PASSWORD"),
        ("api_password_file", "PROXMOX_PASSWORD_FILE"),
    ):
        if env.get(name):
            return {option: env[name]}
    return {}


def _secret_file(option: str, path: str) -> str:
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as handle:
            text = handle.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(option, "'{0}' cannot be read ({1}); make it readable for the user that runs the module".format(
            path, getattr(error, "strerror", None) or "not text")) from None
    if not text or "\n" in text:
        raise InputError(option, "'{0}' must hold one line".format(path))
    return text


def is_token(value: object) -> bool:
    """Whether a value is a token with its secret, USER@REALM!TOKENID=SECRET."""
    return isinstance(value, str) and bool(_HEADER.match(value) and _TOKEN.match(value))


def _whole_token(text: str) -> Credentials:
    match = _TOKEN.match(text)
    if not match or not is_token(text):
        raise InputError("api_token", "the value is not of the form USER@REALM!TOKENID=SECRET")
    return Credentials(match.group(1), token_id=match.group(2), token_secret=match.group(3))


def _token(user: str, token_id: Optional[str], secret: Optional[str]) -> Credentials:
    if not token_id:
        raise InputError("api_token_id", "it is missing beside api_token_secret; write it as user@realm!id")
    if not secret:
        raise InputError("api_token_secret", "it is missing beside api_token_id")
    for option, value in (("api_token_id", token_id), ("api_token_secret", secret)):
        if not _HEADER.match(value):
            raise InputError(option, "it holds a blank, a line break or a character that is not ASCII; is it copied whole, "
                                     "and without the end of a line?")
    if "=" in token_id:
        raise InputError("api_token_id", "it holds a secret behind '='; give the whole USER@REALM!ID=SECRET as api_token, or "
                                         "the secret as api_token_secret")
    if "!" in token_id:
        user, token_id = token_id.split("!", 1)
    if "@" not in user:
        raise InputError(
            "api_token_id", "'{0}' does not tell the user; write it as user@realm!id, or set api_user".format(token_id))
    return Credentials(user, token_id=token_id, token_secret=secret)


def snap(params: Mapping[str, Any]) -> SnapSettings:
    """The settings of a snapshot run."""
    target = _target(params)
    target = replace(target, recognition=replace(target.recognition, made_by=_made_by(params["made_by"])))
    _check_names(params["label"], target.recognition)
    _check_keep(params)
    return SnapSettings(
        target=target,
        limits=_limits(params),
        label=params["label"],
        keep=params["keep"] or 0,
        retention=_retention(params),
        vmstate=params["vmstate"],
        only_running=params["only_running"],
        min_interval=duration("min_interval", params["min_interval"]),
        guard=_guard(params),
        on_storage_full=params["on_storage_full"],
        require_frozen=params["require_frozen"],
        guest_commands=_guest_commands(params["guest_commands"]),
    )


def _guest_commands(given: Optional[Mapping[str, Any]]) -> Optional[GuestCommands]:
    if given is None:
        return None
    commands = {phase: tuple(given.get(phase) or ()) for phase in ("pre", "post")}
    if not any(commands.values()):
        raise InputError("guest_commands", "it has neither pre nor post; write the program and its arguments as a list, such "
                                           "as pre: [/usr/local/bin/flush, --all]")
    for phase, command in commands.items():
        if command and not command[0].strip():
            raise InputError("guest_commands", "{0} begins with an empty text; its first element is the program".format(phase))
    seconds = duration("guest_commands", given.get("timeout") or "1m")
    return GuestCommands(
        commands["pre"], commands["post"], float(_at_least_one("guest_commands", seconds)), given.get("on_error") or "skip")


def clean(params: Mapping[str, Any]) -> CleanSettings:
    """The settings of a clean run."""
    target = _target(params)
    keep = params["keep"]
    if keep is not None and keep < 0:
        raise InputError("keep", "{0} is less than 0; 0 deletes every managed snapshot of the label".format(keep))
    return CleanSettings(
        target=target,
        limits=_limits(params),
        labels=_labels(params["label"]),
        keep=keep or 0,
        retention=_retention(params) or Retention(),
        keep_newest=keep != 0,
    )


def info(params: Mapping[str, Any]) -> InfoSettings:
    """The settings of an info run."""
    _check_keep(params)
    return InfoSettings(
        target=_target(params),
        labels=_labels(params["label"]),
        retention=_retention(params),
        expect=tuple(_expectation(given) for given in params["expect"] or ()),
        max_foreign_age=duration("max_foreign_age", params["max_foreign_age"]),
        guard=_guard(params),
        fail_on_status=params["fail_on_status"],
    )


def agent(params: Mapping[str, Any]) -> AgentSettings:
    """The settings of an agent run; it looks at no snapshot."""
    defaults = {name: option.get("default") for name, option in RECOGNITION.options.items()}
    return AgentSettings(_target({**defaults, **params}), params["enable"])


def _expectation(given: Mapping[str, Any]) -> health.Expectation:
    try:
        naming.check_label(given["label"])
        terms = None if given.get("guests") is None else tuple(selection.parse(given["guests"]))
    except naming.NamingError as error:
        raise InputError("expect", "label {0}".format(error)) from None
    except selection.SelectorError as error:
        raise InputError("expect", "guests of label '{0}': {1}".format(given["label"], error)) from None
    if given["min_count"] < 1:
        raise InputError("expect", "min_count of label '{0}' is {1}; expect at least 1 snapshot".format(
            given["label"], given["min_count"]))
    return health.Expectation(given["label"], duration("expect", given.get("max_age") or 0), given["min_count"], terms)


def _check_keep(params: Mapping[str, Any]) -> None:
    if params["keep"] is not None and params["keep"] < 1:
        raise InputError("keep", "{0} would delete every snapshot; keep at least 1".format(params["keep"]))


def _guard(params: Mapping[str, Any]) -> Limits:
    percent = params["max_storage_percent"]
    if not 1 <= percent <= 100:
        raise InputError("max_storage_percent", "{0} is not a percentage from 1 to 100".format(percent))
    return Limits(percent, size("min_storage_free", params["min_storage_free"]))


def _labels(labels: Sequence[str]) -> Optional[Tuple[str, ...]]:
    if not labels:
        raise InputError("label", "it is empty; name a label, or '*' for every label")
    if "*" in labels:
        return None
    for label in labels:
        try:
            naming.check_label(label)
        except naming.NamingError as error:
            raise InputError(error.option, str(error)) from None
    return tuple(labels)


def _target(params: Mapping[str, Any]) -> Target:
    try:
        terms = selection.parse(params["guests"])
    except selection.SelectorError as error:
        raise InputError("guests", str(error)) from None
    count, ids = _expected(params.get("expect_guests"))
    return Target(
        terms=tuple(terms),
        fail_unmatched=params["on_unmatched"] == "fail",
        recognition=_recognition(params),
        expect_count=count,
        expect_ids=ids,
    )


def _expected(value: Any) -> Tuple[int, Optional[frozenset[int]]]:
    """The least number of guests, or the exact ids."""
    try:
        if value is None:
            return 0, None
        if isinstance(value, list):
            return 0, frozenset(_natural(item) for item in value)
        return _natural(value), None
    except ValueError:
        raise InputError(
            "expect_guests", "'{0}' is neither a number of guests nor a list of ids".format(_short(value))) from None


def _natural(value: Any) -> int:
    if isinstance(value, bool) or not re.match(r"\A[0-9]{1,9}\Z", str(value)):
        raise ValueError(value)
    return int(value)


def _recognition(params: Mapping[str, Any]) -> naming.Recognition:
    markers = [params["description"], *(marker for marker in params["adopt"] if marker != params["description"])]
    for option, marker in [("description", markers[0])] + [("adopt", marker) for marker in markers[1:]]:
        _check_marker(option, marker)
    try:
        naming.check_prefix(params["prefix"])
        timestamp_format = naming.TimestampFormat(params["timestamp_format"])
    except naming.NamingError as error:
        value = params["timestamp_format"] if error.option == "timestamp_format" else params["prefix"]
        raise InputError(error.option, "'{0}' cannot be used: {1}".format(value, error)) from None
    return naming.Recognition(params["prefix"], timestamp_format, tuple(markers), _timezone(params["timezone"]))


def _check_marker(option: str, marker: str) -> None:
    """``0`` reads back as nothing (recording 350), blanks at the end are lost (recording 336)."""
    if not marker.strip() or marker.strip() == "0" or marker != marker.strip() or "\n" in marker:
        raise InputError(
            option, "{0!r} cannot mark a snapshot; write one line of text without blanks around it".format(marker))


def _made_by(given: Optional[Mapping[str, Any]]) -> str:
    """The line of JSON that goes into descriptions; ASCII, since Proxmox VE keeps that as it is (recordings 368 and 369)."""
    if given is None:
        return ""
    if not given or not all(isinstance(value, (str, int)) for value in given.values()):
        raise InputError("made_by", "it holds nothing, or more than texts and whole numbers; write one for each key")
    text = json.dumps(given, sort_keys=True)
    if len(text) > MADE_BY_MAX:
        raise InputError("made_by", "as JSON it has {0} characters, and {1} are the most; leave something out".format(
            len(text), MADE_BY_MAX))
    return text


def _timezone(name: Optional[str]) -> Optional[datetime.tzinfo]:
    if not name:
        return None
    if name.upper() == "UTC":
        return datetime.timezone.utc
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError("timezone", "'{0}' is not known; write UTC or a name such as Europe/Vienna".format(name)) from None


def _check_names(label: str, recognition: naming.Recognition) -> None:
    try:
        naming.check_names(label, recognition)
    except naming.NamingError as error:
        raise InputError(error.option, str(error)) from None


def _retention(params: Mapping[str, Any]) -> Optional[Retention]:
    if params["keep"] is not None:
        return Retention(last=params["keep"])
    if params["retention"] is None:
        return None
    rules = {name: params["retention"].get(name) or 0 for name in ("last", *PERIODS)}
    for name, count in rules.items():
        if count < 0:
            raise InputError("retention", "{0} is {1}; a count is 0 or more".format(name, count))
    within = duration("retention", params["retention"].get("within") or 0)
    retention = Retention(within=within, **rules)
    if retention.nothing:
        raise InputError("retention", "it keeps nothing; set at least one of last, hourly, daily, weekly, monthly, "
                                      "yearly or within")
    return retention


def _limits(params: Mapping[str, Any]) -> RunLimits:
    creates, deletes = parallel(params)
    hook, state_dir = _hook(params["hook"]), params["state_dir"] or default_state_dir(os.environ)
    warnings = _open_to_others("hook", hook, stat.S_IWOTH, "chmod o-w") if hook else []
    return RunLimits(
        locked=params["locked"],
        lock_timeout=float(duration("lock_timeout", params["lock_timeout"])),
        hook=hook,
        hook_timeout=float(_at_least_one("hook_timeout", duration("hook_timeout", params["hook_timeout"]))),
        veto=params["on_hook_failure"] == "skip_guest",
        timeout=float(duration("timeout", params["timeout"])),
        run_timeout=float(duration("run_timeout", params["run_timeout"])),
        creates=creates,
        deletes=deletes,
        slow_storages_serial=params["max_parallel_per_storage"] is None,
        state_dir=state_dir,
        repair=params.get("repair") or "report",
        fail_on=params["fail_on"],
        full=params["verbosity"] == "full",
        warnings=(*warnings, *_open_to_others("state_dir", state_dir, stat.S_IWOTH, "chmod o-w")),
    )


def parallel(params: Mapping[str, Any]) -> Tuple[Parallel, Parallel]:
    """The limits of creates and of deletes; those of deletes are three quarters where they are not set."""
    def limits(prefix: str, unset: Parallel) -> Parallel:
        total = _limit(params, prefix, unset.total)
        per_node = _limit(params, prefix + "_per_node", unset.per_node)
        return Parallel(total, per_node, _limit(params, prefix + "_per_storage", unset.per_storage or total))

    creates = limits("max_parallel", Parallel(0, 0, 0))
    return creates, limits("max_parallel_deletes", Parallel(*(
        max(1, limit * 3 // 4) for limit in (creates.total, creates.per_node, creates.per_storage))))


def _limit(params: Mapping[str, Any], option: str, unset: int) -> int:
    return unset if params[option] is None else _at_least_one(option, params[option])


def default_state_dir(environ: Mapping[str, str]) -> str:
    """Where systemd, or the XDG rules, keep a service's or a user's state."""
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return given
    home = environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(home, "pve.autosnap")


def _hook(path: Optional[str]) -> Optional[str]:
    if path and not (os.path.isfile(path) and os.access(path, os.X_OK)):
        raise InputError("hook", "'{0}' is not an executable file; check the path and chmod +x it".format(path))
    return path or None


def _at_least_one(option: str, value: int) -> int:
    if value < 1:
        raise InputError(option, "{0} is less than 1".format(value))
    return value


def option_names(spec: ArgumentSpec) -> List[str]:
    """All option names of a spec, sorted."""
    return sorted(spec.options)
