"""Sign-in: families of refresh tokens, authorization codes, device codes, used client assertions"""

import sqlalchemy as sa
from alembic import op

import opengallery.database

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward."""
    op.create_table(
        "token_families",
        sa.Column("family_digest", sa.String(length=64), nullable=False),
        sa.Column("object_id", sa.String(length=36), nullable=False),
        sa.Column("client_id", sa.String(length=36), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("password_stamp", sa.String(length=32), nullable=False),
        sa.Column("signed_in_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("expires_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("live", sa.JSON(), nullable=False),
        sa.Column("used", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["object_id"],
            ["principals.object_id"],
            name=op.f("fk_token_families_object_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("family_digest", name=op.f("pk_token_families")),
    )
    op.create_index(op.f("ix_token_families_object_id"), "token_families", ["object_id"])
    op.create_index(op.f("ix_token_families_expires_at"), "token_families", ["expires_at"])
    op.create_table(
        "authorization_codes",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("object_id", sa.String(length=36), nullable=False),
        sa.Column("client_id", sa.String(length=36), nullable=False),
        sa.Column("redirect_uri", sa.Text(), nullable=False),
        sa.Column("code_challenge", sa.String(length=128), nullable=True),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=True),
        sa.Column("password_stamp", sa.String(length=32), nullable=False),
        sa.Column("expires_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("is_used", sa.Boolean(), nullable=False),
        sa.Column("family_digest", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(
            ["object_id"],
            ["principals.object_id"],
            name=op.f("fk_authorization_codes_object_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_authorization_codes")),
    )
    op.create_index(op.f("ix_authorization_codes_object_id"), "authorization_codes", ["object_id"])
    op.create_index(op.f("ix_authorization_codes_expires_at"), "authorization_codes", ["expires_at"])
    op.create_table(
        "device_codes",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("user_code", sa.String(length=16), nullable=False),
        sa.Column("client_id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("interval_s", sa.Integer(), nullable=False),
        sa.Column("polled_at", opengallery.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("expires_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("object_id", sa.String(length=36), nullable=True),
        sa.Column("password_stamp", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(
            ["object_id"],
            ["principals.object_id"],
            name=op.f("fk_device_codes_object_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_device_codes")),
        sa.UniqueConstraint("user_code", name=op.f("uq_device_codes_user_code")),
    )
    op.create_index(op.f("ix_device_codes_expires_at"), "device_codes", ["expires_at"])
    op.create_table(
        "assertion_uses",
        sa.Column("app_id", sa.String(length=36), nullable=False),
        sa.Column("jti_digest", sa.String(length=64), nullable=False),
        sa.Column("resource_digest", sa.String(length=64), nullable=False),
        sa.Column("assertion_digest", sa.String(length=64), nullable=False),
        sa.Column("used_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("expires_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["app_id"], ["applications.app_id"], name=op.f("fk_assertion_uses_app_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("app_id", "jti_digest", "resource_digest", name=op.f("pk_assertion_uses")),
    )
    op.create_index(op.f("ix_assertion_uses_expires_at"), "assertion_uses", ["expires_at"])


def downgrade() -> None:
    """Bring the tables back: who is signed in has to sign in again."""
    for table in ("assertion_uses", "device_codes", "authorization_codes", "token_families"):
        op.drop_table(table)
