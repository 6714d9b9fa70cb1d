"""Reads chat and completions of OpenAI's API, with the fields that vLLM and SGLang add.

`formats.py` has the differences between the two. `plain.py` and `streams.py` read responses with
the structs of `structs.py`; `lenient.py` reads those with other fields. The room may import
`assembled`, `deltas`, `metadata`, `python_json` and `sse` of `answers`, and `codec`.
"""
