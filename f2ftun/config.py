"""`config.yaml`: what a person decides about one node, read into one frozen value.

The file is YAML, one mapping of settings to single values (`endpoints` is a list). It is read as text, setting by
setting, so that `no`, `1e3` and `12:30` mean themselves, and every complaint names the line. Anchors have no use here
and are refused. No secret stands in it and no friend: these are in the state folder. `_SETTINGS` is the one table of
settings; `render` writes the file from it, and the `config.yaml` at the top of the repository is `render()`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from f2ftun.errors import (
    ConfigKeyTwice,
    ConfigKeyUnknown,
    ConfigNotFound,
    ConfigSyntax,
    ConfigUnreadable,
    ConfigValueRefused,
    ControlSocketTooLong,
    DurationUnreadable,
    EndpointUnreadable,
    NameRefused,
    RateUnreadable,
)
from f2ftun.wire.endpoint import parse_endpoint, parse_listen
from f2ftun.wire.name import parse_name
from f2ftun.wire.quantity import parse_duration, parse_rate

if TYPE_CHECKING:
    import yaml

SYSTEM_CONFIG: Final = Path("/etc/f2ftun/config.yaml")
SYSTEM_STATE: Final = Path("/var/lib/f2ftun")
SYSTEM_CONTROL_SOCKET: Final = Path("/run/f2ftun/control.sock")
ENVIRONMENT: Final = "F2FTUN_CONFIG"
MAX_CONFIG_BYTES: Final = 64 * 1024
"""A hundred times what a config needs."""
MAX_DEPTH: Final = 4
"""Levels of YAML: the settings, a list, its items, and one more to complain about."""
MAX_SOCKET_PATH_BYTES: Final = 107
"""`sun_path` without its final zero. Source: unix(7)."""
MIN_MTU: Final = 1280
"""The least that IPv6 may have. Source: RFC 8200 §5."""
MAX_MTU: Final = 9000
"""The largest frame that Ethernet hardware commonly carries; larger ones never leave a machine whole."""
MAX_INTERFACE_CHARACTERS: Final = 15
"""`IFNAMSIZ` without its final zero. Source: netdevice(7)."""
MAX_ENDPOINTS: Final = 16
"""As many as an invitation holds. Source: docs/protocol.md §8."""
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Config:
    """One node's settings; paths are absolute, rates bits per second, times seconds. `None` means: not set."""

    path: Path
    name: str
    state: Path
    control_socket: Path
    listen: str = "[::]:4242"
    interface: str = "f2f0"
    mtu: int | None = None
    link_rate_bps: int | None = None
    user: str | None = None
    keepalive_s: float = 25.0
    endpoints: tuple[str, ...] = ()
    hybrid: bool = True
    keylog: Path | None = None
    log_level: str = "info"


def find(option: str | None) -> Path:
    """Say which config is meant: the option's, else `$F2FTUN_CONFIG`'s, else the system's own; absolute."""
    return Path(option or os.environ.get(ENVIRONMENT) or SYSTEM_CONFIG).absolute()


def load(path: Path) -> Config:
    """Read a config. Raises a `ConfigError` that says what is wrong, where, and what is allowed."""
    path = path.absolute()
    values = {key: _parsed(path, key, node) for key, node in _nodes(path, _read(path)).items() if not _is_null(node)}
    fields = {_SETTINGS[key].field: value for key, value in values.items()}
    return _resolved(path, {"name": "node", **fields})


def _resolved(path: Path, fields: dict[str, Any]) -> Config:
    """Make paths absolute, from the config's folder, and put in those that are not set."""
    for key in {"state", "control_socket", "keylog"} & fields.keys():
        fields[key] = path.parent / fields[key]
    is_system = path == SYSTEM_CONFIG
    fields.setdefault("state", SYSTEM_STATE if is_system else path.parent / "state")
    fields.setdefault("control_socket", SYSTEM_CONTROL_SOCKET if is_system else fields["state"] / "control.sock")
    length = len(os.fsencode(fields["control_socket"]))
    if length > MAX_SOCKET_PATH_BYTES:
        raise ControlSocketTooLong(socket=fields["control_socket"], length=length, path=path)
    return Config(path=path, **fields)


# From the file to nodes


def _read(path: Path) -> str:
    try:
        data = _read_regular(path)
    except FileNotFoundError:
        raise ConfigNotFound(path=path) from None
    except OSError as error:
        raise ConfigUnreadable(path=path, reason=error.strerror) from None
    except ValueError:
        raise ConfigUnreadable(path=path, reason="there can be no such path") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigUnreadable(path=path, reason=f"it is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigSyntax(path=path, line=line, reason="this is not text (UTF-8)") from None


def _read_regular(path: Path) -> bytes:
    """Read a little more than is allowed, of a regular file; never wait for a pipe."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "it is not a file")
        return file.read(MAX_CONFIG_BYTES + 1)


def _nodes(path: Path, text: str) -> dict[str, yaml.Node]:
    """Read YAML as far as nodes: each known setting once, with its value."""
    root = _root(path, text)
    if root is None or _is_null(root):
        return {}
    if _kind(root) != "mapping":
        raise ConfigSyntax(path=path, line=_line(root), reason='a config is lines of "setting: value"')
    nodes: dict[str, yaml.Node] = {}
    for key, value in root.value:
        _check_key(path, key, nodes)
        nodes[key.value] = value
    return nodes


def _root(path: Path, text: str) -> yaml.Node | None:
    import yaml

    class Loader(yaml.SafeLoader):
        """Composes nodes only, few levels deep, and without references."""

        depth = 0

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent) or self.depth == MAX_DEPTH:
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.MarkedYAMLError(problem="no setting is as intricate as this", problem_mark=mark)
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    try:
        loader = Loader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigSyntax(path=path, line=line, reason=f"{error.problem or error.context}; {_QUOTES}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigSyntax(path=path, line=line, reason="there is a character that no text has") from None


_QUOTES = 'a value with any of []{}:#&*!%@` in it stands in quotes, like "[::]:4242"'


def _check_key(path: Path, key: yaml.Node, nodes: Mapping[str, yaml.Node]) -> None:
    if _kind(key) != "scalar" or key.value not in _SETTINGS:
        raise ConfigKeyUnknown(path=path, line=_line(key), key=_shown(key), hint=_hint(_shown(key)))
    if key.value in nodes:
        raise ConfigKeyTwice(path=path, line=_line(key), key=key.value)


def _hint(key: str) -> str:
    import difflib

    near = difflib.get_close_matches(key[:40].lower().replace("-", "_"), _SETTINGS, n=1, cutoff=0.5)
    return f'Did you mean "{near[0]}"?' if near else f"There are {', '.join(_SETTINGS)}."


def _kind(node: yaml.Node) -> str:
    """Say what a node is: `scalar`, `sequence` or `mapping`."""
    return type(node).__name__.removesuffix("Node").lower()


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


# From nodes to values


class _NotAllowed(Exception):
    """Why a value cannot be, and what can."""


def _parsed(path: Path, key: str, node: yaml.Node) -> Any:
    setting = _SETTINGS[key]
    if setting.is_list:
        return _parsed_list(path, key, node)
    if _kind(node) != "scalar":
        raise ConfigValueRefused(path=path, line=_line(node), key=key, value=_shown(node), reason="it is one value")
    return _parsed_scalar(path, key, node)


def _parsed_list(path: Path, key: str, node: yaml.Node) -> tuple[Any, ...]:
    if _kind(node) != "sequence" or any(_kind(item) != "scalar" for item in node.value):
        reason = f"it is a list, like {_SETTINGS[key].example}"
        raise ConfigValueRefused(path=path, line=_line(node), key=key, value=_shown(node), reason=reason)
    if len(node.value) > MAX_ENDPOINTS:
        count, reason = f"{len(node.value)} of them", f"there are at most {MAX_ENDPOINTS}"
        raise ConfigValueRefused(path=path, line=_line(node), key=key, value=count, reason=reason)
    return tuple(dict.fromkeys(_parsed_scalar(path, key, item) for item in node.value))


def _parsed_scalar(path: Path, key: str, node: yaml.Node) -> Any:
    try:
        return _SETTINGS[key].parse(node.value)
    except (_NotAllowed, *_UNREADABLE) as error:
        reason = str(getattr(error, "values", {}).get("reason") or error)
        raise ConfigValueRefused(path=path, line=_line(node), key=key, value=node.value, reason=reason) from None


_UNREADABLE = (DurationUnreadable, EndpointUnreadable, NameRefused, RateUnreadable)


def _shown(node: yaml.Node) -> str:
    return str(node.value) if _kind(node) == "scalar" else f"a {_kind(node)}"


def _parse_listen(text: str) -> str:
    return str(parse_listen(text))


def _parse_endpoint(text: str) -> str:
    return str(parse_endpoint(text))


def _parse_interface(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", text) or text in {"all", "default", "lo"}:
        raise _NotAllowed(f"an interface has 1 to {MAX_INTERFACE_CHARACTERS} letters, digits, dots, - or _, like f2f0")
    return text


def _parse_mtu(text: str) -> int | None:
    if text == "auto":
        return None
    if not re.fullmatch(r"[0-9]{1,5}", text) or not MIN_MTU <= int(text) <= MAX_MTU:
        raise _NotAllowed(f"it is auto, or a number from {MIN_MTU} to {MAX_MTU}")
    return int(text)


def _parse_link_rate(text: str) -> int:
    rate = parse_rate(text)
    if rate == 0:
        raise _NotAllowed("a line that carries nothing carries no friends")
    return rate


def _parse_keepalive(text: str) -> float:
    return 0.0 if text == "off" else float(parse_duration(text))


def _parse_path(text: str) -> Path:
    if not text or "\0" in text or len(text) > 4000:
        raise _NotAllowed("it is the path of a file")
    return Path(text)


def _parse_user(text: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", text):
        raise _NotAllowed("it is the name of a system user, like f2ftun")
    return text


def _parse_flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise _NotAllowed("it is true or false")
    return text == "true"


def _parse_log_level(text: str) -> str:
    if text not in LOG_LEVELS:
        raise _NotAllowed(f"it is one of {', '.join(LOG_LEVELS)}")
    return text


# The settings


@dataclass(frozen=True, slots=True)
class _Setting:
    """One setting: the field it sets, how its text is read, what a new file says (else an example), and why."""

    field: str
    parse: Callable[[str], Any]
    default: str | None
    example: str
    reason: str
    is_list: bool = False


_SETTINGS: Final = {
    "name": _Setting(
        "name",
        parse_name,
        "node",
        "alice",
        "What this node calls itself to new friends. They may call it something else. Lower-case letters, digits "
        "and -.",
    ),
    "listen": _Setting(
        "listen",
        _parse_listen,
        "[::]:4242",
        "192.0.2.1:4242",
        "The one UDP address and port for all friends. [::] is every address, IPv4 too; port 0 is any free port. A "
        "fixed port lets friends find this node again after a restart.",
    ),
    "interface": _Setting(
        "interface",
        _parse_interface,
        "f2f0",
        "f2f1",
        "The name of the network interface that f2ftun makes. A second node on this machine runs in a network "
        "namespace of its own.",
    ),
    "mtu": _Setting(
        "mtu",
        _parse_mtu,
        "auto",
        "1280",
        f"The largest packet on that interface, {MIN_MTU} to {MAX_MTU}. auto is what the network beneath carries "
        "(1400 over Ethernet); larger packets cost less, those that do not fit on the way are cut in two.",
    ),
    "link_rate": _Setting(
        "link_rate_bps",
        _parse_link_rate,
        None,
        "100Mbit/s",
        "What the line to the internet carries upward. Not set: unknown, and the floors of friends are kept only by"
        " luck.",
    ),
    "state": _Setting(
        "state",
        _parse_path,
        None,
        "state",
        "The folder (mode 0700) of this node's key, friends and invitations. From this file's folder, if it does "
        f"not begin with /. Not set: state/ beside this file, and {SYSTEM_STATE} for {SYSTEM_CONFIG}.",
    ),
    "control_socket": _Setting(
        "control_socket",
        _parse_path,
        None,
        "state/control.sock",
        f"Where the f2ftun command finds the running node. At most {MAX_SOCKET_PATH_BYTES} bytes, the kernel's "
        f"limit. Not set: control.sock in the state folder, and {SYSTEM_CONTROL_SOCKET} for {SYSTEM_CONFIG}.",
    ),
    "user": _Setting(
        "user",
        _parse_user,
        None,
        "f2ftun",
        "The system user the node becomes once it is set up, keeping only CAP_NET_ADMIN; the state folder is "
        "theirs. Not set: it stays who started it.",
    ),
    "keepalive": _Setting(
        "keepalive_s",
        _parse_keepalive,
        "25s",
        "off",
        "How often to say something to a friend when there is nothing to say, so that routers and firewalls between"
        " keep the way open; most forget after 30s. off: say nothing.",
    ),
    "endpoints": _Setting(
        "endpoints",
        _parse_endpoint,
        "[]",
        '["host.example:4242", "192.0.2.7:4242"]',
        f"Where friends can reach this node besides its own addresses, at most {MAX_ENDPOINTS}: a host name, or the "
        "outside of a router that forwards the port. They go into invitations and to friends.",
        is_list=True,
    ),
    "hybrid": _Setting(
        "hybrid",
        _parse_flag,
        "true",
        "false",
        "Agree with each friend on a second, post-quantum key (ML-KEM-768), so that what is recorded today cannot "
        "be read by a quantum computer later. Costs 2 KB per friend and day.",
    ),
    "keylog": _Setting(
        "keylog",
        _parse_path,
        None,
        "session-keys.log",
        "Write the keys of every session to this file, for `f2ftun dissect`. Whoever has it reads everything: only "
        "for debugging. Not set: keys are written nowhere.",
    ),
    "log_level": _Setting(
        "log_level",
        _parse_log_level,
        "info",
        "debug",
        f"How much the node tells its log: {', '.join(LOG_LEVELS)}.",
    ),
}

_HEAD: Final = """\
# The config of one f2ftun node. `f2ftun init` writes this file; `f2ftun reload` applies it to the running node. Every
# setting stands here with its default; those that begin with "#" are not set. A value with any of []{}:# in it stands
# in quotes. There is no secret in this file and no friend: these are in the state folder.
"""
_WIDTH: Final = 118


def render(**values: str | list[str] | None) -> str:
    """Write a config with every setting explained; `values` are texts by setting, `None` and absent is the default.

    Raises `ValueError` for a setting that does not exist. What the values are is checked when the file is loaded.
    """
    unknown = values.keys() - _SETTINGS.keys()
    if unknown:
        raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
    return "\n".join([_HEAD, *(_rendered(key, setting, values.get(key)) for key, setting in _SETTINGS.items())])


def _rendered(key: str, setting: _Setting, value: str | list[str] | None) -> str:
    import textwrap

    comment = textwrap.fill(setting.reason, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
    if value is not None:
        return f"{comment}\n{key}: {_quoted(value)}\n"
    if setting.default is None:
        return f"{comment}\n# {key}: {setting.example}\n"
    return f"{comment}\n{key}: {setting.default if setting.is_list else _quoted(setting.default)}\n"


def _quoted(value: str | list[str]) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_escaped, value))}]"
    plain = re.fullmatch(r"[A-Za-z0-9_/.-]*[A-Za-z0-9]", value) and value.lower() != "null" and value[0] not in "-."
    return value if plain else _escaped(value)


def _escaped(text: str) -> str:
    """Write any text as a YAML double-quoted scalar. Source: YAML 1.1 §5.6."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'
