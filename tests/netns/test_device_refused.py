"""What the kernel or a file's mode refuses comes out as an error with a number; a key log spoils no file."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from f2ftun.dataplane import Device
from f2ftun.linux.tun import open_tun
from tests.netns.lab import Lab, Namespace

KEY = bytes(range(32))


@pytest.fixture
def namespace(lab: Lab) -> Namespace:
    """Make an empty namespace."""
    return lab.namespace("a")


def make(namespace: Namespace, listen: str = "127.0.0.1:0", keylog: Path | None = None) -> None:
    """Make a device in a namespace, and let it go."""
    with namespace.entered():
        tun = open_tun("f2f0")
        try:
            path = os.fspath(keylog) if keylog else None
            Device(private_key=KEY, tun_fd=tun.fileno(), listen=listen, mtu=1400, keylog=path).stop()
        finally:
            tun.close()


def test_a_port_in_use_has_its_number(namespace: Namespace) -> None:
    with namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match="in use") as caught:
            make(namespace, listen=f"127.0.0.1:{holder.getsockname()[1]}")
    assert caught.value.errno == errno.EADDRINUSE


def test_an_address_of_others_has_its_number(namespace: Namespace) -> None:
    with pytest.raises(OSError, match="assign") as caught:
        make(namespace, listen="192.0.2.99:4242")
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_a_key_log_is_the_owners(namespace: Namespace, tmp_path: Path) -> None:
    make(namespace, keylog=tmp_path / "keys")
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
    make(namespace, keylog=tmp_path / "keys")


@pytest.mark.parametrize("kind", ["readable", "symlink", "hardlink", "fifo"])
def test_a_key_log_spoils_no_other_file(namespace: Namespace, tmp_path: Path, kind: str) -> None:
    other, path = tmp_path / "other", tmp_path / "keys"
    other.write_text("precious")
    other.chmod(0o600)
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "readable":
        path.write_text("precious")
        path.chmod(0o644)
    elif kind == "symlink":
        path.symlink_to(other)
    else:
        path.hardlink_to(other)
    with pytest.raises(OSError, match="os error") as caught:
        make(namespace, keylog=path)
    assert caught.value.filename == os.fspath(path)
    assert other.read_text() == "precious"
    assert kind != "readable" or path.read_text() == "precious"
