"""The arrow between the packages, and the purity of what decides."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IMPURE = {
    "_thread", "asyncio", "concurrent", "ctypes", "datetime", "importlib", "io", "locale", "logging", "mmap",
    "multiprocessing", "os", "pathlib", "queue", "random", "sched", "secrets", "select", "selectors", "shutil",
    "signal", "socket", "socketserver", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib",
    "uuid",
}
"""Of the standard library: clocks, chance, threads, the outside world, and ways around this test."""
CORE = ("dsd_core.decoding", "dsd_core.membership", "dsd_core.errors", "dsd_core.network.address", "numpy")


def imported(source: str, package: str) -> Iterator[str]:
    """Full names of all that a module of `package` imports, wherever in it. `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_under(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def impurities(source: str) -> list[str]:
    """What a module that decides must not import, or call by name."""
    names = [name for name in imported(source, "dsd_core.decoding") if not is_pure(name)]
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    names += [call.func.id for call in calls if call.func.id in {"__import__", "open", "print", "input", "exec", "eval"}]
    attributes = [ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return names + [name for name in attributes if name in {"np.random", "numpy.random"}]


def is_pure(name: str) -> bool:
    top = name.split(".")[0]
    if is_under(name, ("numpy.random",)):
        return False
    return is_under(name, CORE) or (top in sys.stdlib_module_names and top not in IMPURE)


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"{package} is not where it was"
    return found


def packages_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parent.parts)


PURE = [
    *modules("dsd_core/decoding"), *modules("dsd_core/membership"),
    ROOT / "dsd_core/errors.py", ROOT / "dsd_core/network/address.py",
]  # fmt: skip


@pytest.mark.parametrize("path", PURE, ids=lambda path: f"{path.parent.stem}-{path.stem}")
def test_what_decides_is_pure(path: Path) -> None:
    assert impurities(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("dsd_core", ("dsd_node", "dsd_client", "tests")),
        ("dsd_node", ("dsd_client", "tests")),
        ("dsd_client", ("dsd_node", "tests")),
    ],
)
def test_the_arrow_between_the_packages(package: str, forbidden: tuple[str, ...]) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(package)
        for name in imported(path.read_text("utf-8"), packages_of(path))
        if is_under(name, forbidden)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("planted", "caught"),
    [
        ("import asyncio", "asyncio"),
        ("def late():\n    import asyncio.events", "asyncio.events"),
        ("from time import monotonic", "time.monotonic"),
        ("import numpy.random", "numpy.random"),
        ("from numpy import random", "numpy.random"),
        ("import numpy as np\nnp.random.rand()", "np.random"),
        ("import torch", "torch"),
        ("from ..model import decoder", "dsd_core.model.decoder"),
        ("from dsd_core import wire", "dsd_core.wire"),
        ("import dsd_client", "dsd_client"),
        ("print(1)", "print"),
        ("__import__('time')", "__import__"),
    ],
)
def test_a_planted_impurity_is_caught(planted: str, caught: str) -> None:
    source = (ROOT / "dsd_core/decoding/session.py").read_text("utf-8")
    assert impurities(source + "\n\n" + planted) == [caught]


def test_what_is_pure_passes() -> None:
    assert impurities("import math\nfrom . import ids\nfrom .ids import ROOT\nfrom dsd_core.errors import UsageError") == []


def test_a_relative_import_is_resolved() -> None:
    assert list(imported("from . import a\nfrom .b import c\nfrom .. import d", "x.y")) == ["x.y.a", "x.y.b.c", "x.d"]


@pytest.mark.parametrize("package", ["dsd_core", "dsd_node", "dsd_client"])
def test_its_types_are_for_users_too(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    assert "py.typed" in packaged[package]
