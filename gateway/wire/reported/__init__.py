"""What a response reports of itself, for any API: its tokens, and how it ended.

The room may import `sse`, `request` and `error_body`.
"""
