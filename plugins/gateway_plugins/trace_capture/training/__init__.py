"""Whether the calls teach anything: counts by hour, and what to do about the others.

`hours.py` counts each trace once, whichever process has stored it. `shares.py` reads the counts,
and `advice.py` says what to do about each reason. `totals.py` counts what this process has stored.
"""
