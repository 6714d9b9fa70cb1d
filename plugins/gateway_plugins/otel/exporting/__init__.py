"""Sends spans to a collector, in a thread of its own: `exporter.py` begins.

A sender knows one transport; it is made in the process that serves, because the library of gRPC
does not survive a fork.
"""
