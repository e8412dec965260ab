"""Test vectors that lie beside the repository, and values that many tests draw."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from f2ftun.core.identity import Identity
from f2ftun.wire.endpoint import OVERLAY, Endpoint
from f2ftun.wire.name import is_name

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"


def vectors(name: str) -> Any:
    """Read a file of vectors, or skip the test."""
    path = VECTORS / name
    if not path.exists():
        pytest.skip(f"the vectors {name} are not there: this test reads them from {VECTORS}")
    return json.loads(path.read_text())


@cache
def identity(number: int) -> Identity:
    """Make one of a few identities, always the same."""
    seeds = iter(range(number * 100_000, 2**32))
    return Identity.draw(lambda size: next(seeds).to_bytes(size, "big"))


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(is_name)
words = st.from_regex(r"[a-z]([a-z0-9-]{0,12}[a-z0-9])?", fullmatch=True)
hosts = st.lists(words, min_size=1, max_size=5).map(".".join)
addresses = st.ip_addresses().filter(
    lambda a: (
        not (a in OVERLAY or a.is_multicast or a.is_unspecified or a.is_link_local or a.packed == b"\xff" * 4)
        and getattr(a, "ipv4_mapped", None) is None
    )
)
ports = st.integers(1, 65535)
endpoints = st.builds(Endpoint, addresses | hosts.filter(lambda host: not host.endswith(".f2f")), ports).map(str)
keys = st.integers(1, 6).map(lambda number: identity(number).node_key)
secrets = st.binary(min_size=32, max_size=32)
