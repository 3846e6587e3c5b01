import re
from collections import Counter
from itertools import islice
from random import Random

import pytest

from dsd_core.embedded.word_problems import LIMIT, Problem, Split, draw, drill, final_number, is_correct, problems, side

_EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def _some(split: Split, count: int = 300, seed: int = 0) -> list[Problem]:
    return list(islice(problems(Random(seed), split), count))


def _value(left: int, operator: str, right: int) -> float:
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[operator]


def test_the_same_seed_draws_the_same_problems() -> None:
    assert _some(Split.TRAIN, seed=5) == _some(Split.TRAIN, seed=5)
    assert _some(Split.TRAIN, seed=5) != _some(Split.TRAIN, seed=6)


def test_held_out_problems_share_neither_numbers_nor_combination_with_training() -> None:
    train, held_out = _some(Split.TRAIN, 2000), _some(Split.HELD_OUT, 300)
    assert not {problem.numbers for problem in train} & {problem.numbers for problem in held_out}
    assert not {problem.combination for problem in train} & {problem.combination for problem in held_out}


def test_a_side_is_the_same_in_every_process() -> None:
    held_out = [number for number in range(40) if side((number, 7, "Mia")) is Split.HELD_OUT]
    assert held_out == [9, 10, 13, 15, 16, 28]


@pytest.mark.parametrize("split", Split)
def test_every_solution_is_right_and_within_range(split: Split) -> None:
    for problem in _some(split):
        equations = [(int(a), op, int(b), int(c)) for a, op, b, c in _EQUATION.findall(problem.solution)]
        assert len(equations) == problem.num_steps in (2, 3, 4)
        assert all(_value(a, op, b) == result and 0 < result <= LIMIT for a, op, b, result in equations)
        assert equations[-1][3] == problem.answer
        assert is_correct(problem, problem.solution)


def test_the_question_gives_the_numbers_in_order() -> None:
    for problem in _some(Split.TRAIN):
        assert tuple(map(int, re.findall(r"\d+", problem.question))) == problem.numbers


def test_the_prompt_is_a_question_that_waits_for_its_answer() -> None:
    problem = draw(Random(0), Split.TRAIN)
    assert problem.prompt == f"Question: {problem.question}\nAnswer:"


def test_no_answer_is_frequent() -> None:
    answers = Counter(problem.answer for problem in _some(Split.HELD_OUT, 1000))
    assert answers.most_common(1)[0][1] < 100


def test_phrasings_vary() -> None:
    first_words = Counter(problem.solution.split()[0] for problem in _some(Split.TRAIN))
    assert first_words.most_common(1)[0][1] < 100


@pytest.mark.parametrize(
    ("text", "number"),
    [("#### 12", 12), ("so\n#### 7\nQuestion: more #### 8", 7), ("#### -3", -3), ("12", None), ("", None)],
)
def test_the_final_number_is_the_first_one_marked(text: str, number: int | None) -> None:
    assert final_number(text) == number


def test_a_wrong_number_is_not_correct() -> None:
    problem = draw(Random(0), Split.TRAIN)
    assert not is_correct(problem, f"#### {problem.answer}0")


def test_easier_problems_can_be_asked_for() -> None:
    problem = draw(Random(0), Split.TRAIN, num_steps=1, most=20)
    assert problem.num_steps == 1
    assert max(*problem.numbers, problem.answer) <= 20


def test_drills_are_right() -> None:
    lines = drill(Random(0), most=50, num_lines=40).splitlines()
    parsed = [_EQUATION.fullmatch(line) for line in lines]
    assert all(found and _value(int(found[1]), found[2], int(found[3])) == int(found[4]) for found in parsed)
