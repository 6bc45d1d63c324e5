"""Groups: principals that other principals, groups among them, are members of.

`details` are the members of a Graph group that only describe it (`description`, `mailNickname`, ...).
Source: Microsoft Graph REST API v1.0, group.
"""

from sqlalchemy import Column, ForeignKey, String, Table

from opengallery.database import Json, UtcDateTime, metadata

groups = Table(
    "groups",
    metadata,
    Column("object_id", String(36), ForeignKey("principals.object_id", ondelete="CASCADE"), primary_key=True),
    Column("details", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

group_members = Table(
    "group_members",
    metadata,
    Column("group_id", String(36), ForeignKey("groups.object_id", ondelete="CASCADE"), primary_key=True),
    Column(
        "member_id",
        String(36),
        ForeignKey("principals.object_id", ondelete="CASCADE"),
        primary_key=True,
        index=True,
    ),
)

owners = Table(
    "owners",
    metadata,
    Column("object_id", String(36), primary_key=True),
    Column("owner_id", String(36), ForeignKey("principals.object_id", ondelete="CASCADE"), primary_key=True),
)
