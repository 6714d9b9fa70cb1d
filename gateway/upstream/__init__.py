"""The HTTP/1.1 client engine: one answer (response), one socket (connection), many (pool)."""
