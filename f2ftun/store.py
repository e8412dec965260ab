"""What must survive a restart: the key file, and `node.db` with friends, invitations and rules.

All of it lies in the state folder, which is its owner's alone (0700, files 0600, no links). Whoever could write there
could be this node, so a folder or file that is not as it should be is refused, not repaired. Files appear whole or not
at all: they are written beside, synced, linked into place, and the folder is synced. SQLite in WAL mode with
`synchronous=FULL` does the same for the database: when a verb returns, what it did survives a power cut, and when the
disk is full nothing was changed.

Root may use the state folder of another user (`f2ftun status` of a node that runs as f2ftun); what root makes there is
given to that user.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, Self

from f2ftun.core.friend import Friend, Transit, Trust, Visibility
from f2ftun.core.identity import SEED_BYTES, Identity
from f2ftun.core.invitation import Invitation
from f2ftun.core.join import PendingJoin
from f2ftun.core.rule import ALL, Protocol, Rule, closed, opened
from f2ftun.core.user import MAX_SSH_KEY_BYTES
from f2ftun.errors import (
    FriendKeyTaken,
    FriendNameTaken,
    FriendUnknown,
    IdentityDamaged,
    IdentityExists,
    IdentityNotFound,
    KeyRefused,
    SeedRefused,
    StateForbidden,
    StateUnsafe,
    StateUnusable,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreNewer,
    UserKeyRefused,
)
from f2ftun.wire import invite as invite_line
from f2ftun.wire.key import parse_key, write_key

KEY_FILE: Final = "key"
DATABASE_FILE: Final = "node.db"
DEVICES_FILE: Final = "devices"
MAX_KEY_FILE_BYTES: Final = 200
BUSY_TIMEOUT: Final = 5.0
"""Seconds to wait for another process of this node to end its transaction; each takes milliseconds."""
WAL_PAGES: Final = 64
"""Pages in the write-ahead log before it is folded in: 256 KiB, so that small disks suffice."""


# The state folder


def make_state_folder(folder: Path) -> None:
    """Make the state folder, 0700, unless it is there, and check it. Raises `StateUnsafe`, `StateUnusable`."""
    _make_folder(folder, 0o700)
    os.close(open_state_folder(folder))


def _make_folder(folder: Path, mode: int) -> None:
    """Make a folder unless it is there, and those above it, which nobody else may write into whatever the umask is."""
    if os.path.isdir(folder):
        return
    if folder != folder.parent:
        _make_folder(folder.parent, 0o755)
    try:
        folder.mkdir(mode=mode, exist_ok=True)
    except OSError as error:
        raise _unwritten(folder, error) from None


def open_state_folder(folder: Path) -> int:
    """Open the state folder, checked to be nobody else's, as a descriptor. Raises `StateUnsafe`, `StateUnusable`."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unopened(folder, error) from None
    found = os.fstat(descriptor)
    try:
        _check_owner(folder, found.st_uid, {os.geteuid()} if os.geteuid() else {found.st_uid})
        _check_mode(folder, found.st_mode, "700")
    except StateUnsafe:
        os.close(descriptor)
        raise
    return descriptor


def _unopened(path: Path, error: OSError) -> StateUnsafe | StateUnusable:
    if error.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink():
        cure = "Remove it, or name its target in the config."
        return StateUnsafe(path=path, reason="it is a symbolic link", cure=cure)
    return _unusable(path, error)


def _unusable(path: Path, error: OSError) -> StateUnusable:
    """Say why the system does not let us."""
    forbidden = error.errno in (errno.EACCES, errno.EPERM)
    return StateForbidden(path=path) if forbidden else StateUnusable(path=path, reason=error.strerror)


def _check_owner(path: Path, owner: int, allowed: set[int]) -> None:
    if owner not in allowed:
        cure = f"If it is yours, run `chown {min(allowed)} {path}`."
        raise StateUnsafe(path=path, reason=f"it belongs to another user (uid {owner})", cure=cure)


def _check_mode(path: Path, mode: int, wanted: str) -> None:
    if mode & 0o077:
        reason = f"others may use it (mode {stat.S_IMODE(mode):o})"
        raise StateUnsafe(path=path, reason=reason, cure=f"If nobody did, run `chmod {wanted} {path}`.")


# Files in it


def read_private_file(folder: Path, name: str, max_bytes: int) -> bytes:
    """Read a file of the state folder that only its owner may read; at most `max_bytes` and one more byte.

    Raises `FileNotFoundError`, `StateUnsafe` for a link, pipe, foreign owner or other permissions, and `StateUnusable`.
    """
    directory = open_state_folder(folder)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(name, flags, dir_fd=directory), "rb") as file:
            if os.fstat(file.fileno()).st_nlink > 1:
                _remove_unfinished(directory, name)
            _check_file(folder / name, os.fstat(file.fileno()), os.fstat(directory).st_uid)
            return file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unopened(folder / name, error) from None
    finally:
        os.close(directory)


def _check_file(path: Path, found: os.stat_result, owner: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StateUnsafe(path=path, reason="it is not a plain file", cure="Remove it.")
    if found.st_nlink != 1:
        cure = "Find out who made that, and remove it."
        raise StateUnsafe(path=path, reason="it has a second name elsewhere", cure=cure)
    _check_owner(path, found.st_uid, {owner})
    _check_mode(path, found.st_mode, "600")


def write_private_file(folder: Path, name: str, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file of the state folder, 0600, so that it is there whole or not at all, even after a power cut.

    Raises `FileExistsError` if it is there and `overwrite` is false, `StoreFull`, `StateUnsafe`, `StateUnusable`.
    """
    directory = open_state_folder(folder)
    try:
        _remove_unfinished(directory, name)
        _write_beside(directory, _unfinished(name), name, data, 0o600, overwrite=overwrite)
    except FileExistsError:
        raise
    except OSError as error:
        raise _unwritten(folder / name, error) from None
    finally:
        os.close(directory)


def create_file(path: Path, data: bytes) -> None:
    """Write a new file that all may read, whole or not at all; make its folder. Raises as `write_private_file`."""
    _make_folder(path.parent, 0o755)
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateUnusable(path=path, reason=error.strerror) from None
    try:
        beside = f".{path.name}.{secrets.token_hex(4)}"
        _write_beside(directory, beside, path.name, data, 0o644, overwrite=False)
    except FileExistsError:
        raise
    except OSError as error:
        raise _unwritten(path, error) from None
    finally:
        os.close(directory)


def _unwritten(path: Path, error: OSError) -> StoreFull | StateUnusable:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StoreFull(path=path) if full else _unusable(path, error)


def _unfinished(name: str) -> str:
    return f".{name}.new"


def _remove_unfinished(directory: int, name: str) -> None:
    """Remove what a writer that was killed left, and lock the folder, until it is closed, against one that lives."""
    fcntl.flock(directory, fcntl.LOCK_EX)
    _unlink_if_there(directory, _unfinished(name))


def _write_beside(directory: int, beside: str, name: str, data: bytes, mode: int, *, overwrite: bool) -> None:
    """Write under another name, sync, give the file its name, sync the folder; leave nothing behind on failure."""
    try:
        _write_synced(directory, beside, data, mode)
        if overwrite:
            os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
        else:
            os.link(beside, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    finally:
        _unlink_if_there(directory, beside)
    os.fsync(directory)


def _write_synced(directory: int, name: str, data: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=directory), "wb") as file:
        _give_to_folder_owner(directory, file.fileno())
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _give_to_folder_owner(directory: int, descriptor: int) -> None:
    owner = os.fstat(directory)
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _unlink_if_there(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return


# The key file: two lines, the seed in hexadecimal and, so that damage shows, the key it gives.


def save_identity(folder: Path, identity: Identity) -> None:
    """Write the key file into the state folder, which is made if need be. Raises `IdentityExists`, `StateError`."""
    make_state_folder(folder)
    text = f"seed {identity.seed.hex()}\nkey {write_key(identity.node_key)}\n"
    try:
        write_private_file(folder, KEY_FILE, text.encode("ascii"))
    except FileExistsError:
        raise IdentityExists(path=folder / KEY_FILE) from None


def load_identity(folder: Path) -> Identity:
    """Read the key file. Raises `IdentityNotFound`, `IdentityDamaged`, `StateUnsafe`, `StateUnusable`."""
    path = folder / KEY_FILE
    try:
        path.lstat()
        return _parsed_identity(read_private_file(folder, KEY_FILE, MAX_KEY_FILE_BYTES))
    except FileNotFoundError:
        raise IdentityNotFound(path=path) from None
    except OSError as error:
        raise _unusable(path, error) from None
    except (ValueError, SeedRefused, KeyRefused):
        raise IdentityDamaged(path=path, reason="f2ftun never wrote what it holds") from None


def _parsed_identity(data: bytes) -> Identity:
    """Read what `save_identity` writes. Raises `ValueError`, `SeedRefused`, `KeyRefused` for anything else."""
    words = data.decode("ascii").split()
    if len(words) != 4 or words[0::2] != ["seed", "key"] or len(words[1]) != 2 * SEED_BYTES:
        raise ValueError("a key file holds a seed and a key")
    identity = Identity.from_seed(bytes.fromhex(words[1]))
    if identity.node_key != parse_key(words[3]):
        raise ValueError("the key is not that of the seed")
    return identity


def read_user_key(path: Path) -> bytes:
    """Read a user's own private key file, which only they may read. Raises `UserKeyRefused`."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UserKeyRefused(path=path, reason="it is not a file", cure="Name a file that ssh-keygen made.")
            data = file.read(MAX_SSH_KEY_BYTES + 1)
    except OSError as error:
        raise UserKeyRefused(path=path, reason=error.strerror, cure="Name a file that ssh-keygen made.") from None
    if found.st_mode & 0o077 and not data.startswith(b"ssh-"):
        raise UserKeyRefused(path=path, reason="others may read it", cure=f"If nobody did, run `chmod 600 {path}`.")
    return data


# The database

_MIGRATIONS: Final = (
    """
    CREATE TABLE friend (
        key BLOB PRIMARY KEY CHECK (length(key) = 32),
        name TEXT NOT NULL UNIQUE,
        signing_key BLOB,
        psk BLOB NOT NULL CHECK (length(psk) = 32),
        endpoints TEXT NOT NULL,
        last_endpoint TEXT,
        floor_bps INTEGER,
        trust TEXT NOT NULL,
        transit TEXT NOT NULL,
        visibility TEXT NOT NULL,
        added_at REAL NOT NULL,
        user_key BLOB
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE invitation (
        invite_key BLOB PRIMARY KEY,
        line TEXT NOT NULL,
        name TEXT,
        bound_key BLOB,
        created_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE pending_join (
        inviter BLOB PRIMARY KEY,
        line TEXT NOT NULL,
        name TEXT,
        added_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE rule (
        friend BLOB REFERENCES friend (key) ON DELETE CASCADE,
        protocol TEXT NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX rule_by_friend ON rule (friend);
    CREATE TABLE own_record (
        singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
        sequence INTEGER NOT NULL
    ) STRICT;
    """,
    """
    ALTER TABLE friend ADD COLUMN told_endpoints TEXT NOT NULL DEFAULT '';
    """,
)
"""One script per schema version; a script that was released is never changed. STRICT needs SQLite 3.37."""


_Run = Callable[..., list[Any]]
"""Runs one statement with its values inside a transaction, and gives its rows."""


class Store:
    """`node.db`. Every verb is one transaction: when it returns, it is on disk; when it raises, nothing was changed.

    Not for several threads at once. Several processes may have it open. Every verb raises `StoreFull`, `StoreBusy`,
    `StoreDamaged` or `StateUnusable` where the disk is at fault.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the database of a state folder; make both if need be. Raises a `StateError` that says what is wrong."""
        make_state_folder(folder)
        path = folder / DATABASE_FILE
        _make_database_file(folder)
        with _translated(path):
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
            try:
                _prepare(path, connection)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        """Close the database; a second call does nothing."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Friends

    def friends(self) -> list[Friend]:
        """Read all friends, by name."""
        return [_friend(row) for row in self._read(f"SELECT {_FRIEND_COLUMNS} FROM friend ORDER BY name")]

    def friend(self, name: str) -> Friend:
        """Read the friend of this name, with or without `.f2f`. Raises `FriendUnknown`."""
        wanted = name.removesuffix(".f2f")
        rows = self._read(f"SELECT {_FRIEND_COLUMNS} FROM friend WHERE name = ?", wanted)
        if not rows:
            raise FriendUnknown(name=name, hint=self._hint(wanted))
        return _friend(rows[0])

    def friend_by_key(self, key: bytes) -> Friend | None:
        """Read the friend with this node key, if there is one."""
        rows = self._read(f"SELECT {_FRIEND_COLUMNS} FROM friend WHERE key = ?", key)
        return _friend(rows[0]) if rows else None

    def add_friend(self, friend: Friend) -> None:
        """Keep a new friend. Raises `FriendNameTaken`, `FriendKeyTaken`."""
        self.add_friends((friend,))

    def add_friends(self, friends: Iterable[Friend]) -> None:
        """Keep new friends, all or none. Raises `FriendNameTaken`, `FriendKeyTaken`."""
        with self._transaction() as run:
            for friend in friends:
                _check_free(run, friend)
                _insert_friend(run, friend)

    def replace_friend(self, friend: Friend) -> None:
        """Keep what changed of a friend, who is known by their node key; the name may change, rules stay.

        Raises `FriendUnknown`, `FriendNameTaken`.
        """
        with self._transaction() as run:
            _replace_friend(run, friend)

    def remove_friend(self, name: str) -> Friend:
        """Forget a friend, their psk and their rules; return what was known. Raises `FriendUnknown`."""
        friend = self.friend(name)
        with self._transaction() as run:
            run("DELETE FROM friend WHERE key = ?", friend.key)
        self._erase()
        return friend

    def set_last_endpoints(self, friends: Iterable[Friend]) -> None:
        """Remember where friends were last and what they told of that, and nothing else of them.

        Who is no friend any more stays forgotten.
        """
        with self._transaction() as run:
            for friend in friends:
                seen = (friend.last_endpoint, " ".join(friend.told_endpoints), friend.key)
                run("UPDATE friend SET last_endpoint = ?, told_endpoints = ? WHERE key = ?", *seen)

    def _hint(self, name: str) -> str:
        import difflib

        names = [row[0] for row in self._read("SELECT name FROM friend ORDER BY name")]
        near = difflib.get_close_matches(name[:63].lower(), names, n=1)
        if near:
            return f"Did you mean {near[0]}?"
        return "`f2ftun friend list` shows whom you have." if names else "You have none yet; run `f2ftun invite`."

    # Invitations, by the key of their invite peer

    def invitations(self) -> list[Invitation]:
        """Read all invitations that this node made and that are not used up, the oldest first."""
        rows = self._read("SELECT line, name, bound_key, created_at FROM invitation ORDER BY created_at, invite_key")
        return [Invitation(invite_line.parse(line), *rest) for line, *rest in rows]

    def add_invitation(self, invitation: Invitation) -> None:
        """Keep an invitation, in place of what was known of the same."""
        with self._transaction() as run:
            _put_invitation(run, invitation)

    def remove_invitation(self, invite_key: bytes) -> None:
        """Forget an invitation and its secret; nothing happens if it is forgotten already."""
        with self._transaction() as run:
            run("DELETE FROM invitation WHERE invite_key = ?", invite_key)
        self._erase()

    # Invitations given to this node, by the inviter's node key

    def pending_joins(self) -> list[PendingJoin]:
        """Read all invitations that this node still has to answer, the oldest first."""
        rows = self._read("SELECT line, name, added_at FROM pending_join ORDER BY added_at, inviter")
        return [PendingJoin(invite_line.parse(line), *rest) for line, *rest in rows]

    def add_pending_join(self, join: PendingJoin) -> None:
        """Keep an invitation to answer, in place of an earlier one from the same inviter."""
        values = (join.invite.inviter, invite_line.write(join.invite), join.name, join.added_at)
        with self._transaction() as run:
            run("INSERT OR REPLACE INTO pending_join (inviter, line, name, added_at) VALUES (?, ?, ?, ?)", *values)

    def remove_pending_join(self, inviter: bytes) -> None:
        """Forget an invitation to answer and its secret; nothing happens if it is forgotten already."""
        with self._transaction() as run:
            run("DELETE FROM pending_join WHERE inviter = ?", inviter)
        self._erase()

    def befriend(self, friend: Friend, through: Invitation | PendingJoin) -> None:
        """Keep, in one step, the friend who came of an invitation (new, or with new keys) and what became of it.

        One that this node made is kept as it is now bound; one given to it is forgotten. Raises `FriendNameTaken`.
        """
        with self._transaction() as run:
            if isinstance(through, Invitation):
                _put_invitation(run, through)
            else:
                run("DELETE FROM pending_join WHERE inviter = ?", through.invite.inviter)
            _put_friend(run, friend)

    # Who may reach which port

    def rules(self) -> list[Rule]:
        """Read all rules: those for all first, then by friend."""
        return _rules(lambda sql: self._read(sql))

    def add_rule(self, rule: Rule) -> None:
        """Open ports to a friend or to all; what is open already stays. Raises `FriendUnknown`."""
        friend = None if rule.who == ALL else self.friend(rule.who).key
        with self._transaction() as run:
            kept = opened((other for other in _rules(run) if other.who == rule.who), rule)
            _replace_rules(run, "friend IS ?", (friend,), ((friend, other) for other in kept))

    def remove_rule(self, rule: Rule) -> None:
        """Close ports to a friend, or to everybody. Raises `FriendUnknown`, `RuleOpenToAll`."""
        if rule.who != ALL:
            self.friend(rule.who)
        with self._transaction() as run:
            keys: dict[str, bytes | None] = dict(run("SELECT name, key FROM friend"))
            kept = closed(_rules(run), rule)
            _replace_rules(run, "TRUE", (), ((keys.get(other.who), other) for other in kept))

    # This node's own record

    def next_sequence(self) -> int:
        """Count up the sequence of the own device record, which begins at 1."""
        with self._transaction() as run:
            run(
                "INSERT INTO own_record VALUES (1, 1) ON CONFLICT (singleton) DO UPDATE SET sequence = sequence + 1",
            )
            rows = run("SELECT sequence FROM own_record")
        return int(rows[0][0])

    # How it is done

    def _read(self, sql: str, *values: Any) -> list[Any]:
        with _translated(self.path):
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[_Run]:
        """Do all or nothing; begins by taking the write lock, so that what is read in it stays true."""
        with _translated(self.path), _immediate(self._connection):
            yield lambda sql, *values: self._connection.execute(sql, values).fetchall()

    def _erase(self) -> None:
        """Take what was deleted out of the write-ahead log too, as far as no other process reads it just now."""
        with _translated(self.path):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _make_database_file(folder: Path) -> None:
    """Make an empty database, 0600 from the first moment, or check the one there is and what lies beside it."""
    directory = open_state_folder(folder)
    try:
        owner = os.fstat(directory).st_uid
        for name in (DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm", f"{DATABASE_FILE}-journal"):
            _check_file_if_there(folder / name, directory, owner)
        with open(os.open(DATABASE_FILE, _APPEND, 0o600, dir_fd=directory), "ab") as file:
            _give_to_folder_owner(directory, file.fileno())
    except OSError as error:
        raise _unwritten(folder / DATABASE_FILE, error) from None
    finally:
        os.close(directory)


_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _check_file_if_there(path: Path, directory: int, owner: int) -> None:
    try:
        found = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    _check_file(path, found, owner)


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "secure_delete = ON",
        "trusted_schema = OFF",
        f"wal_autocheckpoint = {WAL_PAGES}",
        "journal_size_limit = 0",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    _migrate(path, connection)
    damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise StoreDamaged(path=path, reason=damage)


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    """Bring the schema to the version that this f2ftun knows, in one transaction."""
    if _schema_version(path, connection) == len(_MIGRATIONS):
        return
    with _immediate(connection):
        for script in _MIGRATIONS[_schema_version(path, connection) :]:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")


def _schema_version(path: Path, connection: sqlite3.Connection) -> int:
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if not 0 <= found <= len(_MIGRATIONS):
        raise StoreNewer(path=path, found=found, known=len(_MIGRATIONS))
    return found


@contextmanager
def _immediate(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Say what SQLite says as sentences."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translation(path, error) from error


def _translation(path: Path, error: sqlite3.Error) -> Exception:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code == _IOERR_SHMSIZE or code & 0xFF == sqlite3.SQLITE_FULL:
        return StoreFull(path=path)
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(path=path)
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreDamaged(path=path, reason=str(error))
    return StateUnusable(path=path, reason=str(error))


_IOERR_SHMSIZE: Final = sqlite3.SQLITE_IOERR_SHMSIZE
"""The memory that processes share does not fit on the disk."""

_FRIEND_FIELDS: Final = tuple(field.name for field in fields(Friend))
_FRIEND_COLUMNS: Final = ", ".join(_FRIEND_FIELDS)


def _friend(row: Iterable[Any]) -> Friend:
    values = dict(zip(_FRIEND_FIELDS, row, strict=True))
    for name in ("endpoints", "told_endpoints"):
        values[name] = tuple(values[name].split())
    for name, choices in (("trust", Trust), ("transit", Transit), ("visibility", Visibility)):
        values[name] = choices(values[name])
    return Friend(**values)


def _row(friend: Friend) -> list[Any]:
    values = {name: getattr(friend, name) for name in _FRIEND_FIELDS}
    for name in ("endpoints", "told_endpoints"):
        values[name] = " ".join(values[name])
    for name in ("trust", "transit", "visibility"):
        values[name] = values[name].value
    return list(values.values())


def _insert_friend(run: _Run, friend: Friend) -> None:
    places = ", ".join("?" * len(_FRIEND_FIELDS))
    run(f"INSERT INTO friend ({_FRIEND_COLUMNS}) VALUES ({places})", *_row(friend))


def _replace_friend(run: _Run, friend: Friend) -> None:
    if not run("SELECT 1 FROM friend WHERE key = ?", friend.key):
        raise FriendUnknown(name=friend.name, hint="They were removed meanwhile.")
    _check_name_free(run, friend)
    columns = ", ".join(f"{name} = ?" for name in _FRIEND_FIELDS)
    run(f"UPDATE friend SET {columns} WHERE key = ?", *_row(friend), friend.key)


def _put_friend(run: _Run, friend: Friend) -> None:
    if run("SELECT 1 FROM friend WHERE key = ?", friend.key):
        _replace_friend(run, friend)
    else:
        _check_name_free(run, friend)
        _insert_friend(run, friend)


def _check_free(run: _Run, friend: Friend) -> None:
    taken = run("SELECT name FROM friend WHERE key = ?", friend.key)
    if taken:
        raise FriendKeyTaken(name=taken[0][0])
    _check_name_free(run, friend)


def _check_name_free(run: _Run, friend: Friend) -> None:
    if run("SELECT 1 FROM friend WHERE name = ? AND key != ?", friend.name, friend.key):
        raise FriendNameTaken(name=friend.name)


def _put_invitation(run: _Run, invitation: Invitation) -> None:
    run(
        "INSERT OR REPLACE INTO invitation (invite_key, line, name, bound_key, created_at) VALUES (?, ?, ?, ?, ?)",
        invitation.invite.invite_key,
        invite_line.write(invitation.invite),
        invitation.name,
        invitation.bound_key,
        invitation.created_at,
    )


def _rules(run: _Run) -> list[Rule]:
    rows = run(
        f"SELECT coalesce(name, '{ALL}'), protocol, first, last FROM rule LEFT JOIN friend ON friend.key = rule.friend "
        "ORDER BY rule.friend IS NOT NULL, name, protocol, first"
    )
    return [Rule(who, Protocol(protocol), first, last) for who, protocol, first, last in rows]


def _replace_rules(run: _Run, where: str, values: tuple[Any, ...], rules: Iterable[tuple[bytes | None, Rule]]) -> None:
    """Put rules in place of those that `where` says."""
    kept = list(rules)
    run(f"DELETE FROM rule WHERE {where}", *values)
    for friend, rule in kept:
        statement = "INSERT INTO rule (friend, protocol, first, last) VALUES (?, ?, ?, ?)"
        run(statement, friend, rule.protocol.value, rule.first, rule.last)
