"""Peers that we will have nothing to do with."""

from pathlib import Path

from dsd_core.network import private_file
from dsd_core.network.identity import PeerId

DIRECTORY = "banned_peers"


class BannedPeers:
    """A file for each, named by its id, with the reason in it: people can add one with `touch`, and delete one."""

    def __init__(self, data_dir: Path | None) -> None:
        """Kept in `data_dir`; with None, of this process alone."""
        self._directory = data_dir / DIRECTORY if data_dir else None
        self._banned: dict[PeerId, str] = {}

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._banned if self._directory is None else (self._directory / peer).exists()

    def ban(self, peer: PeerId, why: str) -> None:
        """Twice does no harm. Raises UsageError where it cannot be remembered."""
        if self._directory is None:
            self._banned.setdefault(peer, why)
        else:
            private_file.create(self._directory / peer, f"{why}\n".encode())
