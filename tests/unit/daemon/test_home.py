"""What a node has on disk: made whole or not at all, found again, locked by the one process that runs it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from f2ftun import config, store
from f2ftun.daemon.home import Home, Lock, create, default_name
from f2ftun.errors import ConfigExists, NodeRunning, SettingRefused, StateUnusable, UserKeyRefused
from f2ftun.wire import devices, record


def test_a_new_node_is_found_again(tmp_path: Path) -> None:
    made = create(tmp_path / "deep" / "config.yaml", name="alice", listen="[::]:7", link_rate="40Mbit/s")
    again = Home.open(made.config.path)
    assert again.identity == made.identity
    assert (again.config.name, again.config.listen, again.config.link_rate_bps) == ("alice", "[::]:7", 40_000_000)
    assert stat.S_IMODE((tmp_path / "deep/state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "deep/state/key").stat().st_mode) == 0o600
    made.close()
    again.close()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    made = create(tmp_path / "config.yaml", name="alice")
    made.close()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigExists):
        create(tmp_path / "config.yaml", name="bob")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_an_identity_outlives_its_config(tmp_path: Path) -> None:
    first = create(tmp_path / "config.yaml", name="alice")
    first.close()
    first.config.path.unlink()
    second = create(tmp_path / "config.yaml", name="alice")
    assert second.identity == first.identity
    second.close()


@pytest.mark.parametrize("wrong", [{"listen": "nowhere"}, {"name": "No Name"}, {"interface": "lo"}])
def test_a_node_that_cannot_be_is_not_made(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(SettingRefused):
        create(tmp_path / "config.yaml", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_record_says_who_and_counts_up(tmp_path: Path) -> None:
    home = create(tmp_path / "config.yaml", name="alice")
    first = record.parse(home.record())
    assert first is not None
    assert (first.name, first.node_key) == ("alice", home.identity.node_key)
    assert home.record() is home.record()
    home.close()
    again = Home.open(home.config.path)
    second = record.parse(again.record())
    assert second is not None
    assert second.sequence > first.sequence
    assert again.devices() == b""
    again.close()


def test_a_user_key_signs_the_device(tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    home = create(tmp_path / "node" / "config.yaml", str(key), name="alice")
    listed = devices.parse(home.devices())
    assert listed is not None
    assert listed.devices == (home.identity.node_key,)
    home.close()
    with pytest.raises(UserKeyRefused):
        create(tmp_path / "other" / "config.yaml", str(key) + ".pub", name="bob")
    assert not (tmp_path / "other").exists()


def test_names_of_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    for host, name in (("Laptop.example.org", "laptop"), ("localhost", "node"), ("-", "node"), ("", "node")):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        assert default_name() == name


def test_one_process_at_a_time(tmp_path: Path) -> None:
    create(tmp_path / "config.yaml", name="alice").close()
    loaded = config.load(tmp_path / "config.yaml")
    lock = Lock.take(loaded)
    with pytest.raises(NodeRunning):
        Lock.take(loaded)
    assert (loaded.state / "lock").read_text() == f"{os.getpid()}\n"
    lock.close()
    Lock.take(loaded).close()


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    create(tmp_path / "config.yaml", name="alice").close()
    script = (
        "import sys, time; from pathlib import Path; from f2ftun import config; from f2ftun.daemon.home import Lock;"
        "lock = Lock.take(config.load(Path(sys.argv[1]))); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "config.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as held:
        assert held.stdout is not None
        held.stdout.readline()
        loaded = config.load(tmp_path / "config.yaml")
        with pytest.raises(NodeRunning):
            Lock.take(loaded)
        held.kill()
        held.wait()
        Lock.take(loaded).close()


def test_a_lock_is_a_file_of_ours(tmp_path: Path) -> None:
    create(tmp_path / "config.yaml", name="alice").close()
    loaded = config.load(tmp_path / "config.yaml")
    (loaded.state / "lock").symlink_to("/etc/passwd")
    with pytest.raises(StateUnusable):
        Lock.take(loaded)
    store.Store.open(loaded.state).close()
