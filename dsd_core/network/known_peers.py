"""Which peer was met at which address: trust on first use, remembered."""

from pathlib import Path
from urllib.parse import quote

from dsd_core.errors import Refused, UsageError
from dsd_core.network import private_file
from dsd_core.network.address import Address
from dsd_core.network.identity import PeerId, parse_peer_id

DIRECTORY = "known_peers"


class KnownPeers:
    """A file for each address, with a peer id in it: processes never overwrite each other's, and people can delete one."""

    def __init__(self, data_dir: Path | None) -> None:
        """Kept in `data_dir`; with None, remembered for this process alone."""
        self._directory = data_dir / DIRECTORY if data_dir else None
        self._met: dict[str, PeerId] = {}

    def get(self, address: Address) -> PeerId | None:
        """Raises UsageError for a damaged file."""
        path = self._directory / _key(address) if self._directory else None
        kept = private_file.read(path) if path else None
        return self._met.get(_key(address)) if path is None or kept is None else _parse(kept, path)

    def pin(self, address: Address, peer: PeerId) -> bool:
        """Remember who is at an address; True if nobody was known there. Raises Refused if it was somebody else.

        On a full disk it is remembered for this process alone.
        """
        if self._remember(address, parse_peer_id(peer)):
            return True
        known = self.get(address)
        if known != peer:
            raise Refused(f"{address} is {peer} now, and was {known}: somebody may be posing as it. {self._cure(address)}")
        return False

    def _remember(self, address: Address, peer: PeerId) -> bool:
        if self._directory is not None and _key(address) not in self._met:
            is_new = private_file.create_if_room(self._directory / _key(address), f"{peer}\n".encode())
            if is_new is not None:
                return is_new
        known = len(self._met)
        self._met.setdefault(_key(address), peer)
        return len(self._met) > known

    def _cure(self, address: Address) -> str:
        if self._directory is None:
            return "If you know why, restart this program"
        return f"If you know why, delete {self._directory / _key(address)}"


def _key(address: Address) -> str:
    """A file name on all systems, and one for each address."""
    return quote(str(address).lower(), safe="")


def _parse(kept: bytes, path: Path) -> PeerId:
    try:
        return parse_peer_id(kept.decode("ascii").removesuffix("\n"))
    except (UnicodeDecodeError, UsageError):
        raise UsageError(f"{path} is damaged; delete it to meet that peer anew") from None
