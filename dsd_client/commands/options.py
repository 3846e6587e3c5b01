"""Options that several commands share, and what they say together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from dsd_client.telemetry import with_telemetry
from dsd_core import data_dirs
from dsd_core.decoding.choice.acceptance import MODES, TOLERANCE_NATS
from dsd_core.decoding.lookahead.streaming import CANDIDATES
from dsd_core.log_options import with_log_options

Command = TypeVar("Command", bound=Callable[..., Any])

_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")


class AuditShare(click.ParamType[float | None]):
    """A share of blocks; `off` is None."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        return None if value in (None, "off") else click.FloatRange(0, 1, min_open=True).convert(value, param, ctx)


class LaneCount(click.ParamType[int | None]):
    """A number of lanes; `auto`, which is None, leaves it to the client."""

    name = "lanes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        return None if value in (None, "auto") else click.IntRange(min=1).convert(value, param, ctx)


class Tolerances(click.ParamType[tuple[float, ...]]):
    """Numbers between commas."""

    name = "tolerances"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        return tuple(click.FloatRange(0).convert(part, param, ctx) for part in value.split(","))


_DRAFTER = click.option(
    "--drafter",
    metavar="ID|DIR|ngram|swarm|none",
    help="What proposes tokens. [default: the embedded one for the embedded target, else ngram]",
)
_TIMEOUT = click.option(
    "--timeout",
    type=float,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest round, and longest search for other stages when some are lost.",
)
_SWARM_OPTIONS = [
    click.option("--join", multiple=True, metavar="ADDRESS|TOKEN", help="A node; it knows the others. [default: as last time]"),
    click.option("--model", metavar="ID|DIR", help="The target. [default: the embedded one]"),
    _DRAFTER,
    click.option("--data-dir", metavar="DIR", help="Where your key is kept, and whom you met. [default: the user's own]"),
    click.option("--insecure-loopback", is_flag=True, help="No TLS; for nodes of this machine that were started so."),
    _TIMEOUT,
]

_MODE_OPTIONS = [
    click.option(
        "--speculation",
        type=click.Choice(["off", "blocking", "streaming"]),
        default="streaming",
        show_default=True,
        help="off: a token a traversal; blocking: draft, verify, repeat; streaming: draft on while the stages verify.",
    ),
    click.option(
        "--candidates",
        type=int,
        default=CANDIDATES,
        show_default=True,
        metavar="N",
        help="How many for a position streaming drafts; 1 to 8.",
    ),
    click.option(
        "--acceptance",
        type=click.Choice(MODES),
        default="exact",
        show_default=True,
        help="adaptive: a draft that the target did not choose may stand where it matters little and latency is to be hidden; "
        "late: only if the drafts after it match; fixed: whatever it is, for comparison.",
    ),
    click.option(
        "--tolerance",
        type=float,
        default=TOLERANCE_NATS,
        show_default=True,
        metavar="NATS",
        help="What such a draft may give away at most.",
    ),
]

_ANSWER_OPTIONS = [
    click.option(
        "--lookahead",
        type=int,
        metavar="K",
        help="Blocking: drafts of a frame; streaming: its most tokens. [default: as many as pay]",
    ),
    click.option(
        "--lanes",
        type=LaneCount(),
        default="auto",
        show_default=True,
        metavar="N|auto",
        help="Chains of stages that may serve at once.",
    ),
    click.option(
        "--standby",
        type=click.IntRange(0, 1),
        default=0,
        show_default=True,
        metavar="N",
        help="1 keeps a second chain warm, to go on at once when a stage is lost.",
    ),
    click.option("--drift-budget", type=float, metavar="NATS", help="What an answer may give away in all. [default: no limit]"),
    click.option(
        "--audit",
        type=AuditShare(),
        default="0.05",
        show_default=True,
        metavar="off|RATE",
        help="Blocks of known peers that are checked on other stages, where there are some; of new peers, the first 10 are.",
    ),
    click.option("--max-new-tokens", type=int, default=256, show_default=True, metavar="N"),
    click.option("--temperature", type=float, metavar="T", help="0 is greedy. [default: the model's own settings, else 0]"),
    click.option("--top-p", type=float, metavar="P"),
    click.option("--top-k", type=int, metavar="K"),
    click.option("--repetition-penalty", type=float, metavar="R"),
    click.option("--stop", multiple=True, metavar="TEXT", help="Ends the answer where it appears; repeatable."),
    click.option("--seed", type=int, metavar="S", help="The same seed gives the same text. [default: a fresh one, reported]"),
]


def with_swarm_options(command: Command) -> Command:
    """Those that say where the swarm is, and what it is asked for."""
    return _with(command, [option for option in _SWARM_OPTIONS if option not in (_DRAFTER, _TIMEOUT)])


def with_answer_options(command: Command) -> Command:
    """Add the options of `generate`, which `chat` and `serve` share."""
    return _with(command, _SWARM_OPTIONS + _MODE_OPTIONS + _ANSWER_OPTIONS)


def with_bench_options(command: Command) -> Command:
    """Those of `generate` but for the mode: `bench` runs all of them."""
    return _with(command, _SWARM_OPTIONS + _ANSWER_OPTIONS)


def _with(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    command = with_log_options(with_telemetry(command))
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What the shared options say."""

    join: tuple[str, ...]
    model: str | None
    drafter: str | None
    timeout: float
    data_dir: Path
    insecure_loopback: bool
    speculation: str
    lookahead: int | None
    candidates: int
    lanes: int | None
    standby: int
    acceptance: str
    tolerance: float
    drift_budget: float | None
    audit: float | None
    max_new_tokens: int
    stop: tuple[str, ...]
    sampling: Mapping[str, Any]
    """The sampling parameters that were given; the others are the model's own."""

    @property
    def client(self) -> dict[str, Any]:
        """What a client is made with."""
        return {
            "join": self.join,
            "model": self.model,
            "drafter": self.drafter,
            "timeout": self.timeout,
            "data_dir": self.data_dir,
            "insecure_loopback": self.insecure_loopback,
            "audit": self.audit,
        }

    @property
    def conversation(self) -> dict[str, Any]:
        """What a conversation is opened with, but for the sampling parameters: those are the model's own where not given."""
        return {
            "speculation": self.speculation,
            "lookahead": self.lookahead,
            "candidates": self.candidates,
            "lanes": self.lanes,
            "standby": self.standby,
            "acceptance": self.acceptance,
            "tolerance": self.tolerance,
            "drift_budget": self.drift_budget,
        }

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "AnswerOptions":
        return cls(
            join=given["join"],
            model=given["model"],
            # Plain decoding needs no drafter, so none is loaded.
            drafter="none" if given["speculation"] == "off" else given["drafter"],
            timeout=given["timeout"],
            data_dir=Path(given["data_dir"]) if given["data_dir"] else data_dirs.default("client"),
            insecure_loopback=given["insecure_loopback"],
            speculation=given["speculation"],
            lookahead=given["lookahead"],
            candidates=given.get("candidates", CANDIDATES),
            lanes=given["lanes"],
            standby=given["standby"],
            acceptance=given.get("acceptance", "exact"),
            tolerance=given.get("tolerance", TOLERANCE_NATS),
            drift_budget=given["drift_budget"],
            audit=given["audit"],
            max_new_tokens=given["max_new_tokens"],
            stop=given["stop"],
            sampling={name: given[name] for name in _SAMPLING if given[name] is not None},
        )
