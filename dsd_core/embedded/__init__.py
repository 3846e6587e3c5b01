"""The small pair of models that ships with the project, so that it answers without a network.

`README.md` beside this file is its model card. Importing this package loads neither torch nor transformers.
"""

from pathlib import Path
from typing import Final

TARGET: Final = Path(__file__).parent / "target"
DRAFTER: Final = Path(__file__).parent / "drafter"

__all__ = ["DRAFTER", "TARGET"]
