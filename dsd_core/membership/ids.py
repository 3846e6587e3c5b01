"""The names of peers."""

from typing import NewType

PeerId = NewType("PeerId", str)
"""A peer's public key, in base32: 52 characters."""

Handle = NewType("Handle", str)
"""The first 80 bits of a peer id, which tell the peers of one swarm apart. Proof of nothing."""

HANDLE_BYTES = 10
HANDLE_CHARACTERS = 16


def handle_of(peer: PeerId) -> Handle:
    return Handle(peer[:HANDLE_CHARACTERS])
