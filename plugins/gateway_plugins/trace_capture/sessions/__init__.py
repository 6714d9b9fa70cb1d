"""Sessions in the database: their owners, sampling parameters and rewards.

`caps.py` applies the parameters to a call.

The room imports no other one of the plugin.
"""
