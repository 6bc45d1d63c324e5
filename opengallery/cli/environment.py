"""`gallery env`: shell lines that lead this command, az and the SDKs to a server."""

from opengallery.cli.command import Verb, new_app
from opengallery.cli.failure import CommandFailed
from opengallery.cli.serve import Data

app = new_app("Print the shell lines that lead clients to a server.")


@app.command("env", cls=Verb, epilog='eval "$(gallery env --data ~/gallery)"')
def env(data: Data) -> None:
    """Print shell lines to `eval`: where the server is, who the first administrator is, whom to trust."""
    from opengallery.identity.environment import NoGallery, environment, shell_lines
    from opengallery.settings import SettingsError, load_settings

    try:
        print(shell_lines(environment(load_settings(data))), end="")
    except (NoGallery, SettingsError) as error:
        raise CommandFailed(str(error)) from error
