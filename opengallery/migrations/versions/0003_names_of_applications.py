"""Names of applications, and what describes service principals"""

import sqlalchemy as sa
from alembic import op

import opengallery.database

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward."""
    op.create_table(
        "identifier_uris",
        sa.Column("tenant_id", sa.String(length=36), nullable=False),
        sa.Column("uri_key", sa.String(length=256), nullable=False),
        sa.Column("uri", sa.String(length=256), nullable=False),
        sa.Column("app_id", sa.String(length=36), nullable=False),
        sa.Column("added_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_identifier_uris_tenant_id")),
        sa.ForeignKeyConstraint(
            ["app_id"], ["applications.app_id"], name=op.f("fk_identifier_uris_app_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "uri_key", name=op.f("pk_identifier_uris")),
    )
    with op.batch_alter_table("identifier_uris", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_identifier_uris_app_id"), ["app_id"], unique=False)
    op.create_table(
        "service_principals",
        sa.Column("object_id", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("created_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["object_id"],
            ["principals.object_id"],
            name=op.f("fk_service_principals_object_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("object_id", name=op.f("pk_service_principals")),
    )


def downgrade() -> None:
    """Bring the tables back: what is new in them is lost."""
    op.drop_table("service_principals")
    op.drop_table("identifier_uris")
