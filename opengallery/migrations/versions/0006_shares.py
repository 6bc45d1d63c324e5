"""The galleries that are shared, under their public names, and with whom"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables forward."""
    op.create_table(
        "published_galleries",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("gallery", sa.String(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_published_galleries")),
        sa.UniqueConstraint("gallery", name=op.f("uq_published_galleries_gallery")),
    )
    with op.batch_alter_table("published_galleries", schema=None) as batch_op:
        batch_op.create_index("ix_published_galleries_kind_name", ["kind", "name"], unique=False)
    op.create_table(
        "gallery_shares",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("target_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["name"], ["published_galleries.name"], name=op.f("fk_gallery_shares_name"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("name", "kind", "target_id", name=op.f("pk_gallery_shares")),
    )
    with op.batch_alter_table("gallery_shares", schema=None) as batch_op:
        batch_op.create_index("ix_gallery_shares_target", ["kind", "target_id", "name"], unique=False)


def downgrade() -> None:
    """Bring the tables back: no gallery is shared any more."""
    op.drop_table("gallery_shares")
    op.drop_table("published_galleries")
