"""Hands trajectories over to trainers: each sampled token is taught once, and none is lost.

`intake.py` notes which sessions have grown. `unfolding.py` reads such a session and notes its
trajectories as open. `claiming.py` gives open ones away for a time, in the order and with the
conditions of `filters.py`; `settling.py` acknowledges, releases and extends claims, and takes back
those that have expired. `turns.py` knows which turns belong to which claim: each to one at most.
`reading.py` builds the trajectories that were claimed, `queue.py` joins all this, and
`states.py` counts. Functions that take a Database run in a transaction of the storage.
"""
