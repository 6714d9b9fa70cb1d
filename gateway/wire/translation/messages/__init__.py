"""Anthropic's Messages, carried as chat in the way in which vLLM does so itself.

`request.py` makes the chat request, with `blocks.py` for the contents of messages and `tools.py`;
`stream.py` and `answer.py` make the response, `translator.py` joins both ways. `structs.py` has the
shapes of requests, `usage.py` the counts. It may import `gateway.wire`.
"""
