"""The sources of a configuration: files, environment variables, the command line, in layers.

It may import `config` and `errors`.
"""
