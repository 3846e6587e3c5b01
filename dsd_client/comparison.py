"""Modes of speculation side by side: on one swarm, on the same prompts, in turns, so that all meet the same weather."""

import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dsd_client.client import Client, ConversationOptions
from dsd_client.results import Stats
from dsd_core.decoding.choice.sampling import SamplingParams

LOOKAHEADS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)
"""What the sweep for blocking's best k tries."""
WORSE = 1.02
"""What is slower than the best by so much, twice in turn, ends the sweep."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to decode, by the name that tables give it."""

    name: str
    options: ConversationOptions
    exact: str = ""
    """The mode that this one relaxes; of an exact one, empty."""

    def relaxed(self, nats: float, factor: float | None = None, acceptance: str = "adaptive") -> "Mode":
        """The same with a tolerance of so many nats, open as far as `factor` says, or else as latency does."""
        lax: ConversationOptions = {"acceptance": acceptance, "tolerance": nats, "latency_factor": factor}
        rule = "" if acceptance == "adaptive" else f"{acceptance} "
        return Mode(f"{self.name}, {rule}{nats:g} nats", {**self.options, **lax}, exact=self.name)

    @property
    def is_blocking(self) -> bool:
        return self.options.get("speculation") == "blocking"


OFF = Mode("off", {"speculation": "off"})
BLOCKING = Mode("blocking", {"speculation": "blocking"})
LINEAR = Mode("linear", {"speculation": "streaming", "candidates": 1})
"""Streaming as in the DSI paper: without branches."""
STREAMING = Mode("streaming", {"speculation": "streaming"})
MODES: tuple[Mode, ...] = (OFF, BLOCKING, LINEAR, STREAMING)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of every mode."""

    prompts: Sequence[str | Sequence[int]]
    modes: Sequence[Mode] = MODES
    max_new_tokens: int = 128
    plain_tokens: int | None = None
    """So many with speculation off, which takes longest and varies least; None is as many as of the others."""
    repeats: int = 3
    lookahead: int | None = None
    """Of blocking; None finds the best on half of the prompts, and compares on the other half."""
    stop: Sequence[str] = ()
    sampling: SamplingParams | None = None
    """The model's own by default. One seed serves all answers, so that they can be compared."""

    def tokens(self, mode: Mode) -> int:
        return (self.plain_tokens or self.max_new_tokens) if mode.name == OFF.name else self.max_new_tokens


@dataclass(frozen=True, slots=True)
class Answer:
    """What one answer took. `seconds` and `tokens` are counted from its first commit on: the prompt is not in them."""

    seconds: float
    tokens: int
    token_ids: tuple[int, ...]
    stats: Stats
    text: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """What a mode took: medians over repeats, each of which is over all prompts."""

    mode: str
    ms_per_token: float
    slowest_ms_per_token: float
    fastest_ms_per_token: float
    first_token_ms: float
    acceptance: float
    """Share of the judged first candidates that were right."""
    accepted_per_token: float
    rejections_per_token: float
    wasted_per_token: float
    """Target nodes that were sent and not committed, for each token that was."""
    tokens: int
    same_text: bool
    """As with the first mode, for as far as both go."""
    lookahead: int | None = None
    """The k that blocking was run with."""
    exact: str = ""
    """The mode that this one relaxes."""
    latency_factor: float = 0.0
    relaxed_per_token: float = 0.0
    nats_per_token: float = 0.0
    """Given away for drafts that the target did not choose ..."""
    largest_nats: float = 0.0
    """... and at most for one of them."""
    traversals_per_token: float = 0.0
    """Frames, for each token after the first."""
    network_ms_per_token: float = 0.0
    """Of the frames' round trips, what the stages did not compute. Frames that overlap count each for itself."""

    @property
    def name(self) -> str:
        return self.mode if self.lookahead is None else f"{self.mode}, k = {self.lookahead}"


@dataclass(slots=True)
class Comparison:
    """Figures of one swarm, by mode."""

    figures: dict[str, Figure] = field(default_factory=dict)
    sweep: dict[int, float] = field(default_factory=dict)
    """Blocking's ms a token by k, on the prompts of the sweep."""
    prompts: Sequence[str | Sequence[int]] = ()
    """Those that were compared."""
    texts: dict[str, list[str]] = field(default_factory=dict)
    """What each mode answered to them, the first time."""

    def times_faster(self, mode: str, than: str) -> float | None:
        """None where one of them was not run."""
        if mode not in self.figures or than not in self.figures:
            return None
        return self.figures[than].ms_per_token / self.figures[mode].ms_per_token

    def as_json(self) -> dict[str, Any]:
        return {"figures": {name: asdict(figure) for name, figure in self.figures.items()}, "sweep": self.sweep}


async def compare(client: Client, plan: Plan, say: Callable[[str], None] = lambda _: None) -> Comparison:
    """Run the plan. `say` is told what is being measured. Raises DsdError as the client does."""
    comparison = Comparison()
    plan = replace(plan, sampling=_seeded(plan.sampling or client.target.sampling))
    prompts, lookahead = plan.prompts, plan.lookahead
    blocking = next((mode for mode in plan.modes if mode.is_blocking), None)
    if blocking and lookahead is None and len(prompts) > 1:
        comparison.sweep = await _sweep(client, blocking, replace(plan, prompts=prompts[0::2]), say)
        lookahead = min(comparison.sweep, key=comparison.sweep.__getitem__)
        prompts = prompts[1::2]
    modes = [_with_lookahead(mode, lookahead) for mode in plan.modes]
    answers = await _in_turns(client, modes, replace(plan, prompts=prompts), say)
    texts = [answer.token_ids for answer in answers[modes[0].name][0]]
    comparison.prompts = prompts
    for mode in modes:
        comparison.figures[mode.name] = _figure(mode, answers[mode.name], texts)
        comparison.texts[mode.name] = [answer.text for answer in answers[mode.name][0]]
    return comparison


async def _in_turns(
    client: Client, modes: Sequence[Mode], plan: Plan, say: Callable[[str], None]
) -> dict[str, list[list[Answer]]]:
    """By mode and repeat, an answer to every prompt."""
    answers: dict[str, list[list[Answer]]] = {mode.name: [[] for _ in range(plan.repeats)] for mode in modes}
    for repeat in range(plan.repeats):
        for number, prompt in enumerate(plan.prompts):
            for mode in modes:
                say(f"repeat {repeat + 1} of {plan.repeats}, prompt {number + 1} of {len(plan.prompts)}, {mode.name}")
                answers[mode.name][repeat].append(await _answer(client, prompt, mode, plan))
    return answers


def _seeded(sampling: SamplingParams) -> SamplingParams:
    return sampling if sampling.seed is not None else replace(sampling, seed=secrets.randbits(64))


async def _sweep(client: Client, blocking: Mode, plan: Plan, say: Callable[[str], None]) -> dict[int, float]:
    """Blocking's ms a token by k, for growing k until it only gets worse."""
    times: dict[int, float] = {}
    worse = 0
    for k in LOOKAHEADS:
        say(f"blocking's best lookahead: {k}")
        mode = _with_lookahead(blocking, k)
        times[k] = _ms_per_token([await _answer(client, prompt, mode, plan) for prompt in plan.prompts])
        worse = worse + 1 if times[k] > WORSE * min(times.values()) else 0
        if worse == 2:
            break
    return times


def _with_lookahead(mode: Mode, lookahead: int | None) -> Mode:
    return replace(mode, options={**mode.options, "lookahead": lookahead}) if mode.is_blocking else mode


async def _answer(client: Client, prompt: str | Sequence[int], mode: Mode, plan: Plan) -> Answer:
    tokens, count = client.target.tokens(prompt), plan.tokens(mode)
    commits: list[tuple[float, int]] = []
    options = ConversationOptions(sampling=plan.sampling, **mode.options)
    async with client.conversation(positions=len(tokens) + count, **options) as answers:
        async with aclosing(answers.ask(tokens, max_new_tokens=count, stop=plan.stop)) as chunks:
            async for chunk in chunks:
                commits.append((time.perf_counter(), len(chunk.tokens)))
        result = answers.result
    seconds, count = commits[-1][0] - commits[0][0], len(result.tokens) - commits[0][1]
    return Answer(seconds, count, tuple(result.token_ids), result.stats, result.text)


def _figure(mode: Mode, repeats: Sequence[Sequence[Answer]], texts: Sequence[tuple[int, ...]]) -> Figure:
    times = [_ms_per_token(answers) for answers in repeats]
    stats = [answer.stats for answers in repeats for answer in answers]
    tokens = sum(s.new_tokens for s in stats)
    after_the_first = max(1, tokens - len(stats))
    accepted, rejections = sum(s.accepted for s in stats), sum(s.rejections for s in stats)
    return Figure(
        mode=mode.name,
        ms_per_token=statistics.median(times),
        slowest_ms_per_token=max(times),
        fastest_ms_per_token=min(times),
        first_token_ms=1e3 * statistics.median(s.seconds_to_first_token for s in stats),
        acceptance=accepted / (accepted + rejections) if accepted + rejections else 0.0,
        accepted_per_token=accepted / tokens,
        rejections_per_token=rejections / tokens,
        wasted_per_token=sum(s.wasted for s in stats) / tokens,
        tokens=tokens,
        same_text=all(_agree(answers, texts) for answers in repeats),
        lookahead=mode.options.get("lookahead"),
        exact=mode.exact,
        latency_factor=statistics.median(s.latency_factor for s in stats),
        relaxed_per_token=sum(s.relaxed for s in stats) / tokens,
        nats_per_token=sum(s.drift_nats for s in stats) / tokens,
        largest_nats=max(s.drift_max_nats for s in stats),
        traversals_per_token=sum(s.frames for s in stats) / after_the_first,
        network_ms_per_token=1e3 * sum(s.network_seconds for s in stats) / after_the_first,
    )


def _ms_per_token(answers: Sequence[Answer]) -> float:
    """Over all of them: long answers weigh more than short ones."""
    return 1e3 * sum(answer.seconds for answer in answers) / max(1, sum(answer.tokens for answer in answers))


def _agree(answers: Sequence[Answer], texts: Sequence[tuple[int, ...]]) -> bool:
    pairs = [(answer.token_ids, text) for answer, text in zip(answers, texts, strict=True)]
    return all(one[: len(other)] == other[: len(one)] for one, other in pairs)
