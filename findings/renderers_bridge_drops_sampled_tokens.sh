#!/usr/bin/env bash
# renderers 0.1.12: `bridge_to_next_turn` takes sampled tokens out of the next prompt if the model went on after its
# end-of-turn token, and does not tell.
#
# Input: Qwen3's renderer (`thinking_retention: all`) over a tokenizer of bytes with the marks of Qwen3; a completion in which text follows
# `<|im_end|>`, as an engine samples it with `ignore_eos` or `min_tokens`; then a message of the user.
# Guess: the prompt of the next turn begins with the whole previous prompt and completion, or the function returns
# None. Its documentation promises exactly that as a contract.
# Seen: it returns a prompt in which the tokens after the first `<|im_end|>` of the completion are missing. A trainer
# that puts the two together by their lengths is wrong from there on by as many tokens. A completion that ends with
# `<|im_end|>`, or has none, is kept as promised.
set -euo pipefail
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab"
"$lab/bin/pip" install --quiet renderers==0.1.12 tokenizers==0.22.1
"$lab/bin/python" - <<'PYTHON'
from importlib.metadata import version

from pydantic import TypeAdapter
from renderers import RendererConfig, create_renderer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
MARKS += ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
PROMPT = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


class Bytes:
    """A tokenizer with one token for each byte, with the methods that the package asks for."""

    name_or_path = "bytes"
    unk_token_id = None

    def __init__(self):
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        made = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens(MARKS)
        self._made = made
        self.eos_token_id = made.token_to_id("<|im_end|>")

    def encode(self, text, *, add_special_tokens=False):
        return self._made.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids, *, skip_special_tokens=False):
        return self._made.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def convert_tokens_to_ids(self, tokens):
        if isinstance(tokens, str):
            return self._made.token_to_id(tokens)
        return [self._made.token_to_id(token) for token in tokens]


def missing(completion):
    """Return how many tokens of prompt and completion the next prompt does not begin with."""
    prompt, sampled = tokenizer.encode(PROMPT), tokenizer.encode(completion)
    whole = prompt + sampled
    bridged = renderer.bridge_to_next_turn(prompt, sampled, [{"role": "user", "content": "And?"}])
    pairs = enumerate(zip(whole, bridged.token_ids))
    lost = len(whole) - next((at for at, (one, other) in pairs if one != other), len(whole))
    print(f"{completion!r}: {lost} of {len(sampled)} sampled tokens are not kept")
    return lost


tokenizer = Bytes()
config = TypeAdapter(RendererConfig).validate_python({"name": "qwen3", "thinking_retention": "all"})
renderer = create_renderer(tokenizer, config)
print("renderers", version("renderers"))
assert missing("So<|im_end|>") == 0, "the behaviour has changed"
assert missing("So") == 0, "the behaviour has changed"
assert missing("So<|im_end|> it") == 3, "the behaviour has changed"
PYTHON
