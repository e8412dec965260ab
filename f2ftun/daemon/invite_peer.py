"""What befriending needs of a device: peers that are met as an invitation's one-time *invite peer*."""

from __future__ import annotations

from typing import Protocol


class InvitePeers(Protocol):
    """What of a device is needed here. Source: f2ftun/dataplane.py."""

    def set_peer(
        self,
        key: bytes,
        *,
        address: bytes | None,
        psk: bytes,
        endpoints: list[str],
        keepalive_s: float,
        own_private_key: bytes | None = None,
    ) -> None:
        """Add or change a peer."""

    def remove_peer(self, key: bytes) -> bool:
        """Forget a peer."""

    def dial(self, key: bytes) -> bool:
        """Try all endpoints of a peer now."""

    def send_control(self, key: bytes, payload: bytes) -> bool:
        """Send one control message."""
