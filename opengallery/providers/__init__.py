"""The resource types, one file each, foldered by namespace.

A file declares `RESOURCE_TYPE` (a `ResourceType`), `ROUTES` (a tuple of `Route`) or `EXTENSION_ROUTES`
(a tuple of `ExtensionRoute`), or some of them; adding
the file is all it takes. `DATA_ROUTES` are Starlette routes outside ARM that check their own signature.
"""

import importlib
import pkgutil
from typing import Any

from opengallery.arm.resource_type import ExtensionRoute, Registry, ResourceType, Route


def _members(name: str) -> list[Any]:
    modules = (
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(__path__, f"{__name__}.")
        if not found.ispkg
    )
    return [getattr(module, name) for module in modules if hasattr(module, name)]


def load_registry() -> Registry:
    """Import every file under this folder, and collect what they declare."""
    types: list[ResourceType] = _members("RESOURCE_TYPE")
    routes: list[Route] = [route for routes in _members("ROUTES") for route in routes]
    extensions: list[ExtensionRoute] = [route for routes in _members("EXTENSION_ROUTES") for route in routes]
    return Registry(types, routes, extensions)
