"""The commands `gateway traces ...`, which read the file without a gateway.

The room may import every other room of the plugin but `http`.
"""
