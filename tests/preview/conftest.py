"""A server with the profile of the announcement of 2018."""

from collections.abc import Iterator

import pytest

from opengallery.settings import Settings

from ..providers.conftest import Api, api, serving

__all__ = ["api"]


@pytest.fixture(scope="package", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> Iterator[Api]:
    """One server for all tests on one kind of database."""
    with serving(request, lambda data, url: Settings(data=data, database_url=url, profile="preview")) as api:
        yield api
