"""The committed stubs are those of the schema. Where the generator is installed they are compared byte for byte."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor import Descriptor

from dsd_core.wire import PROTOCOL_VERSION
from dsd_core.wire.v1 import drafter_pb2, drafter_pb2_grpc, peer_pb2, peer_pb2_grpc, stage_pb2, stage_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent.parent
SCHEMAS = {
    stage_pb2: ROOT / "proto/dsd/v1/stage.proto",
    peer_pb2: ROOT / "proto/dsd/v1/peer.proto",
    drafter_pb2: ROOT / "proto/dsd/v1/drafter.proto",
}
METHODS = {
    stage_pb2: {"Describe", "OpenSession", "CloseSession", "StreamFrames", "StreamVerdicts"},
    peer_pb2: {"Exchange", "Probe", "ListPeers", "DialBack"},
    drafter_pb2: {"DescribeDrafter", "StreamDrafts"},
}
STUBS = ROOT / "dsd_core/wire/v1"
GENERATOR = ROOT / ".venv-protoc/bin/python"


EACH = pytest.mark.parametrize("stubs", list(SCHEMAS), ids=lambda stubs: stubs.__name__.split(".")[-1])


@EACH
def test_package_and_service_have_sane_names(stubs: ModuleType) -> None:
    assert stubs.DESCRIPTOR.package == "dsd.v1"
    [service] = stubs.DESCRIPTOR.services_by_name.values()
    assert {method.name for method in service.methods} == METHODS[stubs]
    for method in service.methods:
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"


@pytest.mark.parametrize(
    ("stubs", "service"),
    [(stage_pb2_grpc, "StageService"), (peer_pb2_grpc, "PeerService"), (drafter_pb2_grpc, "DraftService")],
)
def test_the_stub_calls_the_service_by_its_name(stubs: ModuleType, service: str) -> None:
    source = Path(str(stubs.__file__)).read_text()
    assert set(re.findall(r"'/([\w.]+)/\w+'", source)) == {f"dsd.v1.{service}"}
    assert hasattr(stubs, f"{service}Stub")
    assert hasattr(stubs, f"{service}Servicer")


@EACH
def test_the_version_is_in_the_packages_name(stubs: ModuleType) -> None:
    assert stubs.DESCRIPTOR.package == f"dsd.v{PROTOCOL_VERSION}"


def test_the_stubs_import_alone() -> None:
    """Each in a fresh interpreter, as a package of the project and not as a top-level `proto` or `stage_pb2`."""
    code = "import sys, dsd_core.wire.v1.peer_pb2_grpc; assert not {'stage_pb2', 'peer_pb2', 'proto'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


@EACH
def test_schema_and_descriptors_agree(stubs: ModuleType) -> None:
    """Names, numbers, types and labels of every field: this needs no generator."""
    assert _fields_of_schema(SCHEMAS[stubs].read_text("utf-8")) == {
        name: _fields_of(message) for name, message in stubs.DESCRIPTOR.message_types_by_name.items()
    }


def test_a_changed_schema_is_noticed() -> None:
    schema = SCHEMAS[stage_pb2].read_text("utf-8").replace("uint32 keep = 5;", "uint32 keep = 9;")
    assert _fields_of_schema(schema)["Frame"] != _fields_of(stage_pb2.Frame.DESCRIPTOR)


@pytest.mark.skipif(not GENERATOR.exists(), reason="the generator is not installed; `make proto` installs it")
def test_the_stubs_are_fresh(tmp_path: Path) -> None:
    plugins = [f"--plugin={GENERATOR.parent / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    command = [
        GENERATOR,
        "-m",
        "grpc_tools.protoc",
        "-Idsd_core/wire/v1=proto/dsd/v1",
        *plugins,
        *outputs,
        *(schema.relative_to(ROOT) for schema in SCHEMAS.values()),
    ]
    subprocess.run(list(map(str, command)), check=True, cwd=ROOT, capture_output=True)
    for made in (tmp_path / "dsd_core/wire/v1").iterdir():
        assert made.read_bytes() == (STUBS / made.name).read_bytes(), f"{made.name} is stale: run `make proto`"


_FIELD = re.compile(r"^\s*(repeated )?([\w.]+) (\w+) = (\d+);", re.M)


def _fields_of_schema(schema: str) -> dict[str, set[tuple[str, int, str, bool]]]:
    bodies = re.findall(r"^message (\w+) \{(.*?)\}", schema, re.M | re.S)
    return {
        name: {(field, int(number), kind, bool(repeated)) for repeated, kind, field, number in _FIELD.findall(body)}
        for name, body in bodies
    }


def _fields_of(message: Descriptor) -> set[tuple[str, int, str, bool]]:
    return {(field.name, field.number, _type_name(field), field.is_repeated) for field in message.fields}


def _type_name(field: object) -> str:
    kinds = {1: "double", 4: "uint64", 6: "fixed64", 13: "uint32", 2: "float", 8: "bool", 12: "bytes", 9: "string"}
    message, enum = field.message_type, field.enum_type  # type: ignore[attr-defined]
    return (message or enum).name if message or enum else kinds[field.type]  # type: ignore[attr-defined]
