import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun import config
from f2ftun.errors import (
    ConfigError,
    ConfigKeyTwice,
    ConfigKeyUnknown,
    ConfigNotFound,
    ConfigSyntax,
    ConfigUnreadable,
    ConfigValueRefused,
    ControlSocketTooLong,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("c") / "config.yaml"


def loaded(path: Path, text: str | bytes) -> config.Config:
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return config.load(path)


def test_the_config_of_the_repository_is_the_one_that_init_writes() -> None:
    assert (ROOT / "config.yaml").read_text() == config.render()


def test_the_config_of_the_repository_parses_to_the_defaults() -> None:
    found = config.load(ROOT / "config.yaml")
    defaults = config.Config(ROOT / "config.yaml", "node", ROOT / "state", ROOT / "state" / "control.sock")
    assert found == defaults


def test_every_setting_is_explained_with_a_value_that_is_allowed(path: Path) -> None:
    text = config.render()
    explained = [line.removeprefix("# ") for line in text.splitlines() if config_line(line)]
    assert [line.partition(":")[0] for line in explained] == list(config._SETTINGS)
    found = loaded(path, "\n".join(explained))
    assert found.link_rate_bps == 10**8
    assert found.user == "f2ftun"
    assert found.keylog == path.parent / "session-keys.log"
    for key, setting in config._SETTINGS.items():
        assert loaded(path, f"{key}: {setting.example if setting.is_list else config._quoted(setting.example)}")
        assert getattr(found, setting.field, None) is not None or key == "mtu"


def config_line(line: str) -> bool:
    return any(line.removeprefix("# ").startswith(f"{key}: ") for key in config._SETTINGS)


def test_what_is_rendered_is_loaded(path: Path) -> None:
    values: dict[str, str | list[str] | None] = {
        "name": "null",
        "listen": "[2001:db8::1]:0",
        "interface": "f2f1",
        "link_rate": "1.5Gbit/s",
        "state": '/tmp/a "b" #c',
        "endpoints": ["host.example:4242", "[2001:db8::7]:1"],
        "keepalive": "off",
        "hybrid": "false",
        "user": None,
    }
    found = loaded(path, config.render(**values))
    assert (found.name, found.listen, found.interface) == ("null", "[2001:db8::1]:0", "f2f1")
    assert (found.link_rate_bps, found.keepalive_s, found.hybrid) == (1_500_000_000, 0.0, False)
    assert found.state == Path('/tmp/a "b" #c')
    assert found.endpoints == ("host.example:4242", "[2001:db8::7]:1")
    with pytest.raises(ValueError, match="no such setting: port"):
        config.render(port="1")


@given(st.text(st.characters(exclude_characters="\0"), min_size=1))
def test_any_text_is_quoted_so_that_it_reads_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "quoted.yaml"
    found = loaded(path, config.render(state=text, control_socket="c"))
    assert found.state == path.parent / text


def test_an_empty_config_is_all_defaults(path: Path) -> None:
    for text in ("", "\n", "# nothing\n", "---\n", "~\n", "{}\n", "name:\nlisten: null\nendpoints: ~\n"):
        assert loaded(path, text) == config.Config(
            path, "node", path.parent / "state", path.parent / "state/control.sock"
        )


def test_the_control_socket_follows_the_state(path: Path) -> None:
    assert loaded(path, "state: elsewhere").control_socket == path.parent / "elsewhere/control.sock"
    assert loaded(path, "state: /s\ncontrol_socket: c").control_socket == path.parent / "c"


def test_the_nodes_of_the_system_have_their_own_places() -> None:
    found = config._resolved(config.SYSTEM_CONFIG, {"name": "node"})
    assert found.state == Path("/var/lib/f2ftun")
    assert found.control_socket == Path("/run/f2ftun/control.sock")


def test_the_option_goes_before_the_environment_before_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("F2FTUN_CONFIG", raising=False)
    assert config.find(None) == Path("/etc/f2ftun/config.yaml")
    monkeypatch.setenv("F2FTUN_CONFIG", "/e.yaml")
    assert config.find(None) == Path("/e.yaml")
    assert config.find("o.yaml") == Path.cwd() / "o.yaml"


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("nmae", "name"),
        ("Listen", "listen"),
        ("link-rate", "link_rate"),
        ("intreface", "interface"),
        ("endpoint", "endpoints"),
    ],
)
def test_a_mistyped_key_is_told_its_line_and_the_nearest(path: Path, key: str, near: str) -> None:
    with pytest.raises(ConfigKeyUnknown) as refused:
        loaded(path, f"# one\nname: a\n\n{key}: x\n")
    assert str(refused.value) == f'{path}:4: there is no setting "{key}". Did you mean "{near}"?'


@pytest.mark.parametrize("text", ["q: 1", "1: 2", "<<: {name: a}", "? [a]\n: b", "? {a: b}\n: c", '"": x', '"\\0": x'])
def test_other_keys_are_told_what_there_is(path: Path, text: str) -> None:
    with pytest.raises(ConfigKeyUnknown, match="There are name, listen"):
        loaded(path, text)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("name: Alice", "capital letters"),
        ('name: "../etc"', "other characters"),
        ('name: "a\\nb"', "other characters"),
        ('name: "\\u202egpj"', "other characters"),
        ("name: [a]", "it is one value"),
        ("name: {a: b}", "it is one value"),
        ("listen: 4242", "a host, a colon and a port"),
        ("listen: host.example:4242", "not on a name"),
        ("interface: sixteen-letters-", "1 to 15"),
        ("interface: a/b", "1 to 15"),
        ("interface: ..", "1 to 15"),
        ("interface: lo", "1 to 15"),
        ('interface: "a b"', "1 to 15"),
        ("mtu: 1279", "1280 to 9000"),
        ("mtu: 1e3", "1280 to 9000"),
        ("mtu: 99999999999999999999", "1280 to 9000"),
        ("link_rate: 100", "a number and a unit"),
        ("link_rate: 0bit/s", "carries nothing"),
        ("link_rate: 100mbit/s", "did you mean Mbit/s"),
        ('state: ""', "path of a file"),
        ('keylog: "a\\0b"', "path of a file"),
        ("user: root;id", "name of a system user"),
        ("keepalive: 25", "whole numbers with d, h, m and s"),
        ("keepalive: true", "whole numbers"),
        ("endpoints: host.example:1", "it is a list"),
        ("endpoints: [[a]]", "it is a list"),
        ("endpoints: ['[fc00::1]:1']", "fc00::/8"),
        ("endpoints: [" + "a.example:1, " * 17 + "]", "at most 16"),
        ("hybrid: yes", "true or false"),
        ("log_level: loud", "debug, info, warning, error"),
    ],
)
def test_a_value_that_cannot_be_is_told_its_line_and_what_can(path: Path, text: str, allowed: str) -> None:
    with pytest.raises(ConfigValueRefused) as refused:
        loaded(path, f"# one\n{text}\n")
    assert str(refused.value).startswith(f"{path}:2: {text.partition(':')[0]} cannot be ")
    assert allowed in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_key_stands_once(path: Path) -> None:
    with pytest.raises(ConfigKeyTwice, match=":3: "):
        loaded(path, "name: a\nlisten: '[::]:1'\nname: b\n")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\nlisten: [::]:4242\n", 2),
        ("name: a\nendpoints: &e [*e]\n", 2),
        ("name: &a b\ninterface: *a\n", 2),
        ("name: *a\n", 1),
        ("- a\n- b\n", 1),
        ("just words\n", 1),
        ("name: a\n--- \nname: b\n", 2),
        ("name: 'a\n", 2),
        ("name: a\n\tlisten: b\n", 2),
        ("endpoints: " + "[" * 30000, 1),
        ("name: a\n" + "{a: " * 15000, 2),
        ("name: " + "&a [" * 100, 1),
        ("a: b: c", 1),
        ("%YAML 9.9\n---\nname: a", 1),
        ("name: a\n\x07\n", 2),
        (b"name: a\n\xff\xfe\n", 2),
        (b"name: a\nlisten: \xed\xa0\x80\n", 2),
    ],
)
def test_what_is_no_config_is_told_its_line(path: Path, text: str | bytes, line: int) -> None:
    with pytest.raises(ConfigSyntax) as refused:
        loaded(path, text)
    assert str(refused.value).startswith(f"{path}:{line}: ")


def test_what_cannot_be_read_is_told_why(path: Path) -> None:
    with pytest.raises(ConfigNotFound, match="init"):
        config.load(path)
    with pytest.raises(ConfigUnreadable, match="Is a directory"):
        config.load(path.parent)
    with pytest.raises(ConfigUnreadable, match="larger than"):
        loaded(path, "#" * 70_000)
    with pytest.raises(ConfigUnreadable, match="no such path"):
        config.load(Path("/tmp/a\0b"))
    with pytest.raises(ConfigUnreadable, match="too long"):
        config.load(Path("/tmp/" + "a" * 300))


def test_a_pipe_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(ConfigUnreadable, match="not a file"):
        config.load(path)


def test_a_socket_path_beyond_the_kernels_limit_is_told(path: Path) -> None:
    with pytest.raises(ControlSocketTooLong, match="107"):
        loaded(path, f"control_socket: /{'a' * 107}")


@given(st.binary(max_size=200) | st.text(alphabet="abc:-[]{}&*!|>'\"%@`#,? \n\t~<=", max_size=60).map(str.encode))
def test_any_bytes_are_a_config_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    try:
        loaded(path, data)
    except ConfigError as refused:
        str(refused).encode()


def test_config_is_light_to_import() -> None:
    heavy = "{'yaml', 'cryptography', 'nacl', 'google.protobuf', 'asyncio'}"
    script = f"import sys, f2ftun.config; print(*{heavy} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True).stdout == b"\n"
