"""Names that people give: lower-case letters, digits and hyphens, in labels joined by dots.

A name becomes a host name under `.f2f`, a word on a command line, a line in a log; so it holds nothing that any of
these would understand as something else. `.f2f` at its end may be written or left out.

Source: RFC 1035 §2.3.1 (a label), docs/manual.md.
"""

from __future__ import annotations

import re

from f2ftun.errors import NameRefused

MAX_NAME_CHARACTERS = 63
"""As much as one label of a host name holds, dots included. Source: RFC 1035 §2.3.4."""
DOMAIN = ".f2f"
RESERVED = frozenset({"all", "f2f", "localhost"})
"""`f2ftun allow all`, the domain itself, and the name that every resolver knows already."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def parse_name(text: str) -> str:
    """Read a name, without `.f2f`. Raises `NameRefused` that says why."""
    name = text.removesuffix(DOMAIN)
    reason = _refusal(name)
    if reason:
        raise NameRefused(name=text, reason=reason)
    return name


def is_name(text: str) -> bool:
    """Say whether a text is a name as `parse_name` returns it."""
    return _refusal(text) is None


def _refusal(name: str) -> str | None:
    if not name:
        return "it is empty"
    if len(name) > MAX_NAME_CHARACTERS:
        return f"it has {len(name)} characters"
    if name in RESERVED:
        return "that word means something else"
    if name.endswith((".k", DOMAIN)):
        return "what ends in .k is a key, and .f2f is said once"
    if _NAME.fullmatch(name):
        return None
    return "it has capital letters" if _NAME.fullmatch(name.lower()) and name.isascii() else "it has other characters"


def choose_name(wanted: str, taken: frozenset[str]) -> str:
    """Choose a name that is not taken: the wanted one, or that with -2, -3, … at its end."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        suffix = f"-{number}"
        name = wanted[: MAX_NAME_CHARACTERS - len(suffix)].rstrip("-.") + suffix
    return name
