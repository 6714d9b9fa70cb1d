"""From a finished call to its record, and from a record to its public trace.

`observer.py` collects the response in the event loop. All else runs in the writer's thread:
`record.py` parses it, `asked.py` reads what was asked for, `verdict.py` judges it, `hooks.py` runs
the hooks, `public_trace.py` builds the trace. The room may import `answers`.
"""
