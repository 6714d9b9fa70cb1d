"""The routes for trainers; `routes.py` maps paths to handlers.

The room may import every other room of the plugin but `cli`.
"""
