"""What is documented is what there is: commands, options, settings, constants on the wire, links."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from f2ftun import __version__, config
from f2ftun.ui.cli import cli

ROOT = Path(__file__).resolve().parent.parent
MANUAL = (ROOT / "docs/manual.md").read_text()
PROTOCOL = " ".join((ROOT / "docs/protocol.md").read_text().split())
PROTOCOL += " ".join((ROOT / "f2ftun/wire/control.proto").read_text().replace("//", " ").split())
PROTOCOL = re.sub(r"(?<=\d),(?=\d{3})", "", PROTOCOL)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

WIRE_FILES = ["dataplane/src/core/message.rs", "dataplane/src/core/frame.rs", "dataplane/src/core/handshake.rs"]
WIRE_FILES += ["dataplane/src/core/session.rs", "dataplane/src/core/cookie.rs", "dataplane/src/core/replay.rs"]
WIRE_FILES += ["f2ftun/wire/key.py", "f2ftun/wire/invite.py", "f2ftun/wire/record.py", "f2ftun/wire/devices.py"]
WIRE_FILES += ["f2ftun/wire/control.py"]
CONSTANT = re.compile(r"^(?:pub )?(?:const )?([A-Z][A-Z0-9_]*)(?:: [^=]+?)? = (.+?);?$", re.MULTILINE)

# How docs/protocol.md words each constant; {} stands for its value as the code has it.
ON_THE_WIRE = {
    "message.rs": {
        "INITIATION": "| {} | initiation |",
        "RESPONSE": "| {} | response |",
        "COOKIE_REPLY": "| {} | cookie reply |",
        "DATA": "| {} | data |",
        "INITIATION_BYTES": "initiation | {} |",
        "RESPONSE_BYTES": "response | {} |",
        "COOKIE_REPLY_BYTES": "cookie reply | {} |",
        "DATA_OVERHEAD_BYTES": "| data | {} + 16·k |",
        "KEY_BYTES": "node key {}",
        "TAG_BYTES": "tag {}",
        "MAC_BYTES": "mac1 {}",
        "TIMESTAMP_BYTES": "timestamp {}",
        "INDEX_BYTES": "sender index {}",
        "COOKIE_NONCE_BYTES": "nonce {}",
    },
    "frame.rs": {
        "FRAME_ALIGN": "multiple of {}",
        "TOKEN_BYTES": "token {}",
        "MAX_CONTROL_BYTES": "At most {} bytes",
        "KIND_NOTHING": "| {} | nothing |",
        "KIND_FRAGMENT": "| {} | fragment |",
        "KIND_CONTROL": "| {} | control |",
        "KIND_PROBE": "| {} | probe |",
        "KIND_PROBE_REPLY": "| {} | probe reply |",
        "KIND_PACKET": "| {} | packet |",
    },
    "handshake.rs": {
        "PATTERN": "`{}`",
        "PROLOGUE": 'prologue `"{}"`',
        "FEATURE_HYBRID": "Value {}: hybrid",
        "FEATURE_AES": "Value {}: AES-256-GCM",
    },
    "session.rs": {
        "REKEY_AFTER": "`REKEY_AFTER` | {} |",
        "REKEY_AFTER_RESPONDER": "the responder does at {} |",
        "REJECT_AFTER": "`REJECT_AFTER` | {} |",
        "ERASE_AFTER": "`ERASE_AFTER` | {} |",
        "REKEY_AFTER_MESSAGES": "`REKEY_AFTER_MESSAGES` | {} |",
        "REKEY_AFTER_MESSAGES_AES": "`REKEY_AFTER_MESSAGES_AES`: {} under",
        "REJECT_AFTER_MESSAGES": "`REJECT_AFTER_MESSAGES` | {} |",
    },
    "cookie.rs": {
        "COOKIE_LIFETIME": "`COOKIE_LIFETIME` | {} |",
        "LOAD_INITIATIONS": "exceed {} a second",
        "EXPECTED_INITIATIONS": "expected, {} a second;",
        "PROVEN_INITIATIONS": "{} a second per IPv4 address",
    },
    "replay.rs": {"WINDOW_BITS": "(RFC 6479, {} bits)"},
    "key.py": {
        "KEY_BYTES": "node key {}",
        "KEY_CHARACTERS": "{} characters",
        "SUFFIX": "then `{}`",
        "ALPHABET": "`{}`",
    },
    "invite.py": {
        "PREFIX": "`{}`",
        "VERSION": "version 1 (={})",
        "SECRET_BYTES": "secret {}",
        "CHECK_BYTES": "check {}",
        "MAX_ENDPOINTS": "At most {} endpoints",
        "MAX_INVITE_BYTES": "and {} bytes",
    },
    "record.py": {"DOMAIN": '"{}"', "VERSION": "version 1 (={})", "MAX_SEQUENCE": "sequence 8 (below 2^63)"},
    "devices.py": {"DOMAIN": '"{}"', "VERSION": "version 1 (={})", "MAX_DEVICES": "n 1 (1 to {})"},
    "control.py": {
        "MAX_CONTROL_BYTES": "At most {} bytes",
        "KEM_KEY_BYTES": "ML-KEM-768 encapsulation key, {} bytes",
        "KEM_CIPHERTEXT_BYTES": "ciphertext = 2; {} bytes",
    },
}
# Constants of those files that say nothing about the wire that the others do not.
FOLLOWS = {
    *("ENCRYPTED_KEY_BYTES", "INITIATION_PAYLOAD_BYTES", "RESPONSE_PAYLOAD_BYTES", "NOISE_1_BYTES", "NOISE_2_BYTES"),
    *("INITIATION_NOISE", "INITIATION_MAC1", "INITIATION_MAC2", "RESPONSE_NOISE", "RESPONSE_MAC1", "RESPONSE_MAC2"),
    *("COOKIE_NONCE", "COOKIE_BOX", "DATA_HEADER_BYTES", "PSK_PLACE", "FEATURES", "WORD_BITS", "WORDS", "WINDOW"),
    *("FRAGMENT_HEADER_BYTES", "PACKET_HEADER_BYTES", "PARTIAL", "JOINED", "RESERVED", "LAST"),
    *("BUCKETS", "SECOND", "FIELD_PRIME", "LOW_ORDER", "MAX_INVITE_CHARACTERS", "MAX_EXPIRY"),
}
REJECT_AFTER_MESSAGES = 2**64 - 2**13 - 1
EXPONENTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def section(command: str) -> str:
    """Find the manual's section of one command."""
    found = re.search(rf"^### `{re.escape(command)}`\n(.*?)(?=^##)", MANUAL, re.MULTILINE | re.DOTALL)
    assert found, f"docs/manual.md has no section ### `{command}`"
    return found[1]


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield path + name, command


COMMANDS = dict(commands(cli))


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_is_in_the_manual_with_its_options(path: str) -> None:
    text = section(path)
    options = [param for param in COMMANDS[path].params if isinstance(param, click.Option) and param.name != "json"]
    for option in options:
        assert any(name in text for name in option.opts), f"docs/manual.md, {path}: nothing about {option.opts}"


def test_the_manual_has_no_command_that_there_is_not() -> None:
    part = MANUAL.split("\n## Commands")[1].split("\n## config.yaml")[0]
    assert set(re.findall(r"^### `([^`]+)`", part, re.MULTILINE)) == set(COMMANDS)


def test_every_setting_is_in_the_manual_and_in_config_yaml() -> None:
    settings = set(config._SETTINGS)
    assert set(re.findall(r"^\| `(\w+)` \|", MANUAL.split("\n## config.yaml")[1], re.MULTILINE)) == settings
    assert set(re.findall(r"^(?:# )?(\w+):(?: |$)", (ROOT / "config.yaml").read_text(), re.MULTILINE)) >= settings


def written(value: object, expression: str) -> str:
    """Write a constant's value as docs/protocol.md does."""
    if "from_millis" in expression:
        return f"{value} ms"
    if "from_secs" in expression:
        return f"{value} s"
    if isinstance(value, int) and value == REJECT_AFTER_MESSAGES:
        return "2⁶⁴ − 2¹³ − 1"
    if isinstance(value, int) and value >= 1 << 27 and value.bit_count() == 1:
        return f"2{str(value.bit_length() - 1).translate(EXPONENTS)}"
    return str(value)


def constants(path: Path) -> dict[str, str]:
    """Evaluate the constants that a source file defines in one line, and write them as docs/protocol.md does."""
    values: dict[str, object] = {}
    texts = {}
    for name, expression in CONSTANT.findall(path.read_text()):
        plain = re.sub(r"Duration::from_\w+\((\w+)\)", r"\1", expression).replace("u64::MAX", str(2**64 - 1))
        plain = plain.replace("u64::BITS as u64", "64")
        try:
            value = eval(re.sub(r'^&?b"', '"', plain), {"len": len}, dict(values))  # noqa: S307 - our own source
        except (SyntaxError, NameError, TypeError):
            continue
        values[name] = value
        texts[name] = written(value, expression)
    return texts


@pytest.mark.parametrize("file", WIRE_FILES)
def test_every_wire_constant_is_in_the_protocol(file: str) -> None:
    path = ROOT / file
    worded = ON_THE_WIRE[path.name]
    found = constants(path)
    assert worded.keys() <= found.keys()
    assert found.keys() - worded.keys() - FOLLOWS == set(), "say in ON_THE_WIRE how docs/protocol.md words these"
    for name, words in worded.items():
        assert words.format(found[name]) in PROTOCOL, f"{name} is {found[name]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_test_that_security_names_exists() -> None:
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", (ROOT / "docs/security.md").read_text()):
        assert f"def {name}(" in code, name


@pytest.mark.parametrize("page", ["README.md", "docs/manual.md"])
def test_what_is_shown_to_be_typed_says_sudo(page: str) -> None:
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    typed = [line for block in blocks for line in block.splitlines() if re.search(r"\$ ?\(?f2ftun ", line)]
    assert typed == []


def test_there_is_one_version() -> None:
    assert f'\nversion = "{__version__}"\n' in (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{__version__}"\n' in (ROOT / "dataplane/Cargo.toml").read_text()
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
