from itertools import islice

from tokenizers import Tokenizer

from dsd_core.embedded import TARGET
from dsd_core.embedded.corpus import Document
from dsd_core.embedded.packing import Row, batches, encode, rows
from dsd_core.embedded.vocabulary import END_ID, load_tokenizer


def _row(*tokens: int) -> Row:
    return Row(list(tokens), [1.0] * len(tokens))


def _weights(tokenizer: Tokenizer, body: str) -> dict[str, float]:
    encoded = encode(tokenizer, Document("Question: 5?", body, prompt_weight=0.1, emphasises_numbers=True))
    return {tokenizer.decode([token]): weight for token, weight in zip(encoded.tokens, encoded.weights, strict=True)}


def test_rows_take_the_first_document_that_fits_and_are_padded() -> None:
    packed = list(rows(iter([_row(1, 2, 3), _row(4, 5), _row(6)]), length=4))
    assert [row.tokens for row in packed] == [[1, 2, 3, 6], [4, 5, END_ID, END_ID]]
    assert packed[1].weights == [1.0, 1.0, 0.0, 0.0]


def test_a_document_longer_than_a_row_is_cut() -> None:
    assert [row.tokens for row in rows(iter([_row(1, 2, 3)]), length=2)] == [[1, 2]]


def test_batches_stack_rows() -> None:
    (first, second) = islice(batches(rows(iter([_row(1), _row(2), _row(3)]), length=1), num_rows=2), 2)
    assert first.tokens.tolist() == [[1], [2]]
    assert second.weights.tolist() == [[1.0]]


def test_results_weigh_most_and_the_prompt_least() -> None:
    weights = _weights(load_tokenizer(TARGET), " That makes 1 + 3 = 4.\n#### 8")
    assert [weights[token] for token in ("Question", " makes", "1", "3", "4", "8")] == [0.1, 1.0, 2.0, 2.0, 3.0, 3.0]


def test_a_document_ends_with_the_end_token() -> None:
    assert encode(load_tokenizer(TARGET), Document("a", " b")).tokens[-1] == END_ID
