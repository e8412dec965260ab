import errno
import multiprocessing
import os
import signal
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from f2ftun import store
from f2ftun.core.friend import Friend, Transit, Trust, Visibility
from f2ftun.core.invitation import Invitation
from f2ftun.core.join import PendingJoin
from f2ftun.core.rule import Protocol, Rule, parse_rule
from f2ftun.errors import (
    FriendKeyTaken,
    FriendNameTaken,
    FriendUnknown,
    IdentityDamaged,
    IdentityExists,
    IdentityNotFound,
    RuleOpenToAll,
    StateError,
    StateUnsafe,
    StateUnusable,
    StoreBusy,
    StoreDamaged,
    StoreFull,
    StoreNewer,
    UserKeyRefused,
)
from f2ftun.store import Store
from f2ftun.wire.invite import Invite
from tests.unit.shared import endpoints, identity, names, secrets

ALICE = identity(0)
BOB = Friend("bob", identity(1).node_key, psk=b"\x07" * 32, endpoints=("192.0.2.1:1", "host.example:2"))
CAROL = Friend("carol", identity(2).node_key)
INVITE = Invite(ALICE.node_key, bytes(range(32)), 1_900_000_000, ("192.0.2.1:1",))

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def db(folder: Path) -> Iterator[Store]:
    with Store.open(folder) as opened:
        yield opened


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# The key file


def test_an_identity_is_kept(folder: Path) -> None:
    store.save_identity(folder, ALICE)
    assert store.load_identity(folder) == ALICE
    assert os.listdir(folder) == ["key"]


def test_an_identity_is_never_replaced(folder: Path) -> None:
    store.save_identity(folder, ALICE)
    with pytest.raises(IdentityExists):
        store.save_identity(folder, identity(1))
    assert store.load_identity(folder) == ALICE
    assert os.listdir(folder) == ["key"]


def test_there_may_be_none(folder: Path) -> None:
    with pytest.raises(IdentityNotFound, match="init"):
        store.load_identity(folder)


def write_key_file(folder: Path, data: bytes) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "key").write_bytes(data)
    (folder / "key").chmod(0o600)


@pytest.mark.parametrize("bit", range(0, 8 * 69, 5))
def test_one_bit_changed_in_the_seed_shows(folder: Path, bit: int) -> None:
    store.save_identity(folder, ALICE)
    data = bytearray((folder / "key").read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    write_key_file(folder, bytes(data))
    with pytest.raises(IdentityDamaged):
        store.load_identity(folder)


def test_the_key_of_another_shows(folder: Path) -> None:
    store.save_identity(folder, ALICE)
    one = (folder / "key").read_text().split()
    other = f"seed {identity(1).seed.hex()}\nkey {one[3]}\n"
    write_key_file(folder, other.encode())
    with pytest.raises(IdentityDamaged):
        store.load_identity(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400))
def test_any_bytes_are_a_damaged_identity(folder: Path, data: bytes) -> None:
    write_key_file(folder, data)
    with pytest.raises(IdentityDamaged):
        store.load_identity(folder)


# Permissions, owners, links


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_everything_is_its_owners_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    folder = tmp_path / "a" / "b" / "state"
    before = os.umask(mask)
    try:
        store.save_identity(folder, ALICE)
        with Store.open(folder) as opened:
            opened.add_friend(BOB)
            found = {path.name: mode(path) for path in folder.iterdir()}
        store.create_file(tmp_path / "etc" / "config.yaml", b"")
    finally:
        os.umask(before)
    assert found == dict.fromkeys(["key", "node.db", "node.db-wal", "node.db-shm"], 0o600)
    assert mode(folder) == 0o700
    assert mode(folder.parent) & 0o022 == mode(tmp_path / "a") & 0o022 == mode(tmp_path / "etc") & 0o022 == 0
    assert mode(tmp_path / "etc" / "config.yaml") == 0o644


def load(folder: Path) -> None:
    store.load_identity(folder)


def open_and_close(folder: Path) -> None:
    Store.open(folder).close()


Use = Callable[[Path], None]
FILES = [(load, "key"), (open_and_close, "node.db"), (open_and_close, "node.db-wal")]
uses = pytest.mark.parametrize(("use", "name"), FILES)


def furnish(folder: Path) -> None:
    store.save_identity(folder, ALICE)
    connection = sqlite3.connect(folder / "node.db")
    connection.close()
    (folder / "node.db").chmod(0o600)


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o601])
@uses
def test_a_file_that_others_may_use_is_refused(folder: Path, use: Use, name: str, bits: int) -> None:
    furnish(folder)
    (folder / name).touch()
    (folder / name).chmod(bits)
    with pytest.raises(StateUnsafe, match="chmod 600"):
        use(folder)


@pytest.mark.parametrize("bits", [0o750, 0o705, 0o777, 0o1777])
@uses
def test_a_folder_that_others_may_use_is_refused(folder: Path, use: Use, name: str, bits: int) -> None:
    furnish(folder)
    folder.chmod(bits)
    with pytest.raises(StateUnsafe, match="chmod 700"):
        use(folder)


@uses
def test_a_symbolic_link_is_not_followed(folder: Path, tmp_path: Path, use: Use, name: str) -> None:
    furnish(folder)
    target = tmp_path / "target"
    (folder / name).touch(0o600)
    (folder / name).rename(target)
    target.chmod(0o600)
    before = target.read_bytes()
    (folder / name).symlink_to(target)
    with pytest.raises(StateUnsafe):
        use(folder)
    assert target.read_bytes() == before


@uses
def test_a_second_name_is_refused(folder: Path, tmp_path: Path, use: Use, name: str) -> None:
    furnish(folder)
    (folder / name).touch(0o600)
    os.link(folder / name, tmp_path / "second")
    with pytest.raises(StateUnsafe, match="second name"):
        use(folder)


@uses
def test_a_pipe_is_not_waited_for(folder: Path, use: Use, name: str) -> None:
    furnish(folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name, 0o600)
    with pytest.raises(StateUnsafe, match="not a plain file"):
        use(folder)


@uses
def test_a_folder_in_place_of_a_file_is_refused(folder: Path, use: Use, name: str) -> None:
    furnish(folder)
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir(mode=0o700)
    with pytest.raises(StateError):
        use(folder)


@pytest.mark.parametrize("use", [load, open_and_close])
def test_a_state_folder_that_is_a_link_is_refused(folder: Path, tmp_path: Path, use: Use) -> None:
    furnish(folder)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(StateUnsafe, match="symbolic link"):
        use(tmp_path / "link")


def test_a_state_folder_that_is_a_file_is_refused(folder: Path) -> None:
    folder.touch(0o600)
    with pytest.raises(StateUnusable):
        Store.open(folder)
    with pytest.raises(StateUnusable):
        Store.open(folder / "below")


@needs_root
@uses
def test_a_file_of_another_user_is_refused(folder: Path, use: Use, name: str) -> None:
    furnish(folder)
    (folder / name).touch(0o600)
    os.chown(folder / name, 12345, 12345)
    with pytest.raises(StateUnsafe, match="another user"):
        use(folder)


@needs_root
def test_what_root_makes_belongs_to_the_folders_owner(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    store.save_identity(folder, ALICE)
    with Store.open(folder) as opened:
        opened.add_friend(BOB)
        assert {path.stat().st_uid for path in folder.iterdir()} == {12345}
        assert len(list(folder.iterdir())) == 4


@needs_root
def test_the_folder_of_another_user_is_refused() -> None:
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        folder = Path(parent) / "state"
        furnish(folder)
        os.chown(folder, 12345, 12345)
        assert in_child(lambda: as_user(54321, lambda: refused(folder, "Use sudo"))) == 0
        folder.chmod(0o755)
        assert in_child(lambda: as_user(54321, lambda: refused(folder, "another user"))) == 0
        os.chmod(parent, 0o700)
        assert in_child(lambda: as_user(54321, lambda: refused(folder, "Use sudo"))) == 0


def as_user(uid: int, act: Callable[[], None]) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    act()


def refused(folder: Path, reason: str) -> None:
    for use in (load, open_and_close):
        with pytest.raises(StateError, match=reason):
            use(folder)


def in_child(act: Callable[[], None]) -> int | None:
    """Do something in a child of its own; its exit code, or the signal that ended it, negative."""
    child = multiprocessing.get_context("fork").Process(target=act)
    child.start()
    child.join()
    return child.exitcode


# Whole or not at all


CALLS = ["open", "fchmod", "fsync", "link", "rename", "unlink"]


def failing(monkeypatch: pytest.MonkeyPatch, nth: int, code: int) -> None:
    """Make the nth of the file system calls of a write fail, and all that follow succeed."""
    count = iter(range(1, 1000))

    def wrap(call: Callable[..., object]) -> Callable[..., object]:
        def failed(*args: object, **kwargs: object) -> object:
            if next(count) == nth:
                raise OSError(code, os.strerror(code))
            return call(*args, **kwargs)

        return failed

    for name in CALLS:
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))


@pytest.mark.parametrize("nth", range(2, 9))
@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, StateUnusable)]
)
def test_a_write_that_fails_leaves_the_old_or_the_new(
    folder: Path, monkeypatch: pytest.MonkeyPatch, nth: int, code: int, error: type[StateError]
) -> None:
    furnish(folder)
    store.write_private_file(folder, "devices", b"old")
    with monkeypatch.context() as patch:
        failing(patch, nth, code)
        with pytest.raises(error):
            store.write_private_file(folder, "devices", b"new", overwrite=True)
    assert store.read_private_file(folder, "devices", 10) == (b"old" if nth < 7 else b"new")


@pytest.mark.parametrize("name", CALLS)
def test_a_kill_at_any_call_leaves_the_old_or_the_new(folder: Path, name: str) -> None:
    furnish(folder)
    store.write_private_file(folder, "devices", b"old")

    def die() -> None:
        call = getattr(os, name)
        nth = iter((False,) if name == "open" else ())

        def last(*args: object, **kwargs: object) -> object:
            if next(nth, True):
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        setattr(os, name, last)
        store.write_private_file(folder, "devices", b"new", overwrite=True)

    assert in_child(die) in (0, -signal.SIGKILL)
    assert store.read_private_file(folder, "devices", 10) in (b"old", b"new")
    store.write_private_file(folder, "devices", b"newer", overwrite=True)
    assert store.read_private_file(folder, "devices", 10) == b"newer"


@pytest.mark.parametrize("nth", range(1, 10))
def test_a_kill_while_an_identity_is_made_leaves_none_or_a_whole_one(folder: Path, nth: int) -> None:
    def die() -> None:
        count = iter(range(1, 1000))
        for name in CALLS:
            setattr(os, name, deadly_call(getattr(os, name), lambda: next(count) == nth))
        store.save_identity(folder, ALICE)

    def deadly_call(call: Callable[..., object], now: Callable[[], bool]) -> Callable[..., object]:
        def called(*args: object, **kwargs: object) -> object:
            if now():
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return called

    assert in_child(die) in (0, -signal.SIGKILL)
    try:
        assert store.load_identity(folder) == ALICE
    except IdentityNotFound:
        store.save_identity(folder, ALICE)
    assert store.load_identity(folder) == ALICE
    assert os.listdir(folder) == ["key"]


def test_a_new_file_is_never_put_over_an_old_one(folder: Path, tmp_path: Path) -> None:
    furnish(folder)
    path = tmp_path / "config.yaml"
    store.create_file(path, b"one")
    with pytest.raises(FileExistsError):
        store.create_file(path, b"two")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        store.create_file(tmp_path / "dangling", b"two")
    assert path.read_bytes() == b"one"
    assert not (tmp_path / "nowhere").exists()


# A user's own key


def test_a_user_key_is_read_only_if_nobody_else_can(tmp_path: Path) -> None:
    path = tmp_path / "id_ed25519"
    path.write_bytes(b"-----BEGIN")
    path.chmod(0o600)
    assert store.read_user_key(path) == b"-----BEGIN"
    path.chmod(0o640)
    with pytest.raises(UserKeyRefused, match="others may read it"):
        store.read_user_key(path)
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserKeyRefused):
            store.read_user_key(wrong)


# Friends


friends = st.builds(
    Friend,
    names,
    secrets,
    st.none() | secrets,
    secrets,
    st.lists(endpoints, max_size=4).map(tuple),
    st.none() | endpoints,
    st.none() | st.integers(0, 10**13),
    st.sampled_from(Trust),
    st.sampled_from(Transit),
    st.sampled_from(Visibility),
    st.floats(0, 4e9),
    st.none() | secrets,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(friend=friends)
def test_a_friend_is_kept_as_they_are(db: Store, friend: Friend) -> None:
    db.add_friend(friend)
    assert db.friend_by_key(friend.key) == friend
    assert db.friend(friend.name) == db.friend(f"{friend.name}.f2f") == friend
    assert db.remove_friend(friend.name) == friend
    assert db.friends() == []


def test_friends_survive_a_restart(folder: Path) -> None:
    with Store.open(folder) as opened:
        opened.add_friends([CAROL, BOB])
    with Store.open(folder) as opened:
        assert opened.friends() == [BOB, CAROL]


def test_a_name_and_a_key_are_one_friends(db: Store) -> None:
    db.add_friend(BOB)
    with pytest.raises(FriendKeyTaken, match='"bob"'):
        db.add_friend(replace(BOB, name="rob"))
    with pytest.raises(FriendNameTaken):
        db.add_friends([replace(CAROL, name="carl"), replace(CAROL, name="bob", key=identity(3).node_key)])
    assert db.friends() == [BOB]
    db.add_friend(CAROL)
    with pytest.raises(FriendNameTaken):
        db.replace_friend(replace(CAROL, name="bob"))
    assert db.friends() == [BOB, CAROL]


def test_a_friend_changes(db: Store) -> None:
    db.add_friend(BOB)
    changed = replace(BOB, name="rob", floor_bps=5, trust=Trust.CLOSE)
    db.replace_friend(changed)
    assert db.friends() == [changed]
    seen: dict[str, Any] = {"last_endpoint": "192.0.2.9:9", "told_endpoints": ("192.0.2.8:8", "[2001:db8::8]:8")}
    db.set_last_endpoints([replace(changed, name="x", **seen), CAROL])
    assert db.friends() == [replace(changed, **seen)]
    with pytest.raises(FriendUnknown):
        db.replace_friend(CAROL)


def test_the_nearest_friend_is_named(db: Store) -> None:
    with pytest.raises(FriendUnknown, match="none yet"):
        db.friend("bob")
    db.add_friend(BOB)
    with pytest.raises(FriendUnknown, match=r"Did you mean bob\?"):
        db.friend("bbo")
    with pytest.raises(FriendUnknown, match="friend list"):
        db.remove_friend("'; DROP TABLE friend; --\0" + "x" * 10**6)
    assert db.friends() == [BOB]


def test_nothing_is_left_of_the_psk_of_a_friend_removed(db: Store, folder: Path) -> None:
    db.add_friend(replace(BOB, psk=b"the psk of bob, of 32 bytes, yes"))
    assert any(b"the psk of bob" in path.read_bytes() for path in folder.iterdir())
    db.remove_friend("bob")
    assert not any(b"the psk of bob" in path.read_bytes() for path in folder.iterdir())


# Invitations


def test_invitations_are_kept_until_removed(db: Store) -> None:
    invitation = Invitation(INVITE, "bob", None, 5.0)
    db.add_invitation(invitation)
    assert db.invitations() == [invitation]
    db.add_invitation(replace(invitation, bound_key=BOB.key))
    assert db.invitations() == [replace(invitation, bound_key=BOB.key)]
    db.remove_invitation(INVITE.invite_key)
    db.remove_invitation(INVITE.invite_key)
    assert db.invitations() == []


def test_nothing_is_left_of_the_secret_of_an_invitation_removed(db: Store, folder: Path) -> None:
    invite = replace(INVITE, endpoints=("a-very-rare-name.example:1",))
    db.add_invitation(Invitation(invite))
    db.add_pending_join(PendingJoin(invite))
    db.remove_invitation(invite.invite_key)
    db.remove_pending_join(invite.inviter)
    from f2ftun.wire.invite import write

    assert not any(write(invite).encode() in path.read_bytes() for path in folder.iterdir())


def test_a_friend_comes_of_an_invitation_in_one_step(db: Store) -> None:
    bound = Invitation(INVITE, "bob", BOB.key, 5.0)
    db.add_friend(replace(CAROL, name="bob"))
    with pytest.raises(FriendNameTaken):
        db.befriend(BOB, bound)
    assert db.invitations() == []
    db.befriend(replace(BOB, name="bob-2"), bound)
    db.befriend(replace(BOB, name="bob-2", psk=bytes(32)), bound)
    assert db.invitations() == [bound]
    assert db.friend("bob-2").psk == bytes(32)


def test_a_join_waits_until_it_is_done(db: Store) -> None:
    join = PendingJoin(INVITE, "alice", 3.0)
    db.add_pending_join(join)
    newer = PendingJoin(replace(INVITE, secret=bytes(32)), None, 4.0)
    db.add_pending_join(newer)
    assert db.pending_joins() == [newer]
    db.befriend(Friend("alice", INVITE.inviter), newer)
    assert db.pending_joins() == []
    assert [friend.name for friend in db.friends()] == ["alice"]


# Rules


def test_rules_follow_the_friend(db: Store) -> None:
    db.add_friends([BOB, CAROL])
    for text in ("bob tcp/80", "bob tcp/81-90", "carol udp/53", "all tcp/22", "bob tcp/85"):
        db.add_rule(parse_rule(*text.split()))
    assert [f"{rule.who} {rule.ports}" for rule in db.rules()] == ["all tcp/22", "bob tcp/80-90", "carol udp/53"]
    db.replace_friend(replace(BOB, name="rob"))
    db.remove_friend("carol")
    assert [f"{rule.who} {rule.ports}" for rule in db.rules()] == ["all tcp/22", "rob tcp/80-90"]
    db.remove_rule(parse_rule("all", "tcp/20-85"))
    assert db.rules() == [Rule("rob", Protocol.TCP, 86, 90)]


def test_a_rule_needs_its_friend(db: Store) -> None:
    for change in (db.add_rule, db.remove_rule):
        with pytest.raises(FriendUnknown):
            change(parse_rule("bob", "tcp/80"))
    db.add_friend(BOB)
    db.add_rule(parse_rule("all", "tcp/80"))
    with pytest.raises(RuleOpenToAll, match="deny all"):
        db.remove_rule(parse_rule("bob", "tcp/80"))
    assert len(db.rules()) == 1


# The database itself


def test_the_sequence_counts_up(folder: Path) -> None:
    for expected in (1, 2, 3):
        with Store.open(folder) as opened:
            assert opened.next_sequence() == expected


def test_a_newer_schema_is_left_alone(folder: Path) -> None:
    Store.open(folder).close()
    connection = sqlite3.connect(folder / "node.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreNewer, match="99"):
        Store.open(folder)


@pytest.mark.parametrize("data", [b"not a database at all" * 300, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_database_is_told(folder: Path, data: bytes) -> None:
    Store.open(folder).close()
    (folder / "node.db").write_bytes(data)
    with pytest.raises(StoreDamaged, match="backup"):
        Store.open(folder)
    assert (folder / "node.db").read_bytes() == data


def test_a_damaged_page_is_told(folder: Path) -> None:
    with Store.open(folder) as opened:
        opened.add_friends(Friend(f"f{n}", n.to_bytes(32, "big")) for n in range(500))
    data = bytearray((folder / "node.db").read_bytes())
    data[5 * 4096 : 6 * 4096] = bytes(4096)
    (folder / "node.db").write_bytes(data)
    with pytest.raises(StoreDamaged):
        Store.open(folder)


def test_another_process_may_write_in_between(db: Store, folder: Path) -> None:
    with Store.open(folder) as other:
        other.add_friend(BOB)
        db.add_friend(CAROL)
        assert other.friends() == db.friends() == [BOB, CAROL]


def test_a_lock_held_for_too_long_is_told(db: Store, folder: Path) -> None:
    blocker = sqlite3.connect(folder / "node.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    db._connection.execute("PRAGMA busy_timeout = 1").fetchall()
    with pytest.raises(StoreBusy):
        db.add_friend(BOB)
    blocker.execute("ROLLBACK")
    blocker.close()
    db.add_friend(BOB)


def test_a_full_database_changes_nothing_and_recovers(db: Store) -> None:
    db.add_friend(BOB)
    pages = db._connection.execute("PRAGMA page_count").fetchone()[0]
    db._connection.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()
    with pytest.raises(StoreFull, match="free some space"):
        db.add_friends(Friend(f"f{n}", n.to_bytes(32, "big")) for n in range(1000))
    assert db.friends() == [BOB]
    db._connection.execute("PRAGMA max_page_count = 100000").fetchall()
    db.add_friend(CAROL)
    assert db.friends() == [BOB, CAROL]


def test_an_error_in_between_changes_nothing(db: Store) -> None:
    def some() -> Iterator[Friend]:
        yield BOB
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        db.add_friends(some())
    assert db.friends() == []
    db.add_friend(BOB)


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_kill_in_a_transaction_loses_nothing_that_was_said_to_be_kept(folder: Path, nth: int) -> None:
    def die() -> None:
        opened = Store.open(folder)
        for number in range(nth):
            opened.add_friend(Friend(f"f{number}", number.to_bytes(32, "big")))
        opened.add_friends(deadly())

    def deadly() -> Iterator[Friend]:
        yield BOB
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL
    with Store.open(folder) as opened:
        assert [friend.name for friend in opened.friends()] == [f"f{number}" for number in range(nth)]


def test_4000_friends_are_quick(db: Store) -> None:
    many = [Friend(f"f{n}", n.to_bytes(32, "big"), endpoints=("192.0.2.1:1",)) for n in range(4000)]
    db.add_friends(many)
    assert {friend.name for friend in db.friends()} == {friend.name for friend in many}
