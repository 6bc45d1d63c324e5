"""`gallery feature`: preview features of a subscription, like Microsoft.Compute/GalleryPreview."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from opengallery.cli.api_versions import api_version
from opengallery.cli.command import new_app, verb
from opengallery.cli.options import check_name

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

app = new_app("Preview features of a subscription.")

COLUMNS = {"Name": "name", "RegistrationState": "properties.state"}

Namespace = Annotated[
    str, typer.Option("--namespace", metavar="NAME", help="Provider, like Microsoft.Compute.")
]
NamespaceOrNone = Annotated[
    str | None, typer.Option("--namespace", metavar="NAME", help="Only this provider's.")
]
FeatureName = Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="Feature.")]

EXAMPLE = "--namespace Microsoft.Compute -n GalleryPreview"


@verb(app, "register", [f"gallery feature register {EXAMPLE}"], columns=COLUMNS, flat=False)
def register(arm: "ArmClient", namespace: Namespace, name: FeatureName) -> Any:
    """Register a feature."""
    return arm.request(
        "POST", _url(arm, f"/providers/{check_name(namespace)}/features/{check_name(name)}/register")
    ).json()


@verb(app, "show", [f"gallery feature show {EXAMPLE}"], columns=COLUMNS, flat=False)
def show(arm: "ArmClient", namespace: Namespace, name: FeatureName) -> Any:
    """Show a feature."""
    return arm.request(
        "GET", _url(arm, f"/providers/{check_name(namespace)}/features/{check_name(name)}")
    ).json()


@verb(app, "list", ["gallery feature list -o table"], columns=COLUMNS, flat=False)
def list_features(arm: "ArmClient", namespace: NamespaceOrNone = None) -> Any:
    """List the features."""
    return [
        *arm.pages(_url(arm, f"/providers/{check_name(namespace)}/features" if namespace else "/features"))
    ]


def _url(arm: "ArmClient", rest: str) -> str:
    path = f"/subscriptions/{arm.subscription}/providers/Microsoft.Features{rest}"
    return arm.url(path, api_version("Microsoft.Features/features"))
