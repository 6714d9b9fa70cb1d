"""The simulated engine: model, sampler, tokenizer and sequences."""
