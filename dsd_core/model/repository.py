"""A model's files, wherever they are: what a place of files must offer, and the simplest one, a directory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dsd_core.model.checksums import listed
from dsd_core.model.weight_file import TensorShape, read_header


class Repository(Protocol):
    """Files by name. `str` of it is what to call it in a message."""

    @property
    def directory(self) -> Path:
        """The local directory where fetched files lie."""

    @property
    def files(self) -> frozenset[str]:
        """The files it holds, fetched or not."""

    def fetch(self, file: str) -> Path | None:
        """The local path of a file, downloaded first where need be, or None if the repository has no such file."""

    def header(self, file: str) -> Mapping[str, TensorShape]:
        """The tensors of a safetensors file, without fetching the rest of it."""

    def checksum(self, file: str) -> str | None:
        """The SHA-256 that a fetched file must have, in hex, or None where nobody says. Raises InvalidWeights."""


@dataclass(frozen=True, slots=True)
class Directory:
    directory: Path

    def __str__(self) -> str:
        return str(self.directory)

    @property
    def files(self) -> frozenset[str]:
        return files_in(self.directory)

    def fetch(self, file: str) -> Path | None:
        path = self.directory / file
        return path if path.is_file() else None

    def header(self, file: str) -> Mapping[str, TensorShape]:
        return read_header(self.directory / file)

    def checksum(self, file: str) -> str | None:
        return listed(self.directory, file)


def files_in(directory: Path) -> frozenset[str]:
    return frozenset(path.name for path in directory.iterdir() if path.is_file())


def one_line(error: BaseException) -> str:
    """The first line of an error's message; the hub's run over many."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
