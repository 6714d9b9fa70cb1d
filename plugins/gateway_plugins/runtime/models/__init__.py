"""Models on disk: what is there, what is missing and is downloaded, what makes room.

`shelf.py` begins. It imports the rooms `holding`, `loading`, `memory`, `policy` and
`drivers` of the plugin.
"""
