"""A process that publishes one image and then changes its regions; tests kill it wherever it is.

Arguments: the data folder and the image file. Prints `working`, then `done`.
"""

import sys
from pathlib import Path

from dbos import DBOS, SetWorkflowID

from opengallery.database import Database, metadata
from opengallery.replication import workflows
from opengallery.replication.stores import Stores
from opengallery.settings import Settings


@DBOS.workflow(name="operation", max_recovery_attempts=None)
def operation(path: str) -> None:
    """What ARM operations do one after the other, as one workflow around those of replication."""
    workflows.ingest("image", "tenant", path, "east")
    workflows.replicate("version", "image", [{"region": "west", "count": 2}, {"region": "south", "count": 2}])
    workflows.replicate(
        "version", "image", [{"region": "south", "count": 1}, {"region": "north", "count": 2}]
    )
    workflows.remove("image")


def main(data: Path, path: str) -> None:
    settings = Settings(data=data)
    database = Database(settings.database)
    with database.write() as connection:
        metadata.create_all(connection)
    workflows.bind(database, Stores(settings, database))
    DBOS(
        config={
            "name": "gallery",
            "system_database_url": settings.workflow_database,
            "application_version": "1",
            "run_admin_server": False,
            "log_level": "ERROR",
        }
    )
    DBOS.launch()
    with SetWorkflowID("operation"):
        handle = DBOS.start_workflow(operation, path)
    print("working", flush=True)
    handle.get_result(polling_interval_sec=0.1)
    print("done", flush=True)
    workflows.close()
    DBOS.destroy()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
