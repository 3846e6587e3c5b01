"""Which answers are right, and what it means that some are not any more."""

import json
from pathlib import Path

import pytest

from dsd_client.paired_loss import PairedLoss
from dsd_client.questions import made_up, read_questions

GSM8K = {"question": "How many?", "answer": "999 + 1 = <<999+1=1000>>1,000\n#### 1,000"}
HUMAN_EVAL = {"task_id": "HumanEval/0", "prompt": "def one():\n    return", "entry_point": "one"}


def written(tmp_path: Path, *records: object) -> Path:
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_made_up_problems_are_judged_by_their_number() -> None:
    questions = made_up(3, seed=5)
    assert questions.prompts == made_up(3, seed=5).prompts != made_up(3, seed=6).prompts
    assert questions.right(questions.prompts, ["#### -1", "none", "#### 1000"]) == [False] * 3
    [prompt] = made_up(1).prompts
    judge = made_up(1).judges[prompt]
    assert [number for number in range(101) if judge(f"It is\n#### {number}")] != []


@pytest.mark.parametrize(
    ("record", "text", "right"),
    [
        (GSM8K, " 999 + 1\n#### 1000", True),
        (GSM8K, "#### 1", False),
        (HUMAN_EVAL, " 1\n\nprint(", True),
        (HUMAN_EVAL, " )(\n\n", False),
    ],
)
def test_a_file_says_what_is_right(tmp_path: Path, record: dict[str, str], text: str, right: bool) -> None:
    questions = read_questions(written(tmp_path, record))
    assert questions.right(questions.prompts, [text]) == [right]
    assert questions.name == "some"


def test_of_prompts_alone_nobody_can_say(tmp_path: Path) -> None:
    questions = read_questions(written(tmp_path, "once upon a time", HUMAN_EVAL))
    assert questions.right(questions.prompts, ["", ""]) is None


def test_a_loss_is_paired() -> None:
    before, after = [True] * 90 + [False] * 10, [True] * 86 + [False] * 13 + [True]
    loss = PairedLoss.between(before, after)
    assert loss == PairedLoss(count=100, lost=4, gained=1)
    assert loss.share == pytest.approx(0.03)
    assert loss.upper_bound == pytest.approx(0.03 + 1.645 * (5 - 9 / 100) ** 0.5 / 100)


def test_that_nothing_was_lost_does_not_prove_that_nothing_can_be() -> None:
    assert PairedLoss(count=300, lost=0, gained=0).upper_bound == pytest.approx(0.01)
