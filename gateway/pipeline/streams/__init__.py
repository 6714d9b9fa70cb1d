"""Event streams: how one is known, and what carries it more cheaply than the relay.

Imports what `gateway.pipeline` may import, and its readers.
"""
