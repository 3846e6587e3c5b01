import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors import safe_open

from dsd_core.embedded import DRAFTER, TARGET
from dsd_core.embedded.figures import acceptance, answers, greedy_pairs, majority_share, seconds_per_token
from dsd_core.embedded.shapes import MAX_POSITIONS, load_model
from dsd_core.embedded.vocabulary import END_ID, VOCAB_SIZE, load_tokenizer
from dsd_core.embedded.word_problems import Split, draw

_FILES = {"config.json", "generation_config.json", "SHA256SUMS", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small models are as fast on one thread, and far faster when the other cores are busy."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize("folder", [TARGET, DRAFTER])
def test_a_folder_is_a_model_directory(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == _FILES
    config = json.loads((folder / "config.json").read_text())
    assert (config["vocab_size"], config["max_position_embeddings"]) == (VOCAB_SIZE, MAX_POSITIONS)


@pytest.mark.parametrize("folder", [TARGET, DRAFTER])
def test_weights_are_bfloat16(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", "np") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_the_pair_is_small() -> None:
    assert sum(path.stat().st_size for folder in (TARGET, DRAFTER) for path in folder.iterdir()) < 32_000_000


def test_naming_the_pair_loads_no_torch() -> None:
    code = "import sys, dsd_core.embedded; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("one_thread")
def test_the_target_answers_held_out_problems() -> None:
    rng = Random(7)
    problems = [draw(rng, Split.HELD_OUT) for _ in range(16)]
    right = answers(load_model(TARGET), load_tokenizer(TARGET), problems)
    assert sum(right) / len(right) > max(0.6, 2 * majority_share(problems))


@pytest.mark.usefixtures("one_thread")
def test_the_drafter_is_mostly_accepted_and_smaller() -> None:
    rng, tokenizer = Random(8), load_tokenizer(TARGET)
    target, drafter = load_model(TARGET), load_model(DRAFTER)
    prompts = [tokenizer.encode(draw(rng, Split.HELD_OUT).prompt).ids for _ in range(6)]
    pairs = greedy_pairs(target, prompts, num_new=64)
    assert 0.4 < acceptance(drafter, pairs).share < 0.95
    assert all(END_ID not in continuation[:-1] for _, continuation in pairs)
    assert drafter.num_parameters() < 0.5 * target.num_parameters()
    # How much sooner it is, evaluate.py prints: on a machine that others use the order alone may be the other way round.
    assert all(seconds > 0 for seconds in seconds_per_token([target, drafter], prompts[0], 32, num_tokens=32))
