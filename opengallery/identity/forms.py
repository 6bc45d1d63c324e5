"""Forms as clients and browsers post them, read within bounds."""

from urllib.parse import parse_qsl

from starlette.requests import Request

from opengallery.identity.refusals import invalid_request

BODY_SIZE_MAX_BYTES = 64 * 1024
FIELDS_MAX = 100
FORM = "application/x-www-form-urlencoded"


async def read_form(request: Request) -> dict[str, str]:
    """The fields of the request's form. Raises `SignInError`."""
    if request.headers.get("content-type", "").split(";")[0].strip() != FORM:
        raise invalid_request(900561, f"Send the parameters as {FORM}.")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_SIZE_MAX_BYTES:
            raise invalid_request(90100, f"The request is longer than {BODY_SIZE_MAX_BYTES} bytes.")
    return fields_of(bytes(body))


def fields_of(encoded: bytes) -> dict[str, str]:
    """The fields of an encoded form or query, each of them once. Raises `SignInError`."""
    if len(encoded) > BODY_SIZE_MAX_BYTES:
        raise invalid_request(90100, f"The request is longer than {BODY_SIZE_MAX_BYTES} bytes.")
    try:
        pairs = parse_qsl(
            encoded.decode("ascii"), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict"
        )
    except ValueError:
        raise invalid_request(90100, "The request's form can't be read.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise invalid_request(90100, "A parameter stands in the form twice.")
    if any("\0" in value for value in fields.values()):
        raise invalid_request(90100, "A parameter holds a NUL character.")
    return fields
