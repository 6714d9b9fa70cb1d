"""From chat's response: `stream` makes the events, `answer` the plain response.

`output` and `open_items` write the items of both, `logprobs` their logprobs, `response_object` what
stands around them. Imports `gateway.wire` only.
"""
