#!/usr/bin/env bash
# tokenizers 0.22.1: a `DecodeStream` that is primed with ids that end within a character gives their text once more.
#
# Input: a byte-level tokenizer with a token for each byte; `DecodeStream(ids=...)` with the ids of "caf" and of the
# first byte of "é", as an engine primes it with a prompt; then a step with the second byte.
# Guess: the step gives "é". A stream that is primed with whole characters gives only what is new.
# Seen: the step gives "café": the primed text comes out a second time. An engine that continues such a prompt (to go on
# with a stream whose worker died, say) sends text that the caller has already.
set -euo pipefail
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab"
"$lab/bin/pip" install --quiet tokenizers==0.22.1
"$lab/bin/python" - <<'PYTHON'
from importlib.metadata import version

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.decoders import DecodeStream

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()


def after(text, primed):
    """What the steps give for the tokens of `text` after the first `primed` ones."""
    ids = tokenizer.encode(text).ids
    stream = DecodeStream(ids=ids[:primed], skip_special_tokens=False)
    return "".join(stream.step(tokenizer, one) or "" for one in ids[primed:])


whole, within = after("café!", 3), after("café!", 4)
print("tokenizers", version("tokenizers"))
print("primed with whole characters:", repr(whole))
print("primed up to within a character:", repr(within))
assert whole == "é!", whole
assert within == "café!", within
PYTHON
