"""Prompts from a file of JSON lines, as data sets come."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

from dsd_core.errors import UsageError


def read_prompts(path: Path, limit: int | None = None) -> list[str]:
    """The first `limit` prompts of a file, one a line: a string, an object with `prompt` (HumanEval) or `text`, or one with
    `question` (GSM8K), which is asked as the embedded pair knows it. Raises UsageError."""
    return [prompt for prompt, _ in read_records(path, limit)]


def read_records(path: Path, limit: int | None = None) -> list[tuple[str, Any]]:
    """The same prompts, each with all that its line says. Raises UsageError."""
    try:
        with path.open(encoding="utf-8") as lines:
            filled = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
            records = [_record(line, f"{path}, line {number}") for number, line in islice(filled, limit)]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); name a file of JSON lines") from None
    if not records:
        raise UsageError(f"{path} has no prompts; write one a line, as JSON")
    return records


def _record(line: str, where: str) -> tuple[str, Any]:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError(f"{where} is not JSON; write a string, or an object with prompt, text or question") from None
    match record:
        case str(text) | {"prompt": str(text)} | {"text": str(text)} if text:
            return text, record
        case {"question": str(question)} if question:
            return f"Question: {question}\nAnswer:", record
        case _:
            raise UsageError(f"{where} holds no prompt; write a string, or an object with prompt, text or question")
