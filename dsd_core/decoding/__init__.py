"""The decisions of a session, pure: no clock, no chance, no sockets, no tensors."""
