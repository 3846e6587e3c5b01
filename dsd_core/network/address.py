"""HOST:PORT, as people write it."""

import ipaddress
import re
from dataclasses import dataclass

from dsd_core.errors import UsageError

_ADDRESS = re.compile(r"(?:([A-Za-z0-9._-]+)|\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)\]):([0-9]{1,5})")

@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer listens, or is to be dialled. Port 0, to listen on, is any free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """From HOST:PORT or [IPv6]:PORT. Raises UsageError."""
        found = _ADDRESS.fullmatch(text)
        if found is None or int(found[3]) > 65535:
            raise UsageError(f"{text!r} is not an address; write HOST:PORT, as in 127.0.0.1:4100")
        return cls(found[1] or found[2], int(found[3]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Only programs of this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_ipv4(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).version == 4
        except ValueError:
            return False

    @property
    def is_unspecified(self) -> bool:
        """All of this machine's addresses: good to listen on, not to dial."""
        return self.host in ("0.0.0.0", "::")

    def require_loopback(self) -> None:
        """Raises UsageError beyond loopback: without TLS anybody could read and answer."""
        if not self.is_loopback:
            raise UsageError(f"{self} is not a loopback address; --insecure-loopback is for 127.0.0.1 only, so leave it out")
