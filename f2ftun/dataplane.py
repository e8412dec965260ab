"""The data plane as a device: tables in, counters and events out.

The control plane gives it peers and endpoints and reads what happened; it touches no packet. This is the only
module that imports the native one. A device owns one thread, which runs without the interpreter's lock; every method
here may be called from any Python thread, and returns when the device's thread has acted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from f2ftun import _dataplane

KEY_BYTES = 32
"""Size of public keys, private keys and psks."""

MAX_CONTROL_BYTES = 2300
"""Largest control message. Source: docs/protocol.md §5.3."""


class PeerStatus(Enum):
    """Whether a friend answers: `up` has a live session, `connecting` is being dialled, `down` does not answer."""

    UP = "up"
    CONNECTING = "connecting"
    DOWN = "down"


class EventKind(Enum):
    """What a device has to say.

    `session`: a new session stands (payload: endpoint, UTF-8). `lost`: a live session fell silent. `roamed`: the
    friend's validated endpoint changed (payload: endpoint). `control`: a control message came (payload: its bytes).
    `unreachable`: all known endpoints were dialled in vain; re-resolve names. `stopped`: the device's thread ended
    (payload: the reason, UTF-8; empty when asked to).
    """

    SESSION = "session"
    LOST = "lost"
    ROAMED = "roamed"
    CONTROL = "control"
    UNREACHABLE = "unreachable"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, with the peer's 32-byte node key (empty for `stopped`)."""

    kind: EventKind
    peer: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class PeerState:
    """What the device knows of one peer. Times are ages in seconds, `None` where there was no such thing yet.

    `rx_bytes`, `tx_bytes` count inner packets, `rx_datagrams`, `tx_datagrams` what travelled. `datagram_bytes` is the
    largest UDP payload that the path is known to carry. `hybrid` says whether the session's psk came from ML-KEM.
    """

    key: bytes
    status: PeerStatus
    endpoint: str | None
    rtt_s: float | None
    last_handshake_s: float | None
    rx_bytes: int
    tx_bytes: int
    rx_datagrams: int
    tx_datagrams: int
    datagram_bytes: int
    hybrid: bool


class Device:
    """One node's data plane: a TUN, one UDP port, and the sessions with its peers.

    Raises `OSError` where the kernel refuses (port in use, not a TUN) and `ValueError` for keys of a wrong size.
    """

    def __init__(
        self,
        *,
        private_key: bytes,
        tun_fd: int,
        listen: str,
        mtu: int,
        underlay_mtu: int = 1500,
        keylog: str | None = None,
    ) -> None:
        """Bind `listen` (`"[::]:4242"`, `"192.0.2.1:0"`) and take a duplicate of `tun_fd`.

        The TUN must have been opened with `IFF_VNET_HDR`. `mtu` and `underlay_mtu` are bytes of IP; `keylog` is a path.
        """
        self._native = _dataplane.Device(
            private_key=private_key,
            tun_fd=tun_fd,
            listen=listen,
            mtu=mtu,
            underlay_mtu=underlay_mtu,
            keylog=keylog,
        )

    @property
    def listen(self) -> str:
        """The address and port in use, e.g. `[::]:4242`."""
        return self._native.listen

    @property
    def offloads(self) -> list[str]:
        """The kernel offloads in use, of `tso`, `uso`, `udp-gso`, `udp-gro`."""
        return self._native.offloads

    def start(self) -> None:
        """Start moving packets."""
        self._native.start()

    def stop(self) -> None:
        """Stop, erase every key and close the sockets. A second call does nothing."""
        self._native.stop()

    def set_peer(
        self,
        key: bytes,
        *,
        address: bytes | None,
        psk: bytes,
        endpoints: list[str],
        keepalive_s: float = 25.0,
        own_private_key: bytes | None = None,
    ) -> None:
        """Add a peer, or change it; unchanged keys keep the session.

        `address`: 16 bytes, or `None` for an invite peer, with whom only control messages are exchanged. `endpoints`:
        literal `ADDR:PORT`, tried all at once; none means: wait to be dialled. `keepalive_s`: 0 switches it off.
        `own_private_key`: dial as this key instead of the node's (docs/protocol.md §8). Raises `ValueError` for a
        low-order key, an address in fc00::/8 as endpoint, or another peer's address.
        """
        self._native.set_peer(
            key,
            address=address,
            psk=psk,
            endpoints=endpoints,
            keepalive_s=keepalive_s,
            own_private_key=own_private_key,
        )

    def remove_peer(self, key: bytes) -> bool:
        """Forget a peer, its sessions and its packets at once; say whether there was one."""
        return self._native.remove_peer(key)

    def set_hybrid_psk(self, key: bytes, psk: bytes, *, initiate: bool) -> bool:
        """Accept a psk that came from ML-KEM beside the friendship's own, and start a handshake with it if `initiate`.

        Source: docs/protocol.md §9.
        """
        return self._native.set_hybrid_psk(key, psk, initiate)

    def send_control(self, key: bytes, payload: bytes) -> bool:
        """Send one control message, at most `MAX_CONTROL_BYTES`; say whether a session stood to carry it."""
        return self._native.send_control(key, payload)

    def dial(self, key: bytes) -> bool:
        """Try all endpoints of a peer now, whatever its back-off; say whether there is such a peer."""
        return self._native.dial(key)

    def network_changed(self, underlay_mtu: int | None = None) -> None:
        """Forget source addresses and path sizes, show every live peer the new address, dial the others.

        `underlay_mtu`: bytes of IP that the interfaces carry now; `None` leaves it as it was.
        """
        self._native.network_changed(underlay_mtu)

    def peers(self) -> list[PeerState]:
        """Read the state of every peer, in no order."""
        return [PeerState(row[0], PeerStatus(row[1]), *row[2:]) for row in self._native.peers()]

    def drops(self) -> dict[str, int]:
        """Read the counters of what was dropped, by reason; every reason is there, most are 0."""
        return self._native.drops()

    def poll_event(self) -> Event | None:
        """Take the oldest event, if there is one."""
        event = self._native.poll_event()
        if event is None:
            return None
        kind, peer, payload = event
        return Event(EventKind(kind), peer, payload)

    def event_fd(self) -> int:
        """Give an eventfd that is readable while events wait; read 8 bytes from it, then poll until `None`."""
        return self._native.event_fd()
