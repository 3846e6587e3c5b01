"""Gossip, done: the clock, the chance, the calls and the keys that `Membership` decides without."""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace

import grpc.aio

from dsd_core.decoding.chains.round_trips import RoundTrips
from dsd_core.errors import DsdError, PeerLost
from dsd_core.membership.events import (
    Action,
    Answered,
    Asked,
    Event,
    Exchange,
    Found,
    Gossip,
    Introduced,
    Lost,
    ProbeThrough,
    Publish,
    Published,
    Reply,
    Tick,
    Unanswered,
    Usurped,
    Vouched,
)
from dsd_core.membership.ids import Handle, PeerId, handle_of
from dsd_core.membership.membership import Membership, MembershipConfig
from dsd_core.membership.record import PeerRecord, SignedRecord, State
from dsd_core.network.address import Address
from dsd_core.network.identity import public_bytes_of
from dsd_core.network.signed_record import require_signature, sign
from dsd_core.network.status import error_of
from dsd_core.network.stubs import peer_stub
from dsd_core.network.transport import Secure
from dsd_core.wire import VERSIONS
from dsd_core.wire.gossip import request_to_wire, response_from_wire
from dsd_core.wire.records import MAX_ROUND_TRIPS
from dsd_core.wire.v1 import peer_pb2
from dsd_node.membership.statement import Statement

log = logging.getLogger(__name__)

MAX_TASKS = 64
MAX_CHANNELS = 2 * MAX_TASKS
CALL_ROUNDS = 3.0
"""How long a peer may take to answer."""


class Gossiper:
    """Keeps a node's place in the swarm. `run` it as long as the node lives; what others send goes to `answer`."""

    def __init__(self, transport: Secure, config: MembershipConfig) -> None:
        self._transport = transport
        self._config = config
        self._membership = Membership(transport.peer_id, random.SystemRandom().randrange, config)
        self._statement: Callable[[], Statement] | None = None
        self._sequence = 0
        self._channels: OrderedDict[tuple[PeerId, Address], grpc.aio.Channel] = OrderedDict()
        """The one that was used last comes last."""
        self._round_trips = RoundTrips[Handle]()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self.has_met = asyncio.Event()
        """Set once a peer has answered us, and told whom it knows."""

    @property
    def records(self) -> list[SignedRecord]:
        """Of all members that seem to be alive, ourselves among them."""
        return self._membership.records(_now())

    @property
    def suspected(self) -> list[SignedRecord]:
        """Of all members that seem not to be, and may yet refute it."""
        return self._membership.suspected(_now())

    def say(self, statement: Callable[[], Statement]) -> None:
        """Tell the swarm at once; from then on `statement` is asked whenever our record is signed anew."""
        self._statement = statement
        self._publish(Publish(self._sequence, self._config.ttl_seconds(len(self._membership.table) + 1)))

    async def leave(self) -> None:
        """Tell some of the others that we go. They learn it anyway, but later."""
        if self._statement is not None:
            said = replace(self._statement(), state=State.DRAINING)
            self.say(lambda: said)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._config.round_seconds)

    def introduce(self, peer: PeerId, addresses: tuple[Address, ...]) -> None:
        """Somebody is said to be a member, and to live there."""
        self._happens(Introduced(peer, addresses))

    async def run(self) -> None:
        """Runs as long as the node does."""
        try:
            while True:
                self._happens(Tick())
                await asyncio.sleep(self._config.round_seconds)
        finally:
            await self._close()

    async def answer(self, gossip: Gossip) -> Gossip:
        """What to say to a peer that asks. Raises ProtocolError if it brings a forgery; then nothing of it is believed."""
        *actions, reply = self._membership.step(Asked(await self._verified(gossip)), _now())
        for action in actions:
            self._perform(action)
        assert isinstance(reply, Reply)
        return reply.gossip

    async def is_alive(self, peer: PeerId) -> bool:
        """Whether a member answers us."""
        member = self._membership.table.get(handle_of(peer))
        if member is None:
            return False
        try:
            await self._call(peer, member.record.addresses, Gossip())
        except DsdError:
            return False
        return True

    # -- what the core wants done --------------------------------------------------------------------------------------

    def _happens(self, event: Event) -> None:
        for action in self._membership.step(event, _now()):
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Exchange():
                self._start(self._exchange(action))
            case ProbeThrough(helpers, peer):
                self._start(self._probe_through(helpers, peer))
            case Publish():
                self._publish(action)
            case Found(peer):
                log.info("%s is in the swarm", peer)
            case Lost(peer, is_dead):
                log.info("%s %s", peer, "does not answer, and is out of the swarm" if is_dead else "is out of the swarm")
                self._start(self._hang_up(peer))
            case Usurped(addresses):
                log.error("a node at %s uses this node's key; give each a --data-dir of its own", addresses[0])
            case Reply():
                raise AssertionError("a reply goes to whoever asked")

    def _start(self, work: Coroutine[object, object, None]) -> None:
        # Peers that hang, one round after the other; the next rounds are as good.
        if self._is_closed or len(self._tasks) >= MAX_TASKS:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _exchange(self, exchange: Exchange) -> None:
        asked_at = _now()
        try:
            gossip = await self._verified(await self._call(exchange.peer, exchange.addresses, exchange.gossip))
        except DsdError as error:
            log.debug("no gossip with %s: %s", exchange.peer, error)
            self._happens(Unanswered(exchange.peer))
        else:
            self._round_trips.add(handle_of(exchange.peer), _now() - asked_at)
            self._happens(Answered(exchange.peer, gossip))
            self.has_met.set()

    async def _probe_through(self, helpers: tuple[PeerId, ...], peer: PeerId) -> None:
        answers = await asyncio.gather(*(self._probe(helper, peer) for helper in helpers))
        self._happens(Vouched(peer, any(answers)))

    async def _probe(self, helper: PeerId, peer: PeerId) -> bool:
        member = self._membership.table.get(handle_of(helper))
        if member is None:
            return False
        stub = peer_stub(self._channel(helper, member.record.addresses[0]))
        try:
            request = peer_pb2.ProbeRequest(peer=public_bytes_of(peer))
            return (await stub.Probe(request, timeout=2 * self._call_seconds)).alive
        except grpc.aio.AioRpcError:
            return False

    def _publish(self, publish: Publish) -> None:
        if self._statement is None:
            return
        # Milliseconds, so that a later life begins above an earlier one. They are compared with no other peer's.
        self._sequence = max(publish.above + 1, int(time.time() * 1000))
        record = self._record(self._statement(), publish.ttl_seconds)
        self._happens(Published(sign(self._transport.identity, record)))

    def _record(self, said: Statement, ttl_seconds: int) -> PeerRecord:
        nearest = sorted(self._round_trips.seconds().items(), key=lambda measured: measured[1])
        return PeerRecord(
            peer=self._transport.peer_id,
            swarm=self._config.swarm,
            sequence=self._sequence,
            ttl_seconds=ttl_seconds,
            protocol_versions=tuple(range(VERSIONS.oldest, VERSIONS.newest + 1)),
            addresses=said.addresses,
            role=said.role,
            state=said.state,
            holding=said.holding,
            capacity=said.capacity,
            round_trips=dict(nearest[:MAX_ROUND_TRIPS]),
        )

    # -- calls ---------------------------------------------------------------------------------------------------------

    @property
    def _call_seconds(self) -> float:
        return CALL_ROUNDS * self._config.round_seconds

    async def _call(self, peer: PeerId, addresses: Iterable[Address], gossip: Gossip) -> Gossip:
        """At the first of the addresses that answers. Raises DsdError."""
        failures = []
        for address in addresses:
            try:
                request = request_to_wire(gossip)
                answer = await peer_stub(self._channel(peer, address)).Exchange(request, timeout=self._call_seconds)
                return response_from_wire(answer)
            except grpc.aio.AioRpcError as failure:
                failures.append(error_of(failure, f"the peer at {address}"))
            except grpc.aio.UsageError:  # We hung up on it while the call was being made.
                failures.append(PeerLost(f"the channel to {address} is closed"))
        raise failures[0]

    def _channel(self, peer: PeerId, address: Address) -> grpc.aio.Channel:
        if (peer, address) not in self._channels:
            self._channels[peer, address] = self._transport.channel(address, peer)
        self._channels.move_to_end((peer, address))
        if len(self._channels) > MAX_CHANNELS:
            _, unused = self._channels.popitem(last=False)
            self._start(unused.close())
        return self._channels[peer, address]

    async def _verified(self, gossip: Gossip) -> Gossip:
        """Without what is no news. Raises ProtocolError for a forgery. Signatures are checked in a thread, after all else."""
        news = tuple(passed for passed in gossip.records if self._is_news(passed.signed))
        if news:
            await asyncio.to_thread(_require_signatures, [passed.signed for passed in news])
        return Gossip(gossip.held, news, gossip.wanted, gossip.suspected)

    def _is_news(self, signed: SignedRecord) -> bool:
        try:
            self._membership.table.check(signed, _now())
        except DsdError as refusal:
            log.debug("%s", refusal)
            return False
        return True

    async def _hang_up(self, peer: PeerId) -> None:
        self._round_trips.forget(handle_of(peer))
        for key in [key for key in self._channels if key[0] == peer]:
            await self._channels.pop(key).close()

    async def _close(self) -> None:
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


def _require_signatures(records: Iterable[SignedRecord]) -> None:
    for signed in records:
        require_signature(signed)


def _now() -> float:
    return asyncio.get_running_loop().time()
