"""A client that opens sessions, begins an answer in each, says how many they are, and then does nothing, until it is killed.

    python -m tests.faults.holder JOIN MODEL DATA_DIR
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from dsd_client import Client
from dsd_core.errors import OutOfCapacity

TOKENS = 16


async def main(join: str, model: str, data_dir: str) -> None:
    async with Client([join], model, "none", data_dir=Path(data_dir), timeout=0.5) as client, AsyncExitStack() as sessions:
        opened = 0
        try:
            while True:
                answers = await sessions.enter_async_context(client.conversation(positions=TOKENS, speculation="off"))
                async for _ in answers.ask([5, 6, 7], max_new_tokens=1):
                    pass
                opened += 1
        except OutOfCapacity:
            print(opened, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
