"""A friend: whom we know by which name, how they are reached, what they may and what they are promised."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv6Address
from typing import Any

from f2ftun.errors import SettingIncomplete, SettingRefused, SettingTwice, SettingUnknown
from f2ftun.wire.endpoint import parse_endpoint
from f2ftun.wire.key import KEY_BYTES, address_of
from f2ftun.wire.name import parse_name
from f2ftun.wire.quantity import parse_rate

PSK_BYTES = 32
NO_PSK = bytes(PSK_BYTES)
"""The psk of friends who were added by hand. Source: docs/protocol.md §3."""
MAX_ENDPOINTS = 16


class Trust(Enum):
    """How much a friend is trusted."""

    CLOSE = "close"
    FRIEND = "friend"
    ACQUAINTANCE = "acquaintance"


class Transit(Enum):
    """Whether traffic for others may travel over the link with a friend."""

    NEVER = "never"
    LAST_RESORT = "last-resort"
    YES = "yes"


class Visibility(Enum):
    """Who may be told of the friendship."""

    NOBODY = "nobody"
    FRIENDS = "friends"
    FRIENDS_OF_FRIENDS = "friends-of-friends"


@dataclass(frozen=True, slots=True)
class Friend:
    """One friend, as the store keeps them.

    `key` is the 32-byte node key, `signing_key` the 32-byte Ed25519 key once known, `psk` 32 bytes (zero for friends
    added by hand), `user_key` the 32-byte key of a user with several devices. `endpoints` are those told by a person or
    an invitation, `told_endpoints` those the friend told us, `last_endpoint` where the friend was last, all as
    `str(parse_endpoint(text))` writes them. `floor_bps` is the guaranteed rate. `added_at` is Unix seconds.
    """

    name: str
    key: bytes
    signing_key: bytes | None = None
    psk: bytes = field(default=NO_PSK, repr=False)
    endpoints: tuple[str, ...] = ()
    last_endpoint: str | None = None
    floor_bps: int | None = None
    trust: Trust = Trust.FRIEND
    transit: Transit = Transit.LAST_RESORT
    visibility: Visibility = Visibility.FRIENDS
    added_at: float = 0.0
    user_key: bytes | None = None
    told_endpoints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parse_name(self.name)
        sizes = (self.key, self.psk, self.signing_key or bytes(KEY_BYTES), self.user_key or bytes(KEY_BYTES))
        most = max(len(self.endpoints), len(self.told_endpoints))
        if any(len(key) != KEY_BYTES for key in sizes) or most > MAX_ENDPOINTS:
            raise ValueError("a friend has keys of 32 bytes and at most 16 endpoints of a kind")

    @property
    def address(self) -> IPv6Address:
        """The friend's overlay address."""
        return address_of(self.key)


def parse_setting(assignments: Iterable[str]) -> dict[str, Any]:
    """Read `KEY=VALUE` texts as values of `Friend`; `endpoint` may come several times, no value at all empties it.

    Raises `SettingUnknown`, `SettingIncomplete`, `SettingTwice`, `SettingRefused`, and what the parsers of endpoints
    and rates raise.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        setting, equals, value = assignment.partition("=")
        if setting not in _SETTINGS:
            raise SettingUnknown(setting=setting, hint=_hint(setting))
        field_name, parse = _SETTINGS[setting]
        if not equals:
            raise SettingIncomplete(setting=setting)
        if field_name in values and setting != "endpoint":
            raise SettingTwice(setting=setting)
        parsed = parse(value)
        values[field_name] = values.get(field_name, ()) + parsed if setting == "endpoint" else parsed
    return values


def changed(friend: Friend, assignments: Iterable[str]) -> Friend:
    """Apply `KEY=VALUE` texts to a friend. Raises as `parse_setting` does."""
    return replace(friend, **parse_setting(assignments))


def _hint(setting: str) -> str:
    import difflib

    near = difflib.get_close_matches(setting, _SETTINGS, n=1)
    return f"Did you mean {near[0]}?" if near else f"There are {', '.join(_SETTINGS)}."


def _parsed_endpoint(text: str) -> tuple[str, ...]:
    return (str(parse_endpoint(text)),) if text else ()


def _parsed_floor(text: str) -> int | None:
    return (parse_rate(text) or None) if text not in ("", "none") else None


def _choice(setting: str, choices: type[Enum]) -> Callable[[str], Enum]:
    def parse(text: str) -> Enum:
        try:
            return choices(text)
        except ValueError:
            allowed = ", ".join(str(choice.value) for choice in choices)
            raise SettingRefused(value=text, setting=setting, reason=f"it is one of {allowed}") from None

    return parse


_SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "endpoint": ("endpoints", _parsed_endpoint),
    "floor": ("floor_bps", _parsed_floor),
    "trust": ("trust", _choice("trust", Trust)),
    "transit": ("transit", _choice("transit", Transit)),
    "visibility": ("visibility", _choice("visibility", Visibility)),
}
