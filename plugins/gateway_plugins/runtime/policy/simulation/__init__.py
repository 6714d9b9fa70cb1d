"""A simulated box with one runtime: our rules, and those of the system that we replace.

Both get the same arrivals, and a clock that jumps from event to event. `load.py` makes the
arrivals, `box.py` is the runtime, `ours.py` and `replaced.py` decide, `measures.py` tells how it
went, `chart.py` draws a day. `python -m gateway_plugins.runtime.policy.simulation --help` has the
commands.
"""
