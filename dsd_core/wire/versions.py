"""Which versions of the protocol two peers have in common, settled in their first exchange."""

from dataclasses import dataclass

from dsd_core.errors import Refused


@dataclass(frozen=True, slots=True)
class Versions:
    """The protocols from `oldest` to `newest`, both included."""

    oldest: int
    newest: int

    def agree(self, theirs: "Versions", *, peer: str) -> int:
        """The newest version that both speak. Raises Refused, saying who has to update."""
        agreed = min(self.newest, theirs.newest)
        if agreed >= max(self.oldest, theirs.oldest):
            return agreed
        who = "this side" if self.newest < theirs.oldest else peer
        raise Refused(f"{peer} speaks protocol {theirs}, this side {self}; update DSD on {who}")

    def __str__(self) -> str:
        return str(self.newest) if self.oldest == self.newest else f"{self.oldest} to {self.newest}"


def versions_from_wire(newest: int, oldest: int) -> Versions:
    """A peer that names no oldest version speaks one alone."""
    return Versions(min(oldest or newest, newest), newest)
