"""`Call` of the gateway's own service: requests and events of the HTTP API, as JSON."""
