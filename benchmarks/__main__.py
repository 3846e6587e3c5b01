"""Run every benchmark, one after the other."""

import asyncio

from benchmarks import loopback

if __name__ == "__main__":
    asyncio.run(loopback.main())
