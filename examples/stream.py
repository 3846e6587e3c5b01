"""An answer as it commits, the drafts that were right in lower case and the target's own tokens in UPPER case."""

import asyncio
import sys

from dsd_client import Client, Origin, SamplingParams


async def main() -> None:
    async with Client(join=sys.argv[1:]) as client:
        sampling = SamplingParams(temperature=0.7, seed=1)
        prompt = "Question: Tom has 3 bags with 5 marbles each. He gives 4 to Mia. How many marbles does Tom have?\nAnswer:"
        async for chunk in client.stream(prompt, max_new_tokens=48, sampling=sampling):
            for token in chunk.tokens:
                text = token.text.lower() if token.origin is Origin.ACCEPTED else token.text.upper()
                print(text, end="", flush=True)
    print()


asyncio.run(main())
