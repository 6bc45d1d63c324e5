"""The activity log, and the request that an operation goes back to"""

import sqlalchemy as sa
from alembic import op

import opengallery.database

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward."""
    op.create_table(
        "activity_events",
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant_id", sa.String(length=36), nullable=False),
        sa.Column("subscription", sa.String(length=36), nullable=True),
        sa.Column("resource_group", sa.String(length=256), nullable=True),
        sa.Column("scope", sa.String(length=2048), nullable=False),
        sa.Column("scope_key", sa.String(length=2048), nullable=False),
        sa.Column("operation_name", sa.String(length=256), nullable=False),
        sa.Column("provider", sa.String(length=256), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("correlation_id", sa.String(length=36), nullable=False),
        sa.Column("operation_id", sa.String(length=36), nullable=False),
        sa.Column("object_id", sa.String(length=36), nullable=True),
        sa.Column("app_id", sa.String(length=36), nullable=True),
        sa.Column("user_principal_name", sa.String(length=256), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("happened_at", opengallery.database.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_activity_events")),
    )
    op.create_index(
        "ix_activity_events_log_time", "activity_events", ["tenant_id", "subscription", "happened_at"]
    )
    op.create_index("ix_activity_events_time", "activity_events", ["happened_at"])
    op.create_index("ix_activity_events_correlation", "activity_events", ["correlation_id"])
    # Nobody changes an event: a row can only be added, and go when it is old.
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "create trigger activity_events_stay before update on activity_events "
            "begin select raise(abort, 'the activity log is only appended to'); end"
        )
    else:
        op.execute(
            "create function activity_events_stay() returns trigger language plpgsql as "
            "$$ begin raise exception 'the activity log is only appended to'; end $$"
        )
        op.execute(
            "create trigger activity_events_stay before update on activity_events "
            "for each row execute function activity_events_stay()"
        )
    op.add_column("operations", sa.Column("origin", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Bring the tables back: the log is lost."""
    with op.batch_alter_table("operations", schema=None) as batch_op:
        batch_op.drop_column("origin")
    op.drop_table("activity_events")
    if op.get_bind().dialect.name != "sqlite":
        op.execute("drop function activity_events_stay()")
