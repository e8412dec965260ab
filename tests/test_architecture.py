"""Imports point down: each room of the house may import those named here, itself, and nothing else of ours."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "f2ftun"
BELOW_DAEMON = {"errors", "config", "wire", "core", "dataplane", "linux", "store", "services", "api"}
MAY_IMPORT = {
    "errors": set[str](),
    "config": {"errors", "wire"},  # rates, times and endpoints are written in one way everywhere
    "wire": {"errors"},
    "core": {"errors", "wire"},
    "dataplane": {"errors", "_dataplane"},
    "linux": {"errors", "wire", "core"},
    "store": {"errors", "wire", "core"},
    "services": {"errors", "wire", "core", "store"},
    "api": {"errors", "config"},  # to find the socket of the node that is meant
    "daemon": BELOW_DAEMON,
    "ui": {"errors", "api", "wire"},  # dissect reads what travels
    "__init__": set[str](),
    "__main__": {"ui"},
}
OF_THE_WORLD = {
    "asyncio",
    "datetime",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "control_pb2.py")


def imports(path: Path) -> Iterator[str]:
    """Each module that a file names in an import, `from f2ftun import x` as `f2ftun.x`."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import out, from f2ftun…"
            yield from ([f"f2ftun.{a.name}" for a in node.names] if node.module == "f2ftun" else [node.module or ""])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    named = {name.split(".")[1] for name in imports(path) if name.startswith("f2ftun.")} - {room, "__version__"}
    assert named <= MAY_IMPORT[room]
    if room in {"wire", "core"}:
        assert not {name.split(".")[0] for name in imports(path)} & OF_THE_WORLD, "a pure room has no world of its own"
