"""How far apart honest machines are: what an audit finds where nobody lies, and the tolerance that follows from it.

    python -m benchmarks margins [--model DIR|ID] [--blocks N] [--dtypes fp32 bf16] [--out DIR]

The claimant computes a text in frames of 1 to 16 tokens, the checker in frames of 128, as an audit does; with CUDA each is on
the CPU and on the GPU in turn. A block is `BLOCK_TOKENS` choices. d is the 99.99th percentile of the margins.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dsd_core import embedded
from dsd_core.decoding.choice.audit import AUDIT_TOLERANCE_NATS, BLOCK_TOKENS, Severity, near_cuts, severity, severity_at_edge
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule, verdict
from dsd_core.decoding.frames import Verdict
from dsd_core.decoding.ids import NodeId, TokenId
from dsd_core.embedded.word_problems import Split, draw
from dsd_core.model.kv import KvStore
from dsd_core.model.source import ModelSource, resolve
from dsd_core.model.span import Span, SpanInput
from dsd_core.model.tokenizer import load_tokenizer
from dsd_core.wire.codec import MAX_TOP_COUNT

TEXT_TOKENS = 512
LARGEST_FRAME, CHECKED_FRAME = 16, 128
PERCENTILE = 99.99
RULES = (
    SamplingParams(),
    SamplingParams(temperature=0.9, seed=1),
    SamplingParams(temperature=0.9, top_p=0.95, seed=2),
    SamplingParams(temperature=0.7, top_k=40, repetition_penalty=1.1, seed=3),
)


@dataclass
class Margins:
    """Of one dtype and one pair of devices."""

    dtype: str
    devices: str
    tolerance: float
    """d as nodes use it now."""
    behind: list[float] = field(default_factory=list)
    """How far each choice is behind the checker's own; 0 where they are the same."""
    left_out: int = 0
    """Choices that are not among the checker's best at all, as at the edge of what top-p leaves."""
    at_an_edge: int = 0
    """Choices that are no tie until top-k or top-p are moved a little, as an audit does: no margins of numbers."""
    blocks: Counter[str] = field(default_factory=Counter)
    """By the worst of what an audit of it finds."""

    def add(self, claims: Sequence[TokenId], own: Sequence[Verdict], near: Sequence[Sequence[Verdict]]) -> None:
        """A checker's verdicts on the claims, and with nearly the same cuts, fewer and more, where the rule cuts."""
        found = [severity(*pair, self.tolerance) for pair in zip(claims, own, strict=True)]
        for at, claim in enumerate(claims):
            is_behind = found[at] > Severity.TIE
            if is_behind and near:
                fewer, more = near
                found[at] = severity_at_edge(claim, fewer[at], more[at], self.tolerance)
            self._note(claim, own[at], at_an_edge=is_behind and found[at] is Severity.TIE)
        worst = [max(found[start : start + BLOCK_TOKENS]) for start in range(0, len(found), BLOCK_TOKENS)]
        self.blocks.update(level.name for level in worst)

    def _note(self, claim: TokenId, check: Verdict, *, at_an_edge: bool) -> None:
        behind = _behind(claim, check)
        self.left_out += behind is None
        self.at_an_edge += at_an_edge
        self.behind += [] if behind is None or at_an_edge else [behind]

    @property
    def choices(self) -> int:
        return BLOCK_TOKENS * self.blocks.total()

    @property
    def differing(self) -> int:
        return sum(behind > 0 for behind in self.behind) + self.at_an_edge

    @property
    def calibrated(self) -> float:
        return float(np.percentile(self.behind, PERCENTILE))

    def as_json(self) -> dict[str, object]:
        edges = {"left_out": self.left_out, "at_an_edge": self.at_an_edge}
        counts = {"blocks": dict(self.blocks), "choices": self.choices} | edges
        nats = {"tolerance": self.tolerance, "calibrated": self.calibrated, "most": max(self.behind)}
        behind = sorted(behind for behind in self.behind if behind)
        return {"dtype": self.dtype, "devices": self.devices} | counts | nats | {"differing": self.differing, "behind": behind}


def _behind(claim: TokenId, check: Verdict) -> float | None:
    scores = {candidate.token: candidate.score for candidate in check.top}
    return check.top[0].score - scores[claim] if claim in scores else None


def measure(source: ModelSource, dtype: str, blocks: int, devices: tuple[str, str] = ("cpu", "cpu")) -> Margins:
    """So many blocks of texts, claimed on one device and checked on another."""
    claimant, checker = (Span.load(source, range(source.num_layers), device=device, dtype=dtype) for device in devices)
    name = str(checker.dtype).removeprefix("torch.")
    margins, chance = Margins(name, " / ".join(devices), AUDIT_TOLERANCE_NATS[name]), Random(7)
    for number, text in enumerate(_texts(source)):
        if sum(margins.blocks.values()) >= blocks:
            return margins
        params = RULES[number % len(RULES)]
        [claims] = _verdicts(claimant, text, [ChoiceRule(params)], _uneven(len(text), chance))
        rules = [ChoiceRule(cut, top_count=MAX_TOP_COUNT) for cut in (params, *(near_cuts(params) or ()))]
        own, *near = _verdicts(checker, text, rules, _even(len(text)))
        margins.add([claim.choice for claim in claims], own, near)
    raise AssertionError("texts go on for ever")


def _texts(source: ModelSource) -> Iterator[NDArray[np.int64]]:
    """Made-up problems with their solutions, one after the other, cut into pieces of equal length."""
    tokenizer, rng, tokens = load_tokenizer(source), Random(1), list[int]()
    while True:
        problem = draw(rng, Split.HELD_OUT)
        tokens += tokenizer(f"{problem.prompt} {problem.solution}\n\n")["input_ids"]
        while len(tokens) >= TEXT_TOKENS:
            yield np.array(tokens[:TEXT_TOKENS], dtype=np.int64)
            tokens = tokens[TEXT_TOKENS:]


def _uneven(length: int, chance: Random) -> list[range]:
    """Frames as speculation sends them, each of another size."""
    frames = [range(0)]
    while frames[-1].stop < length:
        frames.append(range(frames[-1].stop, min(length, frames[-1].stop + chance.randint(1, LARGEST_FRAME))))
    return frames[1:]


def _even(length: int) -> list[range]:
    return [range(start, min(length, start + CHECKED_FRAME)) for start in range(0, length, CHECKED_FRAME)]


def _verdicts(
    span: Span, text: NDArray[np.int64], rules: Sequence[ChoiceRule], frames: Sequence[range]
) -> list[list[Verdict]]:
    """By each rule, what the target chooses after each token of a text that is fed to it in such frames."""
    kv, found = span.reserve(len(text)), [list[Verdict]() for _ in rules]
    try:
        for frame in frames:
            logits: NDArray[np.float32] = span.logits(span.forward([_rows(kv, text, frame)])[0]).numpy()
            for by, rule in zip(found, rules, strict=True):
                by += [
                    verdict(NodeId(at + 1), scores, rule, position=at + 1, history=text[: at + 1])
                    for at, scores in zip(frame, logits, strict=True)
                ]
        return found
    finally:
        kv.close()


def _rows(kv: KvStore, text: NDArray[np.int64], frame: range) -> SpanInput:
    """A run of one line: each token sees those before it, and lies in the slot of its position."""
    places, used = np.array(frame, dtype=np.int64), np.arange(frame.stop, dtype=np.int64)
    return SpanInput(kv, places, places, used[None] <= places[:, None], used, text[frame.start : frame.stop], None)


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(embedded.TARGET))
    parser.add_argument("--blocks", type=int, default=30_000, help="Of each dtype and pair of devices.")
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--out", type=Path, help="A directory for margins.json.")
    given = parser.parse_args(arguments)
    source, devices = resolve(given.model), ["cpu"] + ["cuda"] * torch.cuda.is_available()
    pairs = [pair for pair in product(devices, devices) if len(devices) == 1 or "cuda" in pair]
    found = [measure(source, dtype, given.blocks, pair) for dtype in given.dtypes for pair in pairs]
    Console().print(_table(found))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "margins.json").write_text(json.dumps([margins.as_json() for margins in found], indent=2) + "\n")


def _table(found: Sequence[Margins]) -> Table:
    table = Table("", *(f"{margins.dtype}\n{margins.devices}" for margins in found), title="Honest against honest, nats")
    rows = {
        "blocks": [str(sum(margins.blocks.values())) for margins in found],
        **{level.name.lower(): [str(margins.blocks[level.name]) for margins in found] for level in Severity},
        "choices": [str(margins.choices) for margins in found],
        "that differ": [str(margins.differing) for margins in found],
        "at an edge of top-k or top-p": [str(margins.at_an_edge) for margins in found],
        "left out": [str(margins.left_out) for margins in found],
        f"behind, {PERCENTILE} %": [f"{margins.calibrated:.2g}" for margins in found],
        "behind, at most": [f"{max(margins.behind):.2g}" for margins in found],
        "d in use": [f"{margins.tolerance:g}" for margins in found],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table
