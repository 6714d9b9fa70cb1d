"""The protocol: requests and answers of TUS 1.0.0 (https://tus.io/protocols/resumable-upload).

`endpoint.py` begins. The room imports `store`, `life` and `options` of the plugin.
"""
