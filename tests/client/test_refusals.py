"""What a client cannot do is an error that says whose fault it was, before anything is left behind."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from dsd_client import Client, SamplingParams
from dsd_client import client as client_module
from dsd_core.errors import (
    DsdError,
    InvalidWeights,
    ModelNotFound,
    NoPeers,
    NotCovered,
    OutOfCapacity,
    PromptTooLong,
    ProtocolError,
    Refused,
    UsageError,
    VocabularyMismatch,
)
from dsd_core.network.address import Address
from dsd_core.network.channels import SERVER_OPTIONS
from dsd_core.network.join_token import JoinToken
from dsd_core.network.known_peers import KnownPeers
from dsd_core.network.stubs import stage_stub
from dsd_core.network.transport import Secure
from dsd_core.wire.v1 import stage_pb2, stage_pb2_grpc
from dsd_node import quotas
from dsd_node.quotas import Limits
from tests.client.conftest import Clients
from tests.conftest import LAYERS, POSITIONS, InProcessSwarm, TinyModel, build_tokenizer, dial


async def opening(join: list[str], model: object, drafter: object = "ngram") -> DsdError:
    """The error of a client that cannot be opened."""
    with pytest.raises(DsdError) as caught:
        async with Client(join, str(model), str(drafter)):
            pass
    assert "\n" not in str(caught.value)
    return caught.value


def unused_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return f"127.0.0.1:{bound.getsockname()[1]}"


# -- peers -------------------------------------------------------------------------------------------------------------


async def test_no_peer_was_named(target: TinyModel) -> None:
    error = await opening([], target)
    assert type(error) is NoPeers
    assert "--join" in str(error)


async def test_no_peer_answers(target: TinyModel) -> None:
    address = unused_address()
    error = await opening([address], target)
    assert type(error) is NoPeers
    assert address in str(error)


async def test_a_peer_that_is_needed_does_not_answer(two_stages: InProcessSwarm, target: TinyModel) -> None:
    address = unused_address()
    error = await opening([two_stages.addresses[0], address], target)
    assert type(error) is NoPeers
    assert address in str(error)


async def test_a_peer_that_is_not_needed_does_not_answer(one_stage: InProcessSwarm, target: TinyModel) -> None:
    async with Client([unused_address(), *one_stage.addresses], str(target), "none") as client:
        assert len((await client.generate([5, 6], max_new_tokens=3)).token_ids) == 3


@pytest.mark.parametrize("address", ["nowhere", "localhost", "127.0.0.1:99999", ""])
def test_what_is_no_address(target: TinyModel, address: str) -> None:
    with pytest.raises(UsageError, match="is not an address"):
        Client([address], str(target))


async def test_beyond_loopback_nothing_is_dialled_in_the_clear(target: TinyModel) -> None:
    with pytest.raises(UsageError, match="not a loopback address"):
        async with Client(["192.0.2.1:4100"], str(target), "none", insecure_loopback=True):
            pass


async def test_an_impostor_is_refused(one_stage: InProcessSwarm, two_stages: InProcessSwarm, target: TinyModel) -> None:
    posing = JoinToken(((Address.parse(one_stage.addresses[0]), two_stages.nodes[0].peer),)).encode()
    error = await opening([posing], target)
    assert type(error) is Refused
    assert "not the peer that was named" in str(error)


async def test_who_answers_at_an_address_is_remembered(one_stage: InProcessSwarm, target: TinyModel, tmp_path: Path) -> None:
    address = Address.parse(one_stage.addresses[0])
    KnownPeers(tmp_path).pin(address, Secure.kept_in(None).peer_id)
    with pytest.raises(Refused, match="somebody may be posing as it"):
        async with Client([str(address)], str(target), "none", data_dir=tmp_path):
            pass


async def test_a_join_token_names_the_peer(one_stage: InProcessSwarm, target: TinyModel) -> None:
    node = one_stage.nodes[0]
    token = JoinToken(((Address.parse(node.address), node.peer),)).encode()
    async with Client([token], str(target), "none") as client:
        assert len((await client.generate([5, 6], max_new_tokens=3)).token_ids) == 3


async def test_a_mistyped_token_is_a_usage_error(target: TinyModel) -> None:
    with pytest.raises(UsageError, match="copy"):
        Client(["dsd1AAAA"], str(target))


async def test_another_model(two_stages: InProcessSwarm, stranger: TinyModel, target: TinyModel) -> None:
    error = await opening(two_stages.addresses, stranger)
    assert type(error) is Refused
    assert str(target) in str(error)


@pytest.mark.parametrize(("held", "missing"), [([0, 1, 3], "2:4"), ([1, 2, 3], "0:4"), ([0, 1, 2], "3:4")])
async def test_layers_that_nobody_holds(four_stages: InProcessSwarm, target: TinyModel, held: list[int], missing: str) -> None:
    error = await opening([four_stages.addresses[index] for index in held], target)
    assert type(error) is NotCovered
    assert f"--layers {missing}" in str(error)


async def test_stages_of_different_types(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    await new_swarm.start(target, range(2))
    await new_swarm.start(target, range(2, LAYERS), dtype="bf16")
    error = await opening(new_swarm.addresses, target)
    assert type(error) is Refused
    assert "bfloat16" in str(error)


@pytest_asyncio.fixture(loop_scope="session")
async def place_for_one(new_swarm: InProcessSwarm, target: TinyModel) -> InProcessSwarm:
    """A stranger gets an eighth of eight places."""
    await new_swarm.start(target, range(LAYERS), Limits(kv_bytes=1 << 30, sessions=8))
    return new_swarm


async def test_a_node_that_is_full(place_for_one: InProcessSwarm, target: TinyModel) -> None:
    async with Client(place_for_one.addresses, str(target), "none", timeout=1.0) as client:
        async with client.conversation(positions=8):
            with pytest.raises(OutOfCapacity, match="try again later") as refusal:
                await client.generate([5, 6, 7], max_new_tokens=3)
            assert refusal.value.retry_after == quotas.RETRY_SECONDS
        assert len((await client.generate([5, 6, 7], max_new_tokens=3)).token_ids) == 3


async def test_a_full_node_is_asked_again_when_it_says(
    place_for_one: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "RETRY_SECONDS", 0.02)
    async with Client(place_for_one.addresses, str(target), "none") as client:
        async with client.conversation(positions=8):
            waiting = asyncio.create_task(client.generate([5, 6, 7], max_new_tokens=3))
            await asyncio.sleep(0.1)
            assert not waiting.done()
        assert len((await waiting).token_ids) == 3


async def test_what_will_never_fit_is_not_asked_for_again(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    await new_swarm.start(target, range(LAYERS), Limits(kv_bytes=8000))
    async with Client(new_swarm.addresses, str(target), "none") as client:
        with pytest.raises(OutOfCapacity, match="you may hold 1000 bytes") as refusal:
            await client.generate([5, 6, 7], max_new_tokens=300)
        assert refusal.value.retry_after is None


async def test_a_stage_that_refuses_costs_the_others_nothing(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    nodes = [await new_swarm.start(target, span) for span in (range(2), range(2, LAYERS))]
    async with Client(new_swarm.addresses, str(target), "none") as client:
        reserve = nodes[1].engine.reserve

        async def refuse(slots: int) -> Any:
            raise OutOfCapacity("no memory left")

        nodes[1].engine.reserve = refuse  # type: ignore[method-assign]
        with pytest.raises(OutOfCapacity, match="no memory left"):
            await client.generate([5, 6, 7], max_new_tokens=3)
        await new_swarm.is_free()
        nodes[1].engine.reserve = reserve  # type: ignore[method-assign]
        assert len((await client.generate([5, 6, 7], max_new_tokens=3)).token_ids) == 3


async def test_a_stage_that_has_gone_since(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    nodes = [await new_swarm.start(target, span) for span in (range(2), range(2, LAYERS))]
    async with Client(new_swarm.addresses, str(target), "none") as client:
        await nodes[1].kill()
        with pytest.raises(NoPeers, match=nodes[1].address):
            await client.generate([5, 6, 7], max_new_tokens=3)
        await new_swarm.is_free()


# -- models ------------------------------------------------------------------------------------------------------------


async def test_no_such_directory(one_stage: InProcessSwarm) -> None:
    assert type(await opening(one_stage.addresses, "./no/such/model")) is ModelNotFound


async def test_a_hub_model_without_a_hub(one_stage: InProcessSwarm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert type(await opening(one_stage.addresses, "nobody/no-such-model")) is ModelNotFound


async def test_a_directory_without_safetensors(one_stage: InProcessSwarm, other_files: Callable[..., Path]) -> None:
    directory = other_files()
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    error = await opening(one_stage.addresses, directory)
    assert type(error) is InvalidWeights
    assert "safetensors" in str(error)


async def test_a_drafter_that_numbers_tokens_otherwise(
    one_stage: InProcessSwarm, target: TinyModel, drafter: TinyModel, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(drafter.directory, other)
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<|more|>"])
    tokenizer.save_pretrained(other)
    error = await opening(one_stage.addresses, target, other)
    assert type(error) is VocabularyMismatch
    assert str(other) in str(error)


async def test_a_drafter_with_more_rows_than_the_target_has_tokens(
    one_stage: InProcessSwarm, target: TinyModel, tokenizer: Any, tmp_path: Path
) -> None:
    from tests.conftest import build_model, save

    wide = save(build_model("qwen3", len(tokenizer) + 64), tokenizer, tmp_path)
    assert type(await opening(one_stage.addresses, target, wide)) is VocabularyMismatch


async def test_a_drafter_that_is_not_there(one_stage: InProcessSwarm, target: TinyModel) -> None:
    assert type(await opening(one_stage.addresses, target, "./nowhere")) is ModelNotFound


# -- prompts and options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "options", "kind"),
    [
        ("", {}, UsageError),
        ([], {}, UsageError),
        ([5, 320], {}, UsageError),
        ([-1], {}, UsageError),
        ([2**40], {}, UsageError),
        (["5"], {}, UsageError),
        ([5] * POSITIONS, {}, PromptTooLong),
        ([5] * (3 * POSITIONS), {}, PromptTooLong),
        ([5], {"max_new_tokens": 0}, UsageError),
        ([5], {"max_new_tokens": -1}, UsageError),
        ([5], {"max_new_tokens": -1000}, UsageError),
        ([5], {"lookahead": 0}, UsageError),
        ([5], {"lookahead": -3}, UsageError),
        ([5], {"lookahead": 65}, UsageError),
        ([5], {"logprobs": -1}, UsageError),
        ([5], {"logprobs": 9}, UsageError),
        ([5], {"speculation": "eager"}, UsageError),
        ([5], {"candidates": 0}, UsageError),
        ([5], {"candidates": 9}, UsageError),
        ([5], {"speculation": ""}, UsageError),
        ([5], {"temperature": 0.5}, UsageError),  # belongs to SamplingParams, and must not be ignored
    ],
)
@pytest.mark.parametrize("drafting", [None, "none"])
async def test_what_cannot_be_asked(
    clients: Clients,
    two_stages: InProcessSwarm,
    prompt: Any,
    options: dict[str, Any],
    kind: type[DsdError],
    drafting: str | None,
) -> None:
    client = await clients(2, drafting)
    with pytest.raises(DsdError) as caught:
        await client.generate(prompt, **{"max_new_tokens": 4} | options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    await two_stages.is_free()


@pytest.mark.parametrize(
    "values",
    [{"temperature": -1}, {"top_p": 0}, {"top_p": 2}, {"top_k": -1}, {"repetition_penalty": 0}, {"seed": -1}, {"seed": 2**64}],
)
def test_sampling_that_means_nothing(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SamplingParams(**values)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_means_nothing(timeout: float) -> None:
    with pytest.raises(UsageError, match="timeout"):
        Client([], timeout=timeout)


def test_a_client_that_is_not_open(target: TinyModel) -> None:
    with pytest.raises(UsageError, match="not open"):
        Client([], str(target)).target  # noqa: B018


# -- peers that lie ----------------------------------------------------------------------------------------------------


class Liar(stage_pb2_grpc.StageServiceServicer):
    """Describes itself with `changes`, agrees to any session, and answers with `verdicts`."""

    def __init__(self, truth: stage_pb2.DescribeResponse) -> None:
        self.truth = truth
        self.changes: dict[str, Any] = {}
        self.verdicts: list[stage_pb2.StreamVerdictsResponse] = []

    async def Describe(self, request: object, context: object) -> stage_pb2.DescribeResponse:  # type: ignore[override]
        said = stage_pb2.DescribeResponse()
        said.CopyFrom(self.truth)
        for name, value in self.changes.items():
            setattr(said, name, value)
        return said

    async def OpenSession(self, request: object, context: object) -> stage_pb2.OpenSessionResponse:  # type: ignore[override]
        return stage_pb2.OpenSessionResponse()

    async def CloseSession(self, request: object, context: object) -> stage_pb2.CloseSessionResponse:  # type: ignore[override]
        return stage_pb2.CloseSessionResponse()

    async def StreamFrames(self, frames: Any, context: object) -> stage_pb2.StreamFramesResponse:  # type: ignore[override]
        async for _ in frames:
            pass
        return stage_pb2.StreamFramesResponse()

    async def StreamVerdicts(self, request: object, context: object) -> Any:  # type: ignore[override]
        for verdict in self.verdicts:
            yield verdict


@pytest_asyncio.fixture(loop_scope="session")
async def liar(one_stage: InProcessSwarm) -> AsyncIterator[tuple[Liar, str]]:
    request = stage_pb2.DescribeRequest(protocol_version=1)
    async with dial(one_stage.nodes[0]) as channel:
        liar = Liar(await stage_stub(channel).Describe(request))
    server = grpc.aio.server(options=SERVER_OPTIONS)
    stage_pb2_grpc.add_StageServiceServicer_to_server(liar, server)
    port = Secure.kept_in(None).listen(server, Address("127.0.0.1", 0))
    await server.start()
    yield liar, f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 0},
        {"num_layers": 0, "end_layer": 0},
        {"end_layer": 0},
        {"first_layer": 4},
        {"end_layer": 9},
        {"hidden_size": 0},
        {"vocab_size": 0},
        {"max_positions": 0},
        {"dtype": 0},
        {"dtype": 77},
    ],
)
async def test_a_description_that_cannot_be(target: TinyModel, liar: tuple[Liar, str], changes: dict[str, int]) -> None:
    lies, address = liar
    lies.changes = changes
    assert type(await opening([address], target)) is ProtocolError


@pytest.mark.parametrize(
    "changes", [{"num_layers": 1000}, {"hidden_size": 33}, {"vocab_size": 2**32 - 1}, {"max_positions": 1}]
)
async def test_a_description_that_is_not_the_models(
    one_stage: InProcessSwarm, target: TinyModel, liar: tuple[Liar, str], changes: dict[str, int]
) -> None:
    """Nothing that it says of the model is believed, and whoever is honest is found beside it."""
    lies, address = liar
    lies.changes = changes
    assert type(await opening([address], target)) is ProtocolError
    async with Client([address, *one_stage.addresses], str(target), "none") as client:
        result = await client.generate([5, 6, 7], max_new_tokens=4)
    target.greedy([5, 6, 7], 4).assert_same(result.token_ids)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"nodes": [99], "choices": [5], "margins": [1.0]}, "never sent"),
        ({"nodes": [3], "choices": [320], "margins": [1.0]}, "not in the vocabulary"),
        ({"nodes": [3], "choices": [5], "margins": [float("nan")]}, "never behind"),
        ({"nodes": [3, 3], "choices": [5], "margins": [1.0]}, "differ in length"),
    ],
)
async def test_a_verdict_that_cannot_be(
    target: TinyModel, liar: tuple[Liar, str], said: dict[str, Any], complaint: str
) -> None:
    lies, address = liar
    lies.verdicts = [stage_pb2.StreamVerdictsResponse(**said)]
    async with Client([address], str(target), "none", timeout=0.3) as client:
        with pytest.raises(NoPeers, match=complaint):
            await client.generate([5, 6, 7], max_new_tokens=4)


@pytest.mark.parametrize("said", [{}, {"nodes": [1], "choices": [5], "margins": [1.0]}], ids=["nothing", "what nobody asked"])
async def test_a_stage_that_says_nothing_of_use_and_ends(
    target: TinyModel, liar: tuple[Liar, str], said: dict[str, Any]
) -> None:
    """It is found again each time, and speaks each time, but no token comes of it."""
    lies, address = liar
    lies.verdicts = [stage_pb2.StreamVerdictsResponse(**said)]
    async with Client([address], str(target), "none", timeout=0.5) as client:
        async with asyncio.timeout(5):
            with pytest.raises(NoPeers):
                await client.generate([5, 6, 7], max_new_tokens=4)


async def test_a_lane_that_ends_its_verdicts(target: TinyModel, liar: tuple[Liar, str]) -> None:
    async with Client([liar[1]], str(target), "none", timeout=0.3) as client:
        with pytest.raises(NoPeers, match=liar[1]):
            await client.generate([5, 6, 7], max_new_tokens=4)


def test_the_longest_frame_fits_a_message() -> None:
    for hidden_size in (1, 64, 4096, 16384, 1 << 20):
        for stages in (1, 4):
            assert client_module._chunk(hidden_size, stages) >= 16
    assert client_module._chunk(8192, 1) * 8192 * 4 <= client_module.FRAME_BYTES
