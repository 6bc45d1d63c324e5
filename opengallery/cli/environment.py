"""`gallery env`: shell lines that lead this command, az and the SDKs to a server."""

from typing import Annotated

import typer

from opengallery.cli.command import Verb, new_app
from opengallery.cli.failure import CommandFailed
from opengallery.cli.serve import Data

EXAMPLES = """\
eval "$(gallery env --data ~/gallery)"
eval "$(gallery env --data ~/gallery --no-credentials)" """.rstrip()

app = new_app("Print the shell lines that lead clients to a server.")


@app.command("env", cls=Verb, epilog=EXAMPLES)
def env(
    data: Data,
    no_credentials: Annotated[
        bool, typer.Option("--no-credentials", help="Leave the administrator out: for people who sign in.")
    ] = False,
) -> None:
    """Print shell lines to `eval`: where the server is, who the first administrator is, whom to trust."""
    from opengallery.identity.environment import NoGallery, environment, shell_lines
    from opengallery.settings import SettingsError, load_settings

    try:
        print(shell_lines(environment(load_settings(data), not no_credentials)), end="")
    except (NoGallery, SettingsError) as error:
        raise CommandFailed(str(error)) from error
