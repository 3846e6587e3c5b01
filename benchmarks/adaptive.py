"""What adaptive acceptance costs in answers: exact, adaptive, and one tolerance for all tokens, on the same problems.

    python -m benchmarks.adaptive [--problems N] [--gsm8k FILE] [--humaneval FILE] [--out DIR]

The embedded pair, greedy, in batches and without a network: the rule is the core's own, pinned at latency factor 1. What linear
streaming commits depends on the drafter's first choice after each committed prefix, and that is what is replayed here.
Speed is by the law, p·τ + (1 − p)·L, with relaxed drafts among the accepted; `adaptive_speed` measures it over links.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache, Qwen3ForCausalLM

from dsd_client.paired_loss import PairedLoss
from dsd_client.questions import Questions, made_up, read_questions
from dsd_core.decoding.choice.acceptance import LATE_WINDOW, Acceptance, Adaptive, Exact
from dsd_core.decoding.choice.evidence import After, stands
from dsd_core.decoding.choice.importance import KeyTokens
from dsd_core.decoding.frames import Candidate, Verdict
from dsd_core.decoding.ids import NodeId, TokenId
from dsd_core.decoding.tree import TreeNode
from dsd_core.embedded import DRAFTER, TARGET
from dsd_core.embedded.shapes import load_model
from dsd_core.embedded.vocabulary import END_ID
from dsd_core.errors import UsageError
from dsd_core.model.token_classes import key_tokens

BATCH = 128
NUM_NEW = 112
TOP = 8
TOLERANCES = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
SLOWEST_MS, ROUND_TRIP_MS = 2.0, 56.0
"""τ and L of four stages with 10 ms one way, for the law's speed."""


@dataclass(frozen=True)
class Rule:
    """A row of the table. `wrong`: its drafter always errs."""

    name: str
    acceptance: Acceptance
    wrong: bool = False


@dataclass
class Text:
    """One answer, and what was forgiven on the way."""

    tokens: list[int] = field(default_factory=list)
    drafts_right: int = 0
    relaxed: int = 0
    drift: float = 0.0
    largest: float = 0.0

    @property
    def is_done(self) -> bool:
        return len(self.tokens) >= NUM_NEW or (bool(self.tokens) and self.tokens[-1] == END_ID)


@dataclass
class _Pending:
    """A forgiven draft that the late rule may yet take back."""

    length: int
    choice: int
    column: int
    drift: float
    matched: int = 0


@dataclass
class _Row:
    """One answer under way."""

    prompt: int
    """Tokens of the prompt."""
    text: Text = field(default_factory=Text)
    pending: _Pending | None = None

    @property
    def is_done(self) -> bool:
        return self.text.is_done and self.pending is None


class Writer:
    """Greedy answers of a batch under one rule. A column of the caches is a token fed; what is taken back is masked."""

    def __init__(self, target: Qwen3ForCausalLM, drafter: Qwen3ForCausalLM, rule: Rule) -> None:
        self._models = (target, drafter)
        self._rule = rule

    @torch.inference_mode()
    def write(self, prompts: Sequence[Sequence[int]]) -> list[Text]:
        longest = max(map(len, prompts))
        rows = [_Row(len(prompt)) for prompt in prompts]
        live = rows
        fed = torch.tensor([[END_ID] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        caches = (DynamicCache(), DynamicCache())
        while live:
            target, drafter = (
                model(fed, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True).logits[:, -1]
                for model, cache in zip(self._models, caches, strict=True)
            )
            self._decide(target, drafter, live, mask)
            going = [at for at, row in enumerate(live) if not row.is_done]
            if 2 * len(going) <= len(live):  # Half of the work would be for nothing.
                live, mask = [live[at] for at in going], mask[going]
                for cache in caches:
                    cache.batch_select_indices(torch.tensor(going, dtype=torch.long))
            fed = torch.tensor([[row.text.tokens[-1]] for row in live])
            positions = torch.tensor([[row.prompt + len(row.text.tokens) - 1] for row in live])
            mask = torch.cat((mask, torch.ones(len(live), 1, dtype=mask.dtype)), dim=1)
        return [row.text for row in rows]

    def _decide(self, target: Tensor, drafter: Tensor, rows: list[_Row], mask: Tensor) -> None:
        """Commit one token in each row that is not done."""
        if self._rule.wrong:
            drafter = drafter.roll(1, dims=-1)
        choices, drafts = target.argmax(-1).tolist(), drafter.argmax(-1).tolist()
        for at, row in enumerate(rows):
            if not row.is_done:
                row.pending = self._commit(row.text, choices[at], drafts[at], target[at], drafter[at], row.pending, mask[at])

    def _commit(
        self, text: Text, choice: int, draft: int, target: Tensor, drafter: Tensor, waiting: _Pending | None, mask: Tensor
    ) -> _Pending | None:
        if choice == draft:
            text.tokens.append(choice)
            text.drafts_right += 1
            if waiting is None:
                return None
            waiting.matched += 1
            return self._weigh(text, waiting, mask)
        if waiting is not None:
            return self._weigh(text, waiting, mask, missed=True)
        drift = self._forgiven(choice, draft, target, drafter, text.drift)
        if drift is None:
            text.tokens.append(choice)
            return None
        text.tokens.append(draft)
        return self._weigh(text, _Pending(len(text.tokens) - 1, choice, mask.numel(), drift), mask)

    def _weigh(self, text: Text, waiting: _Pending, mask: Tensor, *, missed: bool = False) -> _Pending | None:
        """By the core's rule: it stands, it falls, or the next position will tell."""
        after = After.NOTHING if missed else After.END if text.is_done else After.AWAITED
        standing = stands(waiting.matched, after, self._rule.acceptance.window)
        if standing is None:
            return waiting
        if standing:
            text.relaxed += 1
            text.drift += waiting.drift
            text.largest = max(text.largest, waiting.drift)
        else:  # Back to where it was, and the target's choice.
            mask[waiting.column :] = 0
            text.drafts_right -= waiting.matched
            del text.tokens[waiting.length :]
            text.tokens.append(waiting.choice)
        return None

    def _forgiven(self, choice: int, draft: int, target: Tensor, drafter: Tensor, drifted: float) -> float | None:
        log_probs = target.log_softmax(-1)
        best = log_probs.topk(TOP)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        top = tuple(Candidate(TokenId(token), value, value) for token, value in rows)
        entropy = float(-(log_probs.exp() * log_probs).sum())
        verdict = Verdict(NodeId(1), TokenId(choice), top[0].score - top[1].score, top, entropy)
        confidence = float(drafter.softmax(-1)[draft])
        node = TreeNode(NodeId(2), NodeId(1), TokenId(draft), 0, confidence=confidence)
        forgiven = self._rule.acceptance.forgive(verdict, [node], drifted)
        return forgiven.drift if forgiven else None


@dataclass(frozen=True)
class Figures:
    """One rule on one set of prompts. Accuracies and shares in per cent; the loss against exact, and its 95 % upper bound."""

    rule: str
    acceptance: float
    relaxed: float
    nats_a_token: float
    largest_nats: float
    speed: float
    accuracy: float
    loss: float
    loss_bound: float
    unchanged: float


def figures(rule: Rule, texts: list[Text], right: list[bool], exact: list[Text], exact_right: list[bool]) -> Figures:
    tokens = sum(len(text.tokens) for text in texts)
    relaxed = sum(text.relaxed for text in texts)
    share = (sum(text.drafts_right for text in texts) + relaxed) / tokens
    reference = sum(text.drafts_right for text in exact) / sum(len(text.tokens) for text in exact)
    paired = PairedLoss.between(exact_right, right)
    same = sum(text.tokens == other.tokens for text, other in zip(texts, exact, strict=True))
    count = len(texts)
    return Figures(
        rule=rule.name,
        acceptance=100 * share,
        relaxed=100 * relaxed / tokens,
        nats_a_token=sum(text.drift for text in texts) / tokens,
        largest_nats=max(text.largest for text in texts),
        speed=_law(reference) / _law(share),
        accuracy=100 * sum(right) / count,
        loss=100 * paired.share,
        loss_bound=100 * paired.upper_bound,
        unchanged=100 * same / count,
    )


def _law(share: float) -> float:
    return share * SLOWEST_MS + (1 - share) * ROUND_TRIP_MS


def rules(key: KeyTokens) -> list[Rule]:
    made = [Rule("exact", Exact())]
    for most in TOLERANCES:
        made.append(Rule(f"adaptive {most}", Adaptive(most, key_tokens=key)))
        made.append(Rule(f"fixed {most}", Adaptive(most, weighs_importance=False)))
        made.append(Rule(f"late {most}", Adaptive(most, key_tokens=key, window=LATE_WINDOW)))
    made.append(Rule("exact, wrong drafter", Exact(), wrong=True))
    made.append(Rule("adaptive 3.0, wrong drafter", Adaptive(3.0, key_tokens=key), wrong=True))
    return made


class Evaluation:
    """The prompts and the pair; `run` gives a table's rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._tokenizer = AutoTokenizer.from_pretrained(TARGET)
        self._target: Qwen3ForCausalLM = load_model(TARGET).float()  # type: ignore[no-untyped-call]
        self._drafter: Qwen3ForCausalLM = load_model(DRAFTER).float()  # type: ignore[no-untyped-call]
        key = key_tokens(self._tokenizer, len(self._tokenizer))
        assert key is not None
        self._rules = [rule for rule in rules(key) if not options.rules or rule.name in options.rules]

    def word_problems(self) -> list[Figures]:
        return self._table(made_up(self._options.problems, self._options.seed))

    def of_file(self, path: Path) -> list[Figures]:
        """Of HumanEval's functions `accuracy` is the share of completions that parse."""
        return self._table(read_questions(path, self._options.prompts))

    def _table(self, questions: Questions) -> list[Figures]:
        rows: list[Figures] = []
        exact: tuple[list[Text], list[bool]] | None = None
        for rule in self._rules:
            texts = self._write(questions.prompts, rule)
            right = questions.right(questions.prompts, [str(self._tokenizer.decode(text.tokens)) for text in texts])
            if right is None:
                raise UsageError(f"which answers to {questions.name} are right nobody can say; name GSM8K or HumanEval")
            if rule.name.startswith("exact"):
                exact = texts, right
            assert exact is not None, "the exact rule comes first"
            rows.append(figures(rule, texts, right, *exact))
        return rows

    def _write(self, prompts: Sequence[str], rule: Rule) -> list[Text]:
        encoded = [self._tokenizer.encode(text) for text in prompts]
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        writer = Writer(self._target, self._drafter, rule)
        written: dict[int, Text] = {}
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            written.update(zip(part, writer.write([encoded[index] for index in part]), strict=True))
        return [written[index] for index in range(len(prompts))]


async def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    evaluation = Evaluation(options)
    tables = {"made-up word problems": evaluation.word_problems()}
    if options.gsm8k:
        tables["GSM8K"] = evaluation.of_file(options.gsm8k)
    if options.humaneval:
        tables["HumanEval (accuracy: parses)"] = evaluation.of_file(options.humaneval)
    console = Console(width=132)
    for title, rows in tables.items():
        console.print(_printed(title, rows))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        content = {title: [asdict(row) for row in rows] for title, rows in tables.items()}
        (options.out / "adaptive.json").write_text(json.dumps(content, indent=2) + "\n")
        _plot(tables, options.out / "adaptive.png")


def _printed(title: str, rows: list[Figures]) -> Table:
    shares = ("right %", "relaxed %", "nats/token", "most nats", "speed by law")
    table = Table("rule", *shares, "accuracy %", "lost", "95 % bound", "unchanged %", title=title)
    for row in rows:
        table.add_row(
            row.rule, f"{row.acceptance:.1f}", f"{row.relaxed:.1f}", f"{row.nats_a_token:.4f}", f"{row.largest_nats:.2f}",
            f"{row.speed:.2f}", f"{row.accuracy:.2f}", f"{row.loss:.2f}", f"{row.loss_bound:.2f}", f"{row.unchanged:.1f}",
        )  # fmt: skip
    return table


def _plot(tables: dict[str, list[Figures]], path: Path) -> None:
    """Accuracy against speed: what lies higher at the same place earns its keep."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(tables), figsize=(5 * len(tables), 4), squeeze=False)
    for axis, (title, rows) in zip(axes[0], tables.items(), strict=True):
        for kind, marker in (("adaptive", "o"), ("late", "^"), ("fixed", "x")):
            found = [row for row in rows if row.rule.startswith(kind) and "wrong" not in row.rule]
            axis.plot([row.speed for row in found], [row.accuracy for row in found], marker=marker, label=kind)
        axis.axhline(rows[0].accuracy, linewidth=0.8, linestyle=":", color="gray")
        axis.set(title=title, xlabel="speed by the law, of exact", ylabel="accuracy %")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=2000, help="made-up word problems")
    parser.add_argument("--gsm8k", type=Path, help="JSON lines of questions and answers")
    parser.add_argument("--humaneval", type=Path, help="JSON lines of prompts")
    parser.add_argument("--prompts", type=int, default=300, help="of each file at most")
    parser.add_argument("--rules", nargs="*", help="of the table's rows, these alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a directory for adaptive.json and adaptive.png")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    asyncio.run(main())
