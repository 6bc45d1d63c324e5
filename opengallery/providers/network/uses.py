"""Uses: which network resource names another one, so that it can't be deleted yet."""

import json

from sqlalchemy import String, cast, func, select

from opengallery.arm.call import Call
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resources import resources

_USERS = ("microsoft.network/networkinterfaces", "microsoft.network/loadbalancers")


def user_of(call: Call, used: ResourceId) -> str | None:
    """The id of an interface or load balancer whose properties hold the id `used`, None when there is none."""
    text = func.lower(cast(resources.c.properties, String))
    query = select(resources.c.id).where(
        resources.c.type.in_(_USERS),
        resources.c.subscription == (used.subscription or "").lower(),
        text.contains(json.dumps(used.key), autoescape=True),
    )
    return call.connection.scalars(query.limit(1)).first()
