"""Our commands' traces: sent where OTEL_* in the environment says, as any program's that OpenTelemetry watches."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger(__name__)

Command = TypeVar("Command", bound=Callable[..., Any])

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTERS = "opentelemetry_traces_exporter"
"""Under which packages name their exporters."""


def with_telemetry(command: Command) -> Command:
    """Set OpenTelemetry up, where it is wanted, before the command runs."""

    @wraps(command)
    def traced(*args: Any, **given: Any) -> Any:
        configure(os.environ)
        return command(*args, **given)

    return traced  # type: ignore[return-value]


def configure(environment: Mapping[str, str]) -> None:
    """Export spans if the environment asks for it. What is left to be sent is sent when the process ends."""
    name = exporter_name(environment)
    if name is None:
        return
    try:
        _export_to(_exporter(name), environment)
    except ImportError:
        how = "pip install '.[telemetry]' in DSD's checkout, or unset it"
        log.warning("OTEL_* asks for traces by %r, which is not installed; %s", name, how)


def exporter_name(environment: Mapping[str, str]) -> str | None:
    """As its package calls the exporter that is asked for; None: no traces."""
    has_endpoint = any(environment.get(name) for name in ENDPOINTS)
    asked = environment.get("OTEL_TRACES_EXPORTER", "otlp" if has_endpoint else "none")
    if asked == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), "http/protobuf")
    return ("otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http") if asked == "otlp" else asked


def _exporter(name: str) -> "SpanExporter":
    """Raises ImportError where it is not installed."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=EXPORTERS, name=name):
        exporter: SpanExporter = entry.load()()
        return exporter
    raise ImportError(name)


def _export_to(exporter: "SpanExporter", environment: Mapping[str, str]) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create() if environment.get("OTEL_SERVICE_NAME") else Resource.create({SERVICE_NAME: "dsd-client"})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
