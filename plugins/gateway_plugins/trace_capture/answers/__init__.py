"""Takes a response apart: the numbers of each choice, and the rest as a skeleton.

`assembly.py` chooses a reader by the request's path: `openai/` for chat and completions,
`token_apis/` for generation from token ids,
`other_apis.py` for all others; `native.py` has the kernel read what it can. Each returns an
Assembled. `tool_calls.py` puts the tool calls of a stream together, `python_json.py` reads what is
not quite JSON. `rebuild.py` puts a response together again. The room may import `codec`.
"""
