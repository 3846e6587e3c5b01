"""The SDK: ask a swarm, get text.

    async with Client(join=["127.0.0.1:4100"], model="Qwen/Qwen3-8B", drafter="Qwen/Qwen3-0.6B") as client:
        async for chunk in client.stream("Question: ...", max_new_tokens=64):
            print(chunk.text, end="")
        result = await client.generate("...", max_new_tokens=64, sampling=SamplingParams(temperature=0.7, seed=1))
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

from dsd_client.answer import AnswerStream
from dsd_client.auditing import Auditor
from dsd_client.chain_choice import Wishes
from dsd_client.conversation import Conversation
from dsd_client.drafting import DrafterSource, NgramSource, SessionDrafter, load_drafter
from dsd_client.lane_source import LaneSource
from dsd_client.peer_view import PeerView
from dsd_client.relaxation import Asked, Relaxer
from dsd_client.remote_drafter import SwarmSource
from dsd_client.results import Chunk, Result
from dsd_client.stage import Stage, are_here, are_near
from dsd_client.survey import survey
from dsd_client.swarm import Swarm
from dsd_client.target_model import TargetModel
from dsd_client.tracing import Traced
from dsd_core import embedded
from dsd_core.decoding.choice.acceptance import TOLERANCE_NATS
from dsd_core.decoding.choice.audit import AUDIT_TOLERANCE_NATS, FLOOR
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.lookahead.estimates import Estimates
from dsd_core.decoding.lookahead.guard import Guard
from dsd_core.decoding.lookahead.policy import AdaptiveLength, Blocking, FixedLength, Lookahead, Plain
from dsd_core.decoding.lookahead.sharing import Sharing
from dsd_core.decoding.lookahead.streaming import CANDIDATES, Experience, Streaming
from dsd_core.decoding.session import Session, SessionConfig
from dsd_core.errors import UsageError
from dsd_core.model.compute_thread import ComputeThread
from dsd_core.model.tokenizer import vocabulary_hash
from dsd_core.network.banned_peers import BannedPeers
from dsd_core.network.last_swarm import LastSwarm
from dsd_core.network.seeds import Seeds
from dsd_core.network.struck_peers import StruckPeers
from dsd_core.network.transport import transport
from dsd_core.wire.codec import MAX_TOP_COUNT

FRAME_BYTES = 1 << 20
LEAST_PROMPT_NODES, MOST_PROMPT_NODES, PIPELINED_PROMPT_NODES = 16, 512, 128
"""Of a frame of the prompt. Of several stages the first ones read on while the last ones compute, which takes short frames."""
LONGEST_LOOKAHEAD = 64
MOST_CANDIDATES = 8
BRANCH_SLACK = 256
"""Positions that a session reserves for branches, beside those of its text."""
MAX_NEW_TOKENS = 256
MAX_LANES = 16
AUTO_LANES = 1
"""What `--lanes auto` comes to. Streaming fills one lane so well that a second makes it 8 % faster at best, often nothing, and
at times slower, for twice as much that others compute in vain (`python -m benchmarks simulated --lanes 2`)."""
TIMEOUT_SECONDS = 60.0
MOST_CHAINS = 16
"""Whose speed is remembered from one conversation to the next."""

_NEAR_TIE_NATS = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}


class ConversationOptions(TypedDict, total=False):
    """What is fixed when a conversation opens."""

    sampling: SamplingParams | None
    """Defaults to the model's own generation settings."""
    speculation: str
    """"streaming", the default, "blocking" or "off"."""
    lookahead: int | None
    """Of "blocking": drafts before each frame; of "streaming": the most tokens of a frame. None, the default: as many as
    pay."""
    candidates: int
    """How many candidates for a position `streaming` drafts, up to 8; 4 is the default, and 1 makes no branches."""
    lanes: int | None
    """How many chains of stages may serve an answer of `streaming` at once; None, the default: one."""
    standby: int
    """How many more are kept warm, 0 or 1, to take over when one is lost. 0 is the default."""
    logprobs: int
    """How many of the target's best tokens to report with each, up to 8."""
    acceptance: str
    """"exact", the default; "adaptive": drafts that the target did not choose may stand where that matters little; "late": only
    if what follows them matches as well; "fixed": wherever they lie near enough."""
    tolerance: float
    """Nats of the target's score that such a draft may give away at most. Not of `exact`."""
    drift_budget: float | None
    """Nats that an answer may give away in all; None, the default, sets no limit. Not of `exact`."""
    latency_factor: float | None
    """How far the tolerance is open, 0 to 1; None, the default: by the latency that there is to hide. Not of `exact`."""
    choice_index: int
    """Tells several answers to one prompt under one seed apart; 0, the default, is the first."""


class Client:
    """A swarm's client. Use `async with`: entering loads tokenizer and drafter and looks at every peer.

    `join` names a peer or several, by HOST:PORT or join token; they know the others. With none it is the swarm that `data_dir`
    remembers. `model` and `drafter` are directories or Hugging Face ids; the model defaults to the embedded one, the drafter to
    the embedded one for it and to n-gram lookup (`"ngram"`) for others;
    `"none"` never drafts, and a DrafterSource of your own drafts whatever it likes.
    `timeout` is how long one round may take, and for how long stages to go on with are looked for when some are lost, in
    seconds. In `data_dir` the client keeps its key and whom it met; with None both
    are of this object alone. `insecure_loopback` goes without TLS, on this machine. `audit` is the share of blocks that
    is checked on another chain of stages where there is one; None checks nothing. All methods raise subclasses of DsdError.
    """

    def __init__(
        self,
        join: Sequence[str] = (),
        model: str | None = None,
        drafter: str | DrafterSource | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        data_dir: Path | None = None,
        insecure_loopback: bool = False,
        audit: float | None = FLOOR,
    ) -> None:
        if not timeout > 0:
            raise UsageError(f"the timeout is {timeout}; it must be above 0 seconds")
        if audit is not None and not 0 < audit <= 1:
            raise UsageError(f"the share of audited blocks is {audit}; it must be above 0 and at most 1, or off")
        self._audit = audit
        self._auditor: Auditor | None = None
        self._auditing: asyncio.Task[None] | None = None
        self._banned = BannedPeers(data_dir)
        self._last = LastSwarm(data_dir)
        self._seeds = Seeds.parse(join) if join else Seeds.of(self._last.read())
        self._data_dir = data_dir
        self._insecure_loopback = insecure_loopback
        self._model = model or str(embedded.TARGET)
        self._drafts = drafter or (str(embedded.DRAFTER) if model in (None, str(embedded.TARGET)) else "ngram")
        self._timeout = timeout
        self._thread = ComputeThread("drafter")
        self._swarm: Swarm | None = None
        self._target: TargetModel | None = None
        self._drafter: DrafterSource | None = None
        self._relaxer: Relaxer | None = None
        self._experience: dict[tuple[object, ...], Experience] = {}
        """What was learnt of each chain of stages, by its addresses and the candidates drafted."""

    async def __aenter__(self) -> "Client":
        ends = transport(self._data_dir, insecure_loopback=self._insecure_loopback, secret=self._seeds.secret)
        self._swarm = Swarm(self._seeds, ends, self._last, self._banned)
        try:
            self._target = await asyncio.to_thread(TargetModel.load, self._model)
            self._relaxer = Relaxer(self._target, self._swarm)
            stages = await self._swarm.chain(self._target.shape)
            self._start_auditing(AUDIT_TOLERANCE_NATS[stages[0].dtype.value])
            self._drafter = await asyncio.to_thread(self._load_drafter, self._target)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._auditor is not None and self._auditing is not None:
            await self._auditor.finish()
            self._auditing.cancel()
            await asyncio.wait([self._auditing])
        if self._swarm is not None:
            await self._swarm.close()
        self._thread.close()

    @property
    def target(self) -> TargetModel:
        """The target's tokenizer and settings."""
        if self._target is None:
            raise UsageError("the client is not open; use `async with Client(...) as client`")
        return self._target

    async def peers(self) -> list[PeerView]:
        """Every peer of the model that is known, asked just now. Raises NoPeers if none was named and none is remembered."""
        assert self._swarm is not None
        return list((await survey(self._swarm, self.target.shape)).peers)

    async def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        stop: Sequence[str] = (),
        **options: Unpack[ConversationOptions],
    ) -> AsyncGenerator[Chunk, None]:
        """Chunks of the answer to a raw prompt, text or token ids, as they commit. `stop` texts end it, and are not in it."""
        async with self._answering(prompt, max_new_tokens, stop, options) as (chunks, _):
            async for chunk in chunks:
                yield chunk

    async def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        stop: Sequence[str] = (),
        **options: Unpack[ConversationOptions],
    ) -> Result:
        """The whole answer to a raw prompt."""
        async with self._answering(prompt, max_new_tokens, stop, options) as (chunks, answers):
            async for _ in chunks:
                pass
            return answers.result

    @asynccontextmanager
    async def _answering(
        self, prompt: str | Sequence[int], max_new_tokens: int, stop: Sequence[str], options: ConversationOptions
    ) -> AsyncIterator[tuple[AsyncGenerator[Chunk, None], AnswerStream]]:
        tokens = self.target.tokens(prompt)
        async with (
            self.conversation(positions=len(tokens) + max_new_tokens, at_once=True, **options) as answers,
            aclosing(answers.ask(tokens, max_new_tokens=max_new_tokens, stop=stop)) as chunks,
        ):
            yield chunks, answers

    @asynccontextmanager
    async def conversation(
        self, *, positions: int, at_once: bool = False, **options: Unpack[ConversationOptions]
    ) -> AsyncIterator[AnswerStream]:
        """A session of `positions` tokens in all, prompts and answers, that may be asked repeatedly. Whoever asks `at_once`
        need not wait until every stage has promised the memory, and hears of a refusal in place of the answer."""
        _check(positions, options)
        candidates = options.get("candidates", CANDIDATES)
        speculation = options.get("speculation", "streaming")
        policy = _policy(speculation, options.get("lookahead"), candidates)
        if self._drafter is None:
            policy = Plain()
        sampling = options.get("sampling") or self.target.sampling
        asked = _asked(options)
        logprobs = options.get("logprobs", 0)
        rule = _rule(sampling, MAX_TOP_COUNT if asked.is_lossy else logprobs, options.get("choice_index", 0))
        assert self._swarm is not None
        # A frame never reaches further than the answer may, so a single line of drafts takes nothing on top.
        # The late rule keeps the target's choice beside what it may forgive: that is a branch.
        branches = candidates > 1 or asked.acceptance == "late"
        slack = BRANCH_SLACK if isinstance(policy, Streaming) and branches else 0
        alone = (options.get("lanes") or AUTO_LANES) == 1 and not options.get("standby", 0)
        source = LaneSource(self._swarm, self.target.shape, rule, positions + slack, replanned=alone)
        link = await (source.begin() if at_once else source.open_first(self._timeout))
        drafts = self._drafter if not isinstance(policy, Plain) else None
        drafter: SessionDrafter | None = None
        try:
            await asyncio.sleep(0)  # What asks for room leaves before the first frame is made.
            drafter = await drafts.open(rule, link.capacity) if drafts else None
            assert self._relaxer is not None
            relaxation = await self._relaxer.open(asked, link.stages, drafter)
        except BaseException:
            await link.close()
            if drafter is not None:
                await drafter.close()
            raise
        config = SessionConfig(
            capacity=link.capacity,
            draft_slack=link.capacity - min(positions, self.target.shape.max_positions),
            chunk=_chunk(self.target.shape.hidden_size, len(link.stages)),
            round_seconds=self._timeout,
            lanes=options.get("lanes") or AUTO_LANES,
            standby=options.get("standby", 0),
            near_tie_nats=_NEAR_TIE_NATS[link.stages[0].dtype.value],
        )
        learnt_on = (*link.addresses, candidates)
        if isinstance(policy, Streaming):
            learnt = self._experience.pop(learnt_on, None) or _first_experience(link.stages, config.lanes, drafter)
            policy = Streaming(candidates, options.get("lookahead"), learnt)
        session = Session(policy, config, relaxation.rule)
        async with Conversation(
            session, link, source, drafter, timeout=self._timeout, auditor=self._auditor
        ) as conversation:
            traced = Traced(self.target.name, speculation)
            yield AnswerStream(conversation, self.target, rule, relaxation, logprobs, traced, self._auditor)
        if isinstance(policy, Streaming):
            self._experience[learnt_on] = policy.experience
            while len(self._experience) > MOST_CHAINS:
                del self._experience[next(iter(self._experience))]

    def _start_auditing(self, tolerance: float) -> None:
        # Without TLS every peer passes for the same one, so there is nobody to blame.
        if self._audit is None or self._insecure_loopback:
            return
        struck = StruckPeers(self._data_dir)
        self._auditor = Auditor(self._chain_without, self._banned, struck, floor=self._audit, tolerance=tolerance)
        self._auditing = asyncio.create_task(self._auditor.run())

    async def _chain_without(self, avoided: Collection[Stage]) -> Sequence[Stage]:
        """A chain of other stages as far as there are."""
        assert self._swarm is not None
        addresses = frozenset(stage.address for stage in avoided)
        return await self._swarm.chain(self.target.shape, Wishes(serving=addresses))

    def _load_drafter(self, target: TargetModel) -> DrafterSource | None:
        if self._drafts == "none":
            return None
        if not isinstance(self._drafts, str):
            return self._drafts
        if self._drafts == "swarm":
            return self._swarm_drafters(target)
        return load_drafter(self._drafts, target.tokenizer, target.shape.vocab_size, self._thread)

    def _swarm_drafters(self, target: TargetModel) -> SwarmSource:
        assert self._swarm is not None
        vocabulary = vocabulary_hash(target.tokenizer)
        return SwarmSource(partial(self._swarm.drafters, vocabulary), NgramSource(self._thread), target.shape.vocab_size)


def _check(positions: int, options: ConversationOptions) -> None:
    unknown = options.keys() - ConversationOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(ConversationOptions.__annotations__)
        raise UsageError(f"there is no option {min(unknown)!r}; there are {known}, and sampling takes SamplingParams")
    if (lanes := options.get("lanes")) is not None and not 1 <= lanes <= MAX_LANES:
        raise UsageError(f"lanes is {lanes}; it must be between 1 and {MAX_LANES}")
    if (standby := options.get("standby", 0)) not in (0, 1):
        raise UsageError(f"standby is {standby}; it must be 0 or 1")
    if not 0 <= (logprobs := options.get("logprobs", 0)) <= MAX_TOP_COUNT:
        raise UsageError(f"logprobs is {logprobs}; it must be between 0 and {MAX_TOP_COUNT}")
    if positions < 1:
        raise UsageError(f"a session of {positions} positions holds nothing; ask for at least 1 token")


def _first_experience(stages: Sequence[Stage], lanes: int, drafter: SessionDrafter | None) -> Experience:
    """Stages of this machine take from the drafter and from each other, and frames from a drafter of this process. Of near
    stages it has to be seen whether it pays that all compute at once. More lanes than one were asked for to be used at once."""
    guard = Guard.in_doubt() if lanes == 1 and are_near(stages) else Guard()
    sharing = Sharing() if are_here(stages) else None
    drafting = Sharing() if drafter is not None and drafter.is_local else None
    return Experience(Estimates(sharing, drafting), guard)


def _policy(speculation: str, lookahead: int | None, candidates: int) -> Lookahead:
    if lookahead is not None and not 1 <= lookahead <= LONGEST_LOOKAHEAD:
        raise UsageError(f"lookahead is {lookahead}; it must be between 1 and {LONGEST_LOOKAHEAD}")
    if not 1 <= candidates <= MOST_CANDIDATES:
        raise UsageError(f"candidates is {candidates}; it must be between 1 and {MOST_CANDIDATES}")
    match speculation:
        case "off":
            return Plain()
        case "blocking":
            return Blocking(AdaptiveLength() if lookahead is None else FixedLength(lookahead))
        case "streaming":
            return Streaming(candidates, lookahead)
        case _:
            raise UsageError(f"there is no speculation {speculation!r}; use streaming, blocking or off")


def _asked(options: ConversationOptions) -> Asked:
    return Asked(
        acceptance=options.get("acceptance", "exact"),
        tolerance=options.get("tolerance", TOLERANCE_NATS),
        drift_budget=options.get("drift_budget"),
        latency_factor=options.get("latency_factor"),
    )


def _rule(sampling: SamplingParams, top_count: int, choice_index: int) -> ChoiceRule:
    if not 0 <= choice_index < 2**32:
        raise UsageError(f"choice_index is {choice_index}; it must be between 0 and 2^32 - 1")
    seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
    return ChoiceRule(replace(sampling, seed=seed), choice_index, top_count)


def _chunk(hidden_size: int, stages: int) -> int:
    """Nodes of a prompt's frame: at most what fills a message of one MiB with hidden states of four bytes a number."""
    most = MOST_PROMPT_NODES if stages == 1 else PIPELINED_PROMPT_NODES
    return max(LEAST_PROMPT_NODES, min(most, FRAME_BYTES // (4 * hidden_size)))
