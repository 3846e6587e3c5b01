"""Trains the embedded pair: `python -m dsd_core.embedded.train STAGE --gsm8k FILE`.

The stages, in order: tokenizer, target, texts, drafter; `export` writes the checkpoints as they are into the package.
Every stage reads and writes one working folder; `target` and `drafter` go on from their checkpoints.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from transformers import Qwen3ForCausalLM

from dsd_core.embedded import DRAFTER, TARGET
from dsd_core.embedded.continuations import read_texts, write_texts
from dsd_core.embedded.corpus import Difficulty, gsm8k, library_functions, made_up
from dsd_core.embedded.curriculum import Library, Mix, target_mix
from dsd_core.embedded.learner import Learner, Loss
from dsd_core.embedded.losses import Distillation, NextToken
from dsd_core.embedded.packing import Batch, Row, batches, encode, rows
from dsd_core.embedded.shapes import export, narrowed, new_model, target_config
from dsd_core.embedded.vocabulary import load_tokenizer, save_tokenizer, train_tokenizer

_ROW_LENGTH = 512
_NUM_ROWS = 8
_TEXT_SHARE = 0.3  # of the drafter's rows come from text, the others from the target's own continuations
_DRAFTER_MIX = Mix(made_up=0.06, gsm8k=0.72, difficulty=Difficulty())


def tokenizer_stage(options: argparse.Namespace) -> None:
    rng = Random(0)
    problems = [made_up(rng, Difficulty()) for _ in range(2000)]
    documents = gsm8k(options.gsm8k) + library_functions() + problems
    save_tokenizer(train_tokenizer(document.prompt + document.body for document in documents), options.work)


def target_stage(options: argparse.Namespace) -> None:
    learner = _target(options)

    def mix() -> Mix:
        return target_mix(learner.progress.elapsed_seconds / (60 * options.minutes))

    rng = Random(1000 + learner.progress.num_steps)
    tokenizer = load_tokenizer(options.work)
    documents = _library(options).documents(rng, mix)
    source = (encode(tokenizer, document) for document in documents)
    learner.fit(_batches(source), _compiled(NextToken(learner.model), options), options.minutes)


def texts_stage(options: argparse.Namespace) -> None:
    tokenizer, path = load_tokenizer(options.work), options.work / "texts.jsonl"
    write_texts(_target(options).model, tokenizer, _library(options), path, options.num_texts)


def drafter_stage(options: argparse.Namespace) -> None:
    target = _target(options).model.train(False)
    learner = _learner(options, "drafter", narrowed(target))
    source = _drafter_rows(options, Random(2000 + learner.progress.num_steps))
    learner.fit(_batches(source), _compiled(Distillation(learner.model, target), options), options.minutes)


def export_stage(options: argparse.Namespace) -> None:
    tokenizer, target = load_tokenizer(options.work), _target(options).model
    export(target, tokenizer, TARGET)
    export(_learner(options, "drafter", narrowed(target)).model, tokenizer, DRAFTER)


def _drafter_rows(options: argparse.Namespace, rng: Random) -> Iterator[Row]:
    tokenizer = load_tokenizer(options.work)
    documents = _library(options).documents(rng, lambda: _DRAFTER_MIX)
    texts = read_texts(options.work / "texts.jsonl")
    while True:
        yield encode(tokenizer, next(documents)) if rng.random() < _TEXT_SHARE else rng.choice(texts)


def _target(options: argparse.Namespace) -> Learner:
    return _learner(options, "target", new_model(target_config(), seed=0))


def _learner(options: argparse.Namespace, name: str, model: Qwen3ForCausalLM) -> Learner:
    learner = Learner(model, options.work / f"{name}.safetensors")
    learner.resume()
    return learner


def _library(options: argparse.Namespace) -> Library:
    return Library(gsm8k(options.gsm8k), library_functions())


def _batches(source: Iterator[Row]) -> Iterator[Batch]:
    return batches(rows(source, _ROW_LENGTH), _NUM_ROWS)


def _compiled(loss: Loss, options: argparse.Namespace) -> Loss:
    return torch.compile(loss, dynamic=False) if options.compile else loss


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = {
        "tokenizer": tokenizer_stage, "target": target_stage, "texts": texts_stage, "drafter": drafter_stage,
        "export": export_stage,
    }  # fmt: skip
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--gsm8k", type=Path, required=True, help="GSM8K's training set, one JSON object a line")
    parser.add_argument("--work", type=Path, default=Path("build/pair"), help="folder for checkpoints")
    parser.add_argument("--minutes", type=float, default=50.0, help="wall-clock time, that of earlier runs included")
    parser.add_argument("--num-texts", type=int, default=5000, help="continuations to write for the drafter")
    parser.add_argument("--compile", action="store_true", help="use torch.compile: faster, needs a C++ compiler")
    options = parser.parse_args()
    options.run = stages[options.stage]
    options.work.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    chosen = _options()
    chosen.run(chosen)
