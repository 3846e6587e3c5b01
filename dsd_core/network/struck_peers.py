"""Peers that were caught at something small: strikes are never forgiven, so they outlive the process."""

from collections import Counter
from pathlib import Path

from dsd_core.network import private_file
from dsd_core.network.identity import PeerId

DIRECTORY = "struck_peers"


class StruckPeers:
    """A file for each strike, ID.1, ID.2 and so on, with the reason in it."""

    def __init__(self, data_dir: Path | None) -> None:
        """Kept in `data_dir`; with None, of this process alone."""
        self._directory = data_dir / DIRECTORY if data_dir else None
        self._strikes: Counter[PeerId] = Counter()

    def count(self, peer: PeerId) -> int:
        return self._strikes[peer] + self._count_kept(peer)

    def strike(self, peer: PeerId, why: str) -> None:
        """On a full disk it counts for this process alone. Raises UsageError for a directory of no use."""
        if self._directory is None or self._keep(self._directory, peer, why) is None:
            self._strikes[peer] += 1

    def _keep(self, directory: Path, peer: PeerId, why: str) -> bool | None:
        return private_file.create_if_room(directory / f"{peer}.{self._count_kept(peer) + 1}", f"{why}\n".encode())

    def _count_kept(self, peer: PeerId) -> int:
        return sum(1 for _ in self._directory.glob(f"{peer}.*")) if self._directory else 0
