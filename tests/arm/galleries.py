"""Galleries to ask for: the resource that the tests of ARM use, since making one is done at once."""

from typing import Any

from ..providers.conftest import Api

COMPUTE = "providers/Microsoft.Compute"
REGION = "westcentralus"
VERSION = "api-version=2024-03-03"


def gallery(api: Api, group: str, name: str = "one", **body: Any) -> str:
    """Make a gallery in a group; its path."""
    path = f"{group}/{COMPUTE}/galleries/{name}"
    api.put(path, {"location": REGION, **body})
    return path


def definition_body(offer: str = "offer", **properties: Any) -> dict[str, Any]:
    """The body of an image definition."""
    identifier = {"publisher": "us", "offer": offer, "sku": "sku"}
    required = {"identifier": identifier, "osType": "Linux", "osState": "Generalized"}
    return {"location": REGION, "properties": {**required, **properties}}


def full_id(api: Api, path: str) -> str:
    """The id of a path below the first subscription."""
    return f"/subscriptions/{api.first.subscription_id}/{path}"
