"""How a call ends that fails."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from dsd_core.errors import DsdError, Refused
from dsd_core.network.status import abort

log = logging.getLogger(__name__)


@asynccontextmanager
async def answering(context: Any) -> AsyncIterator[None]:
    """Our errors end the call with their own status; others are our bugs, and are logged with their traceback."""
    try:
        yield
    except DsdError as error:
        await abort(context, error)
    except (asyncio.CancelledError, grpc.aio.AbortError):
        raise
    except Exception:
        log.exception("a call failed for a reason nobody foresaw")
        await abort(context, Refused("the node failed on this call; its log says why"))
