"""What the process driver does with the machine: environment, processes, pipes, memory.

It imports nothing of the plugin.
"""
