"""`dsd-client generate`: one prompt, one answer."""

import json
import sys
from contextlib import aclosing
from dataclasses import replace

from dsd_client.answer import AnswerStream
from dsd_client.client import Client
from dsd_client.commands.options import AnswerOptions
from dsd_client.results import Chunk, Stats
from dsd_core.errors import DsdError


async def generate(options: AnswerOptions, prompt: str, logprobs: int, form: str | None) -> None:
    """The answer on stdout, as it commits; the figures on stderr."""
    async with Client(**options.client) as client:
        tokens = client.target.tokens(prompt)
        async with client.conversation(
            positions=len(tokens) + options.max_new_tokens,
            at_once=True,
            sampling=replace(client.target.sampling, **options.sampling),
            logprobs=logprobs,
            **options.conversation,
        ) as answers:
            try:
                chunks = answers.ask(tokens, max_new_tokens=options.max_new_tokens, stop=options.stop)
                async with aclosing(chunks):
                    async for chunk in chunks:
                        _show_chunk(chunk, form)
            except DsdError as error:
                _show_interrupted(answers, error, form)
                raise
            _show_result(answers, form)


def _show_chunk(chunk: Chunk, form: str | None) -> None:
    if form is None:
        print(chunk.text, end="", flush=True)
    elif form == "json-lines":
        print(json.dumps(chunk.as_json()), flush=True)


def _show_result(answers: AnswerStream, form: str | None) -> None:
    if form is None:
        print(flush=True)
        print(summary(answers.result.stats), file=sys.stderr)
    else:
        print(json.dumps(answers.result.as_json()), flush=True)


def _show_interrupted(answers: AnswerStream, error: DsdError, form: str | None) -> None:
    """What there was when an error cut the answer short: text is not lost with the peer that made it."""
    if not error.token_ids:
        return
    if form is None:
        print(flush=True)
    else:
        print(json.dumps(answers.result.as_json() | {"finish_reason": "error", "error": str(error)}), flush=True)


def summary(stats: Stats) -> str:
    """An answer's figures, on one line."""
    drafts = f", {stats.accepted} of {stats.drafted} drafts accepted" if stats.drafted else ""
    if stats.acceptance_mode != "exact":
        drafts += f", {stats.relaxed} relaxed for {stats.drift_nats:.2f} nats"
    if stats.acceptance_note:
        drafts += f", {stats.acceptance_mode} acceptance: {stats.acceptance_note}"
    return (
        f"[{stats.new_tokens} tokens in {stats.seconds:.2f} s, {stats.tokens_per_second:.1f} tokens/s, "
        f"{stats.frames} frames{drafts}, seed {stats.seed}]"
    )
