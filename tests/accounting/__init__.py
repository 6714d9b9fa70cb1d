"""A storm of calls that are counted: by the engines as they serve, by the callers as they read.

Two gateways write into one file, and one of them is killed. `tap.py` writes down what passes
between a gateway and a worker, `calls.py` has the calls and `load.py` makes them, `conduct.py` is
the run as a whole, and `books.py` compares what was written down with the gateway's ledger, call by
call. `python -m accounting` (`make accounting`) does it at any size and prints a report.
"""
