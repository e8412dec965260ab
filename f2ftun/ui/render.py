"""Values as text for people: columns that line up, units that can be read, colour only where a terminal shows it.

Everything here is a pure function from a verb's value to a text; `click.echo` takes the colours out where nobody sees
them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import click

Value = dict[str, Any]

STATE_COLOURS: Final = {"up": "green", "connecting": "yellow", "down": "red"}
SEVERITY_COLOURS: Final = {"error": "red", "warning": "yellow", "ok": "green"}
NOTHING: Final = "-"
"""Stands where there is no value."""


def columns(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Align rows under a head, two spaces between; the last column is ragged."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    return "\n".join([click.style(line(head), bold=True), *(_coloured(line(row), row) for row in rows)])


def _coloured(line: str, row: Sequence[str]) -> str:
    """Colour the first cell of a row that is the name of a state."""
    for cell in row:
        if cell in STATE_COLOURS:
            return line.replace(f" {cell} ", f" {click.style(cell, fg=STATE_COLOURS[cell])} ", 1)
    return line


def size(count: float) -> str:
    """Write a number of bytes with three digits or so: `999 B`, `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def rate(bps: float | None) -> str:
    """Write a rate in bits per second."""
    if bps is None:
        return NOTHING
    for unit in ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"):
        if bps < 1000 or unit == "Gbit/s":
            break
        bps /= 1000
    return f"{bps:.4g} {unit}"


def age(seconds: float | None) -> str:
    """Write a time span with its two largest units: `12 s`, `2 h 13 m`, `3 d`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.0f} s"
    parts: list[str] = []
    rest = int(seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


def moment(unix: float) -> str:
    """Write a moment of Unix time as the clock on the wall shows it."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix))


def rtt(milliseconds: float | None) -> str:
    """Write a round trip time."""
    return NOTHING if milliseconds is None else f"{milliseconds:.1f} ms"


def status(value: Value, drops: bool) -> str:
    """Show the node, then its friends, then what was dropped."""
    name = click.style(value["name"], bold=True)
    parts = [
        f"{name}  {value['address']}  on {value['interface']}, up {age(value['uptime_s'])}\n"
        f"listens on {', '.join(value['listen'])}   MTU {value['mtu']}"
        + (f"   line {rate(value['link_rate_bps'])}" if value["link_rate_bps"] else "")
        + f"\nkey {value['key']}",
        _status_friends(value["friends"]),
        *([joins(value["joins"])] if value["joins"] else []),
        *([invitations(value["invitations"])] if value["invitations"] else []),
    ]
    return "\n\n".join([*parts, _drops(value["drops"])] if drops else parts)


def _status_friends(friends: Sequence[Value]) -> str:
    """Show one line for each friend, those who answer first."""
    if not friends:
        return "No friends yet. Make the first one: f2ftun invite NAME"
    head = ("FRIEND", "STATE", "WAY", "RTT", "RECEIVED", "SENT", "HANDSHAKE", "ENDPOINT")
    order = sorted(friends, key=lambda friend: (list(STATE_COLOURS).index(friend["state"]), friend["name"]))
    return columns([_status_friend(friend) for friend in order], head)


def _status_friend(friend: Value) -> tuple[str, ...]:
    handshake = friend["last_handshake_s"]
    return (
        friend["name"],
        friend["state"],
        friend["via"] or NOTHING,
        rtt(friend["rtt_ms"]),
        size(friend["rx_bytes"]),
        size(friend["tx_bytes"]),
        NOTHING if handshake is None else f"{age(handshake)} ago",
        friend["endpoint"] or NOTHING,
    )


def _drops(drops: dict[str, int]) -> str:
    """Show the reasons that occurred, the most frequent first."""
    rows = sorted(((count, reason) for reason, count in drops.items() if count), reverse=True)
    if not rows:
        return "No packet was dropped."
    return columns([(str(count), reason) for count, reason in rows], ("DROPPED", "WHY"))


def init(value: Value) -> str:
    """Say what was made."""
    identity = "kept the key that was there" if value["kept_key"] else "a new identity"
    return f"Made {value['config']} and {identity}.\naddress {value['address']}\nkey     {value['key']}"


def up(value: Value) -> str:
    """Say that the node runs, and where."""
    return f"{value['name']} is up at {value['address']} on {value['interface']}, listening on {value['listen']}."


def down(value: Value) -> str:
    """Say what was stopped and removed."""
    if value["stopped"] and value["removed"]:
        return f"The node hung and was killed; removed what it had left: {', '.join(value['removed'])}."
    if value["stopped"]:
        return "The node is stopped."
    if value["removed"]:
        return f"The node was not running; removed what it had left: {', '.join(value['removed'])}."
    return "The node was not running."


def reload(value: Value) -> str:
    """Say what changed."""
    lines = []
    if value["applied"]:
        lines.append(f"Applied: {', '.join(value['applied'])}.")
    if value["restart"]:
        lines.append(f"Changed, but only f2ftun down and up will apply it: {', '.join(value['restart'])}.")
    return "\n".join(lines) or "Nothing in the config has changed."


def doctor(findings: Sequence[Value]) -> str:
    """Show each finding with its reason and cure."""
    if not findings:
        return "Everything looks well."
    return "\n".join(_finding(finding) for finding in findings)


def _finding(finding: Value) -> str:
    severity = finding["severity"]
    lines = [f"{click.style(severity, fg=SEVERITY_COLOURS.get(severity))}: {finding['what']}"]
    lines += [f"    {text}" for text in (finding["why"], finding["cure"]) if text]
    return "\n".join(lines)


def invite(value: Value, qr: bool) -> str:
    """Show the line to send, and perhaps its QR code."""
    until = moment(value["expires_at"])
    who = value["name"] or "your friend"
    parts = [f"Send {who} this line; it works once, until {until}:\n", f"f2ftun join {value['invite']}\n"]
    if qr:
        parts.append(qr_code(value["invite"]))
    if not value["endpoints"]:
        parts.append("It holds no address of this node: connect the host, or set `endpoints`, and invite again.\n")
    if not value["running"]:
        parts.append("The node is not running yet: sudo f2ftun up")
    return "\n".join(parts).rstrip("\n")


def qr_code(text: str) -> str:
    """Draw a QR code with half blocks: black on white whatever the terminal's colours."""
    import io

    import segno

    drawn = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(out=drawn, compact=True)
    return "\n".join(click.style(line, fg="bright_white", bg="black") for line in drawn.getvalue().splitlines())


def join(value: Value) -> str:
    """Say whether the friendship stands already."""
    if value["state"] == "friends":
        return f"You and {value['name']} are friends now: {value['address']}"
    if not value["running"]:
        return "The invitation is kept. Start the node and it will be used: sudo f2ftun up"
    return (
        "They do not answer yet. The node goes on trying until the invitation expires; f2ftun status shows it, "
        "f2ftun join --cancel ends it."
    )


def joins(values: Sequence[Value]) -> str:
    """List the joins that wait, one a line."""
    if not values:
        return "No join waits for an answer."
    rows = [(value["id"], value["name"] or NOTHING, value["address"], moment(value["expires_at"])) for value in values]
    return columns(rows, ("JOINING", "FRIEND", "ADDRESS", "UNTIL"))


def invitations(values: Sequence[Value]) -> str:
    """List the invitations that are open, one a line."""
    if not values:
        return "No invitation is open."
    rows = [
        (value["id"], value["name"] or NOTHING, value["used_by"] or NOTHING, moment(value["expires_at"]))
        for value in values
    ]
    return columns(rows, ("INVITED", "FRIEND", "USED BY", "UNTIL"))


def friend_added(value: Value) -> str:
    """Say that a friend was added."""
    return f"{value['name']} is a friend now: {value['address']}"


def friends(values: Sequence[Value]) -> str:
    """List friends, one a line."""
    if not values:
        return "No friends yet. Make the first one: f2ftun invite NAME"
    rows = [
        (value["name"], value["trust"], value["address"], ", ".join(value["endpoints"]) or NOTHING) for value in values
    ]
    return columns(sorted(rows), ("FRIEND", "TRUST", "ADDRESS", "ENDPOINTS"))


def friend(value: Value) -> str:
    """Show all of one friend, one line for each thing."""
    rows = [
        ("name", value["name"]),
        ("state", value["state"] or "the node is not running"),
        ("address", value["address"]),
        ("key", value["key"]),
        ("way", value["via"] or NOTHING),
        ("endpoint", value["endpoint"] or NOTHING),
        ("endpoints", ", ".join(value["endpoints"]) or NOTHING),
        ("they say", ", ".join(value["told_endpoints"]) or NOTHING),
        ("RTT", rtt(value["rtt_ms"])),
        ("handshake", age(value["last_handshake_s"]) + (" ago" if value["last_handshake_s"] is not None else "")),
        ("post-quantum", "yes" if value["hybrid"] else "not yet"),
        ("received", size(value["rx_bytes"])),
        ("sent", size(value["tx_bytes"])),
        ("floor", rate(value["floor_bps"])),
        ("trust", value["trust"]),
        ("transit", value["transit"]),
        ("visibility", value["visibility"]),
        ("friend since", time.strftime("%Y-%m-%d", time.localtime(value["added_at"]))),
    ]
    return "\n".join(f"{click.style(name.ljust(12), bold=True)}  {text}" for name, text in rows)


def rules(values: Sequence[Value]) -> str:
    """List who may reach what."""
    if not values:
        return "Nobody may reach any port; all friends may ping."
    return columns([(value["who"], value["port"]) for value in values], ("WHO", "PORT"))


def ping_reply(target: str, sequence: int, replies: Sequence[Value]) -> str:
    """Show one reply, or that none came."""
    if not replies:
        return f"no answer from {target}: seq {sequence}"
    return f"answer from {target}: seq {sequence}  {replies[0]['rtt_ms']:.2f} ms  {replies[0]['via']}"


def ping(value: Value) -> str:
    """Sum up."""
    times = sorted(reply["rtt_ms"] for reply in value["replies"])
    text = f"{value['sent']} sent, {value['received']} received"
    if times:
        text += f", RTT least {times[0]:.2f}, median {times[len(times) // 2]:.2f}, most {times[-1]:.2f} ms"
    return text
