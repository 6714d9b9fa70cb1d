"""The rules of TUS 1.0.0, as a table of requests and answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from support.uploads.asking import BYTES, TUS, begun, head, metadata, patch, uploading

from gateway.testing import GatewayFor

NAMED = {"upload-metadata": metadata(model_name="org/tiny")}
GIB = 1024**3
SHA1_OF_HELLO = "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00="


class Row(NamedTuple):
    """A request to an upload of 11 bytes that has 5, and its answer; `{id}` is the upload's."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int
    code: str | None = None
    answer: Mapping[str, str] = {}


def at(offset: int | str, **headers: str) -> dict[str, str]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return {**BYTES, "upload-offset": str(offset), **given}


def new(**headers: str) -> dict[str, str]:
    return {**TUS, **NAMED, **{name.replace("_", "-"): value for name, value in headers.items()}}


ROWS: Sequence[Row] = (
    Row("OPTIONS", "/upload", {}, b"", 204, None, {"tus-version": "1.0.0"}),
    Row("OPTIONS", "/upload", {"tus-resumable": "9"}, b"", 204, None, {"tus-resumable": "1.0.0"}),
    Row("OPTIONS", "/upload", {}, b"", 204, None, {"tus-max-size": str(200 * GIB)}),
    Row(
        "OPTIONS",
        "/upload/{id}",
        {},
        b"",
        204,
        None,
        {
            "tus-checksum-algorithm": "sha1,sha256,md5,crc32",
            "tus-extension": "creation,creation-with-upload,creation-defer-length,expiration,"
            "checksum,termination,concatenation",
        },
    ),
    # creation
    Row("POST", "/upload", new(upload_length="3"), b"", 201),
    Row("POST", "/v1/upload", new(upload_length="3"), b"", 201),
    Row("POST", "/upload/", new(upload_length="3"), b"", 201),
    Row("POST", "/upload", new(upload_defer_length="1"), b"", 201),
    Row("POST", "/upload", new(), b"", 400, "invalid_request"),
    Row("POST", "/upload", new(upload_defer_length="2"), b"", 400, "invalid_request"),
    Row("POST", "/upload", new(upload_defer_length="1", upload_length="3"), b"", 400),
    Row("POST", "/upload", new(upload_length="-1"), b"", 400, "invalid_request"),
    Row("POST", "/upload", new(upload_length="1e3"), b"", 400, "invalid_request"),
    Row("POST", "/upload", new(upload_length=""), b"", 400, "invalid_request"),
    Row("POST", "/upload", new(upload_length=str(200 * GIB + 1)), b"", 413, "body_too_large"),
    Row("POST", "/upload", {**TUS, "upload-length": "3"}, b"", 400, "invalid_request"),
    Row("POST", "/upload", {**TUS, "upload-length": "3", "upload-metadata": ""}, b"", 400),
    Row(
        "POST",
        "/upload",
        {**NAMED, "upload-length": "3"},
        b"",
        412,
        "tus_version",
        {"tus-version": "1.0.0"},
    ),
    Row("POST", "/upload", {**new(upload_length="3"), "tus-resumable": "0.2.2"}, b"", 412),
    # creation with upload
    Row(
        "POST",
        "/upload",
        {**new(upload_length="3"), **BYTES},
        b"ab",
        201,
        None,
        {"upload-offset": "2"},
    ),
    Row("POST", "/upload", {**new(upload_length="3"), **BYTES}, b"abcd", 413, "body_too_large"),
    Row("POST", "/upload", new(upload_length="3"), b"not of the upload", 201),
    # HEAD and GET
    Row(
        "HEAD",
        "/upload/{id}",
        TUS,
        b"",
        200,
        None,
        {
            "upload-offset": "5",
            "upload-length": "11",
            "cache-control": "no-store",
            **NAMED,
            "x-upload-status": "uploading",
        },
    ),
    Row("HEAD", "/v1/upload/{id}", TUS, b"", 200),
    Row("HEAD", "/upload/{id}", {}, b"", 412),
    Row("HEAD", "/upload/0123", TUS, b"", 404),
    Row("HEAD", f"/upload/{'0' * 32}", TUS, b"", 404),
    Row("GET", "/upload/{id}", {}, b"", 200, None, {"content-type": "application/json"}),
    Row("GET", "/upload/{id}?wait=x", {}, b"", 400, "invalid_request"),
    # PATCH
    Row("PATCH", "/upload/{id}", at(5), b" world", 204, None, {"upload-offset": "11"}),
    Row(
        "PATCH",
        "/upload/{id}",
        at(5),
        b" wor",
        204,
        None,
        {"upload-offset": "9", "x-upload-status": "uploading"},
    ),
    Row("PATCH", "/upload/{id}", at(5), b"", 204, None, {"upload-offset": "5"}),
    Row(
        "PATCH", "/upload/{id}", at(4), b"o", 409, "upload_offset_mismatch", {"upload-offset": "5"}
    ),
    Row(
        "PATCH", "/upload/{id}", at(6), b"o", 409, "upload_offset_mismatch", {"upload-offset": "5"}
    ),
    Row("PATCH", "/upload/{id}", BYTES, b"o", 400, "invalid_request"),
    Row("PATCH", "/upload/{id}", at("-5"), b"o", 400, "invalid_request"),
    Row("PATCH", "/upload/{id}", at(5), b" world!", 413, "body_too_large"),
    Row("PATCH", "/upload/{id}", at(5, upload_length="12"), b" world", 400, "invalid_request"),
    Row("PATCH", "/upload/{id}", at(5, upload_length="11"), b" world", 204),
    Row("PATCH", "/upload/{id}", {**at(5), "content-type": "text/plain"}, b"o", 415),
    Row("PATCH", "/upload/{id}", {**at(5), "tus-resumable": "2.0.0"}, b"o", 412, "tus_version"),
    Row("PATCH", f"/upload/{'0' * 32}", at(0), b"o", 404, "not_found"),
    Row("POST", "/upload/{id}", at(5, x_http_method_override="PATCH"), b" world", 204),
    Row("POST", "/upload/{id}", at(5, x_http_method_override="HEAD"), b"", 200),
    # checksum
    Row(
        "PATCH",
        "/upload/{id}",
        at(5, upload_checksum="sha1 " + "A" * 27 + "="),
        b"x",
        460,
        "checksum_mismatch",
    ),
    Row("PATCH", "/upload/{id}", at(5, upload_checksum="crc32 NhDd/Q=="), b" wor", 460),
    Row("PATCH", "/upload/{id}", at(5, upload_checksum=SHA1_OF_HELLO), b"hello", 204),
    Row("PATCH", "/upload/{id}", at(5, upload_checksum="crc32 NhCmhg=="), b"hello", 204),
    Row(
        "PATCH",
        "/upload/{id}",
        at(5, upload_checksum="md5 XUFAKrxLKna5cZ2REBfFkg=="),
        b"hello",
        204,
    ),
    Row("PATCH", "/upload/{id}", at(5, upload_checksum="sha512 AAAA"), b"x", 400),
    Row("PATCH", "/upload/{id}", at(5, upload_checksum="sha1 !!"), b"x", 400),
    Row("PATCH", "/upload/{id}", at(5, upload_checksum="sha1 AAAA"), b"x", 400),
    # termination, and methods that there are not
    Row("DELETE", "/upload/{id}", TUS, b"", 204),
    Row("DELETE", "/upload/{id}", {}, b"", 412),
    Row("PUT", "/upload/{id}", TUS, b"x", 405, "method_not_allowed"),
    Row("PATCH", "/upload", TUS, b"", 405, "method_not_allowed", {"allow": "OPTIONS, POST"}),
    # concatenation
    Row("POST", "/upload", {**TUS, "upload-length": "3", "upload-concat": "partial"}, b"", 201),
    Row("POST", "/upload", new(upload_length="3", upload_concat="half"), b"", 400),
    Row("POST", "/upload", new(upload_concat="final;"), b"", 400),
    Row("POST", "/upload", new(upload_concat="final;/upload/{id}"), b"", 400),
    Row("POST", "/upload", new(upload_concat=f"final;/upload/{'0' * 32}"), b"", 400),
)


async def test_requests_and_answers(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await uploading(gateway_for, tmp_path)
    for row in ROWS:
        upload = await begun(live, 11)
        assert (await patch(live, upload, 0, b"hello")).status_code == 204
        own_id = upload.rpartition("/")[2]
        headers = {name: value.replace("{id}", own_id) for name, value in row.headers.items()}
        path = row.path.replace("{id}", own_id)
        answer = await live.client.request(row.method, path, headers=headers, content=row.body)
        assert answer.status_code == row.status, (row, answer.text)
        assert answer.headers["tus-resumable"] == "1.0.0", row
        for name, value in row.answer.items():
            assert answer.headers[name] == value, row
        if row.code is not None:
            assert answer.json()["error"]["code"] == row.code, row
        if row.status >= 400:  # nothing has changed
            assert (await head(live, upload)).headers["upload-offset"] == "5", row
        await live.client.delete(upload, headers=TUS)


@pytest.mark.parametrize(
    ("path", "location"), [("/upload", "upload/"), ("/upload/", ""), ("/v1/upload", "upload/")]
)
async def test_location_is_right_below_any_prefix(
    gateway_for: GatewayFor, tmp_path: Path, path: str, location: str
) -> None:
    live = await uploading(gateway_for, tmp_path)
    answer = await live.client.post(path, headers=new(upload_length="3"))
    found = answer.headers["location"]
    assert found[: len(location)] == location
    assert len(found) == len(location) + 32
    assert "upload-expires" in answer.headers


async def test_deleted_upload_is_gone(gateway_for: GatewayFor, tmp_path: Path) -> None:
    live = await uploading(gateway_for, tmp_path)
    upload = await begun(live, 11)
    assert (await live.client.delete(upload, headers=TUS)).status_code == 204
    assert (await head(live, upload)).status_code == 404
    assert (await patch(live, upload, 0, b"hello")).status_code == 404
    assert (await live.client.delete(upload, headers=TUS)).status_code == 404
