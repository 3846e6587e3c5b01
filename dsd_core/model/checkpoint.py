"""A model's checkpoint: which of its tensors fill which parameters of a span.

It starts from the parameters and asks where each comes from, so a missing tensor has a name and nothing else is read.
Checkpoints keep the experts of a mixture one by one, in either of two spellings; the module wants them in one tensor.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from dsd_core.errors import InvalidWeights
from dsd_core.model.checksums import require_intact
from dsd_core.model.source import ModelSource
from dsd_core.model.weight_file import WeightFile

Progress = Callable[[int, int], None]
"""Told the bytes loaded so far, and the bytes to load in all."""

PREFIXES = ("model.", "", "gpt_neox.", "language_model.model.", "model.language_model.")
"""What checkpoints put before the base model's names. A text decoder beside a vision tower has the long ones."""

EXPERTS = {
    "mlp.experts.gate_up_proj": (
        ("mlp.experts.{}.gate_proj.weight", "mlp.experts.{}.up_proj.weight"),
        ("block_sparse_moe.experts.{}.w1.weight", "block_sparse_moe.experts.{}.w3.weight"),
    ),
    "mlp.experts.down_proj": (
        ("mlp.experts.{}.down_proj.weight",),
        ("block_sparse_moe.experts.{}.w2.weight",),
    ),
}
"""The checkpoint's tensors of one expert, stacked by rows in the module's fused one."""

OTHER_SPELLINGS = {"mlp.gate.weight": "block_sparse_moe.gate.weight"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A checkpoint's tensor and the contiguous part of a parameter that it fills."""

    name: str
    into: torch.Tensor


class Checkpoint:
    """The names in a model's checkpoint."""

    def __init__(self, source: ModelSource, embedding: str) -> None:
        self._source = source
        self._prefix = _find_prefix(source.tensors, embedding)

    def __contains__(self, name: str) -> bool:
        return name in self._source.tensors

    def base_name(self, name: str) -> str:
        """The checkpoint's name for one of the base model."""
        return self._prefix + name

    def head_name(self, spellings: Iterable[str]) -> str | None:
        """The head's tensor, or None if the checkpoint has none of its own."""
        outer = self._prefix.removesuffix("model.")
        names = (prefix + name for name in spellings for prefix in ("", outer, self._prefix))
        return next((name for name in names if name in self), None)

    def pieces(self, name: str, parameter: torch.Tensor) -> list[Piece]:
        """What fills the base model's parameter of that name (layers numbered as in the checkpoint)."""
        whole = self.base_name(name)
        owner, fused = _split_fused(whole)
        if whole not in self and fused is not None:
            return list(self._expert_pieces(owner, fused, parameter))
        for ending, other in OTHER_SPELLINGS.items():
            if whole not in self and whole.endswith(ending):
                whole = whole.removesuffix(ending) + other
        return [Piece(whole, parameter)]

    def _expert_pieces(self, owner: str, fused: str, parameter: torch.Tensor) -> Iterator[Piece]:
        first, *others = EXPERTS[fused]
        names = next((names for names in others if owner + names[0].format(0) in self), first)
        for number, expert in enumerate(parameter):
            for name, rows in zip(names, expert.chunk(len(names)), strict=True):
                yield Piece(owner + name.format(number), rows)

    def read(self, pieces: list[Piece], progress: Progress | None = None) -> None:
        """Check all pieces, then read them file by file. Raises InvalidWeights."""
        for piece in pieces:
            self._check(piece)
        total = sum(piece.into.nbytes for piece in pieces)
        loaded = 0
        for file, held in self._by_file(pieces).items():
            for piece in _read_file(self._path(file), held):
                loaded += piece.into.nbytes
                if progress is not None:
                    progress(loaded, total)

    def _check(self, piece: Piece) -> None:
        stored = self._source.tensors.get(piece.name)
        if stored is None:
            raise InvalidWeights(f"{self._source.repository} lacks the tensor {piece.name}; download it again")
        if stored.shape != tuple(piece.into.shape):
            raise InvalidWeights(
                f"the tensor {piece.name} of {self._source.repository} has the shape {list(stored.shape)}, but its "
                f"config asks for {list(piece.into.shape)}; download it again"
            )

    def _by_file(self, pieces: list[Piece]) -> Mapping[str, list[Piece]]:
        by_file: dict[str, list[Piece]] = defaultdict(list)
        for piece in pieces:
            by_file[self._source.files[piece.name]].append(piece)
        return by_file

    def _path(self, file: str) -> Path:
        path = self._source.repository.fetch(file)
        if path is None:
            raise InvalidWeights(f"{self._source.repository} lacks {file}, which its index names; download it again")
        if (checksum := self._source.repository.checksum(file)) is not None:
            require_intact(path, checksum)
        return path


def _read_file(path: Path, pieces: list[Piece]) -> Iterator[Piece]:
    """Read pieces of one file; yields each when it is done."""
    with WeightFile(path) as weights:
        for piece in pieces:
            weights.read(piece.name, piece.into)
            yield piece


def _find_prefix(names: Mapping[str, object], embedding: str) -> str:
    """What stands before the base model's names, found by the one tensor that every checkpoint has."""
    for prefix in PREFIXES:
        if f"{prefix}{embedding}.weight" in names:
            return prefix
    raise InvalidWeights(f"the checkpoint has no tensor {PREFIXES[0]}{embedding}.weight; download the model again")


def _split_fused(name: str) -> tuple[str, str | None]:
    """The owner of a fused expert tensor and its key in EXPERTS, or the name and None."""
    for fused in EXPERTS:
        if name.endswith(fused):
            return name.removesuffix(fused), fused
    return name, None
