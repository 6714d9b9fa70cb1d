"""A soak: a gateway with all plugins under mixed traffic and faults, for as long as one likes.

`workers.py` and `callers.py` are processes of their own. `engine.py` makes what workers answer,
`calls.py` what callers ask, `hearing.py` judges what they hear; both tell `facts.py`.
`operating.py` is what operators do meanwhile, `sampling.py` and `logs.py` what is seen of the
gateway from outside, `inside.py` what is not. `books.py` compares each call with the ledger a
little after its end, `judging.py` says what must hold. `conduct.py` is the run as a whole, with
`parts.py` and `watch.py`. `python -m soak` (`make soak`) runs it and prints a report.
"""
