"""What a session's target chooses at a position, and what may stand beside it."""
