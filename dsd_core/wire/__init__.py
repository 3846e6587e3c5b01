"""The wire format: generated stubs, and the codec between them and the core's types."""

PROTOCOL_VERSION = 1
