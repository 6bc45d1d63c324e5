"""Uses: which network resource names another one, so that it can't be deleted yet."""

import json

from sqlalchemy import String, cast, func, select

from opengallery.arm.call import Call
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resources import resources

_USERS = (
    "microsoft.network/networkinterfaces",
    "microsoft.network/loadbalancers",
    "microsoft.network/virtualnetworks",
)


def user_of(call: Call, used: ResourceId, besides: ResourceId | None = None) -> str | None:
    """The id of an interface, load balancer or network whose properties hold the id `used`; None if there is none
    but `besides`.

    A network that names its own subnets, as clients send back what they were shown, is no user of them.
    """
    text = func.lower(cast(resources.c.properties, String))
    query = select(resources.c.id).where(
        resources.c.type.in_(_USERS),
        resources.c.subscription == (used.subscription or "").lower(),
        resources.c.key.not_in(
            (used.key, used.parent.key if used.parent else "", besides.key if besides else "")
        ),
        text.contains(json.dumps(used.key), autoescape=True),
    )
    return call.connection.scalars(query.limit(1)).first()
