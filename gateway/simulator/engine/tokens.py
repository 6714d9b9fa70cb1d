"""The simulator's tokenizer: a fixed vocabulary, with encoding and decoding of text.

Ids 0 to 2 are special, the next 256 are the single bytes, the rest are words and parts of words.
With all single bytes in the vocabulary, every text survives encoding and decoding, and as in a real
byte-level vocabulary some tokens end inside a UTF-8 character.
"""

from collections.abc import Iterable, Sequence

from gateway.simulator.engine import words

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
IM_START = 1
EOS = 2
_FIRST_BYTE = len(SPECIALS)

# Each ends before the last byte of a character, the dash or the é; that byte is a token of its own.
DASH_HEAD = " \u2014".encode()[:-1]
CAFE_HEAD = " caf\u00e9".encode()[:-1]


_SPACED = (
    words.OPENERS,
    words.DETERMINERS,
    words.ADJECTIVES,
    words.NOUNS,
    words.VERBS,
    words.ADVERBS,
    words.PREPOSITIONS,
    words.CONJUNCTIONS,
    words.COMMON,
)
_UNSPACED = (words.OPENERS, words.FRAGMENTS)


def _pieces() -> list[bytes]:
    """Return the tokens after the single bytes, in the order of their ids."""
    spaced = [" " + word for text in _SPACED for word in text.split()]
    unspaced = [word for text in _UNSPACED for word in text.split()]
    texts = [*spaced, *unspaced, "\n\n", "  "]
    return [*(text.encode() for text in texts), DASH_HEAD, CAFE_HEAD]


TOKENS: tuple[bytes, ...] = (
    *(name.encode() for name in SPECIALS),
    *(bytes([value]) for value in range(256)),
    *_pieces(),
)
SIZE = len(TOKENS)
_IDS = {token: number for number, token in enumerate(TOKENS) if number >= _FIRST_BYTE}
_MAX_TOKEN_BYTES = max(map(len, TOKENS))


def id_of(text: str | bytes) -> int:
    """Return the id of the one token that is exactly `text`; raises KeyError if there is none."""
    return _IDS[text.encode() if isinstance(text, str) else text]


def encode(text: str, limit: int | None = None) -> list[int]:
    """Return the ids of `text`, the longest token first at each position; at most `limit` ids.

    Special tokens are never read from text: a prompt cannot forge the end of a message.
    """
    data = text.encode("utf-8", errors="replace")
    ids: list[int] = []
    at = 0
    while at < len(data) and (limit is None or len(ids) < limit):
        number, length = _longest_piece(data, at)
        ids.append(number)
        at += length
    return ids


def _longest_piece(data: bytes, at: int) -> tuple[int, int]:
    for length in range(min(_MAX_TOKEN_BYTES, len(data) - at), 1, -1):
        number = _IDS.get(data[at : at + length])
        if number is not None:
            return number, length
    return _FIRST_BYTE + data[at], 1


def decode(ids: Iterable[int]) -> str:
    """Return the text of `ids`: special tokens by name, bytes that are not UTF-8 as U+FFFD."""
    return b"".join(TOKENS[number] for number in ids).decode("utf-8", errors="replace")


def piece_text(number: int, held: bytes = b"") -> str:
    """Return a token's text in logprobs, if the bytes `held` come before it.

    It is empty for a token that ends inside a character, as in the engine, and the whole character
    for the token that completes one.
    """
    for data in (TOKENS[number], held + TOKENS[number]):
        try:
            return data.decode()
        except UnicodeDecodeError:
            continue
    return ""


def piece_texts(ids: Sequence[int]) -> list[str]:
    """Return `piece_text` of each of `ids`, each after those before it."""
    texts, held = [], b""
    for number in ids:
        text = piece_text(number, held)
        texts.append(text)
        held = b"" if text else held + TOKENS[number]
    return texts


def overlap(text: str, mark: str) -> int:
    """Number of characters at the end of `text` that may be the beginning of `mark`."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


class Detokenizer:
    """Decodes ids as they come, and holds back bytes that may still become a character.

    As in the engine, text that ends in U+FFFD waits for the next token. Text that still waits at
    the end of the response is never shown, so ids cannot be recovered from text.
    """

    def __init__(self) -> None:
        self.held = b""

    def add(self, number: int) -> str:
        """Return the text that `number` completes, often all of it, sometimes none."""
        if number < _FIRST_BYTE:
            return ""
        data = self.held + TOKENS[number]
        text = data.decode("utf-8", errors="replace")
        if text.endswith("\ufffd"):
            self.held = data
            return ""
        self.held = b""
        return text
