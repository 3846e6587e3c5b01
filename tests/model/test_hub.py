"""The hub, asked through the real huggingface_hub by way of a small server that speaks its protocol."""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants, hf_api

from dsd_core.errors import DsdError, InvalidWeights, ModelNotFound, StorageFull
from dsd_core.model.source import ModelSource, resolve
from dsd_core.model.span import Span
from dsd_core.model.tokenizer import load_tokenizer
from tests import hub_server
from tests.hub_server import MODEL, Hub
from tests.model.conftest import LAYERS, MakeTiny, Tiny, TreeSession, assert_same_scores


@pytest.fixture
def hub(make_tiny: MakeTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model in several files, and an empty cache."""
    tiny = make_tiny("llama", save={"max_shard_size": "20KB"})
    with hub_server.serving(tiny.directory) as hub:
        point_to(hub.address, monkeypatch)
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


# -- downloads that are torn -------------------------------------------------------------------------------------------

TEARS = 5


class Tears:
    """Tear what is sent so many times."""

    def __init__(self, tear: Callable[[socket.socket], None], times: int) -> None:
        self.left = times
        self._tear = tear

    def __call__(self, connection: socket.socket) -> None:
        if self.left:
            self.left -= 1
            self._tear(connection)


@pytest.mark.parametrize("chunk", [1 << 10, 10 << 20])
def test_a_download_that_is_cut_off_goes_on(hub: Hub, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """From where it was, or anew where nothing of it was kept; all without a word from us."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", chunk)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # which the hub's library does between attempts
    source = resolve(MODEL)
    hub.amid_weights = tears = Tears(hub_server.cut, TEARS)
    Span.load(source, range(1, 2))
    assert not tears.left
    assert len(hub.resumed) == (TEARS if chunk == 1 << 10 else 0)
    assert_fetched_whole(source, hub)


@pytest.mark.parametrize("tear", [hub_server.cut, hub_server.reset])
def test_a_download_that_cannot_be_finished_leaves_nothing(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tear: Callable[[socket.socket], None]
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    source = resolve(MODEL)
    hub.amid_weights = tears = Tears(tear, 1_000)
    with pytest.raises(ModelNotFound, match=f"the hub did not answer for {MODEL}.*; try again"):
        Span.load(source, range(1, 2))
    assert tears.left < 1_000
    assert not [path for path in fetched(source) if path.suffix == ".safetensors"]
    hub.amid_weights = None
    Span.load(resolve(MODEL), range(1, 2))
    assert_fetched_whole(source, hub)


def fetched(source: ModelSource) -> list[Path]:
    return list(source.repository.directory.iterdir())


def assert_fetched_whole(source: ModelSource, hub: Hub) -> None:
    weights = [path for path in fetched(source) if path.suffix == ".safetensors"]
    assert weights
    assert all(path.read_bytes() == (hub.directory / path.name).read_bytes() for path in weights)
    assert not list(source.repository.directory.parent.parent.rglob("*.incomplete"))


@pytest.mark.parametrize("number", sorted(StorageFull.NUMBERS))
def test_a_full_disk_is_not_taken_for_a_silent_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def no_room(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    source = resolve(MODEL)
    with monkeypatch.context() as patch:
        patch.setattr("dsd_core.model.hub.hf_hub_download", no_room)
        with pytest.raises(StorageFull, match=f"no room for model-.*safetensors of {MODEL} in .*; make room") as refused:
            Span.load(source, range(1, 2))
        assert "\n" not in str(refused.value)
    Span.load(source, range(1, 2))
