"""The swarm behind OpenAI's interface: any client that speaks it can ask, and a page shows it in a browser."""
