"""Answers of one conversation, as text."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from dsd_client.answer_text import AnswerText
from dsd_client.auditing import Auditor, Claim
from dsd_client.conversation import Conversation
from dsd_client.relaxation import Relaxation
from dsd_client.results import Chunk, Result, Stats, Token
from dsd_client.target_model import TargetModel
from dsd_client.tracing import Traced, begin
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.events import CommittedToken, FinishReason, Origin
from dsd_core.decoding.ids import LaneId
from dsd_core.errors import DsdError, UsageError


class AnswerStream:
    """Ask, and iterate over the chunks of the answer; `result` is complete when the iteration has ended."""

    def __init__(
        self,
        conversation: Conversation,
        target: TargetModel,
        rule: ChoiceRule,
        relaxation: Relaxation,
        logprobs: int,
        traced: Traced,
        auditor: Auditor | None = None,
    ) -> None:
        self._conversation = conversation
        self._target = target
        self._rule = rule
        self._relaxation = relaxation
        self._logprobs = logprobs
        self._is_blind = False
        """A stage that is too old sends no statistics."""
        self._traced = traced
        self._auditor = auditor
        self._tokens: list[Token] = []
        self._claims: list[tuple[LaneId | None, int]] = []
        """For each token, what which lane claimed that the target chooses."""
        self._result: Result | None = None

    @property
    def result(self) -> Result:
        """The last answer. Raises UsageError while there is none."""
        if self._result is None:
            raise UsageError("there is no answer yet; iterate over the chunks first")
        return self._result

    async def ask(self, prompt: Sequence[int], *, max_new_tokens: int, stop: Sequence[str] = ()) -> AsyncGenerator[Chunk, None]:
        """Chunks of the answer to `prompt`: all tokens from the first, of which only those not yet known are sent.

        Leaving the iteration early ends the answer; `result` then holds what there was, cancelled. Raises DsdError, whose
        `text` and `token_ids` are what had been committed.
        """
        if self._conversation.session.answering:
            raise UsageError("the last question is still being answered; wait for its end or close it first")
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
        self._tokens, self._claims = [], []
        text = AnswerText(self._target.tokenizer, prompt, stop)
        clock = _Clock(self._conversation)
        reason = FinishReason.CANCELLED
        failure: Exception | None = None
        trace = self._conversation.trace = begin(self._traced, max_new_tokens)
        answer = self._conversation.answer(prompt, max_new_tokens, self._target.end_tokens)
        try:
            async for committed in answer:
                clock.token()
                yield self._chunk(committed, text)
                if text.stopped:
                    break
            reason = FinishReason.STOP if text.stopped else (self._conversation.finish_reason or reason)
            if rest := self._flush(text):
                yield rest
        except DsdError as error:
            failure = error
            if rest := self._flush(text):
                yield rest
            error.text, error.token_ids = self._text, tuple(token.id for token in self._tokens)
            raise
        except Exception as bug:
            failure = bug
            raise
        finally:
            await answer.aclose()
            self._flush(text)
            self._result = Result(tuple(self._tokens), self._text, reason, self._stats(clock))
            self._conversation.trace = None
            if trace:
                trace.end(self._result, self._conversation.route, failure)
            self._offer_for_audit(prompt)

    def _stats(self, clock: "_Clock") -> Stats:
        return clock.stats(self._rule, self._tokens, self._relaxed())

    def _relaxed(self) -> dict[str, Any]:
        """What came of the rule of acceptance."""
        asked, drifts = self._relaxation, [token.drift for token in self._tokens]
        return {
            "acceptance_mode": "exact" if self._is_blind else asked.mode,
            "acceptance_note": "the last stage sends no statistics to judge by" if self._is_blind else asked.note,
            "relaxed": sum(token.origin is Origin.RELAXED for token in self._tokens),
            "drift_nats": sum(drifts),
            "drift_max_nats": max(drifts, default=0.0),
            "drift_budget": asked.drift_budget,
            "tolerance": asked.tolerance,
            "latency_factor": asked.latency_factor,
        }

    @property
    def _text(self) -> str:
        return "".join(token.text for token in self._tokens)

    def _chunk(self, committed: Sequence[CommittedToken], text: AnswerText) -> Chunk:
        """What was committed, up to the token that completes a stop text."""
        tokens: list[Token] = []
        for token in committed:
            if text.stopped:
                break
            tokens.append(self._token(token, text.push(token.token)))
            self._claims.append((token.judge, token.verdict.choice))
        self._tokens += tokens
        return Chunk(tuple(tokens), self._conversation.route)

    def _offer_for_audit(self, prompt: Sequence[int]) -> None:
        """What each lane has said is a claim of its own, however little it is."""
        if self._auditor is None:
            return
        ids = tuple(token.id for token in self._tokens)
        for lane, chain in self._conversation.heard.items():
            choices = {offset: choice for offset, (judge, choice) in enumerate(self._claims) if judge == lane}
            self._auditor.hear(Claim(chain, self._rule, tuple(prompt), ids, choices))

    def _flush(self, text: AnswerText) -> Chunk | None:
        """Text that was held back belongs to the last token, which is not told again."""
        rest = text.flush()
        if not rest or not self._tokens:
            return None
        self._tokens[-1] = replace(self._tokens[-1], text=self._tokens[-1].text + rest)
        return Chunk((), self._conversation.route, rest)

    def _token(self, committed: CommittedToken, text: str) -> Token:
        top = committed.verdict.top
        self._is_blind |= self._relaxation.is_lossy and not top
        own = next((best.log_prob for best in top if best.token == committed.token), None) if self._logprobs else None
        return Token(committed.token, text, committed.origin, own, top[: self._logprobs], committed.drift)


class _Clock:
    """Measures one answer of a conversation, whose counters go on over all of them."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._now = asyncio.get_running_loop().time
        self._started = self._now()
        self._first: float | None = None
        self._last = self._started
        self._counts_before = replace(conversation.session.counts)
        self._sent_before = conversation.bytes_sent
        self._received_before = conversation.bytes_received

    def token(self) -> None:
        self._last = self._now()
        self._first = self._first or self._last

    def stats(self, rule: ChoiceRule, tokens: Sequence[Token], relaxed: dict[str, Any]) -> Stats:
        """Of an answer of these tokens. The session may have committed more, behind a stop text."""
        origins = Counter(token.origin for token in tokens)
        counts = self._conversation.session.counts.since(self._counts_before)
        conversation = self._conversation
        seconds = self._last - self._started
        return Stats(
            prompt_tokens=counts.prompt_tokens,
            new_tokens=len(tokens),
            drafted=counts.drafted,
            accepted=origins[Origin.ACCEPTED] + origins[Origin.RELAXED],
            recovered=origins[Origin.RECOVERED],
            bonus=origins[Origin.BONUS],
            rejections=origins[Origin.RECOVERED],
            frames=counts.frames,
            wasted=counts.wasted,
            near_ties=counts.near_ties,
            seconds=seconds,
            seconds_to_first_token=(self._first or self._last) - self._started,
            tokens_per_second=len(tokens) / seconds if seconds > 0 else 0.0,
            bytes_sent=conversation.bytes_sent - self._sent_before,
            bytes_received=conversation.bytes_received - self._received_before,
            network_seconds=counts.network_seconds,
            reroutes=counts.reroutes,
            lanes=conversation.session.lanes_serving,
            seed=rule.params.seed or 0,
            policy=self._conversation.session.report(),
            drafter=self._conversation.drafter_name,
            **relaxed,
        )
