"""Which tokens of a vocabulary are key whatever the statistics say: a table for each tokenizer, made once.

A wrong word is often only another word; a wrong digit, operator, negation or name says something else.
What the classes mean for the tolerance is in decoding/choice/importance.py.
"""

import re
from enum import Enum
from typing import Any

from dsd_core.decoding.choice.importance import KeyTokens
from dsd_core.decoding.ids import TokenId


class TokenClass(Enum):
    """What a token is made of."""

    WORD = "word"
    """Prose, its punctuation included. The only class that is not key."""
    NUMBER = "number"
    """Key against other numbers, and half so much against words."""
    OPERATOR = "operator"
    NEGATION = "negation"
    NAME = "name"
    """A keyword or an identifier of a program."""
    STRUCTURE = "structure"
    """Lines, indentation, brackets, quotes: what a parser looks at."""
    END = "end"
    """End of text, and whatever else a tokenizer calls special."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NUMBERS = _words(
    """zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand
    million billion first second third half twice double triple quarter dozen each every all both"""
)
_NEGATIONS = _words("no not nor never none neither nothing nobody without cannot t except unless less fewer")
_OPERATORS = _words("plus minus times divided multiplied equals percent")
_NAMES = _words(
    """assert async await def del elif else False finally global import lambda None nonlocal raise return self True yield
    int str len range"""
)
_STRUCTURE = re.compile(r"[\n\t(){}\[\]\"`#@\\:\ufffd]| {2}|^ ?'$")
_IDENTIFIER = re.compile(r"_|[a-z][A-Z]")
_PROSE = re.compile(r"[\w\s.,;!?'’“”–-]*[^\W_]?[.,;!?'’“”]*")


def classify(text: str) -> TokenClass:
    """The class of a token, by its text."""
    word = text.strip()
    if not text:
        return TokenClass.END
    if any(character.isnumeric() for character in word) or word.lower() in _NUMBERS:
        return TokenClass.NUMBER
    if word.lower() in _NEGATIONS or word.lower().endswith(("n't", "n’t", "'t")):
        return TokenClass.NEGATION
    if word in _NAMES or _IDENTIFIER.search(word):
        return TokenClass.NAME
    if _STRUCTURE.search(text):
        return TokenClass.STRUCTURE
    is_prose = _PROSE.fullmatch(word) and word != "-" and word.lower() not in _OPERATORS
    return TokenClass.WORD if is_prose else TokenClass.OPERATOR


def key_tokens(tokenizer: Any, vocab_size: int) -> KeyTokens | None:
    """Numbers, and always key all else but words, ids without a text included; None if this tokenizer's tokens have no texts of
    their own."""
    texts = tokenizer.batch_decode([[token] for token in range(min(vocab_size, len(tokenizer)))])
    if 2 * sum("\ufffd" in text or not text for text in texts) >= len(texts):
        return None
    special = set(tokenizer.all_special_ids)
    classes = {TokenId(token): classify(text) for token, text in enumerate(texts) if token not in special}
    every = frozenset(map(TokenId, range(vocab_size)))
    numbers = frozenset(token for token, found in classes.items() if found is TokenClass.NUMBER)
    words = frozenset(token for token, found in classes.items() if found is TokenClass.WORD)
    return KeyTokens(every - numbers - words, numbers)
