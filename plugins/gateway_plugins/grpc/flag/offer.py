"""What the command line asks of the flag `--grpc`, see `gateway.flags` in docs/hooks-reference.md.

settings(os.environ)   # {"workers": ..., "plugins": [{"grpc": {"port": ...}}]}
"""

from collections.abc import Mapping
from pathlib import Path

from gateway_plugins.grpc.flag.environment import fields, options, variables

DEFAULT_PORT = 50052

PROTOS = Path(__file__).parent.parent / "messages" / "protos"

DEMO = """\
gRPC is served on 127.0.0.1:{port}:

  grpcurl -plaintext 127.0.0.1:{port} list

  grpcurl -plaintext -d '{{"model": "sim", "user_prompt": "Hello"}}' \\
    127.0.0.1:{port} llm.v1.LlmService/ChatCompletionStream
"""

SIMULATOR = """\
To serve it over gRPC, in another terminal:

  VLLM_URL={url} LLM_DEFAULT_MODEL={model} gateway serve --grpc

  grpcurl -plaintext -import-path {protos} -proto llm.proto \\
    -d '{{"user_prompt": "Hello"}}' 127.0.0.1:{port} llm.v1.LlmService/ChatCompletionStream
"""


def settings(environ: Mapping[str, str]) -> Mapping[str, object]:
    """Return what a configuration file would hold."""
    found = variables(environ)
    return {**fields(found), "plugins": [{"grpc": options(found)}]}


def demo_options(environ: Mapping[str, str]) -> Mapping[str, object]:
    """Return the options of the plugin in a demo, where reflection is of use and harms nobody."""
    return {**options(variables(environ)), "reflection": True}


def demo_examples(environ: Mapping[str, str]) -> str:
    """Return commands to try against that demo."""
    port = options(variables(environ)).get("port")
    return DEMO.format(port=getattr(port, "value", DEFAULT_PORT))


def simulator_examples(url: str, model: str) -> str:
    """Return commands to try against a simulated worker."""
    return SIMULATOR.format(url=url, model=model, port=DEFAULT_PORT, protos=PROTOS)
