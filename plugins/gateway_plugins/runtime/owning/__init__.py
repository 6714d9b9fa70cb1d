"""The task that owns a runtime, what it sees, and what it does to change the model.

`owner.py` begins. It imports the other rooms of the plugin.
"""
