"""The shell around a session: performs its actions on a lane and a drafter, and feeds back what comes of them.

    verdicts, drafts, deadlines --> session.step --> send, draft, emit

It decides nothing. What it logs at DEBUG is a transcript that the core can be replayed from.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence

from dsd_client.drafting import SessionDrafter
from dsd_client.lane_link import LaneLink
from dsd_core.decoding.contexts import Contexts
from dsd_core.decoding.events import (
    Action,
    Ask,
    Branch,
    CloseLane,
    CommittedToken,
    Draft,
    Drafted,
    Emit,
    Event,
    Finish,
    FinishReason,
    LaneOpened,
    OpenLane,
    Send,
    Stop,
    Tick,
)
from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.session import Session
from dsd_core.errors import DsdError, TimedOut

log = logging.getLogger(__name__)

EVENTS = 256
"""How many may wait; a lane that sends more has to wait itself."""


class Conversation:
    """A session on a lane, asked as often as you like. Use `async with`; it owns the lane and the drafter.

    After an error it is of no further use.
    """

    def __init__(self, session: Session, link: LaneLink, drafter: SessionDrafter | None) -> None:
        self.session = session
        self.link = link
        self.finish_reason: FinishReason | None = None
        self._drafter = drafter
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue(EVENTS)
        self._listener: asyncio.Task[None] | None = None
        self._performing: asyncio.Task[DsdError | None] | None = None
        self._drafting: set[asyncio.Task[None]] = set()
        """More than one where an answer was left while the drafter was at work for it."""

    async def __aenter__(self) -> "Conversation":
        self._listener = asyncio.create_task(self._listen())
        self._step(LaneOpened(self.link.lane))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._listener, self._performing, *self._drafting):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self.link.close()
        if self._drafter is not None:
            await self._drafter.close()

    async def answer(
        self, prompt: Sequence[int], max_new_tokens: int, end_tokens: frozenset[TokenId] = frozenset()
    ) -> AsyncGenerator[tuple[CommittedToken, ...], None]:
        """Commit tokens after `prompt`, all of it from its first token; yield them as they commit.

        Leaving the iteration early ends the answer, and the conversation can go on. Raises DsdError.
        """
        if self._performing is not None:
            await self._performing
        self.finish_reason = None
        actions = self._step(Ask(tuple(TokenId(token) for token in prompt), max_new_tokens, end_tokens))
        try:
            while self.finish_reason is None:
                # Frames first: they wait for no reader, and a reader who leaves must not keep back what counts as sent.
                failure = await self._perform_all(actions)
                for action in actions:
                    if isinstance(action, Emit):
                        yield action.tokens
                if failure is not None:
                    raise failure
                if self.finish_reason is None:
                    actions = self._step(await self._next_event())
        finally:
            self._step(Stop(FinishReason.CANCELLED))

    async def _perform_all(self, actions: Sequence[Action]) -> DsdError | None:
        """All but what is for the reader, who gets it even if something else fails.

        Whoever cancels the reader does not cancel this: the session counts as sent what it said is to be sent.
        """
        self._performing = asyncio.create_task(self._perform_each(actions))
        return await asyncio.shield(self._performing)

    async def _perform_each(self, actions: Sequence[Action]) -> DsdError | None:
        try:
            for action in actions:
                await self._perform(action)
        except DsdError as error:
            return error
        return None

    async def _perform(self, action: Action) -> None:
        match action:
            case Send():
                await self.link.send(action.frame)
            case Draft():
                drafting = asyncio.create_task(self._draft(action, self.session.tree.contexts(action.parents)))
                self._drafting.add(drafting)
                drafting.add_done_callback(self._drafting.discard)
            case Finish():
                self.finish_reason = action.reason
            case CloseLane():
                raise AssertionError("the only lane is never closed")
            case OpenLane():
                route = " -> ".join(self.link.route)
                raise TimedOut(f"no verdict for {self.session.config.round_seconds:.0f} s from {route}; a stage may be frozen")
            case Emit():
                pass

    def _step(self, event: Event) -> list[Action]:
        actions = self.session.step(event, asyncio.get_running_loop().time())
        log.debug("%s -> %s", event, actions)
        return actions

    async def _next_event(self) -> Event:
        try:
            async with asyncio.timeout_at(self.session.deadline):
                event = await self._events.get()
        except TimeoutError:
            return Tick()
        if isinstance(event, Exception):
            raise event
        return event

    async def _listen(self) -> None:
        try:
            async for verdicts in self.link.verdicts():
                await self._events.put(verdicts)
        except Exception as error:  # a bug too must reach whoever waits for the answer
            await self._events.put(error)

    async def _draft(self, draft: Draft, contexts: Contexts) -> None:
        assert self._drafter is not None, "a policy that drafts comes with a drafter"
        try:
            proposals = await self._drafter.propose(contexts, steps=draft.steps, candidates=draft.candidates)
        except Exception as error:  # likewise
            await self._events.put(error)
            return
        branches = tuple(
            Branch(parent, tokens, rank)
            for parent, proposal in zip(draft.parents, proposals, strict=True)
            for rank, tokens in enumerate(proposal)
        )
        await self._events.put(Drafted(draft.request, branches))
