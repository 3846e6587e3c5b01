"""What Prometheus may ask of a gateway: counts and times of answers, never anything of what was said."""

import asyncio
from collections import deque
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dsd_client.gateway.admission import Admission
from dsd_client.gateway.answers import AnswerEvent, Finished, Said
from dsd_client.results import Result
from dsd_core.decoding.events import Origin

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
RECENT_SECONDS = 10.0


class Metrics:
    """Of one gateway, in a registry of its own."""

    def __init__(self, admission: Admission) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("dsd_gateway_requests", "Requests, by path and status.", ["path", "status"], registry=registry)
        self._answers = Counter("dsd_gateway_answers", "Answers that were completed.", ["reason"], registry=registry)
        self._prompt = Counter("dsd_gateway_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._new = Counter("dsd_gateway_new_tokens", "Tokens of answers, by origin.", ["origin"], registry=registry)
        self._drafted = Counter("dsd_gateway_drafted_tokens", "Tokens that were drafted.", registry=registry)
        self._bytes = Counter("dsd_gateway_swarm_bytes", "Bytes to and from the stages.", ["direction"], registry=registry)
        self._first = Histogram(
            "dsd_gateway_seconds_to_first_token", "From the request to its first token.", buckets=SECONDS, registry=registry
        )
        self._seconds = Histogram("dsd_gateway_answer_seconds", "From first to last token.", buckets=SECONDS, registry=registry)
        running = Gauge("dsd_gateway_running_answers", "Answers that are being made.", registry=registry)
        running.set_function(lambda: admission.running)
        waiting = Gauge("dsd_gateway_waiting_answers", "Answers that wait for their turn.", registry=registry)
        waiting.set_function(lambda: admission.waiting)
        for origin in Origin:
            self._new.labels(origin.value)
        self._recent: deque[tuple[float, int]] = deque()
        """When tokens came, and how many; the last seconds only."""

    def exposition(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    @property
    def last_token_at(self) -> float | None:
        """By the event loop's clock; None if it was not in the last seconds."""
        self._forget_the_past()
        return self._recent[-1][0] if self._recent else None

    @property
    def tokens_per_second(self) -> float:
        """Of all answers together, over the last seconds."""
        self._forget_the_past()
        return sum(tokens for _, tokens in self._recent) / RECENT_SECONDS

    def request(self, asked_at: float) -> "RequestMeter":
        return RequestMeter(self, asked_at)

    def said(self, tokens: int) -> None:
        self._forget_the_past()
        self._recent.append((_now(), tokens))

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def finished(self, result: Result) -> None:
        stats = result.stats
        self._answers.labels(result.finish_reason.value).inc()
        self._prompt.inc(stats.prompt_tokens)
        self._drafted.inc(stats.drafted)
        self._bytes.labels("sent").inc(stats.bytes_sent)
        self._bytes.labels("received").inc(stats.bytes_received)
        self._seconds.observe(stats.seconds - stats.seconds_to_first_token)
        for token in result.tokens:
            self._new.labels(token.origin.value).inc()

    def _forget_the_past(self) -> None:
        while self._recent and self._recent[0][0] < _now() - RECENT_SECONDS:
            self._recent.popleft()


class RequestMeter:
    """Sees the events of one request pass by."""

    def __init__(self, metrics: Metrics, asked_at: float) -> None:
        self._metrics = metrics
        self._asked_at = asked_at
        self._begun = False

    def on_event(self, event: AnswerEvent) -> None:
        match event:
            case Said():
                self._on_tokens(event.chunk.tokens)
            case Finished():
                self._metrics.finished(event.result)

    def _on_tokens(self, tokens: Sequence[object]) -> None:
        if not self._begun and tokens:
            self._begun = True
            self._metrics.first_token(_now() - self._asked_at)
        self._metrics.said(len(tokens))


def _now() -> float:
    return asyncio.get_running_loop().time()
