"""Streams whose events are alike, and what carries them more cheaply than the relay.

Imports what `gateway.pipeline` may import, and its readers.
"""
