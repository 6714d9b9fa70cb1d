"""Traces in the database: tables, rows, queries, retention.

It may import `recording`, `answers`, `sequences`, `sessions` and `codec`.
"""
