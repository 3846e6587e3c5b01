"""Channels between peers."""
