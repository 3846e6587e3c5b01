"""Golden transcripts: what a session answers to a story, one line each, to be read.

A transcript in transcripts/ has a header (`policy: blocking 2, standby 1`), then events (`> time event`), each followed by
the actions it led to (`< action`). To add one, write its events; to accept a change, rewrite all and read the difference:

    DSD_REWRITE_TRANSCRIPTS=1 python -m pytest tests/core/test_transcripts.py
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsd_core.decoding.events import (
    Action,
    Ask,
    Branch,
    CloseLane,
    Draft,
    Drafted,
    DraftedToken,
    Emit,
    Event,
    Finish,
    FinishReason,
    LaneDraining,
    LaneLost,
    LaneOpened,
    OpenLane,
    Send,
    Stop,
    Tick,
    VerdictsArrived,
)
from dsd_core.decoding.frames import FrameNode, Verdict
from dsd_core.decoding.lookahead.policy import Blocking, FixedLength, Lookahead, Plain
from dsd_core.decoding.session import Session, SessionConfig

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_session_answers_as_written(path: Path) -> None:
    written = path.read_text("utf-8")
    played = "\n".join(replay(written.splitlines())) + "\n"
    if os.environ.get("DSD_REWRITE_TRANSCRIPTS"):
        path.write_text(played, "utf-8")
    assert played == written, "rewrite it if this is meant (see the top of the test)"


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 5


def replay(lines: list[str]) -> Iterator[str]:
    """The same transcript, with the actions of today."""
    session = None
    for line in lines:
        if line.startswith("<"):
            continue
        yield line
        if line.startswith("policy:"):
            speculation, _, standby = line.partition(", standby ")
            config = SessionConfig(capacity=64, chunk=4, round_seconds=10.0, standby=int(standby or 0))
            session = Session(policy(speculation), config)
        if line.startswith(">"):
            assert session is not None, "the policy comes first"
            _, time, *words = line.split()
            yield from (f"<      {show(action)}" for action in session.step(event(words), float(time)))


def policy(line: str) -> Lookahead:
    match line.split()[1:]:
        case ["plain"]:
            return Plain()
        case ["blocking", k]:
            return Blocking(FixedLength(int(k)))
    raise ValueError(line)


def event(words: list[str]) -> Event:
    match words:
        case ["ask", *tokens, "at", "most", count]:
            return Ask(tuple(map(int, tokens)), int(count), end_tokens=frozenset({0}))
        case ["drafted", request, "after", parent, *tokens]:
            drafted = tuple(DraftedToken(int(token), 0.5) for token in tokens)
            return Drafted(int(request), (Branch(int(parent), drafted),) if drafted else ())
        case ["lane", lane, "verdicts", *pairs]:
            chosen = [re.fullmatch(r"(\d+):(\d+)", pair).groups() for pair in pairs]
            return VerdictsArrived(int(lane), tuple(Verdict(int(node), int(choice), margin=1.0) for node, choice in chosen))
        case ["lane", lane, "opened"]:
            return LaneOpened(int(lane))
        case ["lane", lane, "lost"]:
            return LaneLost(int(lane))
        case ["lane", lane, "draining"]:
            return LaneDraining(int(lane))
        case ["stop", reason]:
            return Stop(FinishReason(reason))
        case ["tick"]:
            return Tick()
    raise ValueError(words)


def show(action: Action) -> str:
    match action:
        case Send():
            nodes = " ".join(show_node(node) for node in action.frame.nodes)
            return f"lane {action.lane} send {nodes} keep {action.frame.keep}"
        case Draft():
            parents = " ".join(map(str, action.parents))
            return f"draft {action.request} after {parents}, {action.steps} steps"
        case Emit():
            return "emit " + " ".join(f"{committed.token} {committed.origin.value}" for committed in action.tokens)
        case OpenLane():
            return "open lane"
        case CloseLane():
            return f"close lane {action.lane}"
        case Finish():
            return f"finish {action.reason.value}"


def show_node(node: FrameNode) -> str:
    """`7<6:40?` is node 7 below node 6, holding token 40; its verdict is wanted."""
    return f"{node.id}<{node.parent}:{node.token}" + ("?" if node.wants_verdict else "")
