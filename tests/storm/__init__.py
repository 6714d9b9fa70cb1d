"""A storm over a gateway: workers that fail in every way at random, callers that count.

`worker.py` has the workers, `weather.py` what happens to them, `load.py` the callers, `ledger.py`
what both write down and what must hold of it, `conduct.py` the run as a whole. The gateway is a
process of its own. `python -m storm` (`make storm`) runs it at any size and prints a report.
"""
