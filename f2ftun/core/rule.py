"""Who may reach which local port: rules only open, what no rule opens is closed.

As text a rule's ports are `tcp/80` or `udp/5000-5100`. Opening what is open changes nothing; closing takes the ports
out of what is open, so that two rules may be left of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from f2ftun.errors import RuleOpenToAll, RuleUnreadable
from f2ftun.wire.name import parse_name

ALL = "all"
MAX_PORT = 65535

_PORTS = re.compile(r"([a-z]{1,10})/([0-9]{1,5})(?:-([0-9]{1,5}))?")


class Protocol(Enum):
    """What has ports."""

    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Rule:
    """One friend by name, or "all", may reach the ports from `first` to `last`, both included and from 1 to 65535."""

    who: str
    protocol: Protocol
    first: int
    last: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last <= MAX_PORT:
            raise ValueError("ports go from 1 to 65535, the lower first")

    @property
    def ports(self) -> str:
        """The ports as text, as `parse_rule` reads them."""
        span = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{self.protocol.value}/{span}"


def parse_rule(who: str, ports: str) -> Rule:
    """Read a rule for a friend's name or "all". Raises `RuleUnreadable`, and `NameRefused` for the name."""
    who = who if who == ALL else parse_name(who)
    match = _PORTS.fullmatch(ports)
    if match is None:
        raise RuleUnreadable(text=ports, reason="it is not a protocol, a slash and a port")
    if match[1] not in {protocol.value for protocol in Protocol}:
        raise RuleUnreadable(text=ports, reason=f"{match[1]} has no ports here, only tcp and udp have")
    first, last = int(match[2]), int(match[3] or match[2])
    if not 1 <= first <= last <= MAX_PORT:
        raise RuleUnreadable(text=ports, reason="ports go from 1 to 65535, the lower first")
    return Rule(who, Protocol(match[1]), first, last)


def opened(rules: Iterable[Rule], rule: Rule) -> tuple[Rule, ...]:
    """Add a rule, joined with those of the same friend and protocol that it touches."""
    kept = []
    for other in rules:
        if _same(other, rule) and other.first <= rule.last + 1 and rule.first <= other.last + 1:
            rule = replace(rule, first=min(rule.first, other.first), last=max(rule.last, other.last))
        else:
            kept.append(other)
    return (*kept, rule)


def closed(rules: Iterable[Rule], rule: Rule) -> tuple[Rule, ...]:
    """Take ports away from a friend, or from everybody when the rule is for all.

    Raises `RuleOpenToAll` when they are to be closed to one friend and open to all.
    """
    rules = tuple(rules)
    if rule.who != ALL and any(other.who == ALL and _overlap(other, rule) for other in rules):
        raise RuleOpenToAll(ports=rule.ports, who=rule.who)
    return tuple(rest for other in rules for rest in _without(other, rule))


def _without(other: Rule, rule: Rule) -> tuple[Rule, ...]:
    if rule.who not in (ALL, other.who) or not _overlap(other, rule):
        return (other,)
    below = (replace(other, last=rule.first - 1),) if other.first < rule.first else ()
    above = (replace(other, first=rule.last + 1),) if other.last > rule.last else ()
    return below + above


def _overlap(one: Rule, other: Rule) -> bool:
    return one.protocol == other.protocol and one.first <= other.last and other.first <= one.last


def _same(one: Rule, other: Rule) -> bool:
    return one.who == other.who and one.protocol == other.protocol
