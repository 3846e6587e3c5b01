"""The shell around a session: performs its actions on lanes and a drafter, and feeds back what comes of them.

    verdicts, drafts, lanes found and lost, deadlines --> session.step --> send, draft, emit, open and close lanes

What happens is acted on as it happens, whatever the reader of the answer is doing. The shell decides nothing. What it logs at
DEBUG is a transcript that the core can be replayed from.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVarTuple

from dsd_client.alarm import Alarm
from dsd_client.auditing import Auditor
from dsd_client.drafting import SessionDrafter
from dsd_client.lane_link import LaneLink
from dsd_client.lane_source import LaneSource
from dsd_client.stage import Stage, are_near
from dsd_client.tracing import RequestTrace
from dsd_core.decoding.drafting.contexts import Contexts
from dsd_core.decoding.events import (
    Action,
    Ask,
    CloseLane,
    CommittedToken,
    Draft,
    Emit,
    Event,
    Finish,
    FinishReason,
    LaneLost,
    LaneOpened,
    OpenLane,
    Send,
    Stop,
    Tick,
    VerdictsArrived,
)
from dsd_core.decoding.ids import LaneId, TokenId
from dsd_core.decoding.session import Session
from dsd_core.errors import DsdError, Fault, NoPeers, ProtocolError

log = logging.getLogger(__name__)

Given = TypeVarTuple("Given")

RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.1, 2.0
"""Between attempts to find a lane: at first, and in the long run."""


class Conversation:
    """A session on its lanes, asked as often as you like. Use `async with`; it owns the lanes and the drafter.

    It begins on `link`, and finds further lanes at `source` as the session wants them. When none serves, and nothing has been
    committed for `timeout` seconds since the last one was lost, it gives up. After an error it is of no further use.
    """

    def __init__(
        self,
        session: Session,
        link: LaneLink,
        source: LaneSource,
        drafter: SessionDrafter | None,
        *,
        timeout: float,
        auditor: Auditor | None = None,
    ) -> None:
        self.session = session
        self.finish_reason: FinishReason | None = None
        self.route = link.route
        """The stages of the lane that leads, or led last."""
        self.heard: dict[LaneId, tuple[Stage, ...]] = {}
        """The chains of the lanes that gave verdicts since the last question."""
        self.trace: RequestTrace | None = None
        """Hears of the rounds of the question that is being answered."""
        self._source = source
        self._drafter = drafter
        self._timeout = timeout
        self._auditor = auditor
        self._committed: list[CommittedToken] = []
        """What the reader of the answer has not taken yet: the rest of one answer at most."""
        self._asked = object()
        """The question that is being answered, or was last."""
        self._failure: Exception | None = None
        self._news = asyncio.Event()
        """There is more for the reader: tokens, the end, or a failure."""
        self._alarm = Alarm(self._ring)
        self._links: dict[LaneId, LaneLink] = {link.lane: link}
        self._may_draft = link.answered if are_near(link.stages) else link.begun
        """On one machine, a drafter that reads keeps the prompt from the target, and there is no latency to hide yet."""
        self._closed_links_bytes = (0, 0)
        self._looking = {replica: asyncio.Lock() for replica in (True, False)}
        """One replica is looked for at a time, however many are wanted, and one other lane ..."""
        self._opening = asyncio.Lock()
        """... and one lane is opened at a time, so that it knows of the others."""
        self._lane_lost = asyncio.Event()
        """What could not be had beside it may be had instead of it, at once."""
        self._answering = asyncio.Event()
        """A question is being answered: what could not be had is looked for again."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._alone_since: float | None = None
        """When no lane served any more, until something is committed again."""
        self._last_failure: DsdError | None = None

    @property
    def drafter_name(self) -> str:
        """What drafts; empty where nothing does."""
        return self._drafter.name if self._drafter is not None else ""

    async def __aenter__(self) -> "Conversation":
        for link in self._links.values():
            self._follow(link)
            self._step(LaneOpened(link.lane))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._alarm.stop()
        for lane in list(self._links):
            self._close(lane)
        while self._closing:
            await asyncio.wait(self._closing)
        if self._drafter is not None:
            await self._drafter.close()

    @property
    def bytes_sent(self) -> int:
        return self._closed_links_bytes[0] + sum(link.bytes_sent for link in self._links.values())

    @property
    def bytes_received(self) -> int:
        return self._closed_links_bytes[1] + sum(link.bytes_received for link in self._links.values())

    async def answer(
        self, prompt: Sequence[int], max_new_tokens: int, end_tokens: frozenset[TokenId] = frozenset()
    ) -> AsyncGenerator[tuple[CommittedToken, ...], None]:
        """Commit tokens after `prompt`, all of it from its first token; yield them as they commit.

        Leaving the iteration early ends the answer, and the conversation can go on. Raises DsdError.
        """
        self.finish_reason = None
        self.heard.clear()
        self._alone_since = None
        self._act(Ask(tuple(TokenId(token) for token in prompt), max_new_tokens, end_tokens))
        asked = self._asked = object()
        self._committed.clear()
        try:
            while self.finish_reason is None or self._committed:
                if self._committed:
                    committed, self._committed = tuple(self._committed), []
                    yield committed
                elif self._failure is not None:
                    raise self._failure
                else:
                    await self._news.wait()
                    self._news.clear()
        finally:
            if self._asked is asked:  # an iteration that was left may be closed only when the next question is being answered
                self._act(Stop(FinishReason.CANCELLED))
                self._committed.clear()

    def _happened(self, event: Event) -> None:
        """Act on it; what goes wrong is heard by the reader of the answer."""
        try:
            self._act(event)
        except Exception as error:  # a bug too must reach whoever waits for the answer
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._news.set()

    def _act(self, event: Event) -> None:
        for action in self._step(event):
            self._perform(action)
        self._set_alarm()
        if self.session.answering:
            self._answering.set()
        else:
            self._answering.clear()

    def _set_alarm(self) -> None:
        due = (self._give_up_at() or self.session.deadline) if self.session.answering else None
        if due is None:
            self._alarm.stop()
        else:
            self._alarm.set(due)

    def _perform(self, action: Action) -> None:
        match action:
            case Send():
                self._send(action)
            case Draft():
                self._start(self._draft, action, self.session.tree.contexts(action.parents))
            case OpenLane():
                self._start(self._open_lane, action.replica)
            case CloseLane():
                self._close(action.lane)
            case Finish():
                self.finish_reason = action.reason
                self._news.set()
            case Emit():
                self._alone_since = None
                self._committed += action.tokens
                self._news.set()

    def _step(self, event: Event) -> list[Action]:
        try:
            actions = self.session.step(event, time.monotonic())  # a loop's own clock may tick in whole milliseconds
        except ProtocolError as error:
            if not isinstance(event, VerdictsArrived):
                raise
            self._lose(event.lane, error)
            return self._step(LaneLost(event.lane))
        log.debug("%s -> %s", event, actions)
        if isinstance(event, VerdictsArrived):
            if self.trace:
                self.trace.answered(event)
            if link := self._links.get(event.lane):
                self.heard[event.lane] = tuple(link.stages)
        if self.session.leading in self._links:
            self.route = self._links[self.session.leading].route
        return actions

    def _ring(self) -> None:
        """It is time for something, or to give up after long enough without a lane."""
        if self._give_up_at() is None:
            self._happened(Tick())
        else:
            self._fail(self._no_lane())

    # -- lanes ---------------------------------------------------------------------------------------------------------

    def _send(self, send: Send) -> None:
        link = self._links.get(send.lane)
        if link is not None:  # Else it is lost, and the session will hear of it.
            link.send(send.frame)
            if self.trace:
                self.trace.sent(send.lane, send.frame, link.route)

    def _follow(self, link: LaneLink) -> None:
        self._start(self._listen, link)

    async def _listen(self, link: LaneLink) -> None:
        try:
            await link.serve(self._happened)
        except DsdError as error:
            if error.fault < Fault.PEER:
                raise
            self._lose(link.lane, error)
            self._happened(LaneLost(link.lane))

    async def _open_lane(self, replica: bool) -> None:
        link = await self._first_lane() or await self._another_lane(replica)
        self._follow(link)
        self._happened(LaneOpened(link.lane))

    async def _first_lane(self) -> LaneLink | None:
        """Those who never had a lane hear what the stages say. None where there was one."""
        async with self._opening:
            if self._links or self._source.has_opened:
                return None
            link = await self._source.open_first(self._timeout)
            self._links[link.lane] = link
            return link

    async def _another_lane(self, replica: bool) -> LaneLink:
        """As soon as there is one to be had."""
        pause = RETRY_SECONDS
        async with self._looking[replica]:
            while True:
                try:
                    return await self._found_lane(replica)
                except DsdError as error:
                    if error.fault < Fault.PEER:
                        raise
                    log.debug("no lane to be had: %s", error)
                    self._last_failure = error
                pause = RETRY_SECONDS if await self._loses_a_lane(pause) else min(2 * pause, LONGEST_RETRY_SECONDS)
                await self._answering.wait()

    async def _loses_a_lane(self, seconds: float) -> bool:
        """Whether one is lost before so many seconds have gone."""
        self._lane_lost.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._lane_lost.wait()
        return False

    async def _found_lane(self, replica: bool) -> LaneLink:
        async with self._opening:
            link = await self._source.open(list(self._links.values()), disjoint=replica)
            self._links[link.lane] = link
        return link

    def _lose(self, lane: LaneId, error: DsdError) -> None:
        """A lane failed. Its stages are used again only if there are no others."""
        link = self._links.get(lane)
        if link is None:
            return
        log.debug("the lane by %s failed: %s", " -> ".join(link.route), error)
        self._last_failure = error
        self._source.lost(link, error)
        self._lane_lost.set()
        if link.refuted and self._auditor is not None:
            self._auditor.catch(link.stages[-1].peer, link.refuted)
        self._close(lane)

    def _close(self, lane: LaneId) -> None:
        link = self._links.pop(lane, None)
        if link is None:
            return
        if self.trace:
            self.trace.lost(lane)
        sent, received = self._closed_links_bytes
        self._closed_links_bytes = sent + link.bytes_sent, received + link.bytes_received
        closing = asyncio.create_task(link.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _give_up_at(self) -> float | None:
        if self.session.lanes_serving:
            return None
        if self._alone_since is None:
            self._alone_since = time.monotonic()
        return self._alone_since + self._timeout

    def _no_lane(self) -> NoPeers:
        why = f": {self._last_failure}" if self._last_failure else "; a stage may be frozen"
        return NoPeers(f"no stages to go on with could be found for {self._timeout:g} s{why}")

    # -- tasks ---------------------------------------------------------------------------------------------------------

    async def _draft(self, draft: Draft, contexts: Contexts) -> None:
        assert self._drafter is not None, "a policy that drafts comes with a drafter"
        await self._may_draft.wait()
        proposals = await self._drafter.propose(contexts, steps=draft.steps, candidates=draft.candidates, least=draft.least)
        self._happened(draft.answered(proposals))

    def _start(self, work: Callable[[*Given], Coroutine[Any, Any, None]], *given: *Given) -> None:
        task = asyncio.create_task(self._report(work, *given))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _report(self, work: Callable[[*Given], Coroutine[Any, Any, None]], *given: *Given) -> None:
        try:
            await work(*given)
        except Exception as error:
            self._fail(error)
