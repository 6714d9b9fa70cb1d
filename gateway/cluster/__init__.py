"""Several processes of one gateway: messages between peers, tables in shared memory.

It may import `errors` and the standard library; no other room of the gateway.
"""
