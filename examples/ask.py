"""Ten lines to a first answer. Pass the addresses or join tokens of your nodes."""

import asyncio
import sys

from dsd_client import Client


async def main() -> None:
    async with Client(join=sys.argv[1:]) as client:
        result = await client.generate("Question: What is 17 + 25?\nAnswer:", max_new_tokens=48)
        print(result.text.strip())


asyncio.run(main())
