"""What a request names: its session, its model in a form or a query, objects that a worker keeps.

It may import `errors` and `wire.apis`.
"""
