"""One span for each request and one for each round, with counts and never a word; and nothing at all where nobody listens."""

import re
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from dsd_client import Client, SamplingParams, tracing
from dsd_client.telemetry import exporter_name
from dsd_core.errors import DsdError
from tests.client.conftest import PROMPT, Clients
from tests.conftest import LAYERS, InProcessSwarm, TinyModel

TOKENS = 24


class Heard:
    """The spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.get_tracer = provider.get_tracer

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    @property
    def request(self) -> ReadableSpan:
        [request] = self.named("dsd.request")
        return request

    @property
    def rounds(self) -> list[ReadableSpan]:
        return self.named("dsd.round")

    def outcomes(self) -> set[Any]:
        return {said(span)["dsd.outcome"] for span in self.rounds}


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """As if the program around the SDK had set OpenTelemetry up."""
    heard = Heard()
    monkeypatch.setattr(trace, "get_tracer", heard.get_tracer)
    return heard


@pytest.mark.parametrize("mode", ["off", "blocking", "streaming"])
async def test_a_request_and_its_rounds(clients: Clients, heard: Heard, mode: str) -> None:
    client = await clients()
    result = await client.generate(PROMPT, max_new_tokens=TOKENS, speculation=mode, sampling=SamplingParams())
    told = said(heard.request)
    assert told["dsd.mode"] == mode
    assert told["gen_ai.request.model"] == client.target.name
    assert told["gen_ai.usage.input_tokens"] == result.stats.prompt_tokens
    assert told["gen_ai.usage.output_tokens"] == result.stats.new_tokens
    for name in tracing.COUNTS:
        assert told[f"dsd.{name}"] == getattr(result.stats, name)
    assert told["dsd.outcome"] == result.finish_reason.value
    assert len(told["dsd.route"]) == 2

    answered = [span for span in heard.rounds if said(span)["dsd.outcome"] == "answered"]
    assert heard.outcomes() <= {"answered", "unneeded"}
    # The prompt's frame is a round, and stats do not count it.
    assert len(answered) <= len(heard.rounds) <= result.stats.frames + 1
    if mode == "off":
        assert len(answered) == TOKENS
    request = heard.request.context
    for span in heard.rounds:
        assert request is not None
        assert span.parent is not None
        assert span.parent.span_id == request.span_id
    for span in answered:
        assert said(span)["dsd.compute_seconds"] > 0
        assert 1 <= said(span)["dsd.verdicts"] <= said(span)["dsd.nodes"]


async def test_nothing_of_what_was_said_is_told(clients: Clients, heard: Heard) -> None:
    result = await (await clients()).generate(PROMPT, max_new_tokens=TOKENS)
    spans = [heard.request, *heard.rounds]
    values = [value for span in spans for value in said(span).values()]
    words = {word for value in values for word in re.findall(r"\w+", str(value))}
    assert words.isdisjoint(re.findall(r"\w{4,}", f"{PROMPT} {result.text}"))
    # Token ids would be a list of numbers.
    assert {type(each) for value in values if isinstance(value, tuple) for each in value} == {str}
    assert not any(span.events or span.status.description for span in spans)


async def test_who_leaves_cancels(clients: Clients, heard: Heard) -> None:
    client = await clients()
    async with client.conversation(positions=200) as answers:
        chunks = answers.ask(client.target.tokens(PROMPT), max_new_tokens=100)
        await anext(chunks)
        await chunks.aclose()
        assert said(heard.request)["dsd.outcome"] == "cancelled"
        assert heard.request.status.status_code is not StatusCode.ERROR
    assert all(span.end_time for span in heard.rounds)


async def test_a_lost_swarm_is_an_error_without_its_words(target: TinyModel, new_swarm: InProcessSwarm, heard: Heard) -> None:
    node = await new_swarm.start(target, range(LAYERS))
    async with Client([node.address], str(target), "none", timeout=0.5) as client:
        chunks = client.stream(PROMPT, max_new_tokens=200)
        await anext(chunks)
        await node.kill()
        with pytest.raises(DsdError):
            [chunk async for chunk in chunks]
    told = said(heard.request)
    assert told["dsd.outcome"] == "error"
    assert told["error.type"] in ("NoPeers", "PeerLost", "TimedOut")
    assert heard.request.status.status_code is StatusCode.ERROR
    assert heard.request.status.description is None
    assert "lost" in heard.outcomes()


async def test_each_question_of_a_conversation_is_a_request(clients: Clients, heard: Heard) -> None:
    client = await clients()
    prompt = client.target.tokens(PROMPT)
    async with client.conversation(positions=200) as answers:
        for _ in range(2):
            async for _ in answers.ask(prompt, max_new_tokens=5):
                pass
    first, second = heard.named("dsd.request")
    parents = {span.parent.span_id for span in heard.rounds if span.parent}
    assert parents == {span.context.span_id for span in (first, second) if span.context}


async def test_who_does_not_listen_costs_nothing(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not set up, or not sampled."""
    traced = tracing.Traced("model", "off")
    assert tracing.begin(traced, 1) is None
    monkeypatch.setattr(trace, "get_tracer", TracerProvider(sampler=ALWAYS_OFF).get_tracer)
    assert tracing.begin(traced, 1) is None
    await (await clients()).generate(PROMPT, max_new_tokens=3)


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, "otlp_proto_http"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, "otlp_proto_http"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_grpc"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp_proto_http"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_SERVICE_NAME": "mine"}, None),
    ],
)
def test_who_asks_for_traces(environment: dict[str, str], name: str | None) -> None:
    assert exporter_name(environment) == name
