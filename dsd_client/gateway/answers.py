"""The answers to one request: a session of the swarm for each choice, and what they say in the order in which it comes."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from dsd_client.client import Client, ConversationOptions
from dsd_client.gateway.admission import Admission
from dsd_client.results import Chunk, Result
from dsd_core.errors import DsdError

EVENTS = 64
"""How many may wait for the reader; a slow one slows the sessions down."""
QUIET_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Question:
    """What every choice of a request has in common. `options.sampling` has its seed."""

    prompts: Sequence[Sequence[int]]
    choices: int
    """Answers to each prompt."""
    max_new_tokens: int
    stop: Sequence[str]
    options: ConversationOptions

    @property
    def answers(self) -> int:
        return len(self.prompts) * self.choices


@dataclass(frozen=True, slots=True)
class Said:
    """A part of the answer with this index."""

    index: int
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Finished:
    """An answer is complete."""

    index: int
    result: Result
    route: Sequence[str]


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing was said for a while: the reader may want to tell whoever listens that it is still there."""


AnswerEvent = Said | Finished | Quiet


class Answers:
    """All answers to a question, side by side. Use `async with`: leaving it ends those that still run, at every stage."""

    def __init__(self, client: Client, admission: Admission, question: Question) -> None:
        self._client = client
        self._admission = admission
        self._question = question
        self._events: asyncio.Queue[AnswerEvent | Exception] = asyncio.Queue(EVENTS)
        self._answering: list[asyncio.Task[None]] = []
        self._is_cancelled = False

    async def __aenter__(self) -> "Answers":
        self._answering = [asyncio.create_task(self._answer(index)) for index in range(self._question.answers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._cancel()
        await asyncio.wait(self._answering)

    async def events(self) -> AsyncGenerator[AnswerEvent, None]:
        """Until the last answer has finished. Raises the DsdError that ended one of them."""
        unfinished = self._question.answers
        while unfinished:
            event = await self._next_event()
            if isinstance(event, Exception):
                raise event
            unfinished -= isinstance(event, Finished)
            yield event

    def interrupt(self, error: DsdError) -> None:
        """End all of them here, with this error."""
        self._cancel()
        while not self._events.empty():
            self._events.get_nowait()
        self._events.put_nowait(error)

    def _cancel(self) -> None:
        """Once: a session that is being closed must not be kept from it. Whether a task was cancelled is no sign of that: a
        timeout that has just expired in it has done so too, and then it goes on."""
        if not self._is_cancelled:
            self._is_cancelled = True
            for task in self._answering:
                task.cancel()

    async def _next_event(self) -> AnswerEvent | Exception:
        try:
            async with asyncio.timeout(QUIET_SECONDS):
                return await self._events.get()
        except TimeoutError:
            return Quiet()

    async def _answer(self, index: int) -> None:
        try:
            async with self._admission.turn():
                await self._ask(index)
        except Exception as error:  # a bug too must reach whoever waits for the answer
            await self._events.put(error)

    async def _ask(self, index: int) -> None:
        question = self._question
        prompt = question.prompts[index // question.choices]
        options: ConversationOptions = {**question.options, "choice_index": index % question.choices}
        route: Sequence[str] = ()
        positions = len(prompt) + question.max_new_tokens
        async with self._client.conversation(positions=positions, at_once=True, **options) as answers:
            chunks = answers.ask(prompt, max_new_tokens=question.max_new_tokens, stop=question.stop)
            async with aclosing(chunks):
                async for chunk in chunks:
                    route = chunk.route
                    await self._events.put(Said(index, chunk))
            finished = Finished(index, answers.result, route)
        await self._events.put(finished)
