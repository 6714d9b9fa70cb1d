"""The formats of OpenAI's chat and completions, with the fields that vLLM adds.

It may import the rest of `answers`, and `codec`.
"""
