"""The span and the thread that computes it. The event loop only waits here."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dsd_core.decoding.choice.target import ChoiceRule, verdict
from dsd_core.decoding.frames import Frame, Verdict
from dsd_core.decoding.lookahead.line_fit import LineFit
from dsd_core.decoding.stage_tree import Placement, StageTree
from dsd_core.model import tensors
from dsd_core.model.compute_thread import ComputeThread
from dsd_core.model.kv import KvStore
from dsd_core.model.span import Span, SpanInput
from dsd_core.wire.hidden import HiddenStates

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Computed:
    """What became of a frame. Its live nodes go on with hidden states, or end here with verdicts."""

    frame: Frame
    """The frame with the nodes that were alive when its turn came."""
    hidden: HiddenStates | None
    verdicts: tuple[Verdict, ...]
    seconds: float


class Engine:
    """Computes one frame at a time, in order of asking.

    A session asks for its next frame only when it has the last one, so sessions take turns however long their queues are.
    """

    def __init__(self, span: Span) -> None:
        self.span = span
        self._thread = ComputeThread("engine")
        self._turn = asyncio.Lock()
        self._computed_at = -math.inf
        self.times = LineFit()
        """Seconds that frames take, by how many nodes they have."""

    async def reserve(self, slots: int) -> KvStore:
        """Memory for a session. Raises OutOfCapacity."""
        return await self._in_thread(lambda: self.span.reserve(slots))

    async def compute(
        self, tree: StageTree, kv: KvStore, frame: Frame, hidden: HiddenStates | None, rule: ChoiceRule | None
    ) -> Computed | None:
        """Compute a registered frame when its turn comes; None if by then none of its nodes is alive, or the session is not."""
        async with self._turn:
            if kv.closed:
                return None
            placement = tree.place(frame)
            if not placement.rows.size:
                return None
            alive = Frame(tuple(frame.nodes[row] for row in placement.rows), placement.keep)
            histories = _histories(tree, alive, rule)
            computed = await self._in_thread(lambda: self._compute(placement, kv, alive, hidden, rule, histories))
            self._computed_at = asyncio.get_running_loop().time()
            self.times.add(len(alive.nodes), computed.seconds)
            return computed

    async def run(self, work: Callable[[], Result]) -> Result:
        """Other work on the span, when its turn comes."""
        async with self._turn:
            return await self._in_thread(work)

    async def release(self, kv: KvStore) -> None:
        """Give a session's memory back, once no frame of it is being computed."""
        async with self._turn:
            kv.close()

    async def canary(self, *, unless_within: float = 0.0) -> None:
        """One token through the span, in turn, as a session's would go; or nothing, if one has just gone.

        Raises whatever keeps sessions from being served.
        """
        if asyncio.get_running_loop().time() - self._computed_at < unless_within:
            return
        async with self._turn:
            self.times.add(1, await self._in_thread(lambda: _send_canary(self.span)))
            self._computed_at = asyncio.get_running_loop().time()

    def close(self) -> None:
        self._thread.close()

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        """Not cancelled half-way: the thread would go on writing into memory that is being given back."""
        try:
            return await self._thread.submit(work)
        except asyncio.CancelledError:
            await self._thread.submit(lambda: None)  # its turn comes when the work is over
            raise

    def _compute(
        self,
        placement: Placement,
        kv: KvStore,
        frame: Frame,
        hidden: HiddenStates | None,
        rule: ChoiceRule | None,
        histories: list[NDArray[np.int64]],
    ) -> Computed:
        started = time.perf_counter()
        wanted = [row for row, node in enumerate(frame.nodes) if node.wants_verdict]
        output = self.span.forward([_span_input(placement, kv, frame, hidden, wanted)])[0]
        if rule is None:
            return Computed(frame, tensors.pack(output), (), time.perf_counter() - started)
        verdicts = self._verdicts(output, wanted, placement, frame, rule, histories)
        return Computed(frame, None, verdicts, time.perf_counter() - started)

    def _verdicts(
        self,
        output: torch.Tensor,
        wanted: Sequence[int],
        placement: Placement,
        frame: Frame,
        rule: ChoiceRule,
        histories: list[NDArray[np.int64]],
    ) -> tuple[Verdict, ...]:
        """Verdicts for the nodes that want one. Nothing of vocabulary size is computed for the others."""
        if not wanted:
            return ()
        logits: NDArray[np.float32] = self.span.logits(output[wanted]).numpy()
        return tuple(
            verdict(frame.nodes[row].id, scores, rule, position=int(placement.positions[row]) + 1, history=history)
            for row, scores, history in zip(wanted, logits, histories, strict=True)
        )


def _span_input(
    placement: Placement, kv: KvStore, frame: Frame, hidden: HiddenStates | None, wanted: Sequence[int]
) -> SpanInput:
    return SpanInput(
        kv=kv,
        slots=placement.slots,
        positions=placement.positions,
        visible=placement.visible,
        slot_positions=placement.slot_positions,
        tokens=None if hidden else np.array([node.token for node in frame.nodes], dtype=np.int64),
        hidden=_rows(hidden, placement.rows) if hidden else None,
        asked=wanted,
    )


def _send_canary(span: Span) -> float:
    """Returns the seconds that it took."""
    kv, alone = span.reserve(1), np.zeros(1, dtype=np.int64)
    tokens, hidden = (alone, None) if span.starts else (None, torch.zeros(1, span.hidden_size))
    started = time.perf_counter()
    try:
        output = span.forward([SpanInput(kv, alone, alone, np.ones((1, 1), dtype=np.bool_), alone, tokens, hidden)])[0]
        if span.ends:
            span.logits(output)
        return time.perf_counter() - started
    finally:
        kv.close()


def _rows(hidden: HiddenStates, rows: NDArray[np.int64]) -> torch.Tensor:
    states = tensors.unpack(hidden)
    return states if rows.size == hidden.rows else states[torch.from_numpy(rows)]


_NO_HISTORY = np.empty(0, dtype=np.int64)


def _histories(tree: StageTree, frame: Frame, rule: ChoiceRule | None) -> list[NDArray[np.int64]]:
    """For each node that wants a verdict, the tokens up to its own, where the rule looks at them."""
    wanted = [node.id for node in frame.nodes if node.wants_verdict]
    if rule is None or not rule.needs_history:
        return [_NO_HISTORY] * len(wanted)
    return [tree.path(node) for node in wanted]
