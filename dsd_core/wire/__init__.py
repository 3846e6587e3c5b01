"""The wire format: generated stubs, and the codec between them and the core's types."""

from dsd_core.wire.versions import Versions

PROTOCOL_VERSION = 1

VERSIONS = Versions(oldest=1, newest=PROTOCOL_VERSION)
"""What this release speaks."""
