"""TemplateError: a template that can't be deployed as it is written."""

from opengallery.arm.errors import ArmError


class TemplateError(ArmError):
    """`InvalidTemplate`: the message says what is wrong, the target where (`resources[2].properties.x`)."""

    def __init__(self, message: str, target: str | None = None, code: str = "InvalidTemplate") -> None:
        super().__init__(code, message, target=target)

    def at(self, target: str) -> "TemplateError":
        """The same error with its place, unless a closer one is known already."""
        return self if self.target else TemplateError(self.message, target, self.code)
