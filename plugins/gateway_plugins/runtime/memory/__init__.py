"""What outlives a restart: load times, failures, generations, and what the policy has saved.

It imports nothing of the plugin but its options and the reasons of failures.
"""
