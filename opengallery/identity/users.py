"""Users: people of a tenant, who sign in by a user principal name (`bob@local`) and a password.

Of the password only the Argon2 hash is kept. `details` are the members of a Graph user that only
describe it (`givenName`, `jobTitle`, ...). Source: Microsoft Graph REST API v1.0, user.
"""

from sqlalchemy import Column, ForeignKey, String, Table

from opengallery.database import Json, UtcDateTime, metadata

users = Table(
    "users",
    metadata,
    Column("object_id", String(36), ForeignKey("principals.object_id", ondelete="CASCADE"), primary_key=True),
    Column("user_principal_name", String(256), nullable=False),
    Column("user_principal_name_key", String(256), nullable=False, unique=True),
    Column("password_hash", String(256)),
    Column("details", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
