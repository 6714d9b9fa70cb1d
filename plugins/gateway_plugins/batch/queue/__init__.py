"""The durable queue: rows of the database, and the functions that change them.

Each function takes a Database and blocks; a change is one transaction of `Storage.write`, or of the
call that it is about. `submission.py` adds items, `claiming.py` claims those that run next in the
order of `ordering.py`, `settling.py` stores how a call ended, `changes.py` cancels, requeues,
expires and deletes, `reading.py` shows. `lanes.py` counts, `holders.py` tells which processes are
alive. The room imports `locks` only.
"""
