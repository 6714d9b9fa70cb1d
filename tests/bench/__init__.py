"""The gateway beside others, in one run and on the same work: `make bench`.

`python -m bench` measures rows of a table (`rows.py`, `scale.py`), each out of works (`works.py`)
that systems do: the gateway (`stack.py`), others (`peers.py`), and no gateway at all. The one that
is measured has a processor to itself; the worker and the callers, which are programs in Go
(`go/`, built by `programs.py`), share another one. `conduct.py` goes through all of it in rounds,
`report.py` has what was found, `table.py`, `chart.py` and `page.py` show it.

The scripts beside these measure parts of the gateway, and are run as files.
"""
