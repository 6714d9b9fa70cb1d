"""What the gateway had to do in the last hours, minute by minute.

`minutes.py` counts in one process; `load.py` adds up what all processes have counted. It may import
nothing of the rooms above it.
"""
