"""Roles: custom role definitions, and assignments that belong to a tenant"""

import sqlalchemy as sa
from alembic import op

from opengallery.database import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SCOPE = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Bring the tables forward. An assignment becomes one of its principal's tenant."""
    op.create_table(
        "role_definitions",
        sa.Column("tenant_id", sa.String(length=36), nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=512), nullable=False),
        sa.Column("name_key", sa.String(length=512), nullable=False),
        sa.Column("description", sa.String(length=2048), nullable=False),
        sa.Column("permissions", sa.JSON(), nullable=False),
        sa.Column("assignable_scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=36), nullable=False),
        sa.Column("updated_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("updated_by", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_role_definitions")),
        sa.UniqueConstraint("tenant_id", "name_key", name=op.f("uq_role_definitions_tenant_id_name_key")),
    )
    known = sa.text(
        "select a.name, a.scope, a.principal_id, a.role_definition_id, a.created_at, p.tenant_id, p.kind "
        "from role_assignments a join principals p on p.object_id = a.principal_id"
    ).columns(created_at=UtcDateTime(timezone=True))
    rows = [row._asdict() for row in op.get_bind().execute(known)]
    with op.batch_alter_table("role_assignments", schema=None) as batch_op:
        batch_op.drop_index("ix_role_assignments_principal_scope")
    op.drop_table("role_assignments")
    table = op.create_table(
        "role_assignments",
        sa.Column("tenant_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=36), nullable=False),
        sa.Column("scope", _SCOPE, nullable=False),
        sa.Column("scope_id", sa.String(), nullable=False),
        sa.Column("principal_id", sa.String(length=36), nullable=False),
        sa.Column("principal_type", sa.String(length=32), nullable=False),
        sa.Column("role_definition_id", sa.String(length=36), nullable=False),
        sa.Column("description", sa.String(length=2048), nullable=True),
        sa.Column("created_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=36), nullable=False),
        sa.Column("updated_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("updated_by", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "name", name=op.f("pk_role_assignments")),
        sa.UniqueConstraint(
            "tenant_id",
            "principal_id",
            "scope",
            "role_definition_id",
            name="uq_role_assignments_who_where_what",
        ),
    )
    with op.batch_alter_table("role_assignments", schema=None) as batch_op:
        batch_op.create_index("ix_role_assignments_scope", ["scope"], unique=False)
        batch_op.create_index("ix_role_assignments_role_definition_id", ["role_definition_id"], unique=False)
    for row in rows:
        kind = row.pop("kind")
        row |= {"scope_id": row["scope"], "principal_type": kind, "created_by": row["principal_id"]}
        op.bulk_insert(table, [row | {"updated_by": row["principal_id"], "updated_at": row["created_at"]}])


def downgrade() -> None:
    """Bring the tables back: custom roles are lost, and what is new of assignments."""
    known = sa.text(
        "select name, scope, principal_id, role_definition_id, created_at from role_assignments"
    ).columns(created_at=UtcDateTime(timezone=True))
    rows = [row._asdict() for row in op.get_bind().execute(known)]
    op.drop_table("role_assignments")
    table = op.create_table(
        "role_assignments",
        sa.Column("name", sa.String(length=36), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("principal_id", sa.String(length=36), nullable=False),
        sa.Column("role_definition_id", sa.String(length=36), nullable=False),
        sa.Column("created_at", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_role_assignments")),
    )
    with op.batch_alter_table("role_assignments", schema=None) as batch_op:
        batch_op.create_index("ix_role_assignments_principal_scope", ["principal_id", "scope"], unique=False)
    if rows:
        op.bulk_insert(table, rows)
    op.drop_table("role_definitions")
