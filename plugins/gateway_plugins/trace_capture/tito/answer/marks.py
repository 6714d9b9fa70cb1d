"""Marks in a text: those of tool calls and of reasoning, and special tokens."""

import re

MARKS = re.compile(r"[<\[{`\u25c1\u3010\u00ab]|functools")
"""What the marks of all parsers of tool calls and reasoning begin with."""

THOUGHT = re.compile(r"think|channel", re.IGNORECASE)
"""What the marks of reasoning have in them. A parser may lose the text before such a mark if both
come in one piece, so that a token with one is parsed alone."""

_SPECIAL = re.compile(r"<[^<>\n]{1,60}>|\[[^\[\]\n]{1,60}\]")
"""What the texts of special tokens look like."""


def without_hidden(text: str, whole: str) -> str:
    """Return what the parser says without the special tokens that are not in the `whole` text.

    The parser is always told of special tokens, also if the engine hides them from a text.
    """
    return _SPECIAL.sub(lambda found: found[0] if found[0] in whole else "", text)
