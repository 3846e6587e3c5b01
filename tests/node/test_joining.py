"""What a node comes to serve, by the records of its swarm and the memory of its machine."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import torch

from dsd_core import embedded
from dsd_core.errors import DsdError, ModelNotFound, OutOfCapacity, Refused
from dsd_core.membership.record import PeerRecord, State
from dsd_core.model.source import resolve
from dsd_core.model.span import Span
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity
from dsd_core.network.status import error_of
from dsd_core.network.stubs import stage_stub
from dsd_core.wire import VERSIONS
from dsd_core.wire.v1 import stage_pb2
from dsd_node.membership import place as place_module
from dsd_node.membership.place import Place, find_place
from dsd_node.start import NodeConfig, serve
from tests.conftest import CALLER, LAYERS, TinyModel, eventually
from tests.membership.conftest import HOLDING, record_of
from tests.ports import free_port

NOBODY = frozenset[Any]()


def peer_with(model: TinyModel, layers: range, *names: str, **changes: Any) -> PeerRecord:
    """A peer that serves these layers of a model, and calls it by another name if there is one."""
    source = model.source
    name = names[0] if names else str(model)
    holding = replace(HOLDING, model=name, manifest_hash=source.manifest_hash, span=layers, num_layers=source.num_layers)
    dtype = changes.pop("dtype", "float32")
    return record_of(Identity.ephemeral(), holding=replace(holding, dtype=dtype), **changes)


def place(*records: PeerRecord, model: str | None = None, dtype: str = "auto", memory: int | None = None) -> Place:
    return find_place(model, "cpu", dtype, memory, records)


# -- the model ---------------------------------------------------------------------------------------------------------


def test_a_node_alone_serves_the_embedded_model() -> None:
    assert place().source.name == str(embedded.TARGET)


def test_the_swarms_model_is_found_by_the_name_that_others_give_it(target: TinyModel) -> None:
    assert place(peer_with(target, range(2))).source.manifest_hash == target.source.manifest_hash


def test_a_name_that_is_nothing_here_is_passed_over(target: TinyModel) -> None:
    peers = [peer_with(target, range(2), "/home/mia/model"), peer_with(target, range(2), "/home/mia/model")]
    assert place(*peers, peer_with(target, range(2))).source.name == str(target)


@pytest.mark.parametrize("form", ["{0}/../{1}", "{0}/{1}/../{1}", "~/../{0}/{1}", "{1}/../../{1}"])
def test_a_name_that_climbs_is_not_tried_even_if_it_leads_to_the_model(target: TinyModel, form: str) -> None:
    name = form.format(target.directory.parent, target.directory.name)
    with pytest.raises(ModelNotFound, match="name your copy with --model"):
        place(peer_with(target, range(2), name))


def test_the_embedded_model_is_known_by_its_manifest() -> None:
    """Wherever others have installed it."""
    holding = replace(HOLDING, model="/opt/elsewhere", manifest_hash=resolve(str(embedded.TARGET)).manifest_hash)
    assert place(record_of(Identity.ephemeral(), holding=holding)).source.name == str(embedded.TARGET)


def test_another_model_of_that_name_is_not_the_swarms(target: TinyModel, stranger: TinyModel) -> None:
    with pytest.raises(ModelNotFound, match="name your copy with --model"):
        place(peer_with(target, range(2), str(stranger)))


def test_a_model_that_was_named_is_served_whatever_others_serve(target: TinyModel, stranger: TinyModel) -> None:
    assert place(peer_with(target, range(2)), model=str(stranger)).source.name == str(stranger)


def test_the_dtype_is_that_of_the_lane_unless_one_was_named(target: TinyModel, stranger: TinyModel) -> None:
    peer = peer_with(target, range(2), dtype="bfloat16")
    assert place(peer).dtype is torch.bfloat16
    assert place(peer, dtype="fp16").dtype is torch.float16
    assert place(peer, model=str(stranger)).dtype is torch.float32


# -- the layers --------------------------------------------------------------------------------------------------------


def test_all_layers_where_they_fit(target: TinyModel) -> None:
    assert place(model=str(target)).layers(CALLER.peer_id) == range(LAYERS)


def test_what_others_lack(target: TinyModel) -> None:
    peers = [peer_with(target, range(0, 2)), peer_with(target, range(3, 4), state=State.JOINING)]
    elders = frozenset(peer.peer for peer in peers)
    room = place(model=str(target)).size.span_bytes(range(2, 3))
    assert place(*peers, memory=room).layers(CALLER.peer_id, peers, elders) == range(2, 3)


def test_what_is_measured_decides_how_many(target: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    half = place(model=str(target)).size.span_bytes(range(2))
    monkeypatch.setattr(place_module, "usable_bytes", lambda device: half)
    assert len(place(model=str(target)).layers(CALLER.peer_id)) == 2


def test_where_the_system_does_not_say_all_layers_are_tried(target: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place_module, "usable_bytes", lambda device: None)
    assert place(model=str(target)).layers(CALLER.peer_id) == range(LAYERS)


async def test_a_machine_too_small_for_a_layer_does_not_start(target: TinyModel) -> None:
    config = NodeConfig(str(target), None, Address("127.0.0.1", 0), device="cpu", memory=1000)
    with pytest.raises(OutOfCapacity, match="1000 can be used"):
        await serve(config)


# -- before they are there ---------------------------------------------------------------------------------------------


async def test_a_node_that_loads_says_so(target: TinyModel, tmp_path: Path) -> None:
    loading, loaded = threading.Event(), threading.Event()

    def load(place: Place, layers: range) -> Span:
        loading.set()
        loaded.wait(10)
        return Span.load(place.source, layers, device="cpu")

    address = Address("127.0.0.1", free_port())
    node = asyncio.create_task(serve(NodeConfig(str(target), None, address, data_dir=tmp_path), load))
    await eventually(loading.is_set)
    async with CALLER.channel(address, Identity.load_or_create(tmp_path).peer_id) as channel:
        said = await refusal(channel)
        assert type(said) is Refused
        assert "still loading" in str(said)
        loaded.set()
        while await refusal(channel) is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    node.cancel()
    await asyncio.wait([node])


async def refusal(channel: grpc.aio.Channel) -> DsdError | None:
    request = stage_pb2.DescribeRequest(protocol_version=VERSIONS.newest, oldest_protocol_version=VERSIONS.oldest)
    try:
        await stage_stub(channel).Describe(request, timeout=4)
    except grpc.aio.AioRpcError as failure:
        return error_of(failure, "the node")
    return None
