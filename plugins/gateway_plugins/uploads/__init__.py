"""Models that callers upload by TUS 1.0.0, checked and installed into the cache of the hub.

`plugin.py` begins. `tus` speaks the protocol, `store` keeps uploads and their bytes, `installing`
makes models of them, and `cli` has `gateway upload`. This file imports nothing, so that the program
that installs starts quickly.
"""
