"""Traces of a real command: to whom the environment says, and not a word without it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import entry_points
from threading import Thread

import pytest

from tests.end_to_end.conftest import Commands, ended

PROMPT = "the quick brown"
ASKED = ["--max-new-tokens", "4", "--speculation", "off", "-q", PROMPT]
has_otlp = bool(entry_points(group="opentelemetry_traces_exporter", name="otlp_proto_http"))


class Collector(HTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        super().__init__(("127.0.0.1", 0), Receiver)


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.skipif(not has_otlp, reason="the telemetry extra is not installed")
def test_a_collector_gets_the_spans(commands: Commands, join: list[str], collector: Collector) -> None:
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    done = ended(commands.start("dsd-client", "generate", *join, *ASKED, env=environment))
    assert done.code == 0, done.err
    paths, bodies = zip(*collector.received, strict=True)
    assert set(paths) == {"/v1/traces"}
    sent = b"".join(bodies)
    assert sent.count(b"dsd.request") == 1
    assert sent.count(b"dsd.round") == 4
    assert b"dsd-client" in sent
    assert b"quick" not in sent


def test_the_console_is_an_exporter_too(commands: Commands, join: list[str]) -> None:
    environment = os.environ | {"OTEL_TRACES_EXPORTER": "console"}
    done = ended(commands.start("dsd-client", "generate", *join, *ASKED, env=environment))
    assert done.code == 0, done.err
    assert done.out.count('"name": "dsd.round"') == 4


def test_an_exporter_that_is_not_there_is_told_and_done_without(commands: Commands, join: list[str]) -> None:
    environment = os.environ | {"OTEL_TRACES_EXPORTER": "carrier-pigeon"}
    done = ended(commands.start("dsd-client", "generate", *join, *ASKED, env=environment))
    assert done.code == 0
    assert done.out.strip()
    assert "carrier-pigeon" in done.err
    assert "[telemetry]" in done.err


def test_without_it_opentelemetry_is_not_even_imported() -> None:
    program = "import sys, dsd_client, dsd_client.client, dsd_client.__main__; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
