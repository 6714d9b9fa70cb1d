"""From the bytes of an upload to a model in the cache of the hub.

`conductor.py` begins, in the gateway. `program.py` does the work in a process of its own, of which
`process.py` is the gateway's view; the modules that it imports import nothing of the gateway.
"""
