"""Tiny random models of every supported family, and a session that feeds token trees to a chain of spans."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from dsd_core.model.source import ModelSource, resolve
from dsd_core.model.span import Span, SpanInput

VOCABULARY = 97
LAYERS = 4
WINDOW = 5
"""Shorter than any context in the tests."""

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}

FAMILIES: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "head_dim": 8,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 13,
    },
    "gpt_neox": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "granite": {
        "embedding_multiplier": 7.0,
        "logits_scaling": 5.0,
        "residual_multiplier": 0.6,
        "attention_multiplier": 0.3,
    },
    "llama": {"rope_parameters": LLAMA3_ROPE},
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {"sliding_window": WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo": {"clip_qkv": 0.4},
    "phi3": {"sliding_window": WINDOW},
    "qwen2": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        "head_dim": 16,
        "rope_parameters": YARN_ROPE,
    },
    "qwen3_moe": {
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
        "mlp_only_layers": [2],
    },
    "starcoder2": {"sliding_window": WINDOW, "use_bias": True},
}
"""With the settings that would hide a mistake, set to values that bite."""

WINDOWED = [family for family, settings in FAMILIES.items() if "sliding_window" in settings]


@dataclass(frozen=True)
class Tiny:
    """A whole model, to compare with, and the directory where it is saved."""

    model: PreTrainedModel
    directory: Path

    @property
    def source(self) -> ModelSource:
        return resolve(str(self.directory))

    def logits(self, tokens: "list[int] | np.ndarray[Any, Any]") -> torch.Tensor:
        with torch.no_grad():
            scores: torch.Tensor = self.model(torch.tensor(np.asarray(tokens))[None], use_cache=False).logits[0]
        return scores


def assert_same_scores(scores: torch.Tensor, expected: torch.Tensor, tolerance: float = 3e-5) -> None:
    """To rounding, which differs from processor to processor; a wrong mask or position is off by more than 1e-3."""
    torch.testing.assert_close(scores, expected, rtol=0.0, atol=tolerance)


def build(family: str, **settings: Any) -> PreTrainedModel:
    """A model in evaluation mode, the same at every call."""
    torch.manual_seed(7)
    config = AutoConfig.for_model(family, **SHAPE | FAMILIES.get(family, {}) | settings)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms start as ones and biases as zeros, which would hide that one is lost
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring for such small models."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


MakeTiny = Callable[..., Tiny]


@pytest.fixture
def make_tiny(tmp_path: Path) -> MakeTiny:
    """Build and save a model; `save` are options of save_pretrained, the rest are settings of its config."""

    def make(family: str, save: dict[str, Any] | None = None, **settings: Any) -> Tiny:
        model = build(family, **settings)
        directory = tmp_path / f"{family}-{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(directory, **save or {})
        return Tiny(model, directory)

    return make


@pytest.fixture(scope="session")
def saved_families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tiny]:
    return {family: _saved(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


def _saved(family: str, directory: Path) -> Tiny:
    model = build(family)
    model.save_pretrained(directory)
    return Tiny(model, directory)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tiny(family: str, saved_families: dict[str, Tiny]) -> Tiny:
    """The saved model of each family in turn."""
    return saved_families[family]


@pytest.fixture
def llama(saved_families: dict[str, Tiny]) -> Tiny:
    return saved_families["llama"]


@dataclass
class Node:
    slot: int
    position: int
    ancestors: frozenset[int]
    """Their slots, its own included."""


@dataclass
class TreeSession:
    """Feeds a token tree to a chain of spans that together hold a model; slots are taken lowest first."""

    spans: list[Span]
    capacity: int = 64
    nodes: list[Node] = field(default_factory=list)
    free_slots: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stores = [span.reserve(self.capacity) for span in self.spans]
        self.free_slots = list(range(self.capacity))
        self.slot_positions = np.full(self.capacity, 999)

    def feed(
        self, tokens: Any, parents: list[int | None], asked: list[int] | None = None
    ) -> tuple[list[int], torch.Tensor]:
        """Returns the new nodes' numbers and the scores of the rows asked for, or of all. A parent is a node's number, or None
        at the root."""
        first = len(self.nodes)
        for parent in parents:
            self.nodes.append(self._place(parent))
        new = self.nodes[first:]
        hidden: torch.Tensor | None = None
        for span, store in zip(self.spans, self.stores, strict=True):
            rows = self._rows(new, store, np.array(tokens) if span.starts else None, hidden)
            [hidden] = span.forward([replace(rows, asked=asked)])
        assert hidden is not None
        return list(range(first, len(self.nodes))), self.spans[-1].logits(hidden if asked is None else hidden[asked])

    def feed_run(self, tokens: Any, parent: int | None, asked: list[int] | None = None) -> tuple[int, torch.Tensor]:
        """A run of tokens, each the parent of the next; returns the last node's number, and scores as `feed` does."""
        first = len(self.nodes)
        nodes, scores = self.feed(tokens, [parent, *range(first, first + len(tokens) - 1)], asked)
        return nodes[-1], scores

    def free(self, *numbers: int) -> list[int]:
        """Give up nodes; returns their slots."""
        slots = [self.nodes[number].slot for number in numbers]
        self.free_slots = sorted([*self.free_slots, *slots])
        return slots

    def _place(self, parent: int | None) -> Node:
        slot = self.free_slots.pop(0)
        above = None if parent is None else self.nodes[parent]
        position = 0 if above is None else above.position + 1
        self.slot_positions[slot] = position
        return Node(slot, position, frozenset({slot}) | (above.ancestors if above else frozenset()))

    def _rows(self, new: list[Node], store: Any, tokens: Any, hidden: torch.Tensor | None) -> SpanInput:
        used = max(set(range(self.capacity)) - set(self.free_slots)) + 1
        visible = np.zeros((len(new), used), dtype=bool)
        for row, node in enumerate(new):
            visible[row, list(node.ancestors)] = True
        slots, positions = np.array([node.slot for node in new]), np.array([node.position for node in new])
        return SpanInput(store, slots, positions, visible, self.slot_positions[:used], tokens, hidden)


@pytest.fixture
def open_session() -> Callable[..., TreeSession]:
    """Loads the spans that the layer bounds cut, and opens a session on them."""

    def open_one(source: ModelSource, bounds: tuple[int, ...] = (0, 1, 3, LAYERS), **options: Any) -> TreeSession:
        pairs = itertools.pairwise(bounds)
        return TreeSession([Span.load(source, range(*pair), **options) for pair in pairs])

    return open_one


@pytest.fixture
def tokens() -> list[int]:
    """A context of several windows."""
    return [int(token) for token in np.random.default_rng(3).integers(3, VOCABULARY, 24)]
