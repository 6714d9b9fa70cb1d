"""Items of an output as JSON, with the fields of vLLM's, in its order.

`text`, `arguments` and `name` are JSON strings; an `id` is one of ours and needs no escapes.
"""

import uuid

NULL = b"null"
EMPTY = b'""'


def new_id(prefix: str) -> bytes:
    return f"{prefix}_{uuid.uuid4().hex}".encode()


def text_part(text: bytes, logprobs: bytes) -> bytes:
    """`logprobs` are a JSON list, or null."""
    return b'{"annotations":[],"text":%b,"type":"output_text","logprobs":%b}' % (text, logprobs)


def reasoning_part(text: bytes) -> bytes:
    return b'{"text":%b,"type":"reasoning_text"}' % text


def refusal_part(text: bytes) -> bytes:
    return b'{"refusal":%b,"type":"refusal"}' % text


def message(id_: bytes, content: bytes, status: bytes) -> bytes:
    """`content` are parts joined by commas."""
    return (
        b'{"id":"%b","content":[%b],"role":"assistant","status":"%b","type":"message",'
        b'"phase":null}' % (id_, content, status)
    )


def reasoning(id_: bytes, content: bytes, sealed: bytes, status: bytes) -> bytes:
    """`content` is a JSON list or null, `status` JSON as well, `sealed` a JSON string or null."""
    return (
        b'{"id":"%b","summary":[],"type":"reasoning","content":%b,"encrypted_content":%b,'
        b'"status":%b}' % (id_, content, sealed, status)
    )


def function_call(
    id_: bytes, call_id: bytes, name: bytes, namespace: bytes, arguments: bytes, status: bytes
) -> bytes:
    """All but `id_` and `status` are JSON."""
    return (
        b'{"arguments":%b,"call_id":%b,"name":%b,"type":"function_call","id":"%b","async":null,'
        b'"caller":null,"namespace":%b,"status":"%b"}'
        % (arguments, call_id, name, id_, namespace, status)
    )


def custom_call(id_: bytes, call_id: bytes, name: bytes, text: bytes) -> bytes:
    """All but `id_` are JSON."""
    return (
        b'{"call_id":%b,"input":%b,"name":%b,"type":"custom_tool_call","id":"%b","async":null,'
        b'"caller":null,"namespace":null}' % (call_id, text, name, id_)
    )
