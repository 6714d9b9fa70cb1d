"""Wire formats: what requests and responses of the APIs contain, and how it is read and changed.

`dialect` has the types that describe an API, `apis` describes each API in one file. Of a request,
`request` reads the fields that matter to the gateway, `naming` what it names beside JSON, and
`surrogates` makes texts readable that were cut. Of a response, `sse` splits a stream of bytes into
events, `content_coding` decompresses it, `reported` reads token counts and how it ended, `refusal`
and `error_body` read errors. `injection` adds fields to a request and, with `stripping`, takes
their effect out of the response.

It may import `errors` and `kernel`.
"""
