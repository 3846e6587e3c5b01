"""Between the messages of the wire and the types of the core. Everything that comes in is checked here, once.

Repeated fields are measured before they are walked: a small message can claim a large memory.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.frames import Candidate, ComputeTime, Frame, FrameNode, Verdict
from dsd_core.decoding.ids import NodeId, TokenId
from dsd_core.errors import ProtocolError, UsageError
from dsd_core.wire.v1 import stage_pb2

MAX_FRAME_NODES = 4096
MAX_TOP_COUNT = 8
SESSION_ID_BYTES = 16


def session_id_from_wire(session_id: bytes) -> bytes:
    if len(session_id) != SESSION_ID_BYTES:
        raise ProtocolError(f"a session id has {SESSION_ID_BYTES} bytes, not {len(session_id)}")
    return session_id


def frame_to_wire(
    frame: Frame, time: ComputeTime, hidden: stage_pb2.Tensor | None = None, *, draining: bool = False
) -> stage_pb2.Frame:
    return stage_pb2.Frame(
        nodes=[node.id for node in frame.nodes],
        parents=[node.parent for node in frame.nodes],
        tokens=[node.token for node in frame.nodes],
        wants_verdict=[node.wants_verdict for node in frame.nodes],
        keep=frame.keep,
        hidden=hidden,
        compute_micros=_micros(time.total),
        slowest_micros=_micros(time.slowest),
        draining=draining,
    )


def frame_from_wire(message: stage_pb2.Frame, *, vocab_size: int) -> Frame:
    """Raises ProtocolError unless the columns agree, ids grow, and tokens are in the vocabulary."""
    rows = len(message.nodes)
    if rows > MAX_FRAME_NODES:
        raise ProtocolError(f"a frame holds at most {MAX_FRAME_NODES} nodes, not {rows}")
    if not rows == len(message.parents) == len(message.tokens) == len(message.wants_verdict):
        raise ProtocolError("the columns of a frame differ in length")
    if rows and max(message.tokens) >= vocab_size:
        raise ProtocolError(f"token {max(message.tokens)} is not in the vocabulary of {vocab_size}")
    if rows and not (message.nodes[0] > 0 and all(node < next_ for node, next_ in pairwise(message.nodes))):
        raise ProtocolError("the ids of a frame's nodes do not grow from above 0")
    columns = zip(message.nodes, message.parents, message.tokens, message.wants_verdict, strict=True)
    nodes = tuple(FrameNode(NodeId(node), NodeId(parent), TokenId(token), wants) for node, parent, token, wants in columns)
    return Frame(nodes, NodeId(message.keep))


def time_from_wire(message: stage_pb2.Frame | stage_pb2.StreamVerdictsResponse) -> ComputeTime:
    """Raises ProtocolError where one stage claims to have taken longer than all."""
    if message.slowest_micros > message.compute_micros:
        raise ProtocolError(f"one stage claims {message.slowest_micros} of {message.compute_micros} microseconds in all")
    return ComputeTime(message.compute_micros / 1e6, message.slowest_micros / 1e6)


def verdicts_to_wire(
    verdicts: Sequence[Verdict], time: ComputeTime, *, draining: bool = False
) -> stage_pb2.StreamVerdictsResponse:
    return stage_pb2.StreamVerdictsResponse(
        nodes=[verdict.node for verdict in verdicts],
        choices=[verdict.choice for verdict in verdicts],
        margins=[verdict.margin for verdict in verdicts],
        statistics=[_statistics_to_wire(verdict, verdict.entropy) for verdict in verdicts if verdict.entropy is not None],
        compute_micros=_micros(time.total),
        slowest_micros=_micros(time.slowest),
        draining=draining,
    )


def verdicts_from_wire(message: stage_pb2.StreamVerdictsResponse, *, vocab_size: int) -> tuple[Verdict, ...]:
    """Raises ProtocolError for columns that differ, tokens outside the vocabulary, and impossible statistics."""
    rows = len(message.nodes)
    if rows > MAX_FRAME_NODES or not rows == len(message.choices) == len(message.margins):
        raise ProtocolError("the columns of a verdict differ in length")
    if len(message.statistics) not in (0, rows):
        raise ProtocolError("a verdict must have statistics for all of its nodes or for none")
    if rows and max(message.choices) >= vocab_size:
        raise ProtocolError(f"choice {max(message.choices)} is not in the vocabulary of {vocab_size}")
    statistics: Sequence[stage_pb2.Statistics | None] = message.statistics or [None] * rows
    rows_in_turn = zip(message.nodes, message.choices, message.margins, statistics, strict=True)
    return tuple(_verdict(*row, vocab_size) for row in rows_in_turn)


def _verdict(node: int, choice: int, margin: float, statistics: stage_pb2.Statistics | None, vocab_size: int) -> Verdict:
    if not margin >= 0:
        raise ProtocolError(f"a verdict claims a margin of {margin}; the best is never behind")
    if statistics is None:
        return Verdict(NodeId(node), TokenId(choice), margin)
    top = _candidates(statistics, vocab_size)
    if not top or top[0].token != choice:
        raise ProtocolError("a verdict's best candidate is not its choice")
    if not 0 <= statistics.entropy < math.inf:
        raise ProtocolError(f"a verdict claims an entropy of {statistics.entropy}")
    return Verdict(NodeId(node), TokenId(choice), margin, top, statistics.entropy)


def _candidates(statistics: stage_pb2.Statistics, vocab_size: int) -> tuple[Candidate, ...]:
    rows = len(statistics.tokens)
    if rows > MAX_TOP_COUNT or not rows == len(statistics.log_probs) == len(statistics.scores):
        raise ProtocolError("the columns of a verdict's statistics differ in length")
    if rows and (max(statistics.tokens) >= vocab_size or len(set(statistics.tokens)) < rows):
        raise ProtocolError(f"a verdict's best candidates are not distinct tokens of the vocabulary of {vocab_size}")
    scores, log_probs = list(statistics.scores), list(statistics.log_probs)
    if not all(map(math.isfinite, scores)) or scores != sorted(scores, reverse=True):
        raise ProtocolError("a verdict's scores are not finite numbers, best first")
    if not all(-math.inf < log_prob <= 1e-3 for log_prob in log_probs):
        raise ProtocolError("a verdict's log-probabilities are not at most 0")
    columns = zip(statistics.tokens, log_probs, scores, strict=True)
    return tuple(Candidate(TokenId(token), log_prob, score) for token, log_prob, score in columns)


def _statistics_to_wire(verdict: Verdict, entropy: float) -> stage_pb2.Statistics:
    return stage_pb2.Statistics(
        tokens=[candidate.token for candidate in verdict.top],
        log_probs=[candidate.log_prob for candidate in verdict.top],
        scores=[candidate.score for candidate in verdict.top],
        entropy=entropy,
    )


def rule_to_wire(rule: ChoiceRule) -> stage_pb2.Sampling:
    params = rule.params
    return stage_pb2.Sampling(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        repetition_penalty=params.repetition_penalty,
        seed=params.seed or 0,
        choice_index=rule.choice_index,
        top_count=rule.top_count,
    )


def rule_from_wire(message: stage_pb2.Sampling) -> ChoiceRule:
    if message.top_count > MAX_TOP_COUNT:
        raise ProtocolError(f"at most {MAX_TOP_COUNT} of the best tokens are reported, not {message.top_count}")
    try:
        params = SamplingParams(
            message.temperature, message.top_p, message.top_k, message.repetition_penalty, message.seed
        )
    except UsageError as error:
        raise ProtocolError(str(error)) from None
    return ChoiceRule(params, message.choice_index, message.top_count)


def _micros(seconds: float) -> int:
    return min(int(seconds * 1e6), 2**32 - 1)
