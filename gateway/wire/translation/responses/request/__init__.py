"""From a request to chat's: `request` the whole, `items` the messages, `tools` the tools.

Imports `gateway.wire` only.
"""
