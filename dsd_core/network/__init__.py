"""Channels between peers."""

import os

# Else gRPC's core writes to stderr by itself; what concerns us reaches us as an exception.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
