"""What the database says of its errors, which goes into the log."""

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError

from opengallery.database import Database
from opengallery.identity.directory import tenants


def test_an_error_of_the_database_names_no_values(database: Database) -> None:
    secret = "a-secret-that-is-in-no-log"
    row = {"id": "1", "display_name": secret, "administrator_id": None}
    with pytest.raises(DBAPIError) as failure, database.write() as connection:
        connection.execute(insert(tenants).values(row))
    # PostgreSQL tells the whole row, as the cause tells too.
    assert secret not in str(failure.value) + str(failure.value.orig) + repr(failure.value.__cause__)
    assert "administrator_id" in str(failure.value)
    with pytest.raises(DBAPIError) as failure, database.read() as connection:
        connection.execute(text("select * from nowhere where a = :a"), {"a": secret})
    assert secret not in str(failure.value)
