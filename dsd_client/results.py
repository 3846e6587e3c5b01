"""What an answer is made of."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dsd_core.decoding.events import FinishReason, Origin
from dsd_core.decoding.frames import Candidate


@dataclass(frozen=True, slots=True)
class Token:
    """A committed token. `text` is what it adds to the answer, empty while a character is incomplete.

    `log_prob` and `top` (best first) are there when log-probabilities were asked for.
    """

    id: int
    text: str
    origin: Origin
    log_prob: float | None = None
    top: tuple[Candidate, ...] = ()
    drift: float = 0.0
    """How far a relaxed token lies behind the target's own choice, in nats of perturbed score."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens that were committed together. `route` holds the addresses of the stages that served them.

    `rest` is text of earlier tokens that was held back until the answer ended.
    """

    tokens: tuple[Token, ...]
    route: tuple[str, ...]
    rest: str = ""

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens) + self.rest

    @property
    def token_ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    def as_json(self) -> dict[str, Any]:
        return {
            "token_ids": self.token_ids,
            "text": self.text,
            "origin": [token.origin.value for token in self.tokens],
            "route": list(self.route),
            **_logprobs_json(self.tokens),
        }


@dataclass(frozen=True, slots=True)
class Stats:
    """How an answer came about. Counts are of tokens, unless named otherwise; seconds run from the call to the last token."""

    prompt_tokens: int
    new_tokens: int
    drafted: int
    accepted: int
    recovered: int
    bonus: int
    rejections: int
    frames: int
    wasted: int
    near_ties: int
    seconds: float
    seconds_to_first_token: float
    tokens_per_second: float
    bytes_sent: int
    bytes_received: int
    network_seconds: float
    """Of the round trips of frames, what the stages did not compute; those that overlap count each for itself."""
    reroutes: int
    """How often other stages had to go on, because some were lost, frozen or shut down."""
    lanes: int
    """Chains of stages that served at the end."""
    seed: int
    acceptance_mode: str
    """"exact", or what was asked for where something may have been forgiven."""
    acceptance_note: str
    """Why the mode is not what was asked for, or what it went without."""
    relaxed: int
    """Of the accepted, those that the target did not choose."""
    drift_nats: float
    """What those gave away, in all ..."""
    drift_max_nats: float
    """... and at most at once."""
    drift_budget: float | None
    tolerance: float
    latency_factor: float
    policy: Mapping[str, float]
    """What speculation went by: p, times in seconds, the plan. Empty in `off`."""
    drafter: str
    """What drafted, and why nothing better did; empty where nothing did."""

    @property
    def acceptance(self) -> float:
        """Share of the judged first candidates that were right."""
        judged = self.accepted + self.rejections
        return self.accepted / judged if judged else 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """A whole answer."""

    tokens: tuple[Token, ...]
    text: str
    finish_reason: FinishReason
    stats: Stats

    @property
    def token_ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    def as_json(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "token_ids": self.token_ids,
            "finish_reason": self.finish_reason.value,
            "stats": asdict(self.stats),
            **_logprobs_json(self.tokens),
        }


def _logprobs_json(tokens: tuple[Token, ...]) -> dict[str, Any]:
    if not any(token.top for token in tokens):
        return {}
    entries = [
        {
            "token_id": token.id,
            "log_prob": token.log_prob,
            "top": [{"token_id": best.token, "log_prob": best.log_prob} for best in token.top],
        }
        for token in tokens
    ]
    return {"logprobs": entries}
