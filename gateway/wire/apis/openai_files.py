"""OpenAI's paths beside model calls on text: files, batches, models, sound and images.

The gateway forwards them unread.
"""

from urllib.parse import unquote

from gateway.wire.dialect import Api

MODELS = Api(name="models", paths=("/v1/models",), below="/v1/models", work="manages")
FILES = Api(name="files", paths=("/v1/files",), below="/v1/files", work="manages", scope="upload")
UPLOADS = Api(
    name="uploads",
    paths=("/v1/uploads",),
    below="/v1/uploads",
    work="manages",
    scope="upload",
    labelled=False,
)
BATCHES = Api(
    name="batches", paths=("/v1/batches",), below="/v1/batches", work="manages", scope="batch"
)
AUDIO = Api(
    name="audio",
    paths=("/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations"),
)
IMAGES = Api(name="images", paths=("/v1/images/generations",))
MODERATIONS = Api(name="moderations", paths=("/v1/moderations",), work="reads")


def model_of_path(path: str) -> str | None:
    """Return the model that `/v1/models/{id}` is about; None for any other path."""
    begin = f"{MODELS.below}/"
    return unquote(path[len(begin) :]) or None if path.startswith(begin) else None
