"""Token ids in, token ids out: generate, and the ways from a dialect to it and back."""
