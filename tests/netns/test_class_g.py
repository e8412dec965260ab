"""Class G of security.md: another user of the same machine.

`nobody` stands for him; `setpriv` is how one becomes nobody. The score of the systemd unit (G9) is in test_systemd.py.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import re
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.conftest import Pair, make_pair
from tests.netns.lab import Lab, Namespace, wait_for
from tests.netns.node import INTERFACE, ROOT, Node, make_nodes, start
from tests.reference.identity import device_from, write_base32

NOBODY = pwd.getpwnam("nobody")
CAP_NET_ADMIN = 1 << 12
ASK = """
import socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
line.settimeout(5)
line.sendall(sys.argv[2].encode() + b"\\n")
print(line.makefile().readline(), end="")
"""

WRITES = {
    "down": {},
    "reload": {},
    "invite": {"name": "mallory"},
    "join": {"invite": "f2f1:0"},
    "friend_add": {"name": "mallory", "key": device_from("mallory").key.hex()},
    "friend_remove": {"name": "b"},
    "friend_rename": {"name": "b", "new": "c"},
    "friend_set": {"name": "b", "values": ["trust=close"]},
    "allow": {"who": "all", "ports": ["tcp/22"]},
    "deny": {"who": "all", "ports": ["tcp/22"]},
}


@pytest.fixture(scope="module")
def host(module_lab: Lab) -> Pair:
    return make_pair(module_lab, through_box=False)


def as_nobody(namespace: Namespace, *argv: str) -> tuple[int, str]:
    """Run a program as a user without any right; return its status and all its output."""
    become = ["setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups", "--"]
    done = namespace.run(*become, *argv, check=False)
    return done.returncode, done.stdout + done.stderr


def control_socket(node: Node) -> Path:
    return node.config.parent / "state/control.sock"


def ask_as_nobody(node: Node, request: str) -> tuple[int, str]:
    return as_nobody(node.namespace, "/usr/bin/python3", "-c", ASK, str(control_socket(node)), request)


def test_g1_strangers_do_not_reach_the_socket(host: Pair) -> None:
    host.lab.folder.chmod(0o755)
    host.a.namespace.folder.chmod(0o755)
    status, told = ask_as_nobody(host.a, '{"verb": "status"}')
    assert status != 0
    assert "PermissionError" in told
    assert control_socket(host.a).stat().st_mode & 0o007 == 0
    assert control_socket(host.a).parent.stat().st_mode & 0o007 == 0


@pytest.fixture
def opened(host: Pair) -> Iterator[Node]:
    """Open a node's folders to everyone, as a careless root might."""
    paths = (host.lab.folder, host.a.namespace.folder, control_socket(host.a).parent, control_socket(host.a))
    modes = [stat.S_IMODE(path.stat().st_mode) for path in paths]
    for path in paths:
        path.chmod(0o777)
    yield host.a
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode)


@pytest.mark.parametrize("verb", WRITES)
def test_g2_the_kernel_says_who_asks(opened: Node, verb: str) -> None:
    """The socket is open to all, and still no verb that changes anything is obeyed: the kernel tells who asks."""
    pid, friends = opened.pid, opened.status()["friends"][0]["name"]
    status, told = ask_as_nobody(opened, json.dumps({"verb": verb, "args": WRITES[verb], "uid": 0}))
    assert "ok" not in (json.loads(told) if status == 0 and told else {}), told
    assert opened.pid == pid
    assert opened.status()["friends"][0]["name"] == friends


GARBAGE = [
    b"",
    b"\n",
    b"\0" * 100 + b"\n",
    b"[" * 60_000 + b"\n",
    b'{"verb": "status"',
    b'{"verb": 7}\n',
    b'{"verb": "status", "args": []}\n',
    b'{"verb": "friend_show", "args": {"name": ' + b"9" * 5000 + b"}}\n",
    b'{"verb": "ping", "args": {"target": "b", "count": 1e400}}\n',
    b'{"verb": "__class__"}\n',
    b'{"verb": "' + b"x" * 70_000 + b'"}\n',
    b"\xff\xfe\xfd\n",
    b'{"verb": "status", "verb": "down"}'[:20] + b"\n",
]


@pytest.mark.parametrize("request_line", GARBAGE, ids=range(len(GARBAGE)))
def test_g2_garbage_on_the_socket(host: Pair, request_line: bytes) -> None:
    pid = host.a.pid
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(5)
        line.connect(str(control_socket(host.a)))
        line.sendall(request_line)
        line.shutdown(socket.SHUT_WR)
        reply = b"".join(iter(lambda: line.recv(65536), b""))
    assert not reply or "error" in json.loads(reply)
    assert b"Traceback" not in reply
    assert host.a.pid == pid
    assert host.a.sees(host.b)


def test_g2_passed_descriptors_are_ignored(host: Pair) -> None:
    before = len(os.listdir(f"/proc/{host.a.pid}/fd"))
    with socket.socket(socket.AF_UNIX) as line, open("/dev/null") as null:
        line.settimeout(5)
        line.connect(str(control_socket(host.a)))
        socket.send_fds(line, [b'{"verb": "key", "args": {}}\n'], [null.fileno()] * 50)
        assert b"ok" in line.recv(65536)
        assert len(os.listdir(f"/proc/{host.a.pid}/fd")) <= before + 2


def test_g2_many_who_ask_nothing(host: Pair) -> None:
    """Hundreds of silent connections keep neither the socket nor the tunnel from working."""
    silent = []
    for _ in range(300):
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(1)
        try:
            line.connect(str(control_socket(host.a)))
        except OSError:
            line.close()
            break
        silent.append(line)
    assert host.a.pings(host.b.address)
    for line in silent:
        line.close()
    wait_for(host.a.answers, "the socket to answer again", 5)


def test_g3_nothing_listens_on_tcp(host: Pair) -> None:
    listening = host.a.namespace.run("ss", "-Hlntp").stdout
    assert f"pid={host.a.pid}," not in listening


def test_g4_files_are_the_owners(host: Pair) -> None:
    state = host.a.config.parent / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for path in state.rglob("*"):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode & 0o007 == 0, (path, oct(mode))
        assert path.is_socket() or mode & 0o077 == 0, (path, oct(mode))


def test_g4_no_core_and_no_umask(lab: Lab) -> None:
    (node,) = make_nodes(lab.namespace("a"))
    before = os.umask(0)
    try:
        start(node)
    finally:
        os.umask(before)
    test_g4_files_are_the_owners(Pair(lab, node, node))
    limits = Path(f"/proc/{node.pid}/limits").read_text()
    assert re.search(r"Max core file size\s+0\s+0", limits)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_g4_a_readable_key_is_refused(lab: Lab, mode: int) -> None:
    (node,) = make_nodes(lab.namespace("a"))
    key = node.config.parent / "state/key"
    key.chmod(mode)
    _refuses(node)
    key.chmod(0o600)
    os.chown(key, NOBODY.pw_uid, NOBODY.pw_gid)
    _refuses(node)


def _refuses(node: Node) -> None:
    done = node.f2ftun("up")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "key" in done.stderr


@pytest.mark.parametrize("plant", ["symlink", "hardlink", "fifo", "directory", "empty"])
def test_g4_planted_files_are_refused(lab: Lab, plant: str) -> None:
    (node,) = make_nodes(lab.namespace("a"))
    key, elsewhere = node.config.parent / "state/key", node.config.parent / "elsewhere"
    shutil.move(key, elsewhere)
    if plant == "symlink":
        key.symlink_to(elsewhere)
    elif plant == "hardlink":
        os.link(elsewhere, key)
    elif plant == "fifo":
        os.mkfifo(key, 0o600)
    elif plant == "directory":
        key.mkdir(0o700)
    else:
        key.touch(0o600)
    _refuses(node)


def test_g4_a_planted_socket_and_pipes_do_not_stop_a_node(lab: Lab) -> None:
    (node,) = make_nodes(lab.namespace("a"))
    victim = node.config.parent / "victim"
    victim.write_text("precious")
    control_socket(node).symlink_to(victim)
    done = node.f2ftun("up")
    assert "Traceback" not in done.stderr
    assert victim.read_text() == "precious"


HOSTILE_NAMES = [
    "a\r\nb", "a;reboot", "$(reboot)", "`reboot`", "../../etc/x", "a\tb", "a\u202eb", "а", "x" * 64, "x" * 100_000, "",
    "-rf", "--help", ".f2f", "a..b", "a b", "a/b", "%s%n", "\x1b[2J",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
def test_g5_hostile_names_are_refused_with_a_sentence(host: Pair, name: str) -> None:
    for words in (("friend", "add", "--", name, host.b.key), ("friend", "rename", "--", host.b.name, name)):
        done = host.a.f2ftun(*words)
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stderr
        assert len(done.stderr) < 2000
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", done.stderr), done.stderr
    assert [friend["name"] for friend in host.a.status()["friends"]] == [host.b.name]


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
def test_g5_no_shell_is_started(lab: Lab) -> None:
    """From `up` to `down`, whatever the daemon starts is a program with arguments, never a line for a shell."""
    (node,) = make_nodes(lab.namespace("a"))
    trace = node.namespace.folder / "trace"
    argv: list[str | Path] = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=execve",
        "-o",
        trace,
        "env",
        f"PYTHONPATH={ROOT}",
        sys.executable,
    ]
    tracer = node.namespace.start(*argv, "-m", "f2ftun", "-c", node.config, "up", log="strace.log")
    wait_for(lambda: node.answers(), "the traced daemon", 60)
    node.verb("allow", who="all", ports=["tcp/22"])
    node.verb("doctor")
    node.down()
    tracer.wait(30)
    started = [Path(program).name for program in re.findall(r'execve\("([^"]+)"', trace.read_text())]
    assert "nft" in started
    assert not {"sh", "bash", "dash"} & set(started)


def test_g6_the_daemon_has_one_right(host: Pair) -> None:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{host.a.pid}/status").read_text().splitlines() if ":\t" in line
    )
    for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"):
        assert int(status[name], 16) & ~CAP_NET_ADMIN == 0, (name, status[name])
    assert status["NoNewPrivs"] == "1"


def test_g6_a_user_of_its_own(lab: Lab) -> None:
    """With `user:` set, the daemon is that user, and lives as well: it takes friends and goes down clean."""
    spaces = lab.namespace("a"), lab.namespace("b")
    lab.folder.chmod(0o755)
    lab.pair(*spaces)
    a, b = make_nodes(*spaces, user="nobody")
    from tests.netns.node import befriend, connect

    start(a, b)
    befriend(a, b)
    connect(a, b)
    uids = re.search(r"Uid:\s+(\d+)\s+(\d+)", Path(f"/proc/{a.pid}/status").read_text())
    assert uids
    assert set(uids.groups()) == {str(NOBODY.pw_uid)}
    a.ask("allow", b.name, "tcp/80")
    a.down()
    assert INTERFACE not in a.namespace.run("ip", "-br", "link").stdout


def test_g7_secrets_are_nowhere(host: Pair) -> None:
    secret = (host.a.config.parent / "state/key").read_bytes()
    forms = _written_forms(secret)
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                content = (process / name).read_bytes()
            except OSError:
                continue
            assert not [form for form in forms if form in content], (process, name)
    for path in host.lab.folder.rglob("*"):
        if path.is_file() and path.name not in ("key", "sent", "got"):
            content = path.read_bytes()
            assert not [form for form in forms if form in content], path


def _written_forms(file: bytes) -> list[bytes]:
    """Write the seed in a key file as hex, base32 and base64, whichever of these it is stored in."""
    text = file.strip()
    seeds = [text] if len(text) == 32 else []
    if re.fullmatch(rb"[0-9a-f]{64}", text):
        seeds.append(bytes.fromhex(text.decode()))
    forms = [text]
    for seed in seeds:
        forms += [seed, seed.hex().encode(), base64.b64encode(seed)[:40], write_base32(seed).encode()]
    return forms


def test_g8_the_tun_is_not_for_others(host: Pair) -> None:
    attach = (
        "import fcntl, os, struct; fd = os.open('/dev/net/tun', os.O_RDWR);"
        f"fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22x', b'{INTERFACE}', 0x5001))"
    )
    raw = f"import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3); s.bind(('{INTERFACE}', 3))"
    for program in (attach, raw):
        status, told = as_nobody(host.a.namespace, "/usr/bin/python3", "-c", program)
        assert status != 0
        assert "PermissionError" in told or "busy" in told
    for words in (("ip", "-6", "route", "add", "fc00::/9", "dev", "eth0"), ("ip", "link", "del", INTERFACE)):
        assert as_nobody(host.a.namespace, *words)[0] != 0
    assert host.a.pings(host.b.address)
