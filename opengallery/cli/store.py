"""`gallery store`: look after the stores of a data folder, without a server."""

from opengallery.cli.command import new_app

app = new_app("The stores of a data folder: verify, collect, stats.")
