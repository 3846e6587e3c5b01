"""What every part of one model has in common, wherever it is served."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model as its files say it is: the same on every machine that has it."""

    manifest_hash: str
    """Hex SHA-256 over configuration and tensors. The rest follows from it, for whoever has the files."""
    num_layers: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    """The longest context that the model is made for."""
