"""How engines are started and ended: as processes, as containers, or woken and put to sleep.

`driver.py` is the interface. It imports nothing of the plugin but its options.
"""
