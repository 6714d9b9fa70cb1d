"""`gateway doctor`: one call of each kind through each worker, and what is wrong with its traces.

`commands.py` begins, and `fleets.py` knows who is asked: `stages.py` has the gateway, `doors.py`
the way to it, `kinds.py` the calls. `asking.py` makes them and reads the traces back; `judging.py`
tells from these what is wrong, with `advice.py`, and `report.py` writes it down.
"""
