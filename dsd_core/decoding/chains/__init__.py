"""Which peers hold which layers, and which of them a session goes through."""
