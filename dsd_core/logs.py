"""Logs of both commands: one line each, on stderr, never a prompt or a token above DEBUG."""

import logging
import sys


def configure(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname).1s %(name)s  %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for name in ("grpc", "asyncio", "httpx", "httpcore", "urllib3", "filelock", "huggingface_hub", "transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)
