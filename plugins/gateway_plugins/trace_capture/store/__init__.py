"""Traces in the database: tables, rows, queries, deletions, retention.

`sink.py` stores records as rows, whose format is in `row.py`. `row_encoder.py` encodes them against
earlier rows that `session_cache.py` holds. `deletions.py` remembers which sessions were deleted
while calls ran. `queries.py` finds rows and `row_decoder.py` rebuilds their traces. The room may
import `recording`, `sessions`, `answers`, `sequences` and `codec`.
"""
