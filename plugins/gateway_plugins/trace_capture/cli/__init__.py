"""The commands `gateway traces ...`, which read the file without a gateway, and `gateway doctor`.

The room may import every other room of the plugin but `http`.
"""
