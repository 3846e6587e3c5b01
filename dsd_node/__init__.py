"""A node: one span of a model's layers, served to the swarm."""
