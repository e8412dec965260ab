"""What nft says, put into a sentence; `nft` is here a script that says it."""

import asyncio
import os
from pathlib import Path

import pytest

from f2ftun.errors import F2ftunError
from f2ftun.linux import firewall


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = folder / "nft"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setattr(firewall, "PATH", f"{folder}:{os.defpath}")


@pytest.mark.parametrize(
    ("said", "kind", "sentence"),
    [
        ("Unable to initialize Netlink socket: Protocol not supported", firewall.NftablesMissing, "has no nftables"),
        ("Error: cache initialization failed: Invalid argument", firewall.NftablesMissing, "has no nftables"),
        ("Error: Could not process rule: Operation not supported", firewall.NftablesMissing, "has no nftables"),
        ("Error: Could not process rule: Operation not permitted", firewall.NftNotPermitted, "CAP_NET_ADMIN"),
        ("Error: syntax error\nmore", firewall.NftRefused, "nft refused the firewall rules: syntax error."),
        ("", firewall.NftRefused, "it gave no reason"),
        ("\\033[31mred\\377", firewall.NftRefused, r"\x1b"),
    ],
)
def test_what_nft_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[F2ftunError], sentence: str
) -> None:
    pretend(tmp_path, monkeypatch, f"printf '{said}' >&2; exit 1")
    with pytest.raises(kind) as raised:
        asyncio.run(firewall.apply("x"))
    assert sentence in str(raised.value)


def test_an_nft_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, "exec sleep 20")
    monkeypatch.setattr(firewall, "NFT_TIMEOUT_S", 0.1)
    with pytest.raises(firewall.NftRefused, match="timed out"):
        asyncio.run(firewall.remove())


def test_an_nft_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, "")
    (tmp_path / "nft").write_bytes(b"\x7fELFnonsense")
    with pytest.raises(firewall.NftRefused):
        asyncio.run(firewall.stands())


def test_it_has_no_other_environment_than_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret in the daemon's environment is no child's business."""
    monkeypatch.setenv("SECRET", "marker")
    pretend(tmp_path, monkeypatch, f"env > {tmp_path}/seen")
    asyncio.run(firewall.apply("x"))
    assert "marker" not in (tmp_path / "seen").read_text()
