"""`gallery serve`: the server, in the foreground."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from opengallery.cli.command import Verb, new_app

Data = Annotated[
    Path, typer.Option("--data", metavar="DIR", file_okay=False, help="The server's data folder.")
]

app = new_app("Run the server in the foreground.")


@app.command(
    "serve",
    cls=Verb,
    epilog="gallery serve --data ~/gallery\ngallery serve --data ~/gallery --port 9443",
)
def serve(
    data: Data,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="HTTPS port on localhost; 8443 by default.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Settings; DIR/opengallery.toml by default."),
    ] = None,
    keep_machines: Annotated[
        bool,
        typer.Option(
            "--keep-machines", help="Let machines run on when the server ends; the next one takes them over."
        ),
    ] = False,
) -> None:
    """Run the server in the foreground. It prints `ready https://localhost:PORT`; SIGTERM ends it."""
    # The roof is above this floor, so it is not imported but looked up.
    code = import_module("opengallery.app").serve(data, port, config, keep_machines)
    raise typer.Exit(code)
