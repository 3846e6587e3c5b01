"""Run every benchmark, one after the other."""

import asyncio

from benchmarks import footprint, loopback


async def main() -> None:
    await loopback.main([])
    await footprint.main([])


if __name__ == "__main__":
    asyncio.run(main())
