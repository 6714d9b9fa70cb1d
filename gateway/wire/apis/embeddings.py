"""APIs of models that read prompts and sample no tokens."""

from gateway.wire.dialect import Api

EMBEDDINGS = Api(name="embeddings", paths=("/v1/embeddings",), work="reads")
RERANK = Api(name="rerank", paths=("/v1/rerank",), work="reads")
SCORE = Api(name="score", paths=("/v1/score",), work="reads")
CLASSIFY = Api(name="classify", paths=("/v1/classify",), work="reads")
POOLING = Api(name="pooling", paths=("/v1/pooling",), work="reads")
