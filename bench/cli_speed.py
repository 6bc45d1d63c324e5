"""How long `gallery sig list` takes beside `az sig list`, and a server on an existing folder until `ready`.

Medians of 5, one command after the other in turns; wall time depends on the machine, the ratio less so.
"""

from statistics import median

from subject import AZ, GALLERY, Subject, subject

TURNS = 5


def main() -> None:
    """Print the three lines of the benchmark."""
    with subject() as server:
        first_s = server.start()
        _prepare(server)
        _commands(server)
        starts = []
        for _ in range(TURNS):
            server.stop()
            starts.append(server.start())
        print(
            f"serve     ready on an existing folder after {median(starts):.2f} s "
            f"(the first time, with a database to make: {first_s:.2f} s); wanted: within 2 s"
        )


def _prepare(server: Subject) -> None:
    names = server.environment
    endpoint = names["GALLERY_ENDPOINT"]
    server.run(AZ, "cloud", "register", "-n", "opengallery", "--endpoint-resource-manager", endpoint)
    server.run(AZ, "cloud", "set", "-n", "opengallery")
    server.run(
        AZ, "login", "--service-principal", "-u", names["AZURE_CLIENT_ID"],
        "-p", names["AZURE_CLIENT_SECRET"], "--tenant", names["AZURE_TENANT_ID"], "-o", "json",
    )  # fmt: skip
    server.run(GALLERY, "group", "create", "-n", "bench", "-l", "westcentralus", "-o", "json")
    for number in range(10):
        server.run(
            GALLERY, "sig", "create", "-g", "bench", "--gallery-name", f"gallery{number}", "-o", "json"
        )


def _commands(server: Subject) -> None:
    command = ("sig", "list", "-o", "json")
    assert len(server.run(GALLERY, *command)) == len(server.run(AZ, *command)) == 10
    pairs = [(server.seconds(GALLERY, *command), server.seconds(AZ, *command)) for _ in range(TURNS)]
    ours, theirs = (median(column) for column in zip(*pairs, strict=True))
    print(
        f"sig list  gallery {ours:.2f} s, az {theirs:.2f} s: {ours / theirs:.2f} of az's wall time; "
        "wanted: at most 0.50"
    )


if __name__ == "__main__":
    main()
