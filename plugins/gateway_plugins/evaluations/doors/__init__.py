"""The routes below `/eval`.

`routes.py` lists the routes. The room imports the plugin's others, apart from its `__init__.py`.
"""
