"""`Generate` of the gateway's own service: one generation, typed.

`request.py` writes the body of a chat or of a completion; `messages.py` has its messages, and
`asking.py` the parts that are about tools, structure and logprobs. `response.py` reads what a
worker says, `choice.py` merges what one choice has gained, `answer.py` makes the events. The room
imports `edge`, `messages` and `names`.
"""
