"""The names of peers."""

import base64
from typing import NewType

PeerId = NewType("PeerId", str)
"""A peer's public key, in base32: 52 characters."""

Handle = NewType("Handle", bytes)
"""The first 80 bits of a peer's key, which tell the peers of one swarm apart. Proof of nothing."""

HANDLE_BYTES = 10
_HANDLE_CHARACTERS = 16


def handle_of(peer: PeerId) -> Handle:
    return Handle(base64.b32decode(peer[:_HANDLE_CHARACTERS].upper()))
