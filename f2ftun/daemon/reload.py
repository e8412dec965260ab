"""Apply a changed config, and what else was stored meanwhile, to a running node, with no loss.

What can be changed live is, the rest is named. A config that cannot be read changes nothing. The host's side is put
right in any case, so that `reload` also mends what another program has undone (a flushed firewall, a lost route).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from f2ftun import config
from f2ftun.config import Config
from f2ftun.daemon.host import overlay_mtu
from f2ftun.daemon.log import set_level
from f2ftun.daemon.node import Node

LIVE: Final = ("name", "keepalive_s", "endpoints", "hybrid", "link_rate_bps", "log_level", "mtu")
"""Settings that are applied to a running node."""

FIXED: Final = ("listen", "interface", "state", "control_socket", "user", "keylog")
"""Settings that need a restart."""

SHOWN: Final = {"keepalive_s": "keepalive", "link_rate_bps": "link_rate"}
"""What a field is called in config.yaml, where that differs."""


async def reload(node: Node) -> dict[str, list[str]]:
    """Read the config again and apply it; give what was applied and what needs a restart. Raises `ConfigError`."""
    before, wanted = node.home.config, config.load(node.home.config.path)
    changed = [name for name in LIVE + FIXED if getattr(before, name) != getattr(wanted, name)]
    applied = [name for name in changed if name in LIVE and (name != "mtu" or _fits(node, wanted))]
    node.home.config = replace(before, **{name: getattr(wanted, name) for name in applied})
    await _apply(node, applied)
    rest = [name for name in changed if name not in applied]
    return {"applied": [SHOWN.get(name, name) for name in applied], "restart": rest}


def _mtu(node: Node, wanted: Config) -> int:
    """Give the TUN's MTU that a config asks for."""
    return wanted.mtu or overlay_mtu(node.host.underlay_mtu)


def _fits(node: Node, wanted: Config) -> bool:
    """Say whether the data plane, which was made for the first MTU, can live with the wanted one."""
    return _mtu(node, wanted) <= node.device_mtu


async def _apply(node: Node, applied: list[str]) -> None:
    """Apply what was changed, then everything on the host."""
    now = node.home.config
    node.catch_up()
    if "log_level" in applied:
        set_level(now.log_level)
    if "keepalive_s" in applied:
        node.peers.set_keepalive(now.keepalive_s)
    if "mtu" in applied:
        node.host.mtu = _mtu(node, now)
    await node.apply_host()
    await node.look_around()
