"""What the directory refuses, in its own words; each face of it (Graph, the command) translates once."""


class DirectoryError(Exception):
    """A refused change; `message` says what to do."""

    def __init__(self, message: str) -> None:
        """Say why, and what to do."""
        super().__init__(message)
        self.message = message


class InvalidValue(DirectoryError):
    """A property has a value that can't be used."""

    def __init__(self, name: str, message: str) -> None:
        """Name the property, as Graph spells it."""
        super().__init__(f"Invalid value specified for property '{name}'. {message}")
        self.property = name


class AlreadyTaken(DirectoryError):
    """Another object has this value, which only one may have."""

    def __init__(self, name: str) -> None:
        """Name the property, as Graph spells it."""
        super().__init__(
            f"Another object with the same value for property {name} already exists. Choose another."
        )
        self.property = name


class TooMany(DirectoryError):
    """A bound of the directory is reached."""


class NotAllowed(DirectoryError):
    """The directory doesn't let anybody do this, whatever their rights."""
