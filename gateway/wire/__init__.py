"""Wire formats: what requests and responses of the APIs contain, and how it is read and changed.

`dialect` has the types that describe an API, `apis` describes each API in one file. `sse` splits a
stream of bytes into events, `reported` reads token counts and how a response ended, `request`
reads the fields of a request that matter to the gateway. `injection` adds fields to a request and
strips their effect from the response.

It may import `errors`.
"""
