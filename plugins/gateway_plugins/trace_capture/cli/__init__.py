"""The commands `gateway traces ...`.

It may import every other room of the plugin but `http`.
"""
