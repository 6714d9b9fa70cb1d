"""`gateway upload`: a client of the protocol, for files of any size.

`commands.py` begins. The room imports `places` of the plugin.
"""
