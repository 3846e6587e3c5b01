"""The hub, asked through the real huggingface_hub by way of a small server that speaks its protocol."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants, hf_api

from dsd_core.errors import DsdError, InvalidWeights, ModelNotFound
from dsd_core.model.source import resolve
from dsd_core.model.span import Span
from dsd_core.model.tokenizer import load_tokenizer
from tests.model.conftest import LAYERS, MakeTiny, Tiny, TreeSession, assert_same_scores

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "someone/tiny"


@dataclass
class Hub:
    """One repository with one commit, and what was asked of it."""

    directory: Path
    downloads: list[str] = field(default_factory=list)
    error: tuple[int, str] | None = None
    """A status, and the hub's name for it."""
    listing_error: tuple[int, str] | None = None
    """The same where only the list of files is asked for."""


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.path.split("?")[0]
        if self.hub.error is not None or MODEL not in path:
            self.refuse(*(self.hub.error or (401, "RepoNotFound")))
        elif path.startswith("/api/") and self.hub.listing_error is not None:
            self.refuse(*self.hub.listing_error)
        elif path.startswith("/api/"):
            self.send(self.listing(), with_body)
        elif not (self.hub.directory / Path(path).name).is_file():
            self.refuse(404, "EntryNotFound")
        else:
            self.send_file(self.hub.directory / Path(path).name, with_body)

    def listing(self) -> bytes:
        files = [{"type": "file", "path": path.name, "oid": "0", "size": 1} for path in self.hub.directory.iterdir()]
        return json.dumps(files).encode()

    def send_file(self, path: Path, with_body: bool) -> None:
        content, requested = path.read_bytes(), self.headers.get("Range")
        if requested is not None:
            first, last = requested.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last) + 1]
        elif with_body:
            self.hub.downloads.append(path.name)
        self.send(content, with_body, 200 if requested is None else 206)

    def send(self, content: bytes, with_body: bool, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{Path(self.path).name}"')
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hub(server: ThreadingHTTPServer, make_tiny: MakeTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model in several files, and an empty cache."""
    tiny = make_tiny("llama", save={"max_shard_size": "20KB"})
    hub = Hub(tiny.directory)
    monkeypatch.setattr(Handler, "hub", hub, raising=False)
    point_to(f"http://127.0.0.1:{server.server_address[1]}", monkeypatch)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    yield hub
    close_session()


def point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT would do for a new process."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hf_api.api, "endpoint", address)


def refusal(error: type[DsdError], model: str = MODEL) -> str:
    with pytest.raises(error) as caught:
        resolve(model)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message
    return message


def test_resolving_downloads_no_weights(hub: Hub) -> None:
    source = resolve(MODEL)
    assert source.name == MODEL
    assert sorted(hub.downloads) == ["config.json", "model.safetensors.index.json"]
    assert source.manifest_hash == resolve(str(hub.directory)).manifest_hash


def test_only_the_files_of_the_span_are_downloaded(hub: Hub) -> None:
    source = resolve(MODEL)
    hub.downloads.clear()
    span = Span.load(source, range(1, 2))
    assert sorted(hub.downloads) == sorted({file for name, file in source.files.items() if ".layers.1." in name})
    assert span.weight_bytes == Span.load(resolve(str(hub.directory)), range(1, 2)).weight_bytes


def test_a_model_in_one_file(hub: Hub, llama: Tiny, tokens: list[int]) -> None:
    shutil.rmtree(hub.directory)
    shutil.copytree(llama.directory, hub.directory)
    source = resolve(f"{MODEL}@main")
    assert hub.downloads == ["config.json"]
    _, scores = TreeSession([Span.load(source, range(LAYERS))]).feed_run(tokens, None)
    assert_same_scores(scores, llama.logits(tokens))


def test_a_node_starts_again_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    online = resolve(MODEL)
    Span.load(online, range(1, 2))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.downloads.clear()
    offline = resolve(MODEL)
    assert offline.manifest_hash == online.manifest_hash
    Span.load(offline, range(1, 2))
    assert hub.downloads == []
    with pytest.raises(ModelNotFound, match="is not in the local cache"):
        Span.load(offline, range(2, 4))


def test_a_model_that_was_never_fetched_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "is not in the local cache" in refusal(ModelNotFound)


def test_a_hub_that_does_not_answer(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    online = resolve(MODEL)
    Span.load(online, range(1, 2))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # which the hub's library does between attempts
    point_to("http://127.0.0.1:9", monkeypatch)  # the discard port, where nothing listens
    Span.load(resolve(MODEL), range(1, 2))
    with pytest.raises(ModelNotFound, match="is not in the local cache and the hub cannot be reached"):
        Span.load(online, range(2, 4))
    assert "is not in the local cache" in refusal(ModelNotFound, "someone/else")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ((401, "RepoNotFound"), "the hub has no model"),
        ((404, "RevisionNotFound"), "the hub has no model"),
        ((403, "GatedRepo"), "is gated; accept its terms"),
        ((404, "EntryNotFound"), "lacks a file of a model"),
    ],
)
def test_what_the_hub_refuses(hub: Hub, error: tuple[int, str], message: str) -> None:
    hub.error = error
    assert message in refusal(ModelNotFound)


def test_a_hub_that_does_not_list_its_files(hub: Hub) -> None:
    hub.listing_error = (418, "Teapot")
    assert "the hub did not answer for someone/tiny" in refusal(ModelNotFound)


def test_a_model_that_another_program_fetched(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online = resolve(MODEL)
    Span.load(online, range(LAYERS))
    shutil.rmtree(tmp_path / "home" / "dsd")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve(MODEL).manifest_hash == online.manifest_hash


@pytest.mark.parametrize("model", ["not a model", "a--b", "-x"])
def test_names_that_no_model_can_have(hub: Hub, model: str) -> None:
    assert "the hub has no model" in refusal(ModelNotFound, model)


def test_a_repository_without_safetensors(hub: Hub) -> None:
    (hub.directory / "model.safetensors.index.json").rename(hub.directory / "pytorch_model.bin")
    assert "has no safetensors weights" in refusal(InvalidWeights)


def test_a_weight_file_that_is_not_safetensors(hub: Hub) -> None:
    for path in hub.directory.glob("*.safetensors"):
        path.write_bytes(b"\xff" * 200_000)
    assert "has no sound safetensors weights" in refusal(InvalidWeights)


def test_only_tokenizer_files_are_downloaded_for_a_tokenizer(hub: Hub) -> None:
    (hub.directory / "tokenizer.json").write_text("{")
    source = resolve(MODEL)
    hub.downloads.clear()
    with pytest.raises(ModelNotFound, match="has no usable tokenizer"):
        load_tokenizer(source)
    assert sorted(hub.downloads) == ["generation_config.json", "tokenizer.json"]


@pytest.mark.parametrize("damaged", ["{", "[]", '{"w": 1}'])
def test_remembered_headers_that_are_damaged_are_asked_for_again(hub: Hub, tmp_path: Path, damaged: str) -> None:
    source = resolve(MODEL)
    records = list((tmp_path / "home" / "dsd").rglob("model-*.json"))
    assert len(records) == len(set(source.files.values()))
    for record in records:
        record.write_text(damaged)
    assert resolve(MODEL).manifest_hash == source.manifest_hash
