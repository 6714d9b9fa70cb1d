"""OpenAI's uploads: `/v1/uploads`, a file in several parts.

`objects.py` has what callers send and see, `routes.py` the routes.
"""
