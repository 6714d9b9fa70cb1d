"""Uploads a file with tuspy, in a Python that has it: options as JSON in the first argument."""

import json
import sys

from tusclient.client import TusClient

options = json.loads(sys.argv[1])
client = TusClient(options["url"])
uploader = client.uploader(
    options["file"],
    metadata=options["metadata"],
    retries=options["retries"],
    retry_delay=0,
    upload_checksum=options["checksum"],
    **({"chunk_size": options["chunk"]} if options["chunk"] else {}),
)
uploader.upload()
sys.stdout.write(json.dumps({"url": uploader.url, "offset": uploader.offset}))
