"""OpenAI's Responses carried as chat: `translator` joins the rooms for the two directions.

`structs` has the shapes of requests, `errors` the envelope. Imports `gateway.wire` only.
"""
