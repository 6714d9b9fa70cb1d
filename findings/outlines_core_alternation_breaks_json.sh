#!/usr/bin/env bash
# outlines-core 0.2.14: a schema's pattern with "|" makes the guide write texts that are no JSON.
#
# Input: the JSON Schema of an object with one string, "pattern": "^yes|no$" or "yes|no", and a guide
# from it over a vocabulary of single characters, walked to each of its ends.
# Guess: {"answer":"yes"} and {"answer":"no"}, as for "^(yes|no)$", or an error for a pattern that the
# library does not know.
# Seen: the pattern is put between two quotes as it is, so the alternatives take the quotes with them.
# The only two texts that the guide lets a model write are {"answer":"yes} and {"answer":no"}.
set -euo pipefail
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab"
"$lab/bin/pip" install --quiet outlines-core==0.2.14
"$lab/bin/python" - <<'PYTHON'
import json
from importlib.metadata import version

from outlines_core import Guide, Index, Vocabulary
from outlines_core.json_schema import build_regex_from_schema

CHARACTERS = sorted(set('{"answer":yesno}'))
END = len(CHARACTERS)


def texts(pattern):
    """All texts without spaces that a guide for the pattern allows."""
    string = {"type": "string", "pattern": pattern}
    schema = {"type": "object", "properties": {"answer": string}, "required": ["answer"]}
    regex = build_regex_from_schema(json.dumps(schema))
    tokens = {character: [token] for token, character in enumerate(CHARACTERS)}
    index = Index(regex, Vocabulary(END, tokens))
    whole, begun = [], [[]]
    while begun:
        written = begun.pop()
        guide = Guide(index)
        for token in written:
            guide.advance(token)
        if guide.is_finished():
            whole.append("".join(CHARACTERS[token] for token in written))
        else:
            begun += [[*written, token] for token in guide.get_tokens() if token != END]
    return sorted(whole)


def is_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


print("outlines-core", version("outlines-core"))
got = {}
for pattern in ("^(yes|no)$", "^yes|no$", "yes|no"):
    got[pattern] = texts(pattern)
    print(f"{pattern!r}:", ", ".join(f"{one} (JSON: {is_json(one)})" for one in got[pattern]))

assert got["^(yes|no)$"] == ['{"answer":"no"}', '{"answer":"yes"}'], "the group has changed"
for pattern in ("^yes|no$", "yes|no"):
    assert got[pattern] == ['{"answer":"yes}', '{"answer":no"}'], "the behaviour has changed"
PYTHON
