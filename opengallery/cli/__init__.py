"""The `gallery` command: a client of the REST API like any other, plus `serve`, `env` and `store`."""
