"""Run by a Python that has `connectrpc` and `sonora`: `asking_connect.py URL MODEL FOLDER`.

FOLDER has the messages of `llm.v1`. Asks for a title and a stream with each protocol and encoding,
and once for a model that there is not. Prints what came as JSON.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import sonora.client
from connectrpc.client import ConnectClientSync
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType

SERVICE = "llm.v1.LlmService"


def by_connectrpc(url: str, asked: Any, wrong: Any, pb: Any) -> Iterator[tuple[str, object]]:
    def method(name: str, output: Any, kind: StreamType) -> Any:
        return MethodInfo(
            name=name,
            service_name=SERVICE,
            input=pb.ChatCompletionRequest,
            output=output,
            stream_type=kind,
            idempotency_level=IdempotencyLevel.UNKNOWN,
        )

    whole = method("ChatCompletion", pb.ChatCompletionResponse, StreamType.UNARY)
    pieces = method(
        "ChatCompletionStream", pb.ChatCompletionChunkResponse, StreamType.SERVER_STREAM
    )
    for protocol in (ProtocolType.CONNECT, ProtocolType.GRPC_WEB):
        for codec in (google_protobuf_binary_codec(), google_protobuf_json_codec()):
            client = ConnectClientSync(url, codec=codec, protocol=protocol, timeout_ms=20_000)
            title = client.execute_unary(request=asked, method=whole)
            chunks = list(client.execute_server_stream(request=asked, method=pieces))
            try:
                client.execute_unary(request=wrong, method=whole)
            except ConnectError as error:
                code, details = error.code.value, len(error.details)
            yield (
                f"{protocol.name} {codec.name()}",
                [title.completion_tokens, chunks[-1].completionTokens, code, details],
            )


def by_sonora(url: str, asked: Any, wrong: Any, pb: Any) -> list[object]:
    with sonora.client.insecure_web_channel(url) as channel:
        sent = pb.ChatCompletionRequest.SerializeToString
        whole = channel.unary_unary(
            f"/{SERVICE}/ChatCompletion", sent, pb.ChatCompletionResponse.FromString
        )
        pieces = channel.unary_stream(
            f"/{SERVICE}/ChatCompletionStream", sent, pb.ChatCompletionChunkResponse.FromString
        )
        title, chunks = whole(asked, timeout=20), list(pieces(asked))
        try:
            whole(wrong)
        except grpc.RpcError as error:
            code = error.code().name
    return [title.completion_tokens, chunks[-1].completionTokens, code]


def main(url: str, model: str, folder: str) -> None:
    sys.path.insert(0, folder)
    import llm_pb2 as pb

    asked = pb.ChatCompletionRequest(model=model, user_prompt="Say something.", max_tokens=8)
    wrong = pb.ChatCompletionRequest(model="none", user_prompt="Say something.")
    found: dict[str, object] = dict(by_connectrpc(url, asked, wrong, pb))
    found["sonora"] = by_sonora(url, asked, wrong, pb)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
