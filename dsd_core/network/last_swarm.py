"""The swarm that a peer was in last, kept on disk as a join token: a seed is needed only once."""

from pathlib import Path

from dsd_core.errors import UsageError
from dsd_core.network import private_file
from dsd_core.network.join_token import JoinToken

FILE = "swarm.token"


class LastSwarm:
    """One token in a file, always whole. People can read it, copy it, and delete it to be strangers again."""

    def __init__(self, data_dir: Path | None) -> None:
        """Kept in `data_dir`; with None, not at all."""
        self._path = data_dir / FILE if data_dir else None

    def read(self) -> JoinToken | None:
        """Raises UsageError for a damaged file."""
        kept = private_file.read(self._path) if self._path else None
        if kept is None:
            return None
        try:
            return JoinToken.decode(kept.decode("ascii"))
        except (UnicodeDecodeError, UsageError):
            raise UsageError(f"{self._path} is damaged; delete it, and join again with --join") from None

    def keep(self, token: JoinToken) -> None:
        """Raises StorageFull or UsageError where it cannot be written."""
        if self._path is not None:
            private_file.replace(self._path, f"{token.encode()}\n".encode("ascii"))
