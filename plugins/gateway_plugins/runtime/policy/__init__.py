"""Which model has a runtime: rules, without a clock, a process or a call of their own.

It imports nothing of the plugin but its options.
"""
