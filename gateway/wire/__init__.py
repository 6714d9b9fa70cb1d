"""What the APIs look like on the wire.

`sse` splits a stream of bytes into events, `dialects` reads tokens, logprobs and usage out of them,
`injection` asks a worker for more than the caller did and takes it out of the answer again.
"""
