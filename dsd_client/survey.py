"""Who holds a model, as its peers say and as they answer us: what `dsd-client status` and the gateway's page show."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsd_client.chain_choice import chain_of
from dsd_client.peer_view import PeerView
from dsd_client.stage import Stage
from dsd_client.swarm import Swarm
from dsd_core.errors import DsdError, NoPeers
from dsd_core.model.shape import ModelShape
from dsd_core.network.address import Address


@dataclass(frozen=True, slots=True)
class Survey:
    """`problem` says why no session can open now; None: the model is covered."""

    peers: Sequence[PeerView]
    problem: DsdError | None


async def survey(swarm: Swarm, model: ModelShape) -> Survey:
    """Ask around, and then each peer of the model. Raises NoPeers if none was named and none is remembered."""
    records, answers = await swarm.look_at_all(model)
    route, problem = _route([answer for answer in answers.values() if isinstance(answer, Stage)], answers)
    seen = [
        PeerView.of(
            address, answer, records.get(address), in_route=address in route, is_suspected=swarm.is_suspected(address)
        )
        for address, answer in answers.items()
    ]
    return Survey(sorted(seen, key=lambda peer: (peer.layers or (math.inf, math.inf), peer.address)), problem)


def _route(
    stages: Sequence[Stage], answers: Mapping[Address, Stage | DsdError]
) -> tuple[frozenset[Address], DsdError | None]:
    try:
        return frozenset(stage.address for stage in chain_of(stages)), None
    except NoPeers as error:
        return frozenset(), next((answer for answer in answers.values() if isinstance(answer, DsdError)), error)
    except DsdError as error:
        return frozenset(), error
