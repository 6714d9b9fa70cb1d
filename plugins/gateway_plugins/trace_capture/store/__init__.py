"""Traces in the database: tables, rows, queries, retention.

`sink.py` stores records as rows, whose format is in `row.py`. `row_encoder.py` encodes them against
earlier rows that `session_cache.py` holds. `queries.py` finds rows and `row_decoder.py` rebuilds
their traces. The room may import `recording`, `sessions`, `answers`, `sequences` and `codec`.
"""
