"""How much memory is left, as the machine and its container tell."""

from pathlib import Path

import pytest
import torch

from dsd_core.model import memory

CPU = torch.device("cpu")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 1000 KiB available and no container."""
    (tmp_path / "meminfo").write_text("MemTotal:  4000 kB\nMemAvailable:  1000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return tmp_path


def test_some_of_it_is_left_alone(machine: Path) -> None:
    assert memory.usable_bytes(CPU) == int(1000 * 1024 * 0.85)


def put_in_container(machine: Path, limit: str) -> None:
    (machine / "memory.max").write_text(limit)
    (machine / "memory.current").write_text("3000\n")
    (machine / "memory.stat").write_text("anon 1000\nfile 2000\n")


def test_of_a_machine(machine: Path) -> None:
    assert memory.available_bytes(CPU) == 1000 * 1024


def test_of_a_container_whose_page_cache_can_go(machine: Path) -> None:
    put_in_container(machine, "5000\n")
    assert memory.available_bytes(CPU) == 5000 - 3000 + 2000


def test_of_a_container_without_limit(machine: Path) -> None:
    put_in_container(machine, "max\n")
    assert memory.available_bytes(CPU) == 1000 * 1024


def test_of_a_system_that_does_not_say(machine: Path) -> None:
    (machine / "meminfo").write_text("MemTotal:  4000 kB\n")
    assert memory.available_bytes(CPU) is None
    (machine / "meminfo").unlink()
    assert memory.available_bytes(CPU) is None


def test_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert memory.available_bytes(torch.device("cuda")) == 130
