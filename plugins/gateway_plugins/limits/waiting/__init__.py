"""Calls of a key that wait for one of its own calls to end, in place of a rejection."""
