"""Sessions in the database: their owners, sampling parameters and rewards.

The room imports no other one of the plugin.
"""
