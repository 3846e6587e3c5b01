"""When to draft and what to send."""
