"""A tiny random target with a tokenizer of its own, a drafter that often agrees with it, and swarms of in-process nodes."""

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from dsd_core.model.kv import KvStore
from dsd_core.model.source import ModelSource, resolve
from dsd_core.model.span import Span
from dsd_core.network.address import Address
from dsd_core.network.banned_peers import BannedPeers
from dsd_core.network.channels import SERVER_OPTIONS
from dsd_core.network.identity import PeerId
from dsd_core.network.transport import Secure, Transport
from dsd_core.wire.v1 import peer_pb2_grpc, stage_pb2_grpc
from dsd_node import service
from dsd_node.admission import Admission
from dsd_node.engine import Engine
from dsd_node.membership.peer_service import PeerService
from dsd_node.metrics import Metrics
from dsd_node.quotas import Limits, Quotas
from dsd_node.service import StageService, limits_of

os.environ["OMP_NUM_THREADS"] = "1"  # of whatever tests start: processes are not to take the cores from each other

LAYERS = 4
POSITIONS = 512
END = "<|end|>"
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.4,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "question: how many shells does mia have? answer: ",
    "naïve café, 日本語 🙂🚀",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for all tests: that is how gRPC's asyncio form wants a process to be."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(inspect.unwrap(item.obj)):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session", autouse=True)
def keys_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test touches the keys of whoever runs it, or meets a peer that another run has met."""
    os.environ["XDG_DATA_HOME"] = str(tmp_path_factory.mktemp("data"))
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


# -- models ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TinyModel:
    """A whole model, to compare with, and the directory where it is saved."""

    model: PreTrainedModel
    directory: Path

    def __str__(self) -> str:
        return str(self.directory)

    @property
    def source(self) -> ModelSource:
        return resolve(str(self.directory))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast.from_pretrained(self.directory)

    def greedy(self, prompt: Sequence[int], new_tokens: int, *, eos: int | None = None, **options: Any) -> "Reference":
        """What transformers generates, and how near each choice was to falling otherwise."""
        with torch.no_grad():
            output = self.model.generate(
                torch.tensor([list(prompt)]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=eos,
                output_scores=True,
                return_dict_in_generate=True,
                **options,
            )
        margins = [float(torch.diff(scores[0].topk(2).values.flip(0))) for scores in output.scores]
        return Reference(output.sequences[0, len(prompt) :].tolist(), margins)


@dataclass(frozen=True)
class Reference:
    """An answer of transformers. `margins` in nats, one for each token."""

    token_ids: list[int]
    margins: list[float]

    def assert_same(self, token_ids: Sequence[int]) -> None:
        """Equal token for token, or up to a choice that is a tie to the precision of fp32."""
        if list(token_ids) == self.token_ids:
            return
        assert len(token_ids) == len(self.token_ids)
        pairs = zip(token_ids, self.token_ids, strict=True)
        first = next(index for index, (ours, theirs) in enumerate(pairs) if ours != theirs)
        print(f"near tie at token {first}: margin {self.margins[first]}")
        assert self.margins[first] < 1e-4, f"token {first} is {token_ids[first]}, transformers chose {self.token_ids[first]}"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and a few merges: some tokens are words, some are halves of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[END], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, clean_up_tokenization_spaces=False)


def build_model(family: str, vocab_size: int, **settings: Any) -> PreTrainedModel:
    torch.manual_seed(11)
    config = AutoConfig.for_model(family, **SHAPE | {"vocab_size": vocab_size} | settings)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> TinyModel:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return TinyModel(model, directory)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams hardly wait for a session that will never open."""
    monkeypatch.setattr(service, "OPENING_SECONDS", 0.01)


@pytest.fixture(scope="session")
def quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def target(quiet: None, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Four layers of Qwen3, greedy by default, which end an answer with END."""
    return save(build_model("qwen3", len(tokenizer)), tokenizer, tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="session")
def drafter(target: TinyModel, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """The target with some noise on its weights: right often, not always."""
    model = build_model("qwen3", len(tokenizer))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return save(model, tokenizer, tmp_path_factory.mktemp("drafter"))


@pytest.fixture(scope="session")
def stranger(quiet: None, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Another model with the target's tokenizer."""
    return save(build_model("llama", len(tokenizer)), tokenizer, tmp_path_factory.mktemp("stranger"))


# -- nodes in this process ---------------------------------------------------------------------------------------------


class WatchedEngine(Engine):
    """Knows all memory that it ever promised."""

    def __init__(self, span: Span) -> None:
        super().__init__(span)
        self.stores: list[KvStore] = []

    async def reserve(self, slots: int) -> KvStore:
        self.stores.append(await super().reserve(slots))
        return self.stores[-1]

    @property
    def reserved_bytes(self) -> int:
        return sum(store.nbytes for store in self.stores)


@dataclass
class InProcessNode:
    """A stage behind a real socket."""

    service: StageService
    engine: WatchedEngine
    admission: Admission
    server: grpc.aio.Server
    address: str
    peer: PeerId
    metrics: Metrics
    stopped: bool = False

    @property
    def sessions(self) -> int:
        return len(self.service._sessions)

    async def kill(self) -> None:
        """Go away without a word to anybody: connections break, as when a process dies."""
        self.stopped = True
        await self.server.stop(None)
        await self.service.close()
        self.engine.close()


@dataclass
class InProcessSwarm:
    nodes: list[InProcessNode] = field(default_factory=list)

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    @property
    def sessions(self) -> int:
        return sum(node.sessions for node in self.nodes)

    @property
    def reserved_bytes(self) -> int:
        return sum(node.engine.reserved_bytes for node in self.nodes)

    async def start(
        self,
        model: TinyModel,
        layers: range,
        limits: Limits | None = None,
        transport: Transport | None = None,
        peers: PeerService | None = None,
        **options: Any,
    ) -> InProcessNode:
        source = model.source
        engine = WatchedEngine(Span.load(source, layers, device="cpu", **options))
        transport = transport or Secure.kept_in(None)
        quotas = Quotas(limits or limits_of(engine, source))
        metrics = Metrics()
        metrics.watch(quotas, list)
        service = StageService(source, engine, transport, quotas, metrics)
        admission = Admission(transport, quotas, BannedPeers(None), metrics)
        server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[admission])
        stage_pb2_grpc.add_StageServiceServicer_to_server(service, server)
        if peers:
            peer_pb2_grpc.add_PeerServiceServicer_to_server(peers, server)
        port = transport.listen(server, Address("127.0.0.1", 0))
        await server.start()
        address = f"127.0.0.1:{port}"
        self.nodes.append(InProcessNode(service, engine, admission, server, address, transport.peer_id, metrics))
        return self.nodes[-1]

    async def stop(self) -> None:
        for node in self.nodes:
            if not node.stopped:
                await node.kill()

    async def is_free(self) -> None:
        """Returns when no session is left and all memory has been given back."""
        await eventually(lambda: self.sessions == 0 and self.reserved_bytes == 0)


CALLER = Secure.kept_in(None)
"""The tests' own end of connections to nodes."""


def dial(node: InProcessNode, transport: Transport = CALLER) -> grpc.aio.Channel:
    return transport.channel(Address.parse(node.address), node.peer)


async def eventually(holds: Callable[[], bool], seconds: float = 15.0) -> None:
    """Wait for what another task brings about."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@asynccontextmanager
async def swarm_of(model: TinyModel, stages: int = 1, **options: Any) -> AsyncIterator[InProcessSwarm]:
    """A model cut into equal stages."""
    swarm = InProcessSwarm()
    each = LAYERS // stages
    try:
        for start in range(0, LAYERS, each):
            await swarm.start(model, range(start, start + each), **options)
        yield swarm
    finally:
        await swarm.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def one_stage(target: TinyModel) -> AsyncIterator[InProcessSwarm]:
    async with swarm_of(target, 1) as swarm:
        yield swarm


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def two_stages(target: TinyModel) -> AsyncIterator[InProcessSwarm]:
    async with swarm_of(target, 2) as swarm:
        yield swarm


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def four_stages(target: TinyModel) -> AsyncIterator[InProcessSwarm]:
    async with swarm_of(target, 4) as swarm:
        yield swarm


@pytest_asyncio.fixture(loop_scope="session")
async def new_swarm() -> AsyncIterator[InProcessSwarm]:
    """A swarm of one test's own, to start nodes in and to break."""
    swarm = InProcessSwarm()
    yield swarm
    await swarm.stop()
