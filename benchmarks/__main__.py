"""Measure what the project claims.

    python -m benchmarks            all of them, one after the other: hours
    python -m benchmarks NAME ...   one, with its options; NAME --help lists them
"""

import asyncio
import sys
from importlib import import_module

from dsd_core.command import TERMINATED, cancelled_by_sigterm

NAMES = (
    "loopback", "first_token", "footprint", "gateway", "links", "gpu_like", "real_pair", "own_machines", "law", "table1",
    "adaptive", "adaptive_speed", "communication", "tls", "simulated", "shared_cores", "margins",
)  # fmt: skip


async def main() -> None:
    names = sys.argv[1:2]
    if names and names[0] not in NAMES:
        print(f"{__doc__}\nNAME is one of {', '.join(NAMES)}.")
        sys.exit(names[0] not in ("-h", "--help"))
    for name in names or NAMES:
        await import_module(f"benchmarks.{name}").main(sys.argv[2:])


if __name__ == "__main__":
    try:
        asyncio.run(cancelled_by_sigterm(main()))  # or the nodes that it has started would live on
    except asyncio.CancelledError:
        sys.exit(TERMINATED)
