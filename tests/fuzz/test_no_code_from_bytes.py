"""Bytes never become code, and names never become paths (S5 and S6)."""

import ast
import contextlib
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsd_core.errors import DsdError
from dsd_core.model import source
from dsd_core.model.weight_file import read_header
from dsd_core.network.identity import Identity
from dsd_core.network.join_token import JoinToken
from dsd_core.wire.v1 import stage_pb2
from tests.scale import count

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dsd_core", "dsd_node", "dsd_client", "benchmarks")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {"torch.load", "torch.hub.load", "torch.jit.load", "json_format.Parse", "json_format.ParseDict", "os.system"}
FLAGS = {"allow_pickle", "trust_remote_code", "shell"}


def dangers(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if name.split(".")[0] in MODULES or name.endswith("json_format"))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS or called in METHODS:
                yield called
            for keyword in node.keywords:
                if keyword.arg in FLAGS and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False):
                    yield str(keyword.arg)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_turns_bytes_into_code(path: Path) -> None:
    assert list(dangers(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    ("planted", "caught"),
    [
        ("import pickle", "pickle"),
        ("def late():\n    from marshal import loads", "marshal.loads"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("eval('1')", "eval"),
        ("np.load(f, allow_pickle=True)", "allow_pickle"),
        ("AutoModel.from_pretrained(x, trust_remote_code=flag)", "trust_remote_code"),
        ("subprocess.run(x, shell=True)", "shell"),
        ("from google.protobuf import json_format", "google.protobuf.json_format"),
    ],
)
def test_a_planted_danger_is_caught(planted: str, caught: str) -> None:
    assert list(dangers(planted)) == [caught]


# -- canaries ----------------------------------------------------------------------------------------------------------


class Canary:
    """Writes a file where somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def _weights(content: bytes, directory: Path) -> object:
    (directory / "model.safetensors").write_bytes(content)
    return read_header(directory / "model.safetensors")


def _weights_behind_a_length(content: bytes, directory: Path) -> object:
    return _weights(struct.pack("<Q", len(content)) + content, directory)


def _model(content: bytes, directory: Path) -> object:
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    (directory / "pytorch_model.bin").write_bytes(content)
    return source.resolve(str(directory))


def _index(content: bytes, directory: Path) -> object:
    (directory / "config.json").write_bytes(content)
    return source.resolve(str(directory))


def _key(content: bytes, directory: Path) -> object:
    keys = directory / "keys"
    keys.mkdir(mode=0o700)
    (keys / "identity.key").write_bytes(content)
    (keys / "identity.key").chmod(0o600)
    return Identity.load_or_create(keys)


INPUTS: list[Callable[[bytes, Path], object]] = [
    _weights,
    _weights_behind_a_length,
    _model,
    _index,
    _key,
    lambda content, directory: JoinToken.decode(content.decode("latin-1")),
    lambda content, directory: stage_pb2.StreamFramesRequest.FromString(content),
]


@pytest.mark.parametrize("read", INPUTS)
def test_a_canary_is_never_hatched(read: Callable[[bytes, Path], object], tmp_path: Path) -> None:
    from google.protobuf.message import DecodeError

    hatched = tmp_path / "hatched"
    with contextlib.suppress(DsdError, DecodeError):
        read(pickle.dumps(Canary(hatched)), tmp_path)
    assert not hatched.exists()
    pickle.loads(pickle.dumps(Canary(hatched)))
    assert hatched.exists(), "the canary itself is dead"


# -- S6: model ids -----------------------------------------------------------------------------------------------------

NASTY = ["..", ".", "", "a", "Qwen", "~", "C:", "\0", "%2e%2e", "ｅ", "..\\x", "@", "@../../x", "-", " ", "x" * 200]
PARTS = st.sampled_from(NASTY)
IDS = st.one_of(
    st.text(max_size=30),
    st.lists(PARTS, max_size=4).map("/".join),
    st.tuples(st.sampled_from(["Qwen/Qwen3-8B", "gpt2"]), st.text(max_size=12)).map("@".join),
)


class Cache:
    """In place of the hub: where its cache would put an id's files."""

    def find(self, model: str) -> Path:
        repository, _, revision = model.partition("@")
        folder = Path("/cache") / f"models--{repository.replace('/', '--')}"
        self.path = folder / "refs" / (revision or "main")
        return self.path


@given(IDS)
@example("../../etc")
@example("a/../../etc")
@example("Qwen/Qwen3-8B@../../../etc/passwd")
@example("Qwen/Qwen3-8B@/etc/passwd")
@example("Qwen/Qwen3-8B@main")
@example("~nobody-of-that-name/model")
@example("~\0")
@example("x" * 5000)
@example("~\ud800")
@settings(max_examples=count(2_000, 100_000), deadline=None)
def test_an_id_that_reaches_the_hub_stays_in_its_cache(model: str) -> None:
    import os

    from dsd_core.model import hub

    cache, found = Cache(), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.HubRepository, "find", cache.find)
        with contextlib.suppress(DsdError):
            found = source._repository(model)
    if isinstance(found, Path):
        inside = os.path.normpath(found)
        assert inside == str(found)
        assert inside.startswith("/cache/models--")
        assert "\0" not in inside


def test_ordinary_ids_reach_the_hub() -> None:
    for model in ("Qwen/Qwen3-8B", "gpt2", "a/b@main", "a/b@refs/pr/1", "mistralai/Mixtral-8x7B-v0.1@0123456789abcdef"):
        assert source._HUB_ID.fullmatch(model)
