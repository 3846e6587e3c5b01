"""How much memory is left to promise, and giving back what is not needed."""

import contextlib
import ctypes
import re
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


HEADROOM = 0.15
"""Share of what is free that is left to activations, and to whatever else the machine does."""


def usable_bytes(device: torch.device) -> int | None:
    """What a node may plan with, or None where the system does not say."""
    available = available_bytes(device)
    return None if available is None else int(available * (1 - HEADROOM))


def available_bytes(device: torch.device) -> int | None:
    """What can still be allocated on a device, or None where the system does not say."""
    if device.type == "cuda":
        return _available_on_cuda(device)
    limits = [limit for limit in (_available_in_machine(), _available_in_container()) if limit is not None]
    return min(limits, default=None)


def _available_on_cuda(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + reusable)


def _available_in_machine() -> int | None:
    try:
        found = re.search(rb"^MemAvailable: *(\d+)", MEMINFO.read_bytes(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _available_in_container() -> int | None:
    """A container's limit is not in MemAvailable. Its page cache counts as used but is given up on demand."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no container, or "max": no limit
        return None
    return limit - used + int(statistics.get("file", 0))


def give_back() -> None:
    """Let the operating system have what has been freed: the C library keeps it, for uses that may never come."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only glibc has this
        ctypes.CDLL(None).malloc_trim(0)
