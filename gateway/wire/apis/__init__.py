"""The APIs, one file for each, and `registry`, which finds the API of a path.

A new API is one file here, listed in the registry. It may import what stands in `wire`.
"""
