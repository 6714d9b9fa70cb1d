"""`llm.v1`: the interface of chat workers that exist. `docs/grpc.md` has the mapping."""
