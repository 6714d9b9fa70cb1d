"""How requests come in: an HTTP request becomes a call, and its reply goes out through the server.

It may import `pipeline` and what stands below.
"""
