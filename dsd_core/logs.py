"""Logs of both commands: one line each, on stderr, never a prompt or a token above DEBUG."""

import logging
import os
import sys
from typing import Any

import structlog


def configure(*, verbose: bool = False, quiet: bool = False, log_format: str = "pretty") -> None:
    """What every module logs goes to stderr, in lines for people or as JSON."""
    times, renderer = _for_programs() if log_format == "json" else _for_people()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                times,
                structlog.processors.format_exc_info,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("grpc", "asyncio", "httpx", "httpcore", "urllib3", "filelock", "huggingface_hub", "transformers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of each retry, twice; that the hub is asked at all has been said, and what became of it will be.
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)


def _for_programs() -> tuple[Any, Any]:
    return structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.JSONRenderer()


def _for_people() -> tuple[Any, Any]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"),
        exception_formatter=structlog.dev.plain_traceback,  # Others show local variables, prompts among them.
        pad_event_to=0,
        pad_level=False,
    )
    return structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False), renderer
