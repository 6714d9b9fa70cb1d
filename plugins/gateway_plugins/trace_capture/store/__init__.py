"""Traces in the database: tables, rows, queries, retention.

`sink.py` stores records as rows of `row_encoder.py`, encoded against earlier rows that
`session_cache.py` holds. `queries.py` finds rows and `row_decoder.py` rebuilds their traces. The
room may import `recording`, `sessions`, `answers`, `sequences` and `codec`.
"""
