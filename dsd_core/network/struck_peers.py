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
        if self._directory is None:
            return self._strikes[peer]
        return sum(1 for _ in self._directory.glob(f"{peer}.*"))

    def strike(self, peer: PeerId, why: str) -> None:
        """Raises UsageError where it cannot be remembered."""
        if self._directory is None:
            self._strikes[peer] += 1
        else:
            private_file.create(self._directory / f"{peer}.{self.count(peer) + 1}", f"{why}\n".encode())
