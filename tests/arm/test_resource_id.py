"""Resource ids: what is parsed is formatted again, and compares in any case."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengallery.arm.resource_id import MalformedId, ResourceId, ResourcePath

NAMES = st.text("aZ09-._() äÖéßİ中", min_size=1, max_size=12)
KINDS = st.text("abcXYZ", min_size=1, max_size=8)
SUBSCRIPTION = "/subscriptions/22222222-2222-2222-2222-222222222222"


@st.composite
def ids(draw: st.DrawFn) -> ResourceId:
    """Ids of subscriptions, groups, resources and nested resources."""
    depth = draw(st.integers(0, 4))
    return ResourceId(
        draw(NAMES),
        draw(st.none() | NAMES),
        draw(KINDS) if depth else None,
        tuple(draw(KINDS) for _ in range(depth)),
        tuple(draw(NAMES) for _ in range(depth)),
    )


@given(ids())
def test_an_id_is_parsed_from_what_it_is_written_as(resource_id: ResourceId) -> None:
    parsed = ResourceId.parse(str(resource_id))
    assert str(parsed) == str(resource_id)
    assert (parsed.subscription, parsed.resource_group) == (
        resource_id.subscription,
        resource_id.resource_group,
    )
    assert (parsed.types, parsed.names) == (resource_id.types, resource_id.names)


@given(ids())
def test_ids_are_equal_in_any_case_and_keep_their_own(resource_id: ResourceId) -> None:
    lower = ResourceId.parse(str(resource_id).lower())
    assert lower == resource_id
    assert len({lower, resource_id}) == 1
    assert lower.key == resource_id.key
    assert str(lower) == str(resource_id).lower().replace("/resourcegroups/", "/resourceGroups/")


@given(ids())
def test_the_scopes_of_an_id_lead_from_the_root_to_it(resource_id: ResourceId) -> None:
    scopes = resource_id.scopes()
    assert scopes[0] == "/" and scopes[-1] == resource_id.key
    assert all(below.startswith(above) for above, below in itertools.pairwise(scopes))
    assert len(scopes) == 2 + bool(resource_id.resource_group) + len(resource_id.types)


@given(ids(), KINDS, NAMES)
def test_a_child_has_its_parent(resource_id: ResourceId, kind: str, name: str) -> None:
    child = resource_id.child(kind if resource_id.namespace else f"Namespace/{kind}", name)
    assert child.name == name
    assert child.parent == resource_id


@given(st.text(max_size=60))
def test_any_text_is_an_id_or_malformed(text: str) -> None:
    try:
        parsed = ResourceId.parse(text)
    except MalformedId:
        return
    assert ResourceId.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "x",
        "subscriptions/x",
        "/subscriptions",
        "/subscriptions/",
        "/subscriptions//resourceGroups/rg",
        f"{SUBSCRIPTION}/resourceGroups",
        f"{SUBSCRIPTION}/resourceGroups/rg/",
        f"{SUBSCRIPTION}/resourceGroups/rg/galleries/g",
        f"{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Compute",
        f"{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Compute/galleries",
        f"{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Compute/galleries/",
        f"{SUBSCRIPTION}/resourceGroups/rg/providers//galleries/g",
        f" {SUBSCRIPTION}",
        f"{SUBSCRIPTION}\n",
        f"{SUBSCRIPTION}/resourceGroups/r\0g",
    ],
)
def test_a_malformed_id_is_refused(text: str) -> None:
    with pytest.raises(MalformedId):
        ResourceId.parse(text)


def test_a_path_tells_resources_from_collections() -> None:
    base = ["subscriptions", "s", "resourceGroups", "g", "providers", "Microsoft.Compute"]
    path = ResourcePath.parse([*base, "galleries", "g", "images"])
    assert path.id is not None and path.id.name == "g" and path.tail == "images"
    path = ResourcePath.parse([*base, "galleries"])
    assert path.id == ResourceId("s", "g") and path.tail == "Microsoft.Compute/galleries"
    assert ResourcePath.parse(["subscriptions"]).tail == "subscriptions"


def test_an_id_takes_the_spelling_of_its_type() -> None:
    written = ResourceId.parse(
        f"{SUBSCRIPTION}/resourceGroups/rg/providers/microsoft.network/publicIpAddresses/a"
    )
    spelled = written.spelled_as("Microsoft.Network/publicIPAddresses")
    assert str(spelled).endswith("/providers/Microsoft.Network/publicIPAddresses/a")
    assert spelled == written
