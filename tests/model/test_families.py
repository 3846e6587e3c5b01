"""Every family, cut into spans and fed as a tree, against the whole model of transformers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dsd_core.model.span import Span
from tests.model.conftest import FAMILIES, LAYERS, VOCABULARY, WINDOWED, MakeTiny, Tiny, TreeSession, assert_same_scores

OpenSession = Callable[..., TreeSession]


def test_spans_fed_in_chunks_give_the_whole_models_scores(tiny: Tiny, open_session: OpenSession, tokens: list[int]) -> None:
    session = open_session(tiny.source)
    last, scores = None, []
    for chunk in (tokens[:9], tokens[9:23], tokens[23:]):
        last, chunk_scores = session.feed_run(chunk, last)
        scores.append(chunk_scores)
    assert_same_scores(torch.cat(scores), tiny.logits(tokens))


def test_rows_that_nobody_asks_for_are_not_needed(tiny: Tiny, open_session: OpenSession, tokens: list[int]) -> None:
    session = open_session(tiny.source)
    last, _ = session.feed_run(tokens[:9], None, asked=[])
    last, some = session.feed_run(tokens[9:18], last, asked=[1, 4])
    _, rest = session.feed_run(tokens[18:], last)
    assert_same_scores(torch.cat([some, rest]), tiny.logits(tokens)[[10, 13, *range(18, len(tokens))]])


def test_branches_of_a_tree_are_separate_texts(tiny: Tiny, open_session: OpenSession, tokens: list[int]) -> None:
    session = open_session(tiny.source)
    prompt, branches = tokens[:9], [tokens[9:14], tokens[14:19], tokens[19:]]
    root, _ = session.feed_run(prompt, None)
    scores: list[list[torch.Tensor]] = [[], [], []]
    last: list[int | None] = [root] * 3
    for step in (0, 1, 2):  # the three branches in one frame
        last[:], step_scores = session.feed([branch[step] for branch in branches], last)
        for branch in range(3):
            scores[branch].append(step_scores[branch])
    for branch in (2, 0, 1):  # and each in a frame of its own
        _, rest = session.feed_run(branches[branch][3:], last[branch])
        scores[branch].extend(rest)
    for branch in range(3):
        alone = tiny.logits(prompt + branches[branch])[len(prompt) :]
        assert_same_scores(torch.stack(scores[branch]), alone)


def test_what_freed_slots_hold_does_not_matter(tiny: Tiny, open_session: OpenSession, tokens: list[int]) -> None:
    session = open_session(tiny.source)
    root, _ = session.feed_run(tokens[:9], None)
    nodes, _ = session.feed(tokens[14:18], [root, root, root, root])
    slots = session.free(*nodes[:3])
    for store in session.stores:
        for keys, values in store._layers:
            keys[:, :, slots] = 1e30
            values[:, :, slots] = -1e30
    last, one = session.feed_run(tokens[9:10], root)  # into the first of them, the others lie between
    _, rest = session.feed_run(tokens[10:14], last)
    assert_same_scores(torch.cat([one, rest]), tiny.logits(tokens[:14])[9:])


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_close(tiny: Tiny, dtype: str, open_session: OpenSession, tokens: list[int]) -> None:
    session = open_session(tiny.source, dtype=dtype)
    _, scores = session.feed_run(tokens, None)
    exact = tiny.logits(tokens)
    assert scores.dtype == torch.float32
    similarity = torch.nn.functional.cosine_similarity(scores, exact, dim=-1)
    assert similarity.median() > 0.99  # a token near the border between two experts may go to the other


@pytest.mark.parametrize("family", WINDOWED)
def test_the_windows_of_these_tests_bite(family: str, tiny: Tiny, make_tiny: MakeTiny, tokens: list[int]) -> None:
    """Otherwise the tests above would pass with a window forgotten."""
    blind = make_tiny(family, sliding_window=1000)
    assert (tiny.logits(tokens) - blind.logits(tokens)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("granite", {"embedding_multiplier": 1.0}),
        ("granite", {"logits_scaling": 1.0}),
        ("gemma3_text", {"final_logit_softcapping": None}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
        ("qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
        ("qwen3_moe", {"norm_topk_prob": False}),
    ],
)
def test_the_settings_of_these_tests_bite(
    family: str, settings: dict[str, object], saved_families: dict[str, Tiny], make_tiny: MakeTiny, tokens: list[int]
) -> None:
    difference = saved_families[family].logits(tokens) - make_tiny(family, **settings).logits(tokens)
    assert difference.abs().max() > 0.01


def test_each_layer_can_be_a_span(tiny: Tiny, open_session: OpenSession, tokens: list[int]) -> None:
    session = open_session(tiny.source, tuple(range(LAYERS + 1)))
    _, scores = session.feed_run(tokens, None)
    assert_same_scores(scores, tiny.logits(tokens))


def test_sparse_layers_keep_their_numbers(make_tiny: MakeTiny, open_session: OpenSession, tokens: list[int]) -> None:
    """Which layers are mixtures is counted from the model's first layer, not from the span's."""
    tiny = make_tiny("qwen3_moe", decoder_sparse_step=2, mlp_only_layers=[3])
    _, scores = open_session(tiny.source).feed_run(tokens, None)
    assert_same_scores(scores, tiny.logits(tokens))


def test_long_ropes_are_served_while_their_frequencies_last(make_tiny: MakeTiny, open_session: OpenSession) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.5] * 4, "long_factor": [4.0] * 4}
    tiny = make_tiny(
        "phi3",
        rope_parameters=rope | {"original_max_position_embeddings": 32},
        original_max_position_embeddings=32,
        sliding_window=None,
    )
    tokens = list(np.random.default_rng(0).integers(3, VOCABULARY, 32))
    _, scores = open_session(tiny.source).feed_run(tokens, None)
    assert_same_scores(scores, tiny.logits(tokens), tolerance=5e-5)
    assert tiny.source.max_positions == 32


def test_a_large_frame_takes_the_unfolded_path(saved_families: dict[str, Tiny], open_session: OpenSession) -> None:
    tiny = saved_families["qwen3"]
    tokens = list(np.random.default_rng(0).integers(3, VOCABULARY, 400))
    session = TreeSession([Span.load(tiny.source, range(LAYERS))], capacity=512)
    _, scores = session.feed_run(tokens, None)
    assert_same_scores(scores, tiny.logits(tokens), tolerance=5e-5)


def test_all_listed_families_are_tested() -> None:
    from dsd_core.model import families

    assert set(FAMILIES) == set(families.FAMILIES)
