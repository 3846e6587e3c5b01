"""What the project claims, measured. Each module prints a table; `python -m benchmarks` runs them all."""
