"""From a start to an engine that answers, or to the reason for which it does not.

It imports nothing of the plugin but its options and drivers.
"""
