"""Jobs, evaluations and items as rows of the database, and the functions that change them.

Each function takes a Database and blocks; a change is one transaction of `Storage.write`. The room
imports nothing of the plugin.
"""
