"""Who is in the swarm, decided: no clock, no chance of its own, no sockets."""
