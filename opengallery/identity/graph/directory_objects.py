"""`/directoryObjects`: objects of whatever kind, by their ids.

Source: Microsoft Graph REST API v1.0, directoryObject: get, getByIds, validation of bounds.
"""

from opengallery.identity.directory import as_id, find_principal
from opengallery.identity.graph.call import Answer, GraphCall, anyone
from opengallery.identity.graph.errors import bad_request, not_found
from opengallery.identity.graph.memberships import membership_operations
from opengallery.identity.graph.objects import TYPES, show_objects
from opengallery.identity.graph.operation import Operation
from opengallery.identity.graph.query import answer_one, chosen, require_options

IDS_MAX = 1000
NAMES = {name.rpartition(".")[2].lower(): kind for kind, name in TYPES.items()}


def _one(call: GraphCall) -> Answer:
    shown = show_objects(call, [as_id(call.key)])
    if not shown:
        raise not_found(call.key)
    return answer_one(call, "directoryObjects", shown[0])


def _by_ids(call: GraphCall) -> Answer:
    """Those of the ids that are there, without a word about the others."""
    require_options(call, frozenset({"$select"}))
    ids, types = call.body.get("ids"), call.body.get("types") or list(NAMES)
    if not isinstance(ids, list) or len(ids) > IDS_MAX or not all(isinstance(entry, str) for entry in ids):
        raise bad_request(f"Give 'ids' as a list of at most {IDS_MAX} object ids.")
    if not isinstance(types, list) or len(types) > IDS_MAX or not all(isinstance(e, str) for e in types):
        raise bad_request("Give 'types' as a list of kinds: user, group, servicePrincipal, application.")
    asked = {entry.lower() for entry in types}
    kinds = set(TYPES) if "directoryobject" in asked else {NAMES[name] for name in asked & NAMES.keys()}
    shown = show_objects(call, [as_id(entry) for entry in ids], kinds)
    content = [chosen(call, entry, None) for entry in shown]
    return Answer({"@odata.context": call.context("directoryObjects"), "value": content})


def _principal_id(call: GraphCall) -> str:
    principal = find_principal(call.connection, call.key)
    if principal is None or principal.tenant_id != call.tenant_id:
        raise not_found(call.key)
    return principal.object_id


OPERATIONS = [
    Operation("POST", "directoryObjects/getByIds", _by_ids, anyone, is_query=True),
    Operation("GET", "directoryObjects/{key}", _one, anyone),
    *membership_operations("directoryObjects", _principal_id),
]
