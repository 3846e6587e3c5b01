"""Where a peer keeps what must outlive it: its key, and whom it knows."""

import os
import sys
from pathlib import Path


def default(name: str) -> Path:
    """The user's own place for such things, by the platform's custom."""
    if sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return home / "dsd" / name
