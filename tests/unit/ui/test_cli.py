"""The command line: what is typed reaches the node as a verb, what comes back is one screen or one JSON value."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from f2ftun import __version__
from f2ftun.api import schema
from f2ftun.api.client import Client
from f2ftun.errors import Answered, FriendUnknown, NodeNotRunning
from f2ftun.ui import cli, friends

FRIEND = {
    "name": "bob",
    "key": "x.k",
    "address": "fc00::1",
    "state": "up",
    "via": "direct",
    "endpoint": "192.0.2.7:4242",
    "rtt_ms": 0.4,
    "rx_bytes": 0,
    "tx_bytes": 1500,
    "floor_bps": None,
    "trust": "friend",
    "last_handshake_s": 3.1,
}
DETAIL = FRIEND | {
    "endpoints": [],
    "told_endpoints": [],
    "transit": "never",
    "visibility": "nobody",
    "added_at": 0.0,
    "hybrid": True,
    "rules": [],
}
STATUS = {
    "version": "0.1.0",
    "name": "alice",
    "key": "k.k",
    "address": "fc00::2",
    "interface": "f2f0",
    "mtu": 1400,
    "listen": ["[::]:4242"],
    "uptime_s": 12.3,
    "link_rate_bps": None,
    "friends": [FRIEND],
    "drops": {"rx_bad_source": 0, "rx_replayed": 4},
    "invitations": [{"id": "5f1c09ae", "name": None, "used_by": None, "expires_at": 1}],
    "joins": [{"id": "v0zyv4g9", "name": "dave", "key": "v.k", "address": "fc00::3", "endpoints": [], "expires_at": 1}],
}
PINGED = {"sent": 1, "received": 1, "replies": [{"seq": 1, "rtt_ms": 0.4, "via": "direct"}]}
RULES = [{"who": "bob", "port": "tcp/80"}]
INVITED = {"invite": "f2f1:abc", "name": "bob", "expires_at": 1, "endpoints": [], "running": False}
JOINED = {"state": "friends", "name": "alice", "address": "fc00::2", "running": True}
ADDED = {"name": "bob", "key": "x.k", "address": "fc00::1"}

CASES: list[tuple[str, Any, str, dict[str, object]]] = [
    ("init --name a --listen [::]:1", {"config": "c", "key": "k", "address": "a", "kept_key": False}, "init",
     {"name": "a", "listen": "[::]:1", "interface": None, "link_rate": None, "user_key": None}),
    ("key", "k.k", "key", {}),
    ("address", "fc00::2", "address", {"target": None}),
    ("address bob", "fc00::1", "address", {"target": "bob"}),
    ("reload", {"applied": ["name"], "restart": ["listen"]}, "reload", {}),
    ("status", STATUS, "status", {}),
    ("status --drops", STATUS, "status", {}),
    ("doctor", [], "doctor", {}),
    ("invite bob --expires 2h", INVITED, "invite", {"name": "bob", "expires": "2h"}),
    ("invite --qr", INVITED, "invite", {"name": None, "expires": None}),
    ("join f2f1:abc --name al", JOINED, "join", {"invite": "f2f1:abc", "name": "al"}),
    ("friend add bob x.k --endpoint a:1 --endpoint b:2 --floor 1Mbit/s", ADDED, "friend_add",
     {"name": "bob", "key": "x.k", "endpoints": ["a:1", "b:2"], "floor": "1Mbit/s", "trust": None, "transit": None,
      "visibility": None}),
    ("invite --list", STATUS["invitations"], "invite_list", {}),
    ("invite --cancel 5f1c09ae", [], "invite_cancel", {"which": "5f1c09ae"}),
    ("join --list", STATUS["joins"], "join_list", {}),
    ("join --cancel dave", [], "join_cancel", {"which": "dave"}),
    ("friend list", [DETAIL], "friend_list", {}),
    ("friend show bob", DETAIL, "friend_show", {"name": "bob"}),
    ("friend set bob floor=1Mbit/s trust=close", DETAIL, "friend_set",
     {"name": "bob", "values": ["floor=1Mbit/s", "trust=close"]}),
    ("friend rename bob rob", DETAIL, "friend_rename", {"name": "bob", "new": "rob"}),
    ("friend remove bob", ADDED, "friend_remove", {"name": "bob"}),
    ("allow bob tcp/80 udp/1-2", RULES, "allow", {"who": "bob", "ports": ["tcp/80", "udp/1-2"]}),
    ("allow --list", RULES, "rules", {}),
    ("deny all tcp/80", [], "deny", {"who": "all", "ports": ["tcp/80"]}),
    ("ping bob -n 1", PINGED, "ping", {"target": "bob", "first": 1}),
]  # fmt: skip


class Asked:
    """Stands for the node: gives one value, or raises, and remembers what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.value: Any = None
        self.error: Exception | None = None
        self.calls: list[tuple[str, dict[str, object]]] = []
        monkeypatch.setattr(Client, "ask", lambda _, verb, **args: self.answer(verb, args))
        monkeypatch.setattr(Client, "start", lambda _: self.answer("up", {}))
        monkeypatch.setattr(Client, "stop", lambda _: self.answer("down", {}))
        monkeypatch.setattr(friends, "PING_INTERVAL", 0.0)

    def answer(self, verb: str, args: dict[str, object]) -> Any:
        self.calls.append((verb, args))
        if self.error is not None:
            raise self.error
        return self.value


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


@pytest.mark.parametrize(("typed", "value", "verb", "args"), CASES, ids=[case[0] for case in CASES])
def test_what_is_typed_reaches_the_node(
    node: Asked, capsys: pytest.CaptureFixture[str], typed: str, value: Any, verb: str, args: dict[str, object]
) -> None:
    node.value = value
    assert cli.run(typed.split()) == 0
    text = capsys.readouterr()
    assert node.calls == [(verb, args)]
    assert text.out.strip()
    assert not text.err
    schema.check_arguments(schema.VERBS[verb], args)
    for words in (["--json", *typed.split()], [*typed.split(), "--json"]):
        assert cli.run(words) == 0
        assert json.loads(capsys.readouterr().out) == value


@pytest.mark.parametrize("typed", ["up", "down"])
def test_up_and_down(node: Asked, capsys: pytest.CaptureFixture[str], typed: str) -> None:
    node.value = {
        "up": {"pid": 1, "name": "alice", "address": "fc00::2", "interface": "f2f0", "listen": "[::]:4242"},
        "down": {"stopped": False, "removed": ["a route"]},
    }[typed]
    assert cli.run([typed]) == 0
    assert node.calls == [(typed, {})]
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "nonsense",
        "statsu",
        "status extra",
        "status --nonsense",
        "friend",
        "friend add bob",
        "friend set bob",
        "allow",
        "join",
        "join f2f1:abc --list",
        "invite bob --cancel bob",
        "invite --list --cancel bob",
        "allow bob",
        "deny bob",
        "ping",
        "ping bob -n 0",
        "ping bob -n many",
        "status --watch --json",
        "-c",
    ],
)
def test_wrong_usage_is_2_and_a_sentence(node: Asked, capsys: pytest.CaptureFixture[str], typed: str) -> None:
    assert cli.run(typed.split()) == 2
    text = capsys.readouterr()
    assert "Traceback" not in text.err + text.out
    assert not node.calls
    if "--json" not in typed and not typed.startswith("-c"):
        assert cli.run(["--json", *typed.split()]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_no_command_is_answered_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    for typed in ([], ["friend"]):
        assert cli.run(typed) == 2
        text = capsys.readouterr().err
        assert text.startswith("Usage: f2ftun")
        assert not text.rstrip().endswith("--help.")


def test_the_nearest_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["statsu"])
    assert "Did you mean status?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (FriendUnknown(name="bo", hint="Did you mean bob?"), 1, "friend_unknown"),
        (NodeNotRunning(config="c"), 1, "node_not_running"),
        (Answered(code="name_refused", message="No.", exit_status=2), 2, "name_refused"),
        (FileNotFoundError(2, "No such file or directory", "/x"), 1, "system"),
        (ZeroDivisionError("a fault"), 1, "internal_error"),
        (KeyboardInterrupt(), 1, "interrupted"),
    ],
)
def test_errors_are_one_sentence_or_one_value(
    node: Asked, capsys: pytest.CaptureFixture[str], error: Exception, status: int, code: str
) -> None:
    node.error = error
    assert cli.run(["friend", "list"]) == status
    text = capsys.readouterr()
    assert not text.out
    assert len(text.err.split("\n")) - text.err.startswith("\n") == 2
    assert "Traceback" not in text.err
    assert cli.run(["--json", "friend", "list"]) == status
    text = capsys.readouterr()
    assert json.loads(text.out)["error"]["code"] == code
    assert not text.err.strip()


def test_pings_that_nobody_answers_are_a_failure(node: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    node.value = {"sent": 1, "received": 0, "replies": []}
    assert cli.run(["ping", "bob", "-n", "2"]) == 1
    assert capsys.readouterr().out.count("no answer from bob") == 2
    assert cli.run(["--json", "ping", "bob", "-n", "2"]) == 1
    assert json.loads(capsys.readouterr().out) == {"sent": 2, "received": 0, "replies": []}


def test_a_doctor_who_finds_an_error_says_so_in_the_status(node: Asked) -> None:
    finding = {"severity": "warning", "what": "w", "why": "y", "cure": "c"}
    node.value = [finding]
    assert cli.run(["doctor"]) == 0
    node.value = [finding | {"severity": "error"}]
    assert cli.run(["doctor"]) == 1


def test_the_config_is_the_one_that_was_named(node: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = []
    monkeypatch.setattr(Client, "ask", lambda self, verb: named.append(self.path))
    cli.run(["-c", str(tmp_path / "a.yaml"), "key"])
    monkeypatch.setenv("F2FTUN_CONFIG", str(tmp_path / "b.yaml"))
    cli.run(["key"])
    monkeypatch.delenv("F2FTUN_CONFIG")
    cli.run(["key"])
    assert named == [tmp_path / "a.yaml", tmp_path / "b.yaml", Path("/etc/f2ftun/config.yaml")]


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS), ["friend", "add"]])
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert cli.run([*command, "--help"]) == 0
    assert "Usage: f2ftun" in capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["friend"], ["friend", "add"], ["status"]])
def test_help_and_version_are_one_value_too(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert cli.run(["--json", *command, "--help"]) == 0
    assert "Usage: f2ftun" in json.loads(capsys.readouterr().out)["help"]
    assert cli.run(["--json", "--version"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": __version__}


def test_json_may_stand_anywhere(node: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    node.value = [DETAIL]
    assert cli.run(["friend", "--json", "list"]) == 0
    assert json.loads(capsys.readouterr().out) == [DETAIL]


def test_a_line_with_white_space_around_it_is_joined(node: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    node.value = JOINED
    assert cli.run(["join", " f2f1:a\nbc \r\n"]) == 0
    assert node.calls == [("join", {"invite": "f2f1:abc", "name": None})]


def test_a_huge_path_is_not_repeated_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["-c", "/" + "x" * 100_000, "status"]) == 1
    assert len(capsys.readouterr().err) < 3000


@pytest.mark.parametrize("as_json", [True, False])
def test_a_node_that_does_not_start_in_the_foreground(tmp_path: Path, as_json: bool) -> None:
    words = ["-c", str(tmp_path / "config.yaml"), "up", "--foreground", *(["--json"] if as_json else [])]
    done = subprocess.run([sys.executable, "-m", "f2ftun", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    if as_json:
        assert (json.loads(done.stdout)["error"]["code"], done.stderr) == ("config_not_found", "")
    else:
        assert (done.stderr.count("\n"), done.stdout) == (1, "")


def test_a_closed_stdout_is_no_fault(node: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    node.value = STATUS
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.run(["status"]) == 0
