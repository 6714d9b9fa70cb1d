"""From a finished call to its record and its public trace.

It may import `answers`, `sequences` and `codec`.
"""
