"""The routes for trainers.

It may import every other room of the plugin but `cli`.
"""
