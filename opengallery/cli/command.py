"""How a command is declared: `@verb(app, "create", ...)` above a function that returns what to print.

The decorator adds the options that every command has, signs in, prints the result, and makes options
that take a list read their words as az does. The function's docstring is its help.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, TypeVar

import typer
import typer.core

from opengallery.cli.arguments import spread
from opengallery.cli.failure import CommandFailed, Misuse
from opengallery.cli.output import Columns, Output, emit, flatten, with_resource_group

Function = TypeVar("Function", bound=Callable[..., Any])

GROUPED = frozenset({"--add", "--remove"})

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Output format.", case_sensitive=False)]
SubscriptionOption = Annotated[
    str | None, typer.Option("--subscription", metavar="NAME|ID", help="Another subscription.")
]
QuietOption = Annotated[bool, typer.Option("--only-show-errors", help="No progress, no notes.")]


class Verb(typer.core.TyperCommand):
    """A command whose list options take many words (`--tags a=1 b=2`), and which has no `--query`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Bring the words into typer's form first."""
        if any(word == "--query" or word.startswith("--query=") for word in args):
            raise Misuse("gallery has no --query. Use `-o json` and jq, or the az command.")
        many, flags = set(), set()
        for parameter in self.params:
            if getattr(parameter, "multiple", False):
                many.update(parameter.opts)
            elif getattr(parameter, "metavar", None) == "true|false":
                flags.update(parameter.opts)
        return super().parse_args(ctx, spread(args, many - GROUPED, many & GROUPED, flags))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples as they are: they must be fit to copy."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write("Examples:\n")
            for line in self.epilog.splitlines():
                formatter.write(f"  {line}\n")


def new_app(help_text: str) -> typer.Typer:
    """An app for one noun. Plain help and errors: rich is only loaded where it is used."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )


def verb(
    app: typer.Typer,
    name: str,
    examples: Sequence[str],
    *,
    columns: Columns | None = None,
    details: Collection[str] = (),
    flat: bool = True,
) -> Callable[[Function], Function]:
    """Declare the function below as command `name` of `app`.

    When its first parameter is called `arm` it gets an `ArmClient`. What it returns is printed, None
    is not; `columns` are those of `-o table`, which leaves `details` out where they were not got;
    `flat=False` keeps `properties` where they are, for the types that az shows so.
    """

    def declare(function: Function) -> Function:
        parameters = list(inspect.signature(function).parameters.values())
        uses_arm = bool(parameters) and parameters[0].name == "arm"

        def run(**arguments: Any) -> None:
            output: Output = arguments.pop("output")
            failure = None
            try:
                if uses_arm:
                    from opengallery.cli.client import ArmClient

                    subscription, quiet = arguments.pop("subscription"), arguments.pop("only_show_errors")
                    with ArmClient.from_environment(subscription, quiet=quiet) as arm:
                        result = function(arm, **arguments)
                else:
                    result = function(**arguments)
            except CommandFailed as error:
                failure, result = error, error.result
            if result is not None:
                emit(with_resource_group(flatten(result) if flat else result), output, columns, details)
            if failure:
                raise failure

        common = [_common("output", OutputOption, Output.JSON)]
        if uses_arm:
            common += [
                _common("subscription", SubscriptionOption, None),
                _common("only_show_errors", QuietOption, False),
            ]
        accepted = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters[uses_arm:]
        ] + common
        run.__signature__ = inspect.Signature(accepted)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in accepted}
        run.__doc__ = function.__doc__
        app.command(name, cls=Verb, epilog="\n".join(examples))(run)
        return function

    return declare


def _common(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
