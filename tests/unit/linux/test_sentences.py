"""Every error of the host is one line for people, with nothing left to fill in."""

import importlib
import inspect
import pkgutil
import string

import pytest

import f2ftun.linux
from f2ftun.errors import F2ftunError

MODULES = [
    importlib.import_module(f"f2ftun.linux.{found.name}") for found in pkgutil.iter_modules(f2ftun.linux.__path__)
]
ERRORS = [
    kind
    for module in MODULES
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, F2ftunError) and kind.__module__ == module.__name__
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_a_sentence(kind: type[F2ftunError]) -> None:
    names = {name for _, name, _, _ in string.Formatter().parse(kind.__doc__ or "") if name}
    sentence = str(kind(**dict.fromkeys(names, "X")))
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "{" not in sentence
    assert len(sentence) <= 220


def test_they_were_found() -> None:
    assert len(ERRORS) >= 16
