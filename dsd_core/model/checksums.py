"""Whether a weight file is, byte for byte, what its publisher made. A flipped bit otherwise is just another weight."""

import hashlib
import re
from pathlib import Path

from dsd_core.errors import InvalidWeights

CHECKSUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})[ ][ *](.+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def listed(directory: Path, file: str) -> str | None:
    """The SHA-256 of a file by the directory's own list, as `sha256sum *.safetensors > SHA256SUMS` makes it; None without.

    Raises InvalidWeights for a list that leaves the file out: then one of the two is not as it was made.
    """
    try:
        lines = (directory / CHECKSUMS).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidWeights(f"{directory / CHECKSUMS} cannot be read; make it anew, or delete it") from error
    for line in lines:
        if (match := _LINE.fullmatch(line)) and match[2] == file:
            return match[1]
    raise InvalidWeights(f"{directory / CHECKSUMS} has no line for {file}; make it anew, or delete it")


def write_checksums(directory: Path) -> None:
    """List the weight files of a directory."""
    sums = [f"{_sha256(path)}  {path.name}\n" for path in sorted(directory.glob("*.safetensors"))]
    (directory / CHECKSUMS).write_text("".join(sums), "utf-8")


def of_blob(path: Path) -> str | None:
    """The SHA-256 that the hub gave for a file in its cache: the blob behind it bears it as its name, if it is large."""
    name = path.resolve().name
    return name if _SHA256.fullmatch(name) else None


def require_intact(path: Path, expected: str) -> None:
    """Raises InvalidWeights, naming the file and both sums."""
    try:
        found = _sha256(path)
    except OSError as error:
        raise InvalidWeights(f"cannot read {path}: {error.strerror or error}; check the file") from error
    if found != expected:
        raise InvalidWeights(f"{path} is damaged: its SHA-256 is {found}, and should be {expected}; download it again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
