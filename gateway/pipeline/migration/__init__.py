"""Request migration: streams that another worker carries on.

Imports what `gateway.pipeline` may import, and its relay.
"""
