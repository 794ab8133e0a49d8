"""docs/reliability.rst names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def named_tests():
    return re.findall(r"``(\S+\.py)::(\w+)``", (ROOT / "docs/reliability.rst").read_text())


def test_the_tests_that_are_named_exist():
    named = named_tests()
    assert len(named) > 30
    missing = [f"{path}::{name}" for path, name in named if name not in functions_of(path)]
    assert missing == []


def functions_of(path):
    """Return the names of the functions of a file; none if there is no such file."""
    file = ROOT / path
    tree = ast.parse(file.read_text() if file.exists() else "")
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_guarantee_has_a_test():
    text = (ROOT / "docs/reliability.rst").read_text()
    guarantees, _, _ = text.partition("Not guaranteed yet")
    blocks = [b for b in guarantees.split("\n\n") if "\n  ``tests/" in b]
    assert sum(len(re.findall(r"::\w+``", b)) for b in blocks) == len(named_tests())
    parts = guarantees.strip().split("\n\n")[2:]
    sentences = [part for part in parts if not re.search(r"^-+$", part, flags=re.M)]
    assert sentences == blocks
