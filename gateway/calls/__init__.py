"""The objects that travel through the gateway: a call, its body, its observers, its reply.

It may import all rooms below it: the ground, `config`, `wire`, `storage`, `upstream`, `fleet`.
"""
