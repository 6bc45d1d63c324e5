"""Page blobs: what a SAS URL lets one do, and what not."""

import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from xml.etree import ElementTree

import pytest

from .conftest import Api
from .images import grant, open_disk, put_page
from .vhds import UPLOAD_BYTES, mib


@pytest.fixture
def sas(api: Api) -> Iterator[str]:
    """The URL of a disk that waits for its bytes."""
    yield open_disk(api, api.group("blobs"), "one")[1]


def refused(answer: Any, status: int, code: str) -> None:
    """The answer is an error as the Blob service writes it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-ms-error-code"] == code
    assert ElementTree.fromstring(answer.content).findtext("Code") == code
    assert ElementTree.fromstring(answer.content).findtext("Message")


def test_pages_are_read_back_as_written(api: Api, sas: str) -> None:
    content = mib(7)
    written = put_page(api, sas, 4096, content)
    assert written.status_code == 201
    for header in ("ETag", "Last-Modified", "x-ms-blob-sequence-number", "x-ms-request-server-encrypted"):
        assert header in written.headers
    answer = api.client.get(sas, headers={"x-ms-range": "bytes=3584-5119"})
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes 3584-5119/{UPLOAD_BYTES}"
    assert answer.content == bytes(512) + content[:1024]
    whole = api.client.get(sas)
    assert whole.status_code == 200
    assert whole.content[4096 : 4096 + len(content)] == content
    assert len(whole.content) == UPLOAD_BYTES


def test_head_tells_the_size_and_the_kind(api: Api, sas: str) -> None:
    answer = api.client.head(sas)
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == str(UPLOAD_BYTES)
    assert answer.headers["x-ms-blob-type"] == "PageBlob"


def ranges(answer: Any) -> list[tuple[int, int]]:
    """The ranges of a page list."""
    return [
        (int(found.findtext("Start") or ""), int(found.findtext("End") or ""))
        for found in ElementTree.fromstring(answer.content).iter("PageRange")
    ]


def test_page_ranges_are_those_that_were_written(api: Api, sas: str) -> None:
    put_page(api, sas, 1024**2, mib(1))
    put_page(api, sas, 3 * 1024**2, mib(2))
    listed = sas.replace("?", "?comp=pagelist&")
    assert ranges(api.client.get(listed)) == [(1024**2, 2 * 1024**2 - 1), (3 * 1024**2, 4 * 1024**2 - 1)]
    part = api.client.get(listed, headers={"x-ms-range": f"bytes=0-{2 * 1024**2 + 511}"})
    assert ranges(part) == [(1024**2, 2 * 1024**2 - 1)]


def test_cleared_pages_are_zeros_and_no_data(api: Api, sas: str) -> None:
    put_page(api, sas, 0, mib(1))
    cleared = api.client.put(
        sas.replace("?", "?comp=page&"),
        headers={"x-ms-page-write": "clear", "x-ms-range": f"bytes=0-{1024**2 - 1}"},
    )
    assert cleared.status_code == 201
    assert api.client.get(sas, headers={"x-ms-range": "bytes=0-1048575"}).content == bytes(1024**2)
    assert ranges(api.client.get(sas.replace("?", "?comp=pagelist&"))) == []


def changed(sas: str, **changes: str) -> str:
    """The URL with other members in its query."""
    query = {**dict(parse_qsl(urlsplit(sas).query)), **changes}
    return f"{sas.split('?')[0]}?{urlencode(query)}"


@pytest.mark.parametrize(
    "changes",
    [
        {"sig": "AAAA"},
        {"sig": ""},
        {"sig": "ÄÖ"},
        {"se": "2099-01-01T00:00:00Z"},
        {"se": "soon"},
        {"sp": "rwd"},
    ],
)
def test_a_url_that_was_changed_is_refused(api: Api, sas: str, changes: dict[str, str]) -> None:
    refused(api.client.get(changed(sas, **changes)), 403, "AuthenticationFailed")
    refused(put_page(api, changed(sas, **changes), 0, bytes(512)), 403, "AuthenticationFailed")


def test_a_url_of_one_upload_opens_no_other(api: Api, sas: str) -> None:
    other = open_disk(api, "resourceGroups/blobs", "two")[1]
    mixed = f"{other.split('?')[0]}?{sas.split('?')[1]}"
    refused(api.client.get(mixed), 403, "AuthenticationFailed")
    for upload in ("..", "x", "%2e%2e%2fgallery.sqlite"):
        path = f"{sas.split('/uploads/')[0]}/uploads/{upload}/disk.vhd?{sas.split('?')[1]}"
        assert api.client.get(path).status_code in (401, 403, 404)


def test_a_url_expires(api: Api) -> None:
    group = api.group("expiry")
    path, _ = open_disk(api, group, "one")
    short = grant(api, path, seconds=1)
    time.sleep(2.1)
    refused(put_page(api, short, 0, bytes(512)), 403, "AuthenticationFailed")


@pytest.mark.parametrize(
    ("span", "length", "status", "code"),
    [
        ("bytes=0-511", 1024, 400, "InvalidHeaderValue"),
        ("bytes=0-1023", 512, 400, "InvalidHeaderValue"),
        ("bytes=1-512", 512, 416, "InvalidPageRange"),
        ("bytes=0-510", 511, 416, "InvalidPageRange"),
        (f"bytes={UPLOAD_BYTES}-{UPLOAD_BYTES + 511}", 512, 416, "InvalidPageRange"),
        (f"bytes={UPLOAD_BYTES - 512}-{UPLOAD_BYTES + 511}", 1024, 416, "InvalidPageRange"),
        ("bytes=511-0", 512, 416, "InvalidRange"),
        ("bytes=-512", 512, 416, "InvalidRange"),
        ("pages=0-511", 512, 416, "InvalidRange"),
        ("bytes=²-³", 512, 416, "InvalidRange"),
        (f"bytes=0-{'9' * 5000}", 512, 416, "InvalidRange"),
        ("", 512, 416, "InvalidRange"),
    ],
)
def test_a_page_that_does_not_fit_is_refused(
    api: Api, sas: str, span: str, length: int, status: int, code: str
) -> None:
    headers = {"x-ms-page-write": "update", "x-ms-range": span.encode("latin-1")}
    answer = api.client.put(sas.replace("?", "?comp=page&"), content=b"x" * length, headers=headers)
    refused(answer, status, code)
    assert ranges(api.client.get(sas.replace("?", "?comp=pagelist&"))) == []


def test_more_than_four_mib_at_once_is_refused(api: Api, sas: str) -> None:
    refused(put_page(api, sas, 0, bytes(4 * 1024**2 + 512)), 413, "RequestBodyTooLarge")
    assert put_page(api, sas, 0, os.urandom(4 * 1024**2)).status_code == 201


def test_other_writes_are_refused(api: Api, sas: str) -> None:
    refused(api.client.put(sas, content=b"x" * 512), 409, "BlobAlreadyExists")
    refused(put_page(api, sas, 0, bytes(512), x_ms_page_write="append"), 400, "InvalidHeaderValue")
    refused(api.client.get(sas, headers={"x-ms-range": f"bytes={UPLOAD_BYTES}-"}), 416, "InvalidRange")
