"""Checks some of what one chain said on another, in the background. Decides nothing: decoding/choice/audit.py does."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from dsd_client.lane_link import LaneEvent, LaneLink
from dsd_client.stage import Stage
from dsd_core.decoding.choice.audit import AuditBook, Severity, blocks_of, near_cuts, positions_of, severity, severity_at_edge
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.events import VerdictsArrived
from dsd_core.decoding.frames import Frame, FrameNode, Verdict
from dsd_core.decoding.ids import LaneId, NodeId, TokenId
from dsd_core.errors import DsdError, UsageError
from dsd_core.network.banned_peers import BannedPeers
from dsd_core.network.identity import PeerId
from dsd_core.network.struck_peers import StruckPeers
from dsd_core.wire.codec import MAX_TOP_COUNT

log = logging.getLogger(__name__)

WAITING = 8
"""Answers that may wait for their audit. What finds no place is not audited: nobody waits for us."""
AUDIT_SECONDS = 60.0
GRACE_SECONDS = 2.0
"""How long closing waits for audits under way: a command is over soon after its answer."""
CHUNK = 128

_OURS = random.SystemRandom()
"""Nobody can foresee what is checked."""

Chain = Sequence[Stage]
FindChain = Callable[[Chain], Awaitable[Chain]]
"""A chain of other stages than these, as far as there are."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An answer, and what a chain claimed that the target chooses at some of its positions."""

    chain: Chain
    rule: ChoiceRule
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    choices: Mapping[int, int]
    """By offset in the answer: others may have said the rest of it. Not always the tokens: adaptive acceptance forgives, and
    then the claim still is the choice."""

    @property
    def peers(self) -> tuple[PeerId, ...]:
        return tuple(stage.peer for stage in self.chain)

    def choice(self, offset: int) -> TokenId:
        return TokenId(self.choices[offset])


class Auditor:
    """Hears claims while `run` runs. A peer that lies is banned, here and in what `banned` keeps."""

    def __init__(
        self,
        find_chain: FindChain,
        banned: BannedPeers,
        struck: StruckPeers,
        *,
        floor: float,
        tolerance: float,
        chance: Callable[[], float] = _OURS.random,
    ) -> None:
        self.book: AuditBook[PeerId] = AuditBook(floor)
        self.blocks_heard = 0
        self.blocks_checked = 0
        self.blocks_passed = 0
        self._find_chain = find_chain
        self._banned = banned
        self._struck = struck
        self._tolerance = tolerance
        self._chance = chance
        self._claims: asyncio.Queue[Claim] = asyncio.Queue(WAITING)

    def hear(self, claim: Claim) -> None:
        """Never waits."""
        if claim.choices and not self._claims.full():
            self._claims.put_nowait(claim)

    def catch(self, peer: PeerId, at: str) -> None:
        """A peer has claimed what cannot be. Never waits."""
        self.book.restore(peer, strikes=self._struck.count(peer))
        log.warning("%s has claimed what cannot be: %s", peer, at)
        banned = self.book.caught(peer)
        try:
            self._struck.strike(peer, at)
            if banned:
                self._banned.ban(peer, at)
        except UsageError as error:
            log.warning("it will not be remembered: %s", error)

    async def run(self) -> None:
        """Runs as long as the client does."""
        while True:
            claim = await self._claims.get()
            try:
                async with asyncio.timeout(AUDIT_SECONDS):
                    await self._audit(claim)
            except (DsdError, TimeoutError) as error:
                log.debug("an audit came to nothing: %s", error or "it took too long")
            finally:
                self._claims.task_done()

    async def finish(self) -> None:
        """Wait a little for what has been heard."""
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await self._claims.join()
        except TimeoutError:
            log.info("left without finishing an audit")

    async def _audit(self, claim: Claim) -> None:
        for peer in claim.peers:
            self.book.restore(peer, strikes=self._struck.count(peer))
        blocks = self.book.sample(claim.peers, [self._chance() for _ in range(blocks_of(len(claim.choices)))])
        self.blocks_heard += blocks_of(len(claim.choices))
        said = list(claim.choices)
        offsets = [said[position] for position in positions_of(blocks, len(said))]
        checker = await self._another(claim.chain) if offsets else None
        if checker is None:
            return
        self.blocks_checked += len(blocks)
        found = await self._compare(claim, offsets, checker)
        if found is Severity.TIE:
            self.book.passed(claim.peers, len(blocks))
            self.blocks_passed += len(blocks)
        else:
            await self._settle(claim, offsets, checker, found)

    async def _settle(self, claim: Claim, offsets: Sequence[int], checker: Chain, found: Severity) -> None:
        """A third chain decides between two that differ."""
        checkers = tuple(stage.peer for stage in checker)
        judge = await self._another([*claim.chain, *checker])
        if judge is None:
            self.book.disputed(claim.peers, checkers)
            log.warning("%s and %s differ, and there is no third chain to say which lies", _named(claim.chain), _named(checker))
            return
        judges = tuple(stage.peer for stage in judge)
        second = await self._compare(claim, offsets, judge)
        if second is Severity.TIE:
            self._sentence(checkers, [claim.peers, judges], found, f"{_named(claim.chain)} and {_named(judge)}")
        else:
            found = min(found, second)
            self._sentence(claim.peers, [checkers, judges], found, f"{_named(checker)} and {_named(judge)}")

    def _sentence(
        self, wrong: Sequence[PeerId], right: Sequence[Sequence[PeerId]], found: Severity, believed: str
    ) -> None:
        before = {peer: self.book.standing(peer).strikes for peer in wrong}
        banned = self.book.settled(wrong, right, found)
        for peer in wrong:
            if self.book.standing(peer).strikes > before[peer]:
                self._struck.strike(peer, f"{found.name.lower()}: {believed} agree otherwise")
        for peer in banned:
            log.warning("%s gave false answers and is banned; %s agree otherwise", peer, believed)
            self._banned.ban(peer, f"false answers ({found.name.lower()}); {believed} agree otherwise")

    async def _another(self, heard: Chain) -> Chain | None:
        """A chain with somebody in it who has not been heard."""
        chain = await self._find_chain(heard)
        return chain if {stage.peer for stage in chain} - {stage.peer for stage in heard} else None

    async def _compare(self, claim: Claim, offsets: Sequence[int], checker: Chain) -> Severity:
        """The worst of what a chain finds at some of an answer's positions."""
        checks = await _verdicts(claim, offsets, checker, claim.rule.params)
        found = {offset: severity(claim.choice(offset), check, self._tolerance) for offset, check in checks.items()}
        doubtful = [offset for offset, level in found.items() if level > Severity.TIE]
        cuts = near_cuts(claim.rule.params)
        if doubtful and cuts is not None:
            fewer, more = [await _verdicts(claim, doubtful, checker, cut) for cut in cuts]
            for offset in doubtful:
                found[offset] = severity_at_edge(claim.choice(offset), fewer[offset], more[offset], self._tolerance)
        return max(found.values())


async def _verdicts(
    claim: Claim, offsets: Sequence[int], checker: Chain, params: SamplingParams
) -> dict[int, Verdict]:
    """What a chain says at each offset of an answer, given the prompt and the answer before it, if it chooses so.

    An ordinary session: a long prompt, of which some nodes want a verdict.
    """
    rule = replace(claim.rule, params=params, top_count=MAX_TOP_COUNT)
    # The choice at an offset is the verdict of the node before it; ids begin at 1.
    wanted = {NodeId(len(claim.prompt) + offset): offset for offset in offsets}
    tokens = (*claim.prompt, *claim.tokens)[: max(wanted)]
    link = await LaneLink(LaneId(0), checker, rule, len(tokens)).opened()
    checks: dict[int, Verdict] = {}
    complete = asyncio.Event()

    def take(event: LaneEvent) -> None:
        if isinstance(event, VerdictsArrived):
            checks.update((wanted[verdict.node], verdict) for verdict in event.verdicts if verdict.node in wanted)
            if len(checks) == len(wanted):
                complete.set()

    try:
        for frame in _frames(tokens, wanted.keys()):
            link.send(frame)
        await _until(complete, link.serve(take))
    finally:
        await link.close()
    return checks


async def _until(complete: asyncio.Event, work: Coroutine[Any, Any, NoReturn]) -> None:
    """Raises what ended the work before it was complete."""
    jobs = [asyncio.create_task(complete.wait()), asyncio.create_task(work)]
    try:
        await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        if not complete.is_set():
            jobs[1].result()
    finally:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


def _frames(tokens: Sequence[int], wanted: Set[NodeId]) -> Iterator[Frame]:
    """A line of nodes, numbered from 1, of which some want a verdict."""
    nodes = tuple(
        FrameNode(NodeId(node), NodeId(node - 1), TokenId(token), node in wanted) for node, token in enumerate(tokens, 1)
    )
    for start in range(0, len(nodes), CHUNK):
        chunk = nodes[start : start + CHUNK]
        yield Frame(chunk, keep=chunk[-1].id)


def _named(chain: Chain) -> str:
    return " -> ".join(str(stage.address) for stage in chain)
