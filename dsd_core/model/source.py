"""Where a model comes from: a local directory, or a repository of the Hugging Face hub at a fixed commit.

Resolving a model reads its config and the headers of its safetensors files, never a weight. Code that comes with a model
is never run, and pickled weights are never opened.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsd_core.errors import InvalidWeights, ModelNotFound, UnsupportedModel
from dsd_core.model import families
from dsd_core.model.nearest import advice, directories_beside
from dsd_core.model.repository import Directory, Repository, one_line
from dsd_core.model.shape import ModelShape
from dsd_core.model.weight_file import TensorShape

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CONFIG = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

VOLATILE_SETTINGS = frozenset({"transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache"})
"""Settings that differ between copies of the same model, or that do not change what it computes."""

_PART = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
_HUB_ID = re.compile(f"({_PART}/)?{_PART}(@{_PART}(/{_PART})*)?")
"""ID or ID@REVISION. It becomes part of paths in the cache, so nothing else gets that far."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that was found and that we can serve: what it is, and where its files are."""

    name: str
    """What the user called it."""
    config: "PretrainedConfig"
    """Of the text decoder."""
    tensors: Mapping[str, TensorShape] = field(repr=False)
    files: Mapping[str, str] = field(repr=False)
    """The file that holds each tensor."""
    repository: Repository = field(repr=False)
    manifest_hash: str
    """Hex SHA-256 over config and tensors, equal for the same model on any machine."""

    @property
    def shape(self) -> ModelShape:
        return ModelShape(self.manifest_hash, self.num_layers, self.hidden_size, self.vocab_size, self.max_positions)

    @property
    def num_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        return int(self.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def max_positions(self) -> int:
        """The longest context that the model is made for."""
        return families.max_positions(self.config)


def resolve(model: str) -> ModelSource:
    """Find a model by directory, hub id or ID@REVISION.

    Raises ModelNotFound, UnsupportedModel, or InvalidWeights where it has no sound safetensors files.
    """
    repository = _repository(model)
    settings = read_json(repository, CONFIG)
    if settings is None:
        raise ModelNotFound(f"{repository} has no {CONFIG}; name the directory or repository of a model")
    config = _text_config(settings, repository)
    files, tensors = _read_tensors(repository)
    return ModelSource(model, config, tensors, files, repository, _manifest_hash(settings, tensors))


def is_hub_id(model: str) -> bool:
    """Whether a name is spelt like a repository of the hub: NAME, OWNER/NAME, and perhaps @REVISION."""
    return _HUB_ID.fullmatch(model) is not None and ".." not in model


def _repository(model: str) -> Repository:
    try:
        path = Path(model).expanduser()
        is_directory, exists = path.is_dir(), path.exists()
    except RuntimeError:
        raise ModelNotFound(f"there is no user whose home is meant by {model[:100]!r}; check the path") from None
    except (OSError, ValueError):  # a name too long for any file, or with a null byte in it
        raise ModelNotFound(f"{model[:100]!r} can be neither a directory nor an id; check the spelling") from None
    if is_directory:
        return Directory(path)
    if exists or model.startswith((".", "/", "~")) or model.count("/") > 1:
        what_to_do = advice(str(path), directories_beside(path), "check the path, or give a hub id like Qwen/Qwen3-8B")
        raise ModelNotFound(f"there is no model directory {model}; {what_to_do}")
    if not is_hub_id(model):
        raise ModelNotFound(f"the hub has no model {model[:100]!r}; name a directory, or an id like Qwen/Qwen3-8B")
    from dsd_core.model.hub import HubRepository

    return HubRepository.find(model)


def read_json(repository: Repository, file: str) -> dict[str, Any] | None:
    """A JSON object of the repository, or None if it has no such file."""
    path = repository.fetch(file)
    if path is None:
        return None
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidWeights(f"{file} of {repository} cannot be read as JSON; download it again") from error
    if not isinstance(content, dict):
        raise InvalidWeights(f"{file} of {repository} is not a JSON object; download it again")
    return content


def _text_config(settings: dict[str, Any], repository: Repository) -> "PretrainedConfig":
    """The text decoder's config. The architecture is checked first, so that no other code of transformers sees it."""
    text_settings = settings.get("text_config", settings)
    family = families.require_supported(settings.get("model_type"))
    if settings.get("quantization_config"):
        text_settings = text_settings | {"quantization_config": settings["quantization_config"]}
    config = _build_config(text_settings, family, repository)
    families.require_servable(config)
    return config


def _build_config(settings: dict[str, Any], family: str, repository: Repository) -> "PretrainedConfig":
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    known = {name: value for name, value in settings.items() if name not in ("model_type", "auto_map")}
    try:
        config: PretrainedConfig = AutoConfig.for_model(family, **known)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnsupportedModel(
            f"the {CONFIG} of {repository} does not describe a {family} model ({one_line(error)}); correct it"
        ) from error
    return config


def _read_tensors(repository: Repository) -> tuple[dict[str, str], dict[str, TensorShape]]:
    """The file and the shape of every tensor."""
    headers = {file: repository.header(file) for file in _weight_files(repository)}
    files = {name: file for file, header in headers.items() for name in header}
    tensors = {name: shape for header in headers.values() for name, shape in header.items()}
    return files, tensors


def _weight_files(repository: Repository) -> list[str]:
    if SINGLE_FILE in repository.files:
        return [SINGLE_FILE]
    index = read_json(repository, INDEX)
    if index is None:
        raise InvalidWeights(
            f"{repository} has no safetensors weights ({SINGLE_FILE}); convert it, pickled weights are never opened"
        )
    files = index.get("weight_map")
    if not isinstance(files, dict) or not all(_is_plain_name(file) for file in files.values()):
        raise InvalidWeights(f"{INDEX} of {repository} is malformed; download it again")
    return sorted(set(files.values()))


def _is_plain_name(file: object) -> bool:
    """An index comes from a stranger: it may name files beside itself and no others."""
    return isinstance(file, str) and file.endswith(".safetensors") and "/" not in file and "\\" not in file


def _manifest_hash(settings: dict[str, Any], tensors: Mapping[str, TensorShape]) -> str:
    """Over the config file rather than the config object, whose defaults depend on the version of transformers."""
    shapes = {name: [tensor.dtype, *tensor.shape] for name, tensor in tensors.items()}
    manifest = json.dumps([_stable(settings), shapes], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(manifest.encode()).hexdigest()


def _stable(setting: Any) -> Any:
    if not isinstance(setting, dict):
        return setting
    return {name: _stable(value) for name, value in setting.items() if name not in VOLATILE_SETTINGS}
