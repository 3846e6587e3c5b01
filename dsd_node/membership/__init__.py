"""A node's part in the swarm: whom it knows, what it says of itself, which layers it takes."""
