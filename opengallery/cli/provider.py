"""`gallery provider`: the resource providers of a subscription."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opengallery.cli.api_versions import api_version
from opengallery.cli.command import new_app, verb
from opengallery.cli.options import check_name

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

app = new_app("Resource providers of a subscription.")

COLUMNS = {
    "Namespace": "namespace",
    "RegistrationPolicy": "registrationPolicy",
    "RegistrationState": "registrationState",
}

Namespace = Annotated[
    str, typer.Option("--namespace", "-n", metavar="NAME", help="Provider, like Microsoft.Compute.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is registered.")]


@verb(app, "register", ["gallery provider register -n Microsoft.Compute --wait"])
def register(arm: "ArmClient", namespace: Namespace, wait: Wait = False) -> None:
    """Register a provider."""
    state = (
        arm.request("POST", _url(arm, f"/{check_name(namespace)}/register")).json().get("registrationState")
    )
    with arm.waiting.on(f"waiting for provider '{namespace}' to be registered"):
        while wait and state != "Registered":
            time.sleep(1)
            state = arm.request("GET", _url(arm, f"/{namespace}")).json().get("registrationState")


@verb(app, "show", ["gallery provider show -n Microsoft.Compute"], columns=COLUMNS, flat=False)
def show(arm: "ArmClient", namespace: Namespace) -> Any:
    """Show a provider, its resource types and their api-versions."""
    return arm.request("GET", _url(arm, f"/{check_name(namespace)}")).json()


@verb(app, "list", ["gallery provider list -o table"], columns=COLUMNS, flat=False)
def list_providers(arm: "ArmClient") -> Any:
    """List the providers."""
    return [*arm.pages(_url(arm, ""))]


def _url(arm: "ArmClient", rest: str) -> str:
    path = f"/subscriptions/{arm.subscription}/providers{rest}"
    return arm.url(path, api_version("Microsoft.Resources/providers"))
