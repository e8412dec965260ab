"""scripts/setup: what is missing is named in one sentence, before anything is changed."""

import os
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[2] / "scripts/setup"


@pytest.mark.parametrize(
    ("cargo", "said"),
    [
        ("echo 'rustup could not choose a version of cargo to run' >&2; exit 1", "rustup default stable"),
        ("echo 'cargo 1.63.0 (fd9c4297c 2022-07-01)'", "the Rust toolchain is 1.63.0, the data plane needs"),
    ],
)
def test_a_toolchain_that_will_not_do(tmp_path: Path, cargo: str, said: str) -> None:
    program = tmp_path / "cargo"
    program.write_text(f"#!/bin/sh\n{cargo}\n")
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([SETUP], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.strip().startswith("setup: ")
