"""Connect and gRPC-Web: the same methods on the HTTP port, for browsers and `curl`.

`endpoint.py` carries the RPC of one HTTP request. `formats.py` lists the content types,
`reading.py` takes the message out of a request, `replying.py` sends the response, `ends.py` writes
how it ended, and `codec.py` turns JSON into messages and back. The protocols:
https://connectrpc.com/docs/protocol and
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md.
"""
