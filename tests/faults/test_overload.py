"""R9 of the promises: overload is refused, not queued. Four times as many as a node holds ask it for sessions."""

import asyncio
import os
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio

from dsd_client import Client
from dsd_client.local_swarm import LocalNode, LocalSwarm
from dsd_core import embedded
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.errors import OutOfCapacity
from dsd_core.model.source import resolve
from dsd_core.model.span import Span
from dsd_core.network.join_token import JoinToken
from dsd_core.network.status import error_of
from dsd_core.network.stubs import stage_stub
from dsd_core.network.transport import Secure
from dsd_core.wire.codec import SESSION_ID_BYTES, rule_to_wire
from dsd_core.wire.v1 import stage_pb2
from tests.faulty_swarm import PROMPT
from tests.scale import count

TOKENS = 27
POSITIONS = len(PROMPT) + TOKENS
CAPACITY = 16
"""Sessions that the node can hold."""
TIMES = 4
PEERS = 4
PEER_SHARE = 0.5
WARM_SECONDS = 3.0
PEAK_SECONDS = 5.0
ROUNDS = 3
OVERLOAD_SECONDS = count(5, 10, 100)
SOURCE = resolve(str(embedded.TARGET))
GOODPUT, REFUSAL_SECONDS, MEMORY_GROWTH = 0.9, 0.1, 1.05
KNOCK_EVERY_SECONDS = 0.3


@dataclass
class Rate:
    """Tokens that askers got, in how many seconds, and in how many of the processor's that the node had."""

    tokens: int
    seconds: float
    node_seconds: float

    def __add__(self, other: "Rate") -> "Rate":
        return Rate(self.tokens + other.tokens, self.seconds + other.seconds, self.node_seconds + other.node_seconds)

    def __str__(self) -> str:
        return f"{self.tokens / self.seconds:.0f} tokens/s, {self.tokens / self.node_seconds:.0f} a second of the node's"


@dataclass
class Load:
    """Askers without pause."""

    node: LocalNode
    clients: Sequence[Client]
    reference: list[int]
    tokens: int = 0

    async def run(self, askers: int, seconds: float) -> Rate:
        """What so many get, once they have begun; of answers under way at the end, what has come counts as well."""
        asking = [asyncio.create_task(self._ask(number)) for number in range(askers)]
        await asyncio.sleep(WARM_SECONDS)
        tokens, since, computed = self.tokens, time.monotonic(), _processor_seconds(self.node)
        await asyncio.sleep(seconds)
        rate = Rate(self.tokens - tokens, time.monotonic() - since, _processor_seconds(self.node) - computed)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        assert all(task.cancelled() for task in asking), "an asker was told something else than to wait"
        return rate

    async def _ask(self, number: int) -> None:
        client = self.clients[number % len(self.clients)]
        while True:
            got: list[int] = []
            async for chunk in client.stream(PROMPT, max_new_tokens=TOKENS, speculation="off"):
                got += chunk.token_ids
                self.tokens += len(chunk.token_ids)
            assert got == self.reference


@dataclass
class Knocks:
    """Calls to open a session, and what came of them."""

    refused_after: list[float] = field(default_factory=list)
    hints: list[float | None] = field(default_factory=list)
    opened: int = 0


@asynccontextmanager
async def knocking(node: LocalNode, knocks: Knocks) -> AsyncIterator[None]:
    """A stranger asks for a session now and then, and gives it back at once if it gets one."""
    [[address, peer]] = JoinToken.decode(node.join).seeds

    async def knock(channel: grpc.aio.Channel) -> None:
        stage = stage_stub(channel)
        while True:
            request = stage_pb2.OpenSessionRequest(
                session_id=secrets.token_bytes(SESSION_ID_BYTES),
                capacity=POSITIONS,
                sampling=rule_to_wire(ChoiceRule(SamplingParams(), 0, 0)),
                idle_seconds=60,
            )
            since = time.monotonic()
            try:
                await stage.OpenSession(request, timeout=10.0)
                knocks.opened += 1
                await stage.CloseSession(stage_pb2.CloseSessionRequest(session_id=request.session_id), timeout=10.0)
            except grpc.aio.AioRpcError as failure:
                knocks.refused_after.append(time.monotonic() - since)
                error = error_of(failure, "the node")
                assert isinstance(error, OutOfCapacity), error
                knocks.hints.append(error.retry_after)
            await asyncio.sleep(KNOCK_EVERY_SECONDS)

    async with Secure.kept_in(None).channel(address, peer) as channel:
        task = asyncio.create_task(knock(channel))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()


def _processor_seconds(node: LocalNode) -> float:
    user, system = Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(node: LocalNode) -> int:
    return int(Path(f"/proc/{node.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_overload_is_refused_and_not_queued(quiet: None) -> None:
    """Of a model that is some work, so that the node is what there is too little of. Goodput is counted in the node's own
    processor time, for others may want the machine too; and that its places are not empty is seen by knocking."""
    span = Span.load(SOURCE, range(SOURCE.num_layers))
    memory = span.weight_bytes + CAPACITY * span.kv_bytes(POSITIONS)
    options = [["--memory", f"{memory / (1 << 30):.9f}", "--peer-share", str(PEER_SHARE)]]
    async with (
        LocalSwarm(str(embedded.TARGET), [f"0:{SOURCE.num_layers}"], threads=1, options=options) as swarm,
        AsyncExitStack() as stack,
    ):
        [node] = swarm.nodes
        clients = [await stack.enter_async_context(Client(swarm.joins, drafter="none", timeout=60)) for _ in range(PEERS)]
        reference = list((await clients[0].generate(PROMPT, max_new_tokens=TOKENS, speculation="off")).token_ids)
        load, knocks, resident = Load(node, clients, reference), Knocks(), list[int]()
        await load.run(PEERS, 1.0)  # nobody is a stranger after that
        peak = overloaded = Rate(0, 0.0, 0.0)
        for _ in range(ROUNDS):
            peak += await load.run(CAPACITY, PEAK_SECONDS)
            async with knocking(node, knocks):
                overloaded += await load.run(TIMES * CAPACITY, OVERLOAD_SECONDS)
            resident.append(_resident_bytes(node))
    growth = resident[-1] / resident[0]
    print(f"at capacity {peak}; at {TIMES} times as many {overloaded}; resident memory times {growth:.3f}")
    quick, slow = statistics.median(knocks.refused_after), statistics.quantiles(knocks.refused_after, n=20)[-1]
    print(f"{len(knocks.refused_after)} knocks refused in {quick:.4f} s, {slow:.4f} s (95 %); {knocks.opened} let in")
    assert len(knocks.refused_after) > 3 * knocks.opened
    assert None not in knocks.hints
    assert overloaded.tokens / overloaded.node_seconds >= GOODPUT * peak.tokens / peak.node_seconds
    assert slow <= REFUSAL_SECONDS
    assert growth <= MEMORY_GROWTH
