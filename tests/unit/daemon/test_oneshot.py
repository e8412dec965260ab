"""One verb without a daemon: a request on stdin, one reply on stdout, whatever the request."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from f2ftun.api import schema


def answer(path: Path, request: bytes) -> Any:
    command = [sys.executable, "-m", "f2ftun.daemon.oneshot", "-c", str(path)]
    done = subprocess.run(command, input=request, capture_output=True, check=True)
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 1
    return json.loads(done.stdout)


def ask(path: Path, verb: str, **args: object) -> Any:
    return answer(path, schema.write_request(verb, args))


def test_a_fresh_machine_needs_no_other_command_than_invite(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.yaml"
    value = ask(path, "invite", name="bob")["ok"]
    assert value["invite"].startswith("f2f1:")
    assert not value["running"]
    assert ask(path, "key")["ok"].endswith(".k")
    joined = ask(tmp_path / "other" / "config.yaml", "join", invite=value["invite"])
    assert value["endpoints"] == [] or joined["ok"]["state"] == "pending"


@pytest.mark.parametrize(
    ("verb", "args", "code"),
    [
        ("join", {"invite": "f2f1:zz"}, "invite_damaged"),
        ("invite", {"name": "No Name"}, "name_refused"),
        ("invite", {"expires": "soon"}, "duration_unreadable"),
        ("key", {}, "config_not_found"),
        ("friend_list", {}, "config_not_found"),
        ("status", {}, "config_not_found"),
        ("init", {"listen": "nowhere"}, "setting_refused"),
    ],
)
def test_what_cannot_be_leaves_nothing(tmp_path: Path, verb: str, args: dict[str, object], code: str) -> None:
    assert ask(tmp_path / "config.yaml", verb, **args)["error"]["code"] == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("request_line", [b"", b"{", b"\xff\n", b"x" * 70000])
def test_nonsense_is_answered(tmp_path: Path, request_line: bytes) -> None:
    assert answer(tmp_path / "config.yaml", request_line)["error"]["exit"] == 2


def test_init_says_when_it_keeps_the_key(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    first = ask(path, "init", name="alice")["ok"]
    path.unlink()
    second = ask(path, "init", name="alice")["ok"]
    assert (first["kept_key"], second["kept_key"], first["key"]) == (False, True, second["key"])
