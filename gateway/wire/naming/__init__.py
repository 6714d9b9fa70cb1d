"""What a request names beside JSON: its session in the path, its model in a form or a query.

The room may import `errors`.
"""
