"""What was probably meant by the name of a model that is not there."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

CLOSE = 0.6


def advice(name: str, known: Iterable[str], otherwise: str) -> str:
    """The nearest of the known names, if one is near; else what to do in any case."""
    by_lower = {each.lower(): each for each in known if each != name}
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=CLOSE)
    return f"did you mean {by_lower[near[0]]}?" if near else otherwise


def directories_beside(path: Path) -> list[str]:
    """Models in the directory where another was looked for."""
    try:
        return [str(each.parent) for each in path.parent.glob("*/config.json")]
    except OSError:
        return []


def cached_models() -> list[str]:
    """Ids of models that were fetched from the hub before."""
    from huggingface_hub import constants

    try:
        folders = [each.name for each in Path(constants.HF_HUB_CACHE).glob("models--*") if each.is_dir()]
    except OSError:
        return []
    return [folder.removeprefix("models--").replace("--", "/") for folder in folders]
