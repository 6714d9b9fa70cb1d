"""HTTP/1.1 client: response parser, one connection, the connection pool of a worker."""
