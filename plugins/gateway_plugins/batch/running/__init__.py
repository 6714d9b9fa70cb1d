"""Runs queued items: `runner.py` claims them and dispatches a call for each.

`caller.py` receives the response, `verdict.py` says what becomes of the item, `pace.py` how many
items may be in flight, and `upkeep.py` does what has to be done from time to time. The room imports
`queue` and the options.
"""
