"""A span that takes its time and computes nothing: tau0 + tau1 n seconds for n nodes.

It is a span all the same. The first stage keeps each node's path in the node's slot, finds the parent's by the mask, as
attention would, and passes the path on as hidden states; the last one makes scores of it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.waiting_model import Path, WaitingModel
from dsd_core.model.kv import KvLayout, KvStore
from dsd_core.model.source import ModelSource
from dsd_core.model.span import Span, SpanInput

HIDDEN_SIZE = 4
"""Numbers of 16 bits, which float32 holds exactly."""
MARGIN = 10.0
SPIN_SECONDS = 1e-4
"""Sleeping ends up to so much late, so the last bit is waited out awake."""


@dataclass(frozen=True, slots=True)
class StageTime:
    """What a stage needs for a frame, in seconds: `frame` and, for each of its nodes, `node`. (tau0 and tau1.)"""

    frame: float
    node: float

    def of(self, nodes: int) -> float:
        return self.frame + self.node * nodes


class WaitingSpan(Span):
    """See above. Its layers are those of `source`, whose weights are never read."""

    def __init__(self, source: ModelSource, layers: range, model: WaitingModel, stage_time: StageTime) -> None:
        self.layers = layers
        self.starts = layers.start == 0
        self.ends = layers.stop == source.num_layers
        self.hidden_size = HIDDEN_SIZE
        self.vocab_size = source.vocab_size
        self.dtype = torch.float32
        self.device = torch.device("cpu")
        self.weight_bytes = 0
        self._kv_layout = KvLayout(layers=1, heads=1, head_dim=1, dtype=torch.float32)
        self._model = model
        self._stage_time = stage_time

    def reserve(self, slots: int) -> "PathStore":
        return PathStore(self._kv_layout, slots, self.device)

    def forward(self, batch: Sequence[SpanInput]) -> list[torch.Tensor]:
        return [self._forward_one(rows) for rows in batch]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(len(hidden), self.vocab_size)
        for row, path in enumerate(_paths(hidden)):
            scores[row, self._model.choice(path)] = MARGIN
        return scores

    def _forward_one(self, rows: SpanInput) -> torch.Tensor:
        due = time.perf_counter() + self._stage_time.of(len(rows.slots))
        paths = _paths(rows.hidden) if rows.hidden is not None else self._follow(rows)
        wait_until(due)
        return _hidden(paths)

    def _follow(self, rows: SpanInput) -> list[Path]:
        assert isinstance(rows.kv, PathStore)
        assert rows.tokens is not None
        stored, followed = rows.kv.paths, []
        for row, token in enumerate(rows.tokens):
            parents = np.flatnonzero(rows.visible[row] & (rows.slot_positions == rows.positions[row] - 1))
            parent = stored[int(parents[0])] if parents.size else self._model.root
            followed.append(self._model.extend(parent, int(token)))
            stored[int(rows.slots[row])] = followed[-1]
        return followed


class PathStore(KvStore):
    """The path to the node in each slot."""

    def __init__(self, layout: KvLayout, slots: int, device: torch.device) -> None:
        super().__init__(layout, slots, device)
        self.paths = [0] * slots


def wait_until(due: float) -> None:
    """Let the processor go until `time.perf_counter()` is nearly `due`, then stay."""
    time.sleep(max(0.0, due - time.perf_counter() - SPIN_SECONDS))
    while time.perf_counter() < due:
        pass


def _hidden(paths: Sequence[Path]) -> torch.Tensor:
    parts = np.array(paths, dtype="<u8").view("<u2").reshape(len(paths), HIDDEN_SIZE)
    return torch.from_numpy(parts.astype(np.float32))


def _paths(hidden: torch.Tensor) -> list[Path]:
    return [int(path) for path in hidden.numpy().astype("<u2").view("<u8").reshape(-1)]
