"""English sentences in which a number 0-9, the label, is said or implied.

A sentence is a hand-written template with its slots filled. Every template belongs to one split
only, so that a model is tested on word orders that it has not seen; the cues (how a number is
said) are shared by all splits. Many templates also hold a distractor, another number that plays
a lesser part: "After 3 failed attempts the code was seven." Whether the cue or the distractor
comes first varies, so that a bag of words cannot always tell them apart.

A slot is `<role>` or `<role:form>`. The role is `cue` (the label) or `other` (the distractor).
The form says what fits the grammar there: `value` (the default) is any way to say a number,
`count` a plain numeral before a plural noun, `place` an ordinal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from fdlab.core.errors import UserError, name_unknown

# Difficulty. More of any of these makes the label harder to read from the sentence.
P_DISTRACTOR = 0.25
P_IMPLIED = 0.3
P_AMBIGUOUS = 0.1  # an implied value is a phrase that fits two digits ("six or seven")
P_FIGURE = 0.3  # a numeral is written in figures
P_DROP = 0.04  # a word of the template is missing; cues and distractors never are

PAD, UNKNOWN = "[PAD]", "[UNK]"
SPLITS = ("train", "validation", "test")

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ORDINALS = (
    "zeroth", "first", "second", "third", "fourth",
    "fifth", "sixth", "seventh", "eighth", "ninth",
)  # fmt: skip
ENDINGS = ("th", "st", "nd", "rd", "th", "th", "th", "th", "th", "th")

# Phrases that stand for one digit, in the order of the digits.
IMPLIED = (
    ("nothing at all", "nil", "nought", "five minus five", "one less than one", "an empty set",
     "the number of corners of a circle", "a duck in cricket", "love in tennis", "none"),
    ("a single one", "an ace", "a unit", "a monad", "nine minus eight", "one less than two",
     "one more than zero", "the number of moons of the earth", "the number of heads you have",
     "a solo"),
    ("a pair", "a couple", "a brace", "twins", "a duet", "one plus one", "one less than three",
     "half of four", "the number of wheels on a bicycle", "the number of sides of a coin"),
    ("a trio", "triplets", "a triad", "one plus two", "one less than four", "seven minus four",
     "the number of sides of a triangle", "the number of primary colours",
     "the number of wheels on a tricycle", "a hat trick"),
    ("a quartet", "quadruplets", "a foursome", "twice two", "one less than five", "half of eight",
     "nine minus five", "the number of sides of a square", "the number of seasons in a year",
     "the number of legs on a dog"),
    ("a quintet", "quintuplets", "a full hand of fingers", "two plus three", "one less than six",
     "one more than four", "the number of toes on a foot", "the number of olympic rings",
     "the number of sides of a pentagon", "the number of points of a starfish"),
    ("a sextet", "half a dozen", "sextuplets", "twice three", "one less than seven",
     "one more than five", "the number of legs on an insect", "the number of faces of a cube",
     "the number of sides of a hexagon", "the number of strings on a guitar"),
    ("a septet", "septuplets", "four plus three", "one less than eight", "one more than six",
     "nine minus two", "the number of days in a week", "the number of dwarfs in the tale",
     "the number of colours in a rainbow", "the number of deadly sins"),
    ("an octet", "octuplets", "twice four", "five plus three", "one less than nine",
     "one more than seven", "the number of legs on a spider", "the number of arms of an octopus",
     "the number of sides of an octagon", "the number of notes in an octave"),
    ("a nonet", "three squared", "five plus four", "one less than ten", "one more than eight",
     "six plus three", "the number of lives of a cat", "the number of muses",
     "the number of players in a baseball team", "the number of months of a pregnancy"),
)  # fmt: skip

# Phrases that fit two digits alike: no model can do better here than to halve the choice.
AMBIGUOUS = (
    ("hardly any", (0, 1)), ("next to nothing", (0, 1)), ("at most one", (0, 1)),
    ("one or two", (1, 2)), ("two or three", (2, 3)), ("a couple or so", (2, 3)),
    ("a few", (3, 4)), ("three or four", (3, 4)), ("a handful", (4, 5)), ("four or five", (4, 5)),
    ("five or six", (5, 6)), ("about half a dozen", (5, 6)), ("several", (6, 7)),
    ("six or seven", (6, 7)), ("seven or eight", (7, 8)), ("the number of planets", (8, 9)),
    ("eight or nine", (8, 9)), ("almost ten", (8, 9)),
)  # fmt: skip

_TRAIN = (
    "the answer is <cue> .", "she wrote down <cue> and closed the book .",
    "our bus has the number <cue> .", "<cue> , that was the reply .",
    "please remember this number : <cue> .", "he pressed the button marked <cue> on the wall .",
    "i am thinking of <cue> .", "the sign on the door shows <cue> .",
    "the judge raised a card with <cue> on it .",
    "they live on the <cue:place> floor of the tower .", "the dial points to <cue> this morning .",
    "the winning ticket ends in <cue> .", "my lucky number has always been <cue> .",
    "type <cue> to continue .", "the runner finished in <cue:place> position .",
    "what he shouted sounded like <cue> .", "we settled on <cue> in the end .",
    "the final figure of the year is <cue> .", "open the drawer labelled <cue> now .",
    "the child drew <cue> in the sand .", "it is the <cue:place> name on the list .",
    "after <other:count> failed attempts the code was <cue> .",
    "the code was <cue> after <other:count> failed attempts .",
    "it was not <other> but <cue> .", "it was <cue> , not <other> .",
    "she guessed <other> , but the answer was <cue> .",
    "the answer was <cue> , although she guessed <other> .",
    "he crossed out <other> and wrote <cue> instead .", "instead of <other> , dial <cue> .",
    "dial <cue> rather than <other> .", "on the <other:place> try the machine printed <cue> .",
    "they chose <cue> on the <other:place> day of the trial .",
    "with <other:count> people waiting , the clerk called <cue> .",
    "the clerk called <cue> while <other:count> people waited .",
    "forget <other> , the true value is <cue> .", "the true value is <cue> , so forget <other> .",
    "i said <cue> and you heard <other> .", "you heard <other> when i said <cue> .",
    "yesterday the gauge stood at <other> , today it stands at <cue> .",
    "today the gauge stands at <cue> , yesterday it stood at <other> .",
    "for <other:count> hours nobody saw that the label read <cue> .",
    "the old number was <other> and the new one is <cue> .",
    "the new number is <cue> and the old one was <other> .",
    "the clock on the <other:place> floor struck <cue> .",
)  # fmt: skip
_VALIDATION = (
    "the number on the shirt is <cue> .", "the pilot announced <cue> .",
    "the letter went to the <cue:place> house .", "his reply , as always , was <cue> .",
    "count up to <cue> and wait .", "it must be <cue> .",
    "the total came to <cue> once <other:count> errors were removed .",
    "once <other:count> errors were removed the total came to <cue> .",
    "replace <other> by <cue> in the table .", "put <cue> in the table in place of <other> .",
    "the <other:place> witness remembered <cue> .", "<other> was a guess , <cue> is the fact .",
)  # fmt: skip
_TEST = (
    "the result turned out to be <cue> .", "nobody forgot that it was <cue> .",
    "the referee held up <cue> .", "turn to the <cue:place> chapter .",
    "all of them agreed on <cue> .", "the meter says <cue> again .",
    "choose <cue> from the menu .", "we saw <cue> painted on the gate .",
    "the password contains <cue> .", "the <cue:place> stop is ours .",
    "having lost <other:count> games , she entered <cue> on the keypad .",
    "the correct reading is <cue> , never <other> .", "the display went from <other> to <cue> .",
    "the display shows <cue> where it used to show <other> .",
    "everyone expected <other> , yet the dice gave <cue> .",
    "the dice gave <cue> , whatever the <other:count> players hoped .",
    "we need <cue> ; <other> would be wrong .", "<other> is wrong : we need <cue> .",
    "<cue> was drawn in the <other:place> round .", "in the <other:place> round <cue> was drawn .",
)  # fmt: skip

TEMPLATES = _TRAIN + _VALIDATION + _TEST
TEMPLATE_SPLITS = (
    ("train",) * len(_TRAIN) + ("validation",) * len(_VALIDATION) + ("test",) * len(_TEST)
)

_SLOT = re.compile(r"<(cue|other)(?::(count|place))?>")
_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:st|nd|rd|th)?|[^\w\s]")


def list_templates(split: str) -> list[int]:
    """Indices into `TEMPLATES` of the templates of `split`, one of `SPLITS`."""
    if split not in SPLITS:
        raise name_unknown("split", split, SPLITS)
    return [index for index, owner in enumerate(TEMPLATE_SPLITS) if owner == split]


def compose(
    label: int,
    split: str,
    rng: np.random.Generator,
    *,
    p_distractor: float = P_DISTRACTOR,
    p_implied: float = P_IMPLIED,
    p_ambiguous: float = P_AMBIGUOUS,
    p_drop: float = P_DROP,
) -> tuple[str, int]:
    """Write a sentence for `label` (0-9) with a template of `split`; return it and its template.

    The template is an index into `TEMPLATES`. Probabilities are explained at the constants of
    this module. All choices come from `rng`. Raises `UserError` for a label or split out of range.
    """
    if label not in range(10):
        raise UserError(f"label {label!r} is out of range; expected a digit 0 to 9")
    wanted = rng.random() < p_distractor
    template_id = int(
        rng.choice([i for i in list_templates(split) if ("<other" in TEMPLATES[i]) == wanted])
    )
    other = int((label + rng.integers(1, 10)) % 10)

    def fill(slot: re.Match) -> str:
        digit = label if slot[1] == "cue" else other
        return say_number(digit, slot[2] or "value", rng, p_implied, p_ambiguous)

    words = [
        word
        for word in TEMPLATES[template_id].split()
        if not word.isalpha() or rng.random() >= p_drop
    ]
    return _write([_SLOT.sub(fill, word) for word in words]), template_id


def say_number(
    digit: int,
    form: str,
    rng: np.random.Generator,
    p_implied: float = P_IMPLIED,
    p_ambiguous: float = P_AMBIGUOUS,
) -> str:
    """Words for `digit` (0-9) in a `form`: `value`, `count` (numeral) or `place` (ordinal)."""
    in_figures = rng.random() < P_FIGURE
    if form == "place":
        return f"{digit}{ENDINGS[digit]}" if in_figures else ORDINALS[digit]
    if form == "count" or rng.random() >= p_implied:
        return str(digit) if in_figures else WORDS[digit]
    if rng.random() < p_ambiguous:
        return str(rng.choice([phrase for phrase, digits in AMBIGUOUS if digit in digits]))
    return str(rng.choice(IMPLIED[digit]))


def _write(words: Sequence[str]) -> str:
    """Join words and punctuation as in print, with a capital at the start."""
    text = re.sub(r" ([.,;:])", r"\1", " ".join(words))
    return text[:1].upper() + text[1:]


def tokenize(sentence: str) -> list[str]:
    """Lower-case words, figures (with their ordinal ending) and punctuation marks, in order.

    >>> tokenize("In the 3rd round, it was seven.")
    ['in', 'the', '3rd', 'round', ',', 'it', 'was', 'seven', '.']
    """
    return _TOKEN.findall(sentence.lower())


def build_vocabulary(sentences: Iterable[str]) -> list[str]:
    """Tokens by falling count, then by alphabet, after `[PAD]` (0) and `[UNK]` (1).

    Pass training sentences only, so that words of the other splits stay unknown.
    """
    counts = Counter(token for sentence in sentences for token in tokenize(sentence))
    return [PAD, UNKNOWN, *sorted(counts, key=lambda token: (-counts[token], token))]


def encode(sentences: Sequence[str], vocabulary: Sequence[str], length: int) -> np.ndarray:
    """Token indices, int32 of shape (number of sentences, `length`), padded with 0 on the right.

    Tokens that are not in `vocabulary` become 1. Nothing is cut: raises `UserError` for a
    sentence of more than `length` tokens.
    """
    index = {token: position for position, token in enumerate(vocabulary)}
    codes = np.zeros((len(sentences), length), np.int32)
    for row, sentence in enumerate(sentences):
        tokens = tokenize(sentence)
        if len(tokens) > length:
            raise UserError(
                f"sentence {sentence!r} has {len(tokens)} tokens; expected at most {length}"
            )
        codes[row, : len(tokens)] = [index.get(token, 1) for token in tokens]
    return codes
