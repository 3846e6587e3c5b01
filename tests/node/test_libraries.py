"""A node does not start on libraries that strangers could break."""

import pytest

from dsd_core.errors import UnsoundLibrary
from dsd_node import libraries


def test_those_installed_will_do() -> None:
    libraries.require_sound_libraries()


@pytest.mark.parametrize(
    ("name", "found"), [("grpcio", "1.84.9"), ("grpcio", "1.9.0"), ("torch", "2.5.1+cpu"), ("torch", "1.13.0")]
)
def test_an_old_library_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, found: str) -> None:
    monkeypatch.setattr(libraries, "version", lambda asked: found if asked == name else "99.0")
    with pytest.raises(UnsoundLibrary, match=f"{name} {found}".replace("+", r"\+")):
        libraries.require_sound_libraries()


@pytest.mark.parametrize("found", ["1.85.0", "1.100.0rc1", "2.6"])
def test_a_newer_library_is_not(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setattr(libraries, "version", lambda asked: found if asked == "grpcio" else "2.6.0+cu124")
    libraries.require_sound_libraries()


def test_protobuf_in_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries.api_implementation, "Type", lambda: "python")
    with pytest.raises(UnsoundLibrary, match="protobuf runs as python"):
        libraries.require_sound_libraries()
