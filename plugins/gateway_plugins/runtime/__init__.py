"""Who has the GPU: starts and ends engines, and holds calls until their model is there.

`owner.py` has the one task that owns a runtime, `policy` decides which model it has, `drivers`
start and end engines, and `loading` tells whether an engine answers. An engine that answers is a
worker like any other.
"""
