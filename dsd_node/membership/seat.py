"""A node's place in its swarm: how it came in, who knows it, and whom it will ask when it comes back."""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from dsd_core.errors import DsdError, Refused, StorageFull, UsageError
from dsd_core.membership.ids import PeerId
from dsd_core.membership.membership import MembershipConfig
from dsd_core.network.address import Address
from dsd_core.network.join_token import JoinToken
from dsd_core.network.last_swarm import LastSwarm
from dsd_core.network.seeds import Seeds
from dsd_core.network.swarm_secret import SECRET_BYTES, swarm_id
from dsd_core.network.transport import Secure
from dsd_node.membership.gossip import Gossiper

log = logging.getLogger(__name__)

PAUSE_ROUNDS = 5.0
"""Between looks at who is to be remembered, and between calls to a seed that is not there."""


def find_seeds(join: Sequence[str], *, private: bool, data_dir: Path | None) -> Seeds:
    """Of the swarm that `--join` names, else of the last one, else of a new one. Raises UsageError."""
    seeds = Seeds.parse(join) if join else Seeds.of(LastSwarm(data_dir).read())
    if not private or seeds.secret is not None:
        return seeds
    if join:
        raise UsageError("what --join names is no private swarm; leave out --private, or --join to start one of your own")
    secret = secrets.token_bytes(SECRET_BYTES)
    return Seeds({}, swarm_id(secret), secret)


class Seat:
    """One node in one swarm."""

    def __init__(self, transport: Secure, seeds: Seeds, data_dir: Path | None, round_seconds: float = 1.0) -> None:
        config = MembershipConfig(round_seconds=round_seconds, swarm=seeds.swarm or b"")
        self.gossiper = Gossiper(transport, config)
        self._transport = transport
        self._seeds = seeds
        self._last = LastSwarm(data_dir)
        self._pause_seconds = PAUSE_ROUNDS * round_seconds

    @property
    def has_seeds(self) -> bool:
        """Whether there is anybody to be met. A node that was alone remembers itself alone."""
        return any(peer != self._transport.peer_id for peer in self._seeds.peers.values())

    async def run(self, address: Address, *, on_lan: bool) -> None:
        """Runs as long as the node does; it is known by what `gossiper.say` is given."""
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            tasks.create_task(self.gossiper.run())
            tasks.create_task(self._remember(address))
            for seed, peer in self._seeds.peers.items():
                tasks.create_task(self._introduce(seed, peer))
            if on_lan and not address.is_loopback and address.is_ipv4:
                from dsd_node.membership.lan import lan  # of no use to those who stay on their machine

                found = lan(self._transport.peer_id, self._seeds.swarm or b"", address, self.gossiper.introduce)
                try:
                    await stack.enter_async_context(found)
                except OSError as error:
                    log.warning("no multicast here, so nobody is found on the LAN: %s", error)

    def token(self, address: Address) -> JoinToken:
        """With which others join: we, who live at `address`, and whom we know."""
        records = [signed.record for signed in self.gossiper.records if signed.record.peer != self._transport.peer_id]
        others = [(record.addresses[0], record.peer) for record in records]
        return self._seeds.token([(address, self._transport.peer_id), *others])

    async def _remember(self, address: Address) -> None:
        """Keep on disk whom we know, and knew: a seed is needed only once."""
        kept: JoinToken | None = None
        while True:
            token = self.token(address)
            if token != kept:
                await self._keep(token)
                kept, self._seeds = token, Seeds.of(token)
            await asyncio.sleep(self._pause_seconds)

    async def _keep(self, token: JoinToken) -> None:
        try:
            await asyncio.to_thread(self._last.keep, token)
        except (StorageFull, UsageError) as error:  # No reason to stop.
            log.warning("%s", error)

    async def _introduce(self, seed: Address, peer: PeerId | None) -> None:
        while peer is None:
            try:
                peer, is_new = await self._transport.meet(seed)
            except Refused as error:
                log.error("%s", error)
                return
            except DsdError as error:
                log.warning("%s; trying again", error)
                await asyncio.sleep(self._pause_seconds)
            else:
                if is_new:
                    log.info("met %s at %s for the first time; from now on nobody else is believed there", peer, seed)
        self.gossiper.introduce(peer, (seed,))
