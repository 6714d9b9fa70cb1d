"""The rows of each trainer, named and shaped as that trainer reads them.

Each module makes a row of a Rollout. `messages.py` has what several of them share.
"""
