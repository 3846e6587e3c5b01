"""What a swarm asks of a machine that joins, by its records."""

from dataclasses import replace
from typing import Any

from dsd_core.decoding.chains.flow import Held
from dsd_core.decoding.chains.placement import Claim
from dsd_core.membership.needs import LAYER_SECONDS, claims, layer_seconds, wanted_model
from dsd_core.membership.record import Capacity, PeerRecord, Role, State
from dsd_core.network.identity import Identity
from tests.membership.conftest import HOLDING, record_of

ONE, OTHER = "11" * 32, "22" * 32
UNMEASURED = Capacity(100, 200)


def peer(**changes: Any) -> PeerRecord:
    """A peer's record; its holding's fields may be named, too."""
    holding = {name: changes.pop(name) for name in list(changes) if hasattr(HOLDING, name)}
    return record_of(Identity.ephemeral(), holding=replace(HOLDING, **{"manifest_hash": ONE, **holding}), **changes)


def test_the_model_of_most_peers_is_wanted() -> None:
    wanted = wanted_model([peer(manifest_hash=OTHER), peer(), peer(dtype="bfloat16"), peer(dtype="bfloat16")])
    assert wanted is not None
    assert (wanted.manifest_hash, wanted.names, wanted.dtype) == (ONE, ("target",), "bfloat16")


def test_its_names_come_most_frequent_first() -> None:
    wanted = wanted_model([peer(model="/home/mia/qwen"), peer(model="Qwen/Qwen3-8B"), peer(model="Qwen/Qwen3-8B")])
    assert wanted is not None
    assert wanted.names == ("Qwen/Qwen3-8B", "/home/mia/qwen")


def test_nobody_wants_what_drafters_hold_or_what_is_leaving() -> None:
    assert wanted_model([]) is None
    assert wanted_model([peer(role=Role.DRAFTER), peer(state=State.DRAINING)]) is None


def test_claims_are_those_of_the_model() -> None:
    serving, joining = peer(), peer(state=State.JOINING)
    others = [peer(manifest_hash=OTHER), peer(role=Role.DRAFTER), peer(state=State.DRAINING), peer(num_layers=8)]
    held = Held(range(1, 3), 1 / 0.375)
    assert claims([*others, serving, joining], ONE, num_layers=4) == [
        Claim(serving.peer, held),
        Claim(joining.peer, held, is_joining=True),
    ]


def test_an_unmeasured_peer_is_taken_for_a_usual_one() -> None:
    slow = peer(capacity=Capacity(100, 200, 0.5, 0.1), span=range(0, 3))
    quick, new = peer(span=range(0, 1)), peer(capacity=UNMEASURED, span=range(3, 4))
    usual = (0.2 + 0.375) / 2
    assert layer_seconds([slow, quick, new]) == usual
    assert [claim.held.rate for claim in claims([slow, quick, new], ONE, num_layers=4)] == [1 / 0.6, 1 / 0.375, 1 / usual]


def test_where_nobody_has_measured_all_are_alike() -> None:
    assert layer_seconds([peer(capacity=UNMEASURED)]) == LAYER_SECONDS
