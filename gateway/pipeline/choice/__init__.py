"""Which of the workers may take a call, before hooks choose among them.

The room may import `authorization` and what stands below `pipeline`; nothing else of `pipeline`.
"""
