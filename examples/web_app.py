"""A FastAPI app with the swarm behind it: GET /ask?question=... streams the answer. For uvicorn; run as it is, it asks once."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from dsd_client import Client

JOIN = sys.argv[1:] or os.environ.get("DSD_JOIN", "").split()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client for all requests: its connections stay open."""
    async with Client(join=JOIN) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/ask")
async def ask(question: str, request: Request) -> StreamingResponse:
    chunks = request.app.state.client.stream(f"Question: {question}\nAnswer:", max_new_tokens=48)
    return StreamingResponse((chunk.text async for chunk in chunks), media_type="text/plain")


async def main() -> None:
    transport = httpx.ASGITransport(app)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        print((await http.get("/ask", params={"question": "What is 17 + 25?"}, timeout=60)).text.strip())


if __name__ == "__main__":
    asyncio.run(main())
