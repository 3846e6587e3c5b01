"""A model's own defaults for generation."""

from typing import Any

from dsd_core.model.source import ModelSource, read_json


def load_generation_settings(source: ModelSource) -> dict[str, Any]:
    """The content of generation_config.json, empty where a model has none."""
    return read_json(source.repository, "generation_config.json") or {}
