"""The commands `gateway eval ...`, which ask a running gateway over HTTP.

The room imports nothing of the plugin.
"""
