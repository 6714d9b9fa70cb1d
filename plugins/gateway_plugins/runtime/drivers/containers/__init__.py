"""Containers: what a daemon is asked for, the daemon itself, and what becomes of a container.

It imports nothing of the plugin but its options and what a driver is.
"""
