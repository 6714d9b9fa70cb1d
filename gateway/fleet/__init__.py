"""The workers: which there are, in which state each is, and how the gateway reaches it.

It may import the ground, `config`, `cluster`, `telemetry`, `wire`, `storage` and `upstream`.
"""
