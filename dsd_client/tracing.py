"""OpenTelemetry's spans: one for each request, and below it one for each round. Counts and addresses, never what was said.

Nothing is imported or measured until somebody has set OpenTelemetry up: the program around the SDK, or, for our own commands,
OTEL_* in the environment (telemetry.py).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dsd_client.results import Result
from dsd_core.decoding.events import FinishReason, VerdictsArrived
from dsd_core.decoding.frames import Frame
from dsd_core.decoding.ids import LaneId, NodeId

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

NAME = "dsd"
COUNTS = ("drafted", "accepted", "relaxed", "recovered", "bonus", "frames", "wasted", "near_ties", "reroutes", "lanes")
"""Of `Stats`, beside the tokens, which OpenTelemetry has names for."""


@dataclass(frozen=True, slots=True)
class Traced:
    """What every request of a conversation says of itself."""

    model: str
    mode: str
    """off, blocking or streaming."""


@dataclass(slots=True, eq=False)
class _Round:
    """A frame that waits for its verdicts."""

    span: "Span"
    keys: list[tuple[LaneId, NodeId]]


@dataclass(slots=True)
class RequestTrace:
    """One request's spans. Tell it what leaves and what comes, then `end` it."""

    tracer: "Tracer"
    span: "Span"
    _waiting: dict[tuple[LaneId, NodeId], _Round] = field(default_factory=dict)

    def sent(self, lane: LaneId, frame: Frame, route: Sequence[str]) -> None:
        """A round begins, if the frame asks for verdicts."""
        keys = [(lane, node.id) for node in frame.nodes if node.wants_verdict]
        if keys:
            attributes: dict[str, Any] = {"dsd.lane": lane, "dsd.nodes": len(frame.nodes), "dsd.route": list(route)}
            begun = _Round(self.tracer.start_span("dsd.round", _below(self.span), attributes=attributes), keys)
            self._waiting.update(dict.fromkeys(keys, begun))

    def answered(self, event: VerdictsArrived) -> None:
        """The first verdicts end their round: a stage answers a frame in one message, without what nobody needs any more."""
        for verdict in event.verdicts:
            if found := self._waiting.get((event.lane, verdict.node)):
                found.span.set_attribute("dsd.verdicts", len(event.verdicts))
                found.span.set_attribute("dsd.compute_seconds", event.time.total)
                found.span.set_attribute("dsd.slowest_stage_seconds", event.time.slowest)
                self._end(found, "answered")

    def lost(self, lane: LaneId) -> None:
        """A lane is closed, and what it was sent with it."""
        for begun in {id(begun): begun for key, begun in self._waiting.items() if key[0] == lane}.values():
            self._end(begun, "lost")

    def end(self, result: Result, route: Sequence[str], error: BaseException | None) -> None:
        """The request is over, with an answer or without. An error is named, never quoted."""
        while self._waiting:
            self._end(next(iter(self._waiting.values())), "unneeded")
        self.span.set_attributes(_figures(result) | {"dsd.route": list(route)})
        outcome = "error" if error is not None else result.finish_reason.value
        self.span.set_attribute("dsd.outcome", outcome)
        if error is not None:
            from opentelemetry.trace import StatusCode

            self.span.set_attribute("error.type", type(error).__name__)
            self.span.set_status(StatusCode.ERROR)
        elif result.finish_reason is not FinishReason.CANCELLED:
            self.span.set_attribute("gen_ai.response.finish_reasons", [outcome])
        self.span.end()

    def _end(self, begun: _Round, outcome: str) -> None:
        for key in begun.keys:
            self._waiting.pop(key, None)
        begun.span.set_attribute("dsd.outcome", outcome)
        begun.span.end()


def begin(traced: Traced, max_new_tokens: int) -> RequestTrace | None:
    """A request begins. None where nobody would hear of it."""
    # Whoever set OpenTelemetry up has imported it; to import it for nothing would cost every command its time.
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    tracer: Tracer = trace.get_tracer(NAME)
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": traced.model,
        "gen_ai.request.max_tokens": max_new_tokens,
        "dsd.mode": traced.mode,
    }
    span = tracer.start_span("dsd.request", attributes=attributes)
    return RequestTrace(tracer, span) if span.is_recording() else None


def _below(span: "Span") -> Any:
    from opentelemetry.trace import set_span_in_context

    return set_span_in_context(span)


def _figures(result: Result) -> dict[str, Any]:
    stats = result.stats
    return {
        "gen_ai.usage.input_tokens": stats.prompt_tokens,
        "gen_ai.usage.output_tokens": stats.new_tokens,
        "dsd.acceptance_mode": stats.acceptance_mode,
        "dsd.seconds_to_first_token": stats.seconds_to_first_token,
        **{f"dsd.{name}": getattr(stats, name) for name in COUNTS},
    }
