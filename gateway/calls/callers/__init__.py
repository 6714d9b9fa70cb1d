"""Callers that stand before the caller of a call, and change what it gets.

It may import what `gateway.calls` may.
"""
