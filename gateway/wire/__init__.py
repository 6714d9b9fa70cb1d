"""Wire formats of the APIs.

`sse` splits a stream of bytes into events, `dialects` reads tokens, logprobs and usage from them,
`injection` adds fields to a request and strips their effect from the response.
"""
