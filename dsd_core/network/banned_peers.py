"""Peers that we will have nothing to do with."""

from pathlib import Path

from dsd_core.network import private_file
from dsd_core.network.identity import PeerId

DIRECTORY = "banned_peers"
REASON = 200
"""Characters of one that are shown."""


class BannedPeers:
    """A file for each, named by its id, with the reason in it: people can add one with `touch`, and delete one."""

    def __init__(self, data_dir: Path | None) -> None:
        """Kept in `data_dir`; with None, of this process alone."""
        self._directory = data_dir / DIRECTORY if data_dir else None
        self._banned: dict[PeerId, str] = {}

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._banned or (self._directory is not None and (self._directory / peer).exists())

    def reason(self, peer: PeerId) -> str:
        """Why a peer is banned; empty where nobody said, or it is not."""
        if peer in self._banned or self._directory is None:
            return self._banned.get(peer, "")
        try:
            return (self._directory / peer).read_text(errors="replace").strip()[:REASON]
        except OSError:
            return ""

    def ban(self, peer: PeerId, why: str) -> None:
        """Twice does no harm. On a full disk, for this process alone. Raises UsageError for a directory of no use."""
        if self._directory is None or private_file.create_if_room(self._directory / peer, f"{why}\n".encode()) is None:
            self._banned.setdefault(peer, why)
