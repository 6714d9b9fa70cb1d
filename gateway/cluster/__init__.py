"""Several processes of one gateway: messages between peers, tables in shared memory, locks.

It may import `errors` and the standard library; no other room of the gateway.
"""
