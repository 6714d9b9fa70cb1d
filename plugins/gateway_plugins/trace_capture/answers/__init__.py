"""Takes a response apart: the numbers of each choice, and the rest as a skeleton.

`assembly.py` chooses a reader by the request's path: `openai/` for chat and completions,
`other_apis.py` for all others. Each returns an Assembled. `rebuild.py` puts a response together
again. The room may import `codec`.
"""
