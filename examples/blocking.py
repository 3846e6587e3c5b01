"""Without asyncio: one client, several questions, and what each of them took."""

import sys

from dsd_client import DsdError, SyncClient

QUESTIONS = ("What is 12 + 30?", "What is 9 * 4?")

try:
    with SyncClient(join=sys.argv[1:]) as client:
        for question in QUESTIONS:
            result = client.generate(f"Question: {question}\nAnswer:", max_new_tokens=32, stop=["\nQuestion:"])
            print(f"{question} {result.text.strip()} ({result.stats.tokens_per_second:.0f} tokens/s)")
except DsdError as error:  # it says whose fault it was, and what to do
    sys.exit(str(error))
