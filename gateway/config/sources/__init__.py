"""Where a configuration comes from: files, environment variables, the command line, in layers.

It may import `config` and `errors`.
"""
