"""Small files that nobody else may write or read, always whole: made once, or replaced by another."""

import logging
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dsd_core.errors import StorageFull, UsageError

log = logging.getLogger(__name__)

MAX_BYTES = 4096


def create(path: Path, content: bytes) -> bool:
    """Put `content` at `path`, whole or not at all. False if there is a file already, which then stays as it is.

    Of several processes that race one wins, and all read the same. Raises StorageFull where there is no room, and
    UsageError where it cannot be for another reason.
    """
    # Unlike a rename, a link never replaces what another process was first to put there.
    return _write(path, content, os.link)


def create_if_room(path: Path, content: bytes) -> bool | None:
    """As `create`; on a full disk None, and a warning: no reason to stop for whoever can remember it without a file."""
    try:
        return create(path, content)
    except StorageFull as error:
        log.warning("%s", error)
        return None


def replace(path: Path, content: bytes) -> None:
    """Put `content` at `path`, whole or not at all, in place of what is there. Raises StorageFull or UsageError."""
    _write(path, content, os.replace)


def read(path: Path) -> bytes | None:
    """None if there is no such file. Raises UsageError for one that others could have written or read."""
    try:
        _require_own(path.parent, path.parent.stat(), others_may=0o055)
        _require_own(path, path.stat(), others_may=0)
        if not path.is_file():
            raise UsageError(f"{path} is not a file; move it away, or name another --data-dir")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {_reason(error)}; make it readable, or name another --data-dir") from None


def _write(path: Path, content: bytes, put: Callable[[str, Path], None]) -> bool:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_own(path.parent, path.parent.stat(), others_may=0o055)
        return _put(path, content, put)
    except OSError as error:
        if error.errno in StorageFull.NUMBERS:
            raise StorageFull(f"no room for {path}: {_reason(error)}; make room, or name another --data-dir") from None
        raise UsageError(f"cannot write {path}: {_reason(error)}; name another directory with --data-dir") from None


def _put(path: Path, content: bytes, put: Callable[[str, Path], None]) -> bool:
    descriptor, draft = tempfile.mkstemp(prefix=".new-", dir=path.parent)  # of mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        put(draft, path)
    except FileExistsError:
        return False
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft)
    return True


def _require_own(path: Path, status: os.stat_result, *, others_may: int) -> None:
    if os.name != "posix":
        return
    if status.st_uid not in (os.geteuid(), 0):
        raise UsageError(f"{path} belongs to another user, who could read or replace it; name another --data-dir")
    if excess := stat.S_IMODE(status.st_mode) & 0o077 & ~others_may:
        raise UsageError(f"{path} is open to other users (mode {excess:03o} too much); run chmod go-{_letters(excess)} on it")


def _letters(mode: int) -> str:
    """As chmod names them, whoever of group and others it is about."""
    return "".join(letter for letter, bits in (("r", 0o44), ("w", 0o22), ("x", 0o11)) if mode & bits)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
