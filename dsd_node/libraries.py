"""Libraries that a node, which strangers talk to, must not be started with."""

import re
from importlib.metadata import version

from google.protobuf.internal import api_implementation

from dsd_core.errors import UnsoundLibrary

OLDEST = {
    "grpcio": (1, 85),  # below 1.82.3 a small compressed message takes half a GiB; 1.85 first shows the TLS version
    "torch": (2, 6),  # CVE-2025-32434
}


def require_sound_libraries() -> None:
    """Raises UnsoundLibrary."""
    for name, oldest in OLDEST.items():
        if _numbers(found := version(name)) < oldest:
            raise UnsoundLibrary(f"{name} {found} is not safe for a node; run pip install -U '{name}>={oldest[0]}.{oldest[1]}'")
    # CVE-2025-4565: the one in Python follows nested messages until its stack is gone.
    if (kind := api_implementation.Type()) != "upb":
        raise UnsoundLibrary(f"protobuf runs as {kind}; unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install its wheel")


def _numbers(found: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", found)[:2])
