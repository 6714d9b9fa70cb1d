"""Calls that wait for their model, and the errors of those that wait in vain.

It imports nothing of the plugin but its options.
"""
