"""What can be asked of a node: the table of verbs, and how requests and replies are written down.

A request is one line of JSON, `{"verb": "...", "args": {...}}`, at most `REQUEST_BYTES` long; the reply is one line,
`{"ok": VALUE}` or `{"error": {"code": "...", "message": "...", "exit": 1}}`. What a client sends is never trusted:
`parse_request` gives a request whose verb exists and whose arguments are all there and of the right kind, or raises.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from f2ftun.errors import ArgumentWrong, F2ftunError, RequestMalformed, TooMuchTyped, VerbUnknown

REQUEST_BYTES: Final = 64 * 1024
"""Longest request, with its newline. An invite has 512 bytes, a command line rarely more."""

REQUEST_OVERHEAD_BYTES: Final = 1024
"""What the longest verb's own words take of that, at most."""

REPLY_BYTES: Final = 16 * 1024 * 1024
"""Longest reply: `status` of 4,000 friends has 1.6 MB."""

TEXT_CHARACTERS: Final = 8192
"""Longest text argument; ten invites fit."""

TEXTS: Final = 256
"""Most items of a list argument: more endpoints or ports than any friend has."""


class Kind(Enum):
    """What an argument is in JSON."""

    TEXT = "a text"
    NUMBER = "a number"
    TEXTS = "a list of texts"


REQUIRED: Final = object()
"""Default of an argument that must be given."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a verb. Numbers are finite and lie in `least..most`."""

    name: str
    kind: Kind = Kind.TEXT
    default: object = REQUIRED
    least: float = 0.0
    most: float = 0.0


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing that a node can be asked. `writes`: only for root and the node's own user.

    `offline`: can be done when no daemon runs, by a process of its own. `kernel`: asks the kernel about the host.
    """

    name: str
    arguments: tuple[Argument, ...] = ()
    writes: bool = False
    offline: bool = True
    kernel: bool = False

    @property
    def words(self) -> str:
        """The verb as it is typed."""
        return self.name.replace("_", " ")


@dataclass(frozen=True, slots=True)
class Request:
    """A verb and all its arguments."""

    verb: Verb
    args: dict[str, object] = field(default_factory=dict)


def _optional(name: str) -> Argument:
    return Argument(name, default=None)


def _texts(name: str) -> Argument:
    return Argument(name, Kind.TEXTS, default=())


_NAME = Argument("name")

_FRIEND_ARGUMENTS = (
    _NAME,
    Argument("key"),
    _texts("endpoints"),
    *(_optional(name) for name in ("floor", "trust", "transit", "visibility")),
)

VERBS: Final[dict[str, Verb]] = {
    verb.name: verb
    for verb in (
        Verb(
            "init",
            tuple(_optional(name) for name in ("name", "listen", "interface", "link_rate", "user_key")),
            writes=True,
        ),
        Verb("key"),
        Verb("address", (_optional("target"),)),
        Verb("down", writes=True, kernel=True),
        Verb("reload", writes=True, offline=False),
        Verb("status", offline=False),
        Verb("doctor", kernel=True),
        Verb("invite", (_optional("name"), _optional("expires")), writes=True, kernel=True),
        Verb(
            "join",
            (Argument("invite"), _optional("name"), Argument("wait_s", Kind.NUMBER, 10.0, most=60.0)),
            writes=True,
        ),
        Verb("invite_list"),
        Verb("invite_cancel", (Argument("which"),), writes=True),
        Verb("join_list"),
        Verb("join_cancel", (Argument("which"),), writes=True),
        Verb("friend_add", _FRIEND_ARGUMENTS, writes=True),
        Verb("friend_list"),
        Verb("friend_show", (_NAME,)),
        Verb("friend_set", (_NAME, Argument("values", Kind.TEXTS)), writes=True),
        Verb("friend_rename", (_NAME, Argument("new")), writes=True),
        Verb("friend_remove", (_NAME,), writes=True),
        Verb("allow", (Argument("who"), Argument("ports", Kind.TEXTS)), writes=True),
        Verb("deny", (Argument("who"), Argument("ports", Kind.TEXTS)), writes=True),
        Verb("rules"),
        Verb(
            "ping",
            (
                Argument("target"),
                Argument("count", Kind.NUMBER, 1, least=1, most=100),
                Argument("first", Kind.NUMBER, 1, least=1, most=65535),
            ),
            offline=False,
        ),
    )
}
"""All verbs, by name."""


def parse_request(line: bytes) -> Request:
    """Read one request. Raises `RequestMalformed`, `VerbUnknown`, `ArgumentWrong`."""
    if len(line) > REQUEST_BYTES:
        raise RequestMalformed(reason=f"it is longer than {REQUEST_BYTES} bytes")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise RequestMalformed(reason="it is not JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("verb"), str):
        raise RequestMalformed(reason='it is not an object with a "verb"')
    verb = VERBS.get(value["verb"])
    if verb is None:
        raise VerbUnknown(verb=value["verb"][:40])
    return Request(verb, check_arguments(verb, value.get("args", {})))


def write_request(verb: str, args: dict[str, object]) -> bytes:
    """Write one request, with its newline. Raises `TooMuchTyped` when it is too long."""
    line = json.dumps({"verb": verb, "args": args}).encode() + b"\n"
    if len(line) > REQUEST_BYTES:
        raise TooMuchTyped(most=REQUEST_BYTES - REQUEST_OVERHEAD_BYTES)
    return line


def check_arguments(verb: Verb, args: object) -> dict[str, object]:
    """Give every argument of `verb`, defaults filled in. Raises `RequestMalformed`, `ArgumentWrong`."""
    if not isinstance(args, dict):
        raise RequestMalformed(reason='"args" is not an object')
    known = {argument.name for argument in verb.arguments}
    for name in args:
        if name not in known:
            raise ArgumentWrong(verb=verb.words, argument=str(name)[:40], reason="is unknown")
    return {argument.name: _check(verb, argument, args) for argument in verb.arguments}


def _check(verb: Verb, argument: Argument, args: dict[str, object]) -> object:
    """Give the value of one argument."""
    value = args.get(argument.name, argument.default)
    if value is REQUIRED:
        raise ArgumentWrong(verb=verb.words, argument=argument.name, reason="is missing")
    if value is argument.default:
        return value
    reason = _CHECKS[argument.kind](argument, value)
    if reason:
        raise ArgumentWrong(verb=verb.words, argument=argument.name, reason=reason)
    return value


def _check_text(argument: Argument, value: object) -> str | None:
    if not isinstance(value, str):
        return "must be a text"
    if len(value) > TEXT_CHARACTERS:
        return f"is longer than {TEXT_CHARACTERS} characters"
    return None if value.isprintable() else "has characters that cannot be printed"


def _check_number(argument: Argument, value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "must be a number"
    if not argument.least <= value <= argument.most:  # also false for NaN
        return f"must lie in {argument.least:g}..{argument.most:g}"
    return None


def _check_texts(argument: Argument, value: object) -> str | None:
    if not isinstance(value, list):
        return "must be a list of texts"
    if len(value) > TEXTS:
        return f"has more than {TEXTS} items"
    return next(filter(None, (_check_text(argument, item) for item in value)), None)


_CHECKS = {
    Kind.TEXT: _check_text,
    Kind.NUMBER: _check_number,
    Kind.TEXTS: _check_texts,
}


def write_ok(value: object) -> bytes:
    """Write the reply that carries a value, with its newline."""
    return json.dumps({"ok": value}).encode() + b"\n"


def write_error(error: F2ftunError) -> bytes:
    """Write the reply that carries an error, with its newline."""
    value = {"code": error.code, "message": str(error), "exit": error.exit_status}
    return json.dumps({"error": value}).encode() + b"\n"
