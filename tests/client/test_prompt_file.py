"""Prompts from files, in the forms that data sets have."""

from pathlib import Path

import pytest

from dsd_client.prompt_file import read_prompts
from dsd_core.errors import UsageError

LINES = """
"as it is"
{"task_id": "HumanEval/0", "prompt": "def one():", "test": "..."}

{"question": "How many?", "answer": "#### 3"}
{"text": "Once upon a time"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text(LINES)
    return path


def test_each_form_gives_its_prompt(file: Path) -> None:
    assert read_prompts(file) == ["as it is", "def one():", "Question: How many?\nAnswer:", "Once upon a time"]


def test_a_limit_reads_no_further(file: Path) -> None:
    file.write_text('"one"\n"two"\nnot JSON\n')
    assert read_prompts(file, 2) == ["one", "two"]


@pytest.mark.parametrize("line", ["not JSON", "3", '{"answer": "3"}', '{"prompt": 3}', '""', "[" * 100_000])
def test_a_line_without_a_prompt_is_named(file: Path, line: str) -> None:
    file.write_text(f'"fine"\n{line}\n')
    with pytest.raises(UsageError, match="line 2"):
        read_prompts(file)


def test_a_file_that_holds_none_is_refused(file: Path, tmp_path: Path) -> None:
    file.write_text("\n")
    with pytest.raises(UsageError, match="no prompts"):
        read_prompts(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        read_prompts(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_prompts(tmp_path / "nowhere")
