"""Rates and times as people write them.

A rate is a number and a unit (`10KiB/s`, `1.5Gbit/s`), a time whole numbers with falling units (`2h30m`). What is
written reads back as the same value.
"""

from __future__ import annotations

import re

from f2ftun.errors import DurationUnreadable, RateUnreadable

RATE_UNITS_BPS = {
    "bit/s": 1,
    "kbit/s": 10**3,
    "Mbit/s": 10**6,
    "Gbit/s": 10**9,
    "B/s": 8,
    "kB/s": 8 * 10**3,
    "MB/s": 8 * 10**6,
    "GB/s": 8 * 10**9,
    "KiB/s": 8 * 2**10,
    "MiB/s": 8 * 2**20,
    "GiB/s": 8 * 2**30,
}
MAX_RATE_BPS = 10**13
"""Ten terabits: more than any line, and far below what 63 bits hold."""
DURATION_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
MAX_DURATION_S = 3660 * 86400
"""Ten years and a little: whoever asks for longer mistyped."""
MAX_CHARACTERS = 40

_RATE = re.compile(r"([0-9]+)(?:\.([0-9]+))? ?([A-Za-z/]+)")
_DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")


def parse_rate(text: str) -> int:
    """Read a rate in bits per second, 0 to 10¹³. Raises `RateUnreadable`. Source: docs/manual.md."""
    match = _RATE.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if match is None:
        raise RateUnreadable(text=text, reason="a rate is a number and a unit")
    whole, decimals = match[1], match[2] or ""
    scaled = int(whole + decimals) * _rate_unit(text, match[3])
    rate, rest = divmod(scaled, int("1" + "0" * len(decimals)))
    if rest:
        raise RateUnreadable(text=text, reason="it is not a whole number of bits per second")
    if rate > MAX_RATE_BPS:
        raise RateUnreadable(text=text, reason="it is more than 10000Gbit/s")
    return rate


def _rate_unit(text: str, unit: str) -> int:
    if unit in RATE_UNITS_BPS:
        return RATE_UNITS_BPS[unit]
    import difflib

    folded = {known.lower(): known for known in RATE_UNITS_BPS}
    near = difflib.get_close_matches(unit.lower(), folded, n=1)
    hint = f"did you mean {folded[near[0]]}?" if near else f"the units are {', '.join(RATE_UNITS_BPS)}"
    raise RateUnreadable(text=text, reason=f'there is no unit "{unit}"; {hint}')


def write_rate(rate_bps: int) -> str:
    """Write bits per second (0 to 10¹³) in the largest decimal unit that needs at most three decimals."""
    for unit in ("Gbit/s", "Mbit/s", "kbit/s"):
        size = RATE_UNITS_BPS[unit]
        if rate_bps >= size and rate_bps * 1000 % size == 0:
            return f"{rate_bps // size}{_decimals(rate_bps % size, size)}{unit}"
    return f"{rate_bps}bit/s"


def _decimals(rest: int, size: int) -> str:
    return f".{rest * 1000 // size:03}".rstrip("0").rstrip(".")


def parse_duration(text: str) -> int:
    """Read a time in seconds, 1 to ten years. Raises `DurationUnreadable`."""
    match = _DURATION.fullmatch(text) if text and len(text) <= MAX_CHARACTERS else None
    if match is None:
        raise DurationUnreadable(text=text, reason="a time is whole numbers with d, h, m and s, in this order")
    seconds = sum(int(count or 0) * unit for count, unit in zip(match.groups(), DURATION_UNITS_S.values(), strict=True))
    if not 0 < seconds <= MAX_DURATION_S:
        raise DurationUnreadable(text=text, reason="it is none at all" if not seconds else "it is more than ten years")
    return seconds


def write_duration(seconds: int) -> str:
    """Write seconds (1 or more) as days, hours, minutes and seconds, without those that are zero."""
    parts = []
    for unit, size in DURATION_UNITS_S.items():
        count, seconds = divmod(seconds, size)
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts)
