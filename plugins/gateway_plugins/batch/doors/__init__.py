"""How callers submit items and read them: routes, and what they say.

`routes.py` lists the routes, `access.py` says who may see what. The room imports the plugin's
others, apart from its `__init__.py`.
"""
