"""The directory: users, groups, applications and their credentials"""

import sqlalchemy as sa
from alembic import op

import opengallery.database

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward."""
    op.create_table(
        "users",
        sa.Column("object_id", sa.String(length=36), nullable=False),
        sa.Column("user_principal_name", sa.String(length=256), nullable=False),
        sa.Column("user_principal_name_key", sa.String(length=256), nullable=False),
        sa.Column("password_hash", sa.String(length=256), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("created_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["object_id"], ["principals.object_id"], name=op.f("fk_users_object_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("object_id", name=op.f("pk_users")),
        sa.UniqueConstraint("user_principal_name_key", name=op.f("uq_users_user_principal_name_key")),
    )
    op.create_table(
        "groups",
        sa.Column("object_id", sa.String(length=36), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("created_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["object_id"], ["principals.object_id"], name=op.f("fk_groups_object_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("object_id", name=op.f("pk_groups")),
    )
    op.create_table(
        "group_members",
        sa.Column("group_id", sa.String(length=36), nullable=False),
        sa.Column("member_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.object_id"], name=op.f("fk_group_members_group_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["member_id"],
            ["principals.object_id"],
            name=op.f("fk_group_members_member_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("group_id", "member_id", name=op.f("pk_group_members")),
    )
    with op.batch_alter_table("group_members", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_group_members_member_id"), ["member_id"], unique=False)

    op.create_table(
        "applications",
        sa.Column("object_id", sa.String(length=36), nullable=False),
        sa.Column("app_id", sa.String(length=36), nullable=False),
        sa.Column("tenant_id", sa.String(length=36), nullable=False),
        sa.Column("display_name", sa.String(length=256), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("created_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_applications_tenant_id")),
        sa.PrimaryKeyConstraint("object_id", name=op.f("pk_applications")),
        sa.UniqueConstraint("app_id", name=op.f("uq_applications_app_id")),
    )
    with op.batch_alter_table("applications", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_applications_tenant_id"), ["tenant_id"], unique=False)
    # The administrators of galleries that are older than this table.
    op.execute(
        "insert into applications (object_id, app_id, tenant_id, display_name, details, created_at) "
        "select app_id, app_id, tenant_id, display_name, '{}', current_timestamp "
        "from principals where app_id is not null"
    )

    op.create_table(
        "owners",
        sa.Column("object_id", sa.String(length=36), nullable=False),
        sa.Column("owner_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["principals.object_id"], name=op.f("fk_owners_owner_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("object_id", "owner_id", name=op.f("pk_owners")),
    )
    op.rename_table("client_secrets", "old_client_secrets")
    with op.batch_alter_table("old_client_secrets", schema=None) as batch_op:
        batch_op.drop_constraint("pk_client_secrets", type_="primary")
        batch_op.drop_constraint("fk_client_secrets_app_id", type_="foreignkey")
    op.create_table(
        "client_secrets",
        sa.Column("app_id", sa.String(length=36), nullable=False),
        sa.Column("key_id", sa.String(length=36), nullable=False),
        sa.Column("hash", sa.String(length=256), nullable=False),
        sa.Column("hint", sa.String(length=3), nullable=True),
        sa.Column("display_name", sa.String(length=256), nullable=True),
        sa.Column("starts_at", opengallery.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("expires_at", opengallery.database.UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["app_id"], ["applications.app_id"], name=op.f("fk_client_secrets_app_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("app_id", "key_id", name=op.f("pk_client_secrets")),
    )
    op.execute(
        "insert into client_secrets (app_id, key_id, hash, expires_at) "
        "select app_id, key_id, hash, expires_at from old_client_secrets"
    )
    op.drop_table("old_client_secrets")
    op.create_table(
        "client_certificates",
        sa.Column("app_id", sa.String(length=36), nullable=False),
        sa.Column("key_id", sa.String(length=36), nullable=False),
        sa.Column("thumbprint", sa.String(length=64), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.Column("display_name", sa.String(length=256), nullable=True),
        sa.Column("starts_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("expires_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["app_id"],
            ["applications.app_id"],
            name=op.f("fk_client_certificates_app_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("app_id", "key_id", name=op.f("pk_client_certificates")),
    )


def downgrade() -> None:
    """Bring the tables back: what is new in them is lost."""
    op.drop_table("client_certificates")
    with op.batch_alter_table("client_secrets", schema=None) as batch_op:
        batch_op.drop_constraint("fk_client_secrets_app_id", type_="foreignkey")
        batch_op.drop_column("hint")
        batch_op.drop_column("display_name")
        batch_op.drop_column("starts_at")
    op.execute(
        "delete from client_secrets where app_id not in (select app_id from principals where app_id is not null)"
    )
    with op.batch_alter_table("client_secrets", schema=None) as batch_op:
        batch_op.create_foreign_key(
            "fk_client_secrets_app_id", "principals", ["app_id"], ["app_id"], ondelete="CASCADE"
        )
    for table in ("owners", "applications", "group_members", "groups", "users"):
        op.drop_table(table)
