"""Prints the model card's figures: `python -m dsd_core.embedded.evaluate --gsm8k-test FILE --humaneval FILE`."""

import argparse
import json
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from dsd_core.embedded import DRAFTER, TARGET
from dsd_core.embedded.figures import (
    Pair,
    acceptance,
    answers,
    greedy_pairs,
    loss,
    majority_share,
    seconds_per_token,
)
from dsd_core.embedded.shapes import load_model
from dsd_core.embedded.vocabulary import load_tokenizer
from dsd_core.embedded.word_problems import Problem, Split, draw, prompt


class Evaluation:
    """One run over a pair; every method prints its lines."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tokenizer: Tokenizer = load_tokenizer(options.target)
        self.target: Qwen3ForCausalLM = load_model(options.target)
        self.drafter: Qwen3ForCausalLM = load_model(options.drafter)
        rng = Random(options.seed)
        self.problems: list[Problem] = [draw(rng, Split.HELD_OUT) for _ in range(options.num_problems)]

    def run(self) -> None:
        self.sizes()
        self.times()
        self.accuracy()
        self.acceptance()
        self.losses()

    def sizes(self) -> None:
        for name, model, folder in self._models():
            num_bytes = sum(path.stat().st_size for path in folder.iterdir())
            print(f"{name}: {model.num_parameters() / 1e6:.2f} M parameters, {num_bytes / 1e6:.2f} MB")

    def times(self) -> None:
        torch.set_num_threads(1)
        for turn in (64, 8):
            models = [self.target, self.drafter]
            target, drafter = seconds_per_token(models, self._encode(self.problems[0].prompt), tokens_per_turn=turn)
            times = f"target {1e3 * target:.2f} ms, drafter {1e3 * drafter:.2f} ms, ratio {drafter / target:.3f}"
            print(f"time a token, one thread, in turns of {turn} tokens: {times}")
        torch.set_num_threads(self.options.num_threads)

    def accuracy(self) -> None:
        print(f"held-out made-up problems: {len(self.problems)}, majority baseline {majority_share(self.problems):.3f}")
        for name, model, _ in self._models():
            right = answers(model, self.tokenizer, self.problems)
            print(f"  {name}: {sum(right) / len(right):.3f} right; by steps {self._by_steps(right)}")

    def acceptance(self) -> None:
        for name, prompts in self._prompts().items():
            found = acceptance(self.drafter, greedy_pairs(self.target, [self._encode(text) for text in prompts]))
            print(f"acceptance, {name}: {found.share:.3f} of {found.num_tokens} tokens, {len(prompts)} prompts")

    def losses(self) -> None:
        made_up = [(self._encode(problem.prompt), self._encode(" " + problem.solution)) for problem in self.problems]
        read = {"made-up solutions": made_up}
        for name, prompts in self._prompts().items():
            read[f"{name} prompts"] = [_halves(self._encode(text)) for text in prompts]
        for name, model, _ in self._models():
            print(f"loss, {name}: " + ", ".join(f"{what} {loss(model, pairs):.3f}" for what, pairs in read.items()))

    def _models(self) -> list[tuple[str, Qwen3ForCausalLM, Path]]:
        return [("target", self.target, self.options.target), ("drafter", self.drafter, self.options.drafter)]

    def _prompts(self) -> dict[str, list[str]]:
        first = self.options.num_prompts
        return {
            "GSM8K test": [prompt(row["question"].strip()) for row in _rows(self.options.gsm8k_test)][:first],
            "HumanEval": [row["prompt"].strip() for row in _rows(self.options.humaneval)][:first],
            "made-up": [problem.prompt for problem in self.problems][:first],
        }

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids

    def _by_steps(self, right: list[bool]) -> str:
        shares = []
        for num_steps in sorted({problem.num_steps for problem in self.problems}):
            group = [ok for ok, problem in zip(right, self.problems, strict=True) if problem.num_steps == num_steps]
            shares.append(f"{num_steps}: {sum(group) / len(group):.3f}")
        return ", ".join(shares)


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _halves(tokens: list[int]) -> Pair:
    return tokens[:1], tokens[1:]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gsm8k-test", type=Path, required=True)
    parser.add_argument("--humaneval", type=Path, required=True)
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--drafter", type=Path, default=DRAFTER)
    parser.add_argument("--num-problems", type=int, default=400)
    parser.add_argument("--num-prompts", type=int, default=100, help="prompts of each kind for the acceptance")
    parser.add_argument("--num-threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    Evaluation(_options()).run()
