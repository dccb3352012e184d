"""Texts as token ids, laid out as BERT reads them: [CLS], the tokens, [SEP], then [PAD].

Two vocabularies: one of whole words, counted in the training texts, and BERT's own of word pieces,
read from its `vocab.txt`. A vocabulary of word pieces is never trained here: that training gives
different pieces from run to run, where counting and encoding do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fdlab.core.errors import UserError
from fdlab.data.sentences import PAD, UNKNOWN, tokenize

START, END = "[CLS]", "[SEP]"
SPECIAL = (PAD, UNKNOWN, START, END)  # ids 0 to 3 of a vocabulary of words
SHORTEST = 3  # [CLS], one token and [SEP]


def build_vocabulary(texts: Iterable[str], least: int = 2) -> list[str]:
    """`SPECIAL`, then words by falling count and then by alphabet; a word's place is its id.

    Pass training texts only. A word that occurs fewer than `least` times is left out (our choice):
    it becomes [UNK], whose embedding would otherwise never be trained.

    >>> build_vocabulary(["A flood, a storm", "the storm"])
    ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'a', 'storm']
    """
    counts = Counter(word for text in texts for word in tokenize(text))
    kept = [word for word, count in counts.items() if count >= least]
    return [*SPECIAL, *sorted(kept, key=lambda word: (-counts[word], word))]


def encode_words(
    texts: Sequence[str], vocabulary: Sequence[str], length: int
) -> tuple[np.ndarray, int]:
    """Ids of whole words, int32 (N, `length`), and how many texts were cut.

    `vocabulary` begins with `SPECIAL`. A word that it lacks becomes [UNK]; a text of more than
    `length` - 2 words loses its end. Raises `UserError` for a `length` below 3.
    """
    if tuple(vocabulary[: len(SPECIAL)]) != SPECIAL:
        raise UserError(f"a vocabulary begins with {vocabulary[:4]}: expected {list(SPECIAL)}")
    index = {word: place for place, word in enumerate(vocabulary)}
    rows = [[index.get(word, 1) for word in tokenize(text)] for text in texts]
    return _lay_out(rows, length, start=2, end=3)


def encode_wordpieces(
    texts: Sequence[str], vocabulary_file: str | Path, length: int
) -> tuple[np.ndarray, int]:
    """Ids of BERT's word pieces, int32 (N, `length`), and how many texts were cut.

    The text is lower-cased and loses its accents, as for the uncased BERT that `vocabulary_file`
    belongs to. A special token's name inside a text is text. Raises `UserError` for a file that is
    no such vocabulary, a `length` below 3, or a missing library.
    """
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError:
        raise UserError(
            'word pieces need the package tokenizers: expected after pip install "fdlab[media]"'
        ) from None
    tokens = {token: place for place, token in enumerate(read_vocabulary(vocabulary_file))}
    tokenizer = BertWordPieceTokenizer(vocab=tokens, lowercase=True)
    tokenizer._tokenizer.encode_special_tokens = True  # else "[PAD]" in a text would be padding
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return _lay_out([row.ids for row in encoded], length, start=tokens[START], end=tokens[END])


def read_vocabulary(path: str | Path) -> list[str]:
    """Tokens of a BERT `vocab.txt`, one a line; a token's place is its id.

    Raises `UserError` for a file that is missing or not UTF-8, a token that stands twice, and one
    whose first token is not [PAD] or that lacks another of `SPECIAL`.
    """
    path = Path(path)
    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): expected BERT's vocab.txt") from None
    lines: dict[str, int] = {}
    for number, token in enumerate(tokens, start=1):
        if token in lines:
            raise UserError(
                f"{path}, line {number}: {token!r} stands in line {lines[token]} too: "
                "expected every token once"
            )
        lines[token] = number
    if missing := [token for token in SPECIAL if token not in lines]:
        raise UserError(f"{path} has no {', '.join(missing)}: expected BERT's vocab.txt")
    if lines[PAD] != 1:  # everything that reads token ids takes 0 for padding
        raise UserError(f"{path}, line {lines[PAD]}: {PAD} stands here: expected it in line 1")
    return tokens


def _lay_out(
    rows: Sequence[Sequence[int]], length: int, start: int, end: int
) -> tuple[np.ndarray, int]:
    """[CLS] … [SEP] [PAD] …, int32 (N, `length`), and the number of rows that were too long."""
    if length < SHORTEST:
        raise UserError(f"a text's length is {length}: expected at least {SHORTEST} tokens")
    ids = np.zeros((len(rows), length), np.int32)
    for place, row in enumerate(rows):
        kept = [start, *row[: length - 2], end]
        ids[place, : len(kept)] = kept
    return ids, sum(len(row) > length - 2 for row in rows)
