"""What a node has on disk, whether it runs or not: config, identity, store, and the lock that says that it runs.

Made new by `create`, whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from f2ftun import config, store
from f2ftun.config import Config
from f2ftun.core.identity import Identity
from f2ftun.core.user import parse_ssh_key
from f2ftun.errors import (
    ConfigExists,
    ConfigValueRefused,
    IdentityExists,
    NameRefused,
    NodeRunning,
    SettingRefused,
    StateUnusable,
)
from f2ftun.wire import devices, record
from f2ftun.wire.key import write_key
from f2ftun.wire.name import parse_name

if TYPE_CHECKING:
    from nacl.signing import SigningKey

DYING_TIME: Final = 1.0
"""Seconds; a killed process keeps its lock until its last thread has gone."""

LOCK_FILE: Final = "lock"
"""In the state folder; who holds its lock is the node, and it holds that process's number."""

MAX_DEVICES_BYTES: Final = 2048
"""A device list has at most 1,130. Source: f2ftun/wire/devices.py."""


class Home:
    """A node's config, identity and store."""

    def __init__(self, config: Config, identity: Identity, store: store.Store, *, kept_key: bool = True) -> None:
        self.config = config
        self.identity = identity
        self.store = store
        self.kept_key = kept_key
        self._record: tuple[str, bytes] | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the node whose config is at `path`. Raises a `ConfigError` or `StateError` that says what is wrong."""
        loaded = config.load(path)
        return cls(loaded, store.load_identity(loaded.state), store.Store.open(loaded.state))

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def record(self) -> bytes:
        """Give this device's record, signed anew when the name has changed."""
        name = self.config.name
        if self._record is None or self._record[0] != name:
            signed = record.sign(self.identity.signing_key, self.identity.node_key, name, self.store.next_sequence())
            self._record = name, record.write(signed)
        return self._record[1]

    def devices(self) -> bytes:
        """Give the user's device list, or nothing for a user of one device."""
        try:
            return store.read_private_file(self.config.state, store.DEVICES_FILE, MAX_DEVICES_BYTES)
        except FileNotFoundError:
            return b""

    def name_of(self, key: bytes) -> str:
        """Call a node by its petname, or by its key if it is no friend."""
        friend = self.store.friend_by_key(key)
        return friend.name if friend is not None else write_key(key)


def create(path: Path, user_key: str | None = None, **values: str | None) -> Home:
    """Make a new node: its config with `values`, its identity, its store. Raises `ConfigExists` and a reason.

    An identity that is there already is kept. Where anything fails, no config is left.
    """
    signer = parse_ssh_key(store.read_user_key(Path(user_key)), user_key) if user_key is not None else None
    chosen = {"name": default_name(), **{key: value for key, value in values.items() if value is not None}}
    try:
        store.create_file(path, config.render(**chosen).encode())
    except FileExistsError:
        raise ConfigExists(path=path) from None
    try:
        home = _furnish(_load_typed(path))
        if signer is not None:
            _sign_devices(home, signer)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return home


def _load_typed(path: Path) -> Config:
    """Read a config that was just typed: a value that cannot be is wrong usage, and its file is not kept."""
    try:
        return config.load(path)
    except ConfigValueRefused as error:
        raise SettingRefused(**{"setting": error.values["key"], **error.values}) from None


def _furnish(wanted: Config) -> Home:
    """Make the identity, unless there is one, and the store."""
    kept_key = False
    try:
        store.save_identity(wanted.state, Identity.draw(os.urandom))
    except IdentityExists:
        kept_key = True
    return Home(wanted, store.load_identity(wanted.state), store.Store.open(wanted.state), kept_key=kept_key)


def _sign_devices(home: Home, signer: SigningKey) -> None:
    """Write the user's list that names this device alone."""
    signed = devices.sign(signer, [home.identity.node_key], int(time.time()))
    store.write_private_file(home.config.state, store.DEVICES_FILE, devices.write(signed), overwrite=True)


def default_name() -> str:
    """Call a node as its host is called, if that is a name for a node; else `node`."""
    with contextlib.suppress(NameRefused):
        return parse_name(socket.gethostname().partition(".")[0].lower())
    return "node"


class Lock:
    """Held as long as the node runs; the kernel lets go of it however the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, loaded: Config) -> Self:
        """Take the lock. Raises `NodeRunning`, `StateUnsafe`, `StateUnusable`."""
        store.make_state_folder(loaded.state)
        folder = store.open_state_folder(loaded.state)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(LOCK_FILE, flags, 0o600, dir_fd=folder)
        except OSError as error:
            raise StateUnusable(path=loaded.state / LOCK_FILE, reason=error.strerror) from None
        finally:
            os.close(folder)
        return cls(_locked(descriptor, loaded))

    def close(self) -> None:
        """Let go."""
        os.close(self._descriptor)


def _locked(descriptor: int, loaded: Config) -> int:
    """Lock an open file and write our number into it; one who was killed just now may still hold it for a moment."""
    late_at = time.monotonic() + DYING_TIME
    while not _try_lock(descriptor):
        if time.monotonic() > late_at:
            os.close(descriptor)
            raise NodeRunning(config=loaded.path)
        time.sleep(DYING_TIME / 50)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _try_lock(descriptor: int) -> bool:
    """Lock an open file, and say whether nobody else had."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
