"""The commands `gateway batch ...`, which use the database file beside a gateway or without one.

`commands.py` has the arguments, `listing.py` reads, `changing.py` cancels and requeues,
`importing.py` queues the lines of a file, which `requests.py` reads. The room imports the plugin's
others, apart from its `__init__.py` and `doors`.
"""
