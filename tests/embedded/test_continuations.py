import json
from pathlib import Path

import torch

from dsd_core.embedded import DRAFTER
from dsd_core.embedded.continuations import continuations, read_texts
from dsd_core.embedded.shapes import load_model
from dsd_core.embedded.vocabulary import END_ID, load_tokenizer


def test_a_batch_continues_each_prompt_as_alone_and_in_the_order_given() -> None:
    model, tokenizer = load_model(DRAFTER), load_tokenizer(DRAFTER)
    texts = ("Question: Mia has 3 shells and finds 4 more.\nAnswer:", "Question:", "def add(a, b):")
    prompts = [tokenizer.encode(text).ids for text in texts]
    together = continuations(model, prompts, num_new=6)
    assert together == [continuations(model, [prompt], num_new=6)[0] for prompt in prompts]


def test_a_greedy_continuation_is_the_models_own_choice() -> None:
    model, prompt = load_model(DRAFTER), load_tokenizer(DRAFTER).encode("Question: How").ids
    (written,) = continuations(model, [prompt], num_new=5)
    with torch.inference_mode():
        choices = model(torch.tensor([prompt + written])).logits[0].argmax(-1).tolist()
    assert written == choices[len(prompt) - 1 : -1]


def test_texts_weigh_the_prompt_less(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps([[1, 2], [3, END_ID]]) + "\n")
    (row,) = read_texts(path)
    assert row.tokens == [1, 2, 3, END_ID]
    assert row.weights[0] < row.weights[2] == 1.0
