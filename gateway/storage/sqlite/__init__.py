"""The embedded engine: one SQLite file, one thread that writes, threads that read.

It may import the ground, `config` and `telemetry`.
"""
