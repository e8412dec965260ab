"""Who is compared: how each VPN is recognised, installed, and joined over one wire.

Each gets its own defaults for ciphers, and the largest inner MTU that its overhead leaves of 1,500 bytes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.lab import UNDERLAY, BenchError, Namespace, wait_for

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A tunnel that answers: the addresses of its two ends, and the daemons' pids at each."""

    addresses: tuple[str, str]
    pids: tuple[list[int], list[int]]


class Contender(ABC):
    """One way to join two namespaces."""

    name: str
    install: str
    """The command that installs it."""

    @abstractmethod
    def program(self) -> str | None:
        """Find the program, or say that it is not installed."""

    @abstractmethod
    def configure(self, ends: Sequence[Namespace]) -> tuple[str, str]:
        """Write keys and configuration, start the daemons, and return the addresses inside the tunnel."""

    def join(self, ends: Sequence[Namespace]) -> Tunnel:
        """Set the tunnel up and wait until both ends answer each other."""
        addresses = self.configure(ends)
        for end, other in ((ends[0], addresses[1]), (ends[1], addresses[0])):
            wait_for(lambda e=end, o=other: _answers(e, o), f"{self.name} to answer")  # type: ignore[misc]
        return Tunnel(addresses, (ends[0].pids(), ends[1].pids()))


def _answers(end: Namespace, address: str) -> bool:
    ping = end.command(["ping", "-c", "1", "-W", "1", address])
    return subprocess.run(ping, capture_output=True).returncode == 0


def _device_up(end: Namespace, interface: str, address: str, mtu: int) -> None:
    wait_for(lambda: interface in end.run("ip", "-br", "link"), f"the interface {interface}")
    end.run("ip", "address", "add", f"{address}/24", "dev", interface)
    end.run("ip", "link", "set", interface, "up", "mtu", str(mtu))


def _write(end: Namespace, name: str, text: str, mode: int = 0o600) -> Path:
    path = end.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


class Veth(Contender):
    """The bare wire: what there is to lose."""

    name = "veth"
    install = ""

    def program(self) -> str | None:
        return "ip"

    def configure(self, ends: Sequence[Namespace]) -> tuple[str, str]:
        return UNDERLAY


class F2ftun(Contender):
    """f2ftun, driven by its own command line."""

    name = "f2ftun"
    install = "pip install ."

    def program(self) -> str | None:
        beside = Path(sys.executable).with_name("f2ftun")
        inside = ROOT / ".venv/bin/f2ftun"
        found = next((path for path in (beside, inside) if path.exists()), None)
        return str(found) if found else shutil.which("f2ftun")

    def configure(self, ends: Sequence[Namespace]) -> tuple[str, str]:
        for end in ends:
            self._run(end, "init", "--name", end.folder.name, "--listen", "[::]:4242")
        keys = [self._run(end, "--json", "key") for end in ends]
        for end, peer in zip(ends, (1, 0), strict=True):
            endpoint = f"{UNDERLAY[peer]}:4242"
            self._run(end, "friend", "add", ends[peer].folder.name, _key(keys[peer]), "--endpoint", endpoint)
            self._run(end, "allow", "all", "tcp/5201", "udp/5202")
        for end in ends:
            self._run(end, "up")
        a, b = (self._run(end, "address").strip() for end in ends)
        return a, b

    def _run(self, end: Namespace, *argv: str) -> str:
        program = self.program()
        assert program is not None
        return end.run(program, "-c", str(end.folder / "config.yaml"), *argv)


def _key(answer: str) -> str:
    value = json.loads(answer)
    return str(value["key"] if isinstance(value, dict) else value)


class WireguardGo(Contender):
    """WireGuard in user space (the kernel's own is not compared: it is no daemon)."""

    name = "wireguard-go"
    install = "apt install wireguard-tools; GOBIN=/usr/local/bin go install golang.zx2c4.com/wireguard@latest"

    def program(self) -> str | None:
        return (shutil.which("wireguard-go") or shutil.which("wireguard")) if shutil.which("wg") else None

    def configure(self, ends: Sequence[Namespace]) -> tuple[str, str]:
        secrets = [end.run("wg", "genkey").strip() for end in ends]
        keys = [end.run("wg", "pubkey", text=secret).strip() for end, secret in zip(ends, secrets, strict=True)]
        addresses = ("10.78.1.1", "10.78.1.2")
        for i, end in enumerate(ends):
            interface = f"{end.name[-8:]}wg"
            end.start(str(self.program()), "-f", interface, log="wireguard.log")
            _device_up(end, interface, addresses[i], 1420)
            secret = _write(end, "secret", secrets[i])
            other = 1 - i
            end.run("wg", "set", interface, "listen-port", "51820", "private-key", str(secret))
            end.run(
                *("wg", "set", interface, "peer", keys[other], "allowed-ips", "10.78.1.0/24"),
                *("endpoint", f"{UNDERLAY[other]}:51820"),
            )
        return addresses


class Tinc(Contender):
    """tinc 1.0 in router mode."""

    name = "tinc"
    install = "apt install tinc"

    def program(self) -> str | None:
        return shutil.which("tincd")

    def configure(self, ends: Sequence[Namespace]) -> tuple[str, str]:
        addresses = ("10.78.2.1", "10.78.2.2")
        for i, end in enumerate(ends):
            me, other = end.folder.name, ends[1 - i].folder.name
            text = f"Name = {me}\nInterface = tinc0\nConnectTo = {other}\nAddressFamily = ipv4\n"
            _write(end, "tinc/tinc.conf", text)
            _write(end, "tinc/tinc-up", "#!/bin/sh\nip link set $INTERFACE up\n", 0o700)
            _write(end, f"tinc/hosts/{me}", f"Address = {UNDERLAY[i]}\nSubnet = {addresses[i]}/32\n")
            subprocess.run(
                ["tincd", "-c", end.folder / "tinc", "-K", "2048"], input=b"\n\n", check=True, capture_output=True
            )
        for i, end in enumerate(ends):
            beyond = ends[1 - i].folder
            shutil.copy(beyond / "tinc/hosts" / beyond.name, end.folder / "tinc/hosts")
        for i, end in enumerate(ends):
            end.start("tincd", "-c", "tinc", "-D", "--pidfile", "tinc/pid", log="tinc.log")
            _device_up(end, "tinc0", addresses[i], 1420)
        return addresses


class Openvpn(Contender):
    """OpenVPN 2.6 between two peers, TLS with pinned fingerprints, without its kernel module."""

    name = "openvpn"
    install = "apt install openvpn openssl"

    def program(self) -> str | None:
        return shutil.which("openvpn") if shutil.which("openssl") else None

    def configure(self, ends: Sequence[Namespace]) -> tuple[str, str]:
        addresses = ("10.78.3.1", "10.78.3.2")
        prints = [self._certify(end) for end in ends]
        for i, end in enumerate(ends):
            role = ["--tls-server", "--dh", "none"] if i == 0 else ["--tls-client", "--connect-retry", "1"]
            end.start(
                *("openvpn", "--dev", "ovpn0", "--dev-type", "tun", "--proto", "udp4", "--port", "1194", *role),
                *("--remote", UNDERLAY[1 - i], "1194", "--ifconfig", addresses[i], addresses[1 - i]),
                *("--cert", "cert.pem", "--key", "key.pem", "--peer-fingerprint", prints[1 - i]),
                *("--disable-dco", "--tun-mtu", "1420", "--mssfix", "0", "--fast-io"),
                log="openvpn.log",
            )
        return addresses

    @staticmethod
    def _certify(end: Namespace) -> str:
        end.run(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", f"/CN={end.folder.name}"),
            *("-keyout", str(end.folder / "key.pem"), "-out", str(end.folder / "cert.pem")),
        )
        told = end.run("openssl", "x509", "-in", str(end.folder / "cert.pem"), "-noout", "-sha256", "-fingerprint")
        return told.strip().partition("=")[2]


class Nebula(Contender):
    """Nebula with one lighthouse, which is one of the two."""

    name = "nebula"
    install = "GOBIN=/usr/local/bin go install github.com/slackhq/nebula/cmd/nebula{,-cert}@v1.10.0"

    def program(self) -> str | None:
        return shutil.which("nebula") if shutil.which("nebula-cert") else None

    def configure(self, ends: Sequence[Namespace]) -> tuple[str, str]:
        addresses = ("10.78.4.1", "10.78.4.2")
        authority = ends[0].folder
        ends[0].run(
            *("nebula-cert", "ca", "-name", "bench"),
            *("-out-crt", f"{authority}/ca.crt", "-out-key", f"{authority}/ca.key"),
        )
        for i, end in enumerate(ends):
            ends[0].run(
                *("nebula-cert", "sign", "-name", end.folder.name, "-ip", f"{addresses[i]}/24"),
                *("-ca-crt", f"{authority}/ca.crt", "-ca-key", f"{authority}/ca.key"),
                *("-out-crt", f"{end.folder}/node.crt", "-out-key", f"{end.folder}/node.key"),
            )
            config = _write(end, "nebula.yml", json.dumps(self._settings(i, end, authority, addresses)))
            end.start("nebula", "-config", str(config), log="nebula.log")
        return addresses

    @staticmethod
    def _settings(i: int, end: Namespace, authority: Path, addresses: Sequence[str]) -> dict[str, object]:
        everything = [{"port": "any", "proto": "any", "host": "any"}]
        return {
            "pki": {"ca": f"{authority}/ca.crt", "cert": f"{end.folder}/node.crt", "key": f"{end.folder}/node.key"},
            "static_host_map": {addresses[1 - i]: [f"{UNDERLAY[1 - i]}:4243"]},
            "lighthouse": {"am_lighthouse": i == 0, "hosts": [] if i == 0 else [addresses[0]]},
            "listen": {"host": "0.0.0.0", "port": 4243},
            "tun": {"dev": "nebula0", "mtu": 1440},
            "firewall": {"outbound": everything, "inbound": everything},
        }


class Fastd(Contender):
    """fastd with its recommended method, in TUN mode."""

    name = "fastd"
    install = "apt install fastd"

    def program(self) -> str | None:
        return shutil.which("fastd")

    def configure(self, ends: Sequence[Namespace]) -> tuple[str, str]:
        addresses = ("10.78.5.1", "10.78.5.2")
        secrets = [end.run("fastd", "--generate-key", "--machine-readable").strip() for end in ends]
        for i, end in enumerate(ends):
            shown = f'secret "{secrets[1 - i]}";\n'
            other = end.run("fastd", "--config", "-", "--show-key", "--machine-readable", text=shown).strip()
            config = _write(
                end,
                "fastd.conf",
                f'mode tun;\ninterface "fastd0";\nmethod "salsa2012+umac";\nbind 0.0.0.0:10000;\nmtu 1426;\n'
                f'secret "{secrets[i]}";\npeer "other" {{ key "{other}"; remote {UNDERLAY[1 - i]}:10000; }}\n',
            )
            end.start("fastd", "--config", str(config), log="fastd.log")
            _device_up(end, "fastd0", addresses[i], 1426)
        return addresses


class Yggdrasil(Contender):
    """Yggdrasil between two peers over its TCP links."""

    name = "yggdrasil"
    install = "see https://yggdrasil-network.github.io/installation.html"

    def program(self) -> str | None:
        return shutil.which("yggdrasil")

    def configure(self, ends: Sequence[Namespace]) -> tuple[str, str]:
        addresses = [self._start(i, end) for i, end in enumerate(ends)]
        return addresses[0], addresses[1]

    @staticmethod
    def _start(i: int, end: Namespace) -> str:
        drawn = json.loads(end.run("yggdrasil", "-genconf", "-json"))
        drawn |= {"AdminListen": "none", "MulticastInterfaces": [], "IfName": "ygg0"}
        drawn["Listen"] = ["tcp://0.0.0.0:9001"] if i == 0 else []
        drawn["Peers"] = [] if i == 0 else [f"tcp://{UNDERLAY[0]}:9001"]
        config = _write(end, "yggdrasil.json", json.dumps(drawn))
        end.start("yggdrasil", "-useconffile", str(config), log="yggdrasil.log")
        return end.run("yggdrasil", "-useconffile", str(config), "-address").strip()


CONTENDERS: tuple[Contender, ...] = (
    Veth(),
    F2ftun(),
    WireguardGo(),
    Yggdrasil(),
    Fastd(),
    Nebula(),
    Tinc(),
    Openvpn(),
)


def named(name: str) -> Contender:
    """Find a contender by its name; raise `BenchError` naming all when there is none."""
    for contender in CONTENDERS:
        if contender.name == name:
            return contender
    raise BenchError(f"no contender {name!r}; there are {', '.join(c.name for c in CONTENDERS)}")
