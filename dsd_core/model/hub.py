"""A repository of the Hugging Face hub as a place of files."""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors, hf_hub_download

from dsd_core.errors import InvalidWeights, ModelNotFound, StorageFull
from dsd_core.model.checksums import of_blob
from dsd_core.model.nearest import advice, cached_models
from dsd_core.model.repository import files_in, one_line
from dsd_core.model.weight_file import TensorShape, read_header

log = logging.getLogger(__name__)

NetworkError: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
"""Of the HTTP library that this version of huggingface_hub uses."""


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository at one commit, so that all files fit together even if its owner changes it meanwhile.

    The environment decides, as everywhere with huggingface_hub: HF_HOME, HF_TOKEN, HF_HUB_OFFLINE.
    """

    repository_id: str
    commit: str
    directory: Path
    files: frozenset[str]

    @classmethod
    def find(cls, model: str) -> "HubRepository":
        """`model` is ID or ID@REVISION. Raises ModelNotFound."""
        repository_id, _, revision = model.partition("@")
        if not constants.HF_HUB_OFFLINE:  # it may take a minute to find that nobody answers
            log.info("looking for %s in the cache and on the hub", repository_id)
        with _hub_errors(repository_id, "config.json"):
            config = Path(hf_hub_download(repository_id, "config.json", revision=revision or None))
            commit, directory = config.parent.name, config.parent
            return cls(repository_id, commit, directory, _list_files(repository_id, commit, directory))

    def __str__(self) -> str:
        return self.repository_id

    def fetch(self, file: str) -> Path | None:
        path = self.directory / file
        if path.is_file() or file not in self.files:  # a commit never changes, so there is nothing to ask
            return path if path.is_file() else None
        with _hub_errors(self.repository_id, file):
            return Path(hf_hub_download(self.repository_id, file, revision=self.commit))

    def header(self, file: str) -> Mapping[str, TensorShape]:
        if (self.directory / file).is_file():
            return read_header(self.directory / file)
        remembered = _parse_header(_recall(self.commit, file))
        return self._fetch_header(file) if remembered is None else remembered

    def checksum(self, file: str) -> str | None:
        return of_blob(self.directory / file)

    def _fetch_header(self, file: str) -> Mapping[str, TensorShape]:
        with _hub_errors(self.repository_id, file):
            metadata = HfApi().parse_safetensors_file_metadata(self.repository_id, file, revision=self.commit)
        header = {name: TensorShape(str(info.dtype), tuple(info.shape)) for name, info in metadata.tensors.items()}
        _remember(self.commit, file, {name: [tensor.dtype, tensor.shape] for name, tensor in header.items()})
        return header


def _list_files(repository_id: str, commit: str, directory: Path) -> frozenset[str]:
    """What the commit holds. Where nobody can be asked, what the cache holds of it."""
    remembered = _recall(commit, "files")
    if isinstance(remembered, list):
        return frozenset(map(str, remembered))
    try:
        files = HfApi().list_repo_files(repository_id, revision=commit)
    except errors.HfHubHTTPError:  # the hub's answer, which is a NetworkError too
        raise
    except (errors.OfflineModeIsEnabled, NetworkError):
        return files_in(directory)
    _remember(commit, "files", files)
    return frozenset(files)


def _parse_header(remembered: Any) -> dict[str, TensorShape] | None:
    try:
        return {name: TensorShape(dtype, tuple(shape)) for name, (dtype, shape) in remembered.items()}
    except (ValueError, TypeError, AttributeError):
        return None


def _recall(commit: str, name: str) -> Any:
    """What `_remember` wrote, or None if there is nothing that can be read."""
    try:
        return json.loads(_record(commit, name).read_bytes())
    except (OSError, ValueError):
        return None


def _remember(commit: str, name: str, content: Any) -> None:
    """Keep what a commit never changes, so that a node can start again without a network and without delay."""
    path = _record(commit, name)
    with contextlib.suppress(OSError):  # a full or read-only disk only costs asking again
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def _record(commit: str, name: str) -> Path:
    return Path(constants.HF_HOME, "dsd", "commits", commit, f"{name}.json")


@contextlib.contextmanager
def _hub_errors(repository_id: str, file: str) -> Iterator[None]:
    """Turn the hub's errors into one-line ones: ModelNotFound, InvalidWeights for a file that is not safetensors, or
    StorageFull. What was fetched in part is gone by then: a file is put in its place when it is whole.
    """
    try:
        yield
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        what_to_do = advice(repository_id, cached_models(), "go online once to fetch it")
        raise ModelNotFound(
            f"{repository_id} is not in the local cache and the hub cannot be reached; {what_to_do}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise ModelNotFound(f"{repository_id} lacks a file of a model ({one_line(error)}); choose another") from error
    except errors.GatedRepoError as error:
        raise ModelNotFound(f"{repository_id} is gated; accept its terms on the hub and set HF_TOKEN") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        what_to_do = advice(repository_id, cached_models(), "check the id and revision, and HF_TOKEN if it is private")
        raise ModelNotFound(f"the hub has no model {repository_id}; {what_to_do}") from error
    except (errors.SafetensorsParsingError, errors.NotASafetensorsRepoError) as error:
        raise InvalidWeights(f"{repository_id} has no sound safetensors weights; choose another revision") from error
    except (OSError, NetworkError) as error:
        if isinstance(error, OSError) and error.errno in StorageFull.NUMBERS:
            raise StorageFull(
                f"no room for {file} of {repository_id} in {constants.HF_HUB_CACHE} ({error.strerror}); make room there "
                "(*.incomplete are leftovers of downloads that were killed), or set HF_HOME to a directory with more"
            ) from error
        raise ModelNotFound(
            f"the hub did not answer for {repository_id} ({one_line(error)}); try again, or name a local directory"
        ) from error
