"""A running node: opens what it is made of, hands each event to the one it concerns, closes in the reverse order.

Nothing is decided here. The device's events are read when its eventfd says that there are some; nothing polls. When
the data plane's thread ends by itself, a new device takes over the TUN; one that ends again at once ends the node.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from f2ftun.config import Config
from f2ftun.core.friend import Friend
from f2ftun.daemon.allowance import Allowance
from f2ftun.daemon.dispatch import dispatch
from f2ftun.daemon.home import Home
from f2ftun.daemon.host import Host, kernel_rules
from f2ftun.daemon.hybrid import Hybrid
from f2ftun.daemon.inviter import Inviter
from f2ftun.daemon.joiner import Joiner
from f2ftun.daemon.peers import Peers
from f2ftun.daemon.rendezvous import Rendezvous, answering, own_endpoints
from f2ftun.dataplane import Device, Event
from f2ftun.errors import F2ftunError, KeylogRefused, ListenRefused
from f2ftun.linux import firewall
from f2ftun.wire import control
from f2ftun.wire.control import Goodbye, Reason

EVENTS_AT_ONCE: Final = 256
"""Events handled before others may have the loop."""

GOODBYE_TIME: Final = 0.4
"""Seconds for telling everybody; `down` takes one. Who is not told notices by himself."""

SEND_TURN: Final = 0.02
"""Seconds in which the data plane's thread has surely sent what it was given; one turn of it takes microseconds."""

MIN_LIFE: Final = 10.0
"""Seconds; a device that ends by itself sooner after its start is not replaced again."""

log = logging.getLogger(__name__)


class Node:
    """One node, from `open` to `close`; `stopping` is set when it should end, `failed` when a fault is the reason."""

    def __init__(self, home: Home, host: Host, make_device: Callable[..., Device] = Device) -> None:
        self.home = home
        self.host = host
        self.stopping = asyncio.Event()
        self.failed = False
        self.started_at = time.monotonic()
        self.allowance = Allowance()
        self.drops = {"rx_control_excess": 0, "rx_control_malformed": 0}
        self._make_device = make_device
        self._tasks: set[asyncio.Task[None]] = set()
        self._tun_fd = -1
        self._moving = False
        self._applying = asyncio.Lock()  # so that the rules that are applied last are the newest

    async def open(self) -> None:
        """Change the host and start moving packets. Raises what the host and the device raise, with nothing left."""
        friends = self.home.store.friends()
        self._tun_fd = await self.host.open(self.home.config.mtu, kernel_rules(self.home.store.rules(), friends))
        try:
            self._start(friends)
            await self.look_around()
        except BaseException:
            await self.close()
            raise
        self.spawn(self._watch_network())
        self.spawn(self._keep_shut())

    def _start(self, friends: list[Friend]) -> None:
        """Make a device with all peers and those who deal with its events."""
        self.device = device = self._new_device()
        self.peers = peers = Peers(device, self.home.config.keepalive_s)
        self.rendezvous = Rendezvous(peers, device, self.home.store.set_last_endpoints, self.spawn)
        self.hybrid = Hybrid(device, self.home.identity.node_key, peers.friends.get)
        self.inviter = Inviter(device, self.home, peers, self.befriended)
        self.joiner = Joiner(device, self.home, peers, self.befriended, self.spawn)
        for friend in friends:
            peers.put(friend)
        self._device_started_at = time.monotonic()
        self.device_mtu = self.host.mtu
        device.start()
        self._moving = True
        asyncio.get_running_loop().add_reader(device.event_fd(), self._wake)
        self.rendezvous.open()
        self.inviter.open()
        self.joiner.open()

    def _new_device(self) -> Device:
        """Make the data plane's device on our TUN."""
        wanted = self.home.config
        try:
            return self._make_device(
                private_key=self.home.identity.node_private_key,
                tun_fd=self._tun_fd,
                listen=wanted.listen,
                mtu=self.host.mtu,
                underlay_mtu=self.host.underlay_mtu,
                keylog=os.fspath(wanted.keylog) if wanted.keylog else None,
            )
        except OSError as error:
            raise _told(error, wanted) from error

    async def close(self) -> None:
        """Say goodbye, stop, and put the host back; after a fault the overlay stays shut until the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._moving:
            self._say_goodbye()
            await asyncio.sleep(SEND_TURN)
            self._stop_device()
        await self.host.close(keep_shut=self.failed)

    def _say_goodbye(self) -> None:
        """Tell everybody who answers that this is no failure, as far as the time for it goes."""
        message = control.write(Goodbye(Reason.STOPPING))
        late_at = time.monotonic() + GOODBYE_TIME
        for key in answering(self.device):
            if time.monotonic() > late_at:
                return
            self.device.send_control(key, message)

    def _stop_device(self) -> None:
        """Stop the device and no longer listen to it."""
        self._moving = False
        for part in (self.rendezvous, self.hybrid, self.inviter, self.joiner):
            part.close()
        asyncio.get_running_loop().remove_reader(self.device.event_fd())
        self.device.stop()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task until it ends or the node does; what it raises is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Take note of the end of a task."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task failed", exc_info=task.exception())

    # Events

    def _wake(self) -> None:
        """Take note that there are events."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.device.event_fd())
        self._drain(self.device)

    def _drain(self, device: Device) -> None:
        """Handle the events that wait; leave those beyond `EVENTS_AT_ONCE` for the next turn of the loop."""
        for _ in range(EVENTS_AT_ONCE):
            event = device.poll_event() if device is self.device else None
            if event is None:
                return
            self._guarded(event)
        asyncio.get_running_loop().call_soon(self._drain, device)

    def _guarded(self, event: Event) -> None:
        """Handle one event; a fault of ours costs that event, not the node."""
        try:
            dispatch(self, event)
        except F2ftunError as error:
            log.error("the event %s could not be handled: %s", event.kind.value, error)
        except Exception:
            log.exception("the event %s could not be handled", event.kind.value)

    def handle_stopped(self, reason: str) -> None:
        """Replace a device that ended by itself; end the node if that ended at once or cannot be replaced."""
        if not reason:
            return
        log.critical("the data plane ended: %s", reason)
        self._stop_device()
        if time.monotonic() - self._device_started_at < MIN_LIFE or not self._restart():
            self.failed = True
            self.stopping.set()

    def _restart(self) -> bool:
        """Start a new device on the same TUN; say whether it moves packets."""
        try:
            self._start(self.home.store.friends())
        except (F2ftunError, OSError) as error:
            log.critical("the data plane cannot be started again: %s", error)
            return False
        self.spawn(self.look_around())
        return True

    def check(self) -> None:
        """Return when the data plane's thread has answered."""
        self.device.drops()

    # The network beneath

    async def _watch_network(self) -> None:
        """Act at once when an address or route of the underlay changes."""
        async with self.host.monitor() as monitor:
            async for underlay in monitor:
                log.info("the network has changed")
                self.host.underlay_mtu = underlay.mtu
                self.device.network_changed(underlay.mtu)
                await self.look_around()

    async def _keep_shut(self) -> None:
        """Put back what other programs take away of the overlay's walls."""
        async with self.host.guard() as guard:
            async for gaps in guard:
                log.warning("another program removed %s; putting it back", ", ".join(gaps))
                try:
                    await self.apply_host()
                except (F2ftunError, OSError) as error:
                    log.error("it could not be put back: %s", error)

    async def look_around(self) -> None:
        """Learn where this node can be reached now, and tell friends."""
        await self.rendezvous.tell_all(await self.endpoints())

    async def endpoints(self) -> tuple[str, ...]:
        """Give where this node can be reached."""
        return own_endpoints(self.device.listen, await self.host.addresses(), self.home.config.endpoints)

    # Friends

    def befriended(self, friend: Friend) -> None:
        """Make a new or changed friend a peer, and dial them."""
        self.peers.put(friend)
        self.rendezvous.resolve(friend)
        self.device.dial(friend.key)

    def changed(self, friend: Friend) -> None:
        """Apply what changed of a friend."""
        self.peers.put(friend)
        self.rendezvous.resolve(friend)

    async def unfriended(self, friend: Friend) -> None:
        """Tell a friend that it is over, and forget them."""
        if self.device.send_control(friend.key, control.write(Goodbye(Reason.UNFRIENDED))):
            await asyncio.sleep(SEND_TURN)
        self.inviter.forget_friend(friend.key)
        self.joiner.forget_friend(friend.key)
        self.peers.drop(friend.key)
        self.hybrid.forget(friend.key)
        self.allowance.forget(friend.key)

    def catch_up(self) -> None:
        """Apply what was stored beside this process: by a command that began before this node listened."""
        stored = {friend.key: friend for friend in self.home.store.friends()}
        for key in self.peers.friends.keys() - stored.keys():
            self.peers.drop(key)
        for key in stored.keys() - self.peers.friends.keys():
            self.befriended(stored[key])
        self.inviter.open()
        self.joiner.open()

    async def apply_host(self) -> None:
        """Make all of the host's side what it should be."""
        async with self._applying:
            await self.host.apply(self._kernel_rules())

    async def apply_rules(self) -> None:
        """Make the firewall what the store says."""
        async with self._applying:
            await self.host.apply_rules(self._kernel_rules())

    def _kernel_rules(self) -> list[firewall.Rule]:
        """Give the store's rules as the firewall wants them."""
        return kernel_rules(self.home.store.rules(), self.peers.friends.values())


def _told(error: OSError, wanted: Config) -> Exception:
    """Say why there is no device as a sentence, where we know it."""
    if error.filename is not None and error.errno is not None:
        return KeylogRefused(path=error.filename, reason=os.strerror(error.errno), config=wanted.path)
    if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
        return ListenRefused(listen=wanted.listen, reason=os.strerror(error.errno), config=wanted.path)
    return error
