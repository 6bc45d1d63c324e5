"""The order of a template's resources: each after what its `dependsOn` and its `reference()` calls name."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from opengallery.arm.templates.errors import TemplateError

if TYPE_CHECKING:
    from opengallery.arm.templates.template import TemplateResource


class ResourceNames:
    """Finds a template's resource by any of the forms that `dependsOn` may use, in any case.

    For `Microsoft.Network/loadBalancers/probes` named `lb/p`: the id, `Microsoft.Network/loadBalancers/lb/
    probes/p`, `Microsoft.Network/loadBalancers/probes/lb/p`, and the name `lb/p`.
    """

    def __init__(self, resources: Sequence["TemplateResource"]) -> None:
        self._by_name: dict[str, set[str]] = {}
        for resource in resources:
            namespace, *types = resource.type.split("/")
            names = resource.name.split("/")
            pairs = [word for pair in zip(types, names, strict=True) for word in pair]
            forms = (
                resource.id,
                "/".join([namespace, *pairs]),
                f"{resource.type}/{resource.name}",
                resource.name,
            )
            for form in forms:
                self._by_name.setdefault(form.lower(), set()).add(resource.id)

    def find(self, name: str) -> str | None:
        """The id of the resource so named, None when the template has none. Raises when it has several."""
        found = self._by_name.get(name.lower().rstrip("/"), set())
        if len(found) > 1:
            raise TemplateError(
                f"The name '{name}' means several resources: {', '.join(sorted(found))}. Use resourceId()."
            )
        return next(iter(found), None)

    def resolve(self, name: str) -> str:
        """The id of the resource so named. Raises `TemplateError` when the template has none."""
        found = self.find(name)
        if found is None:
            raise TemplateError(f"The resource '{name}' is not defined in the template.")
        return found


def order(
    resources: Sequence["TemplateResource"], depends_on: Mapping[str, Sequence[str]]
) -> list["TemplateResource"]:
    """`resources` so that each follows those it depends on; otherwise as written.

    `depends_on`: ids by id. Raises `TemplateError` when a resource depends on itself, however far around.
    """
    by_id = {resource.id: resource for resource in resources}
    finished: dict[str, None] = {}
    for start in by_id:
        path: dict[str, None] = {}
        waiting = [(start, iter(depends_on.get(start, ())))]
        while waiting:
            current, remaining = waiting[-1]
            if current in finished:
                waiting.pop()
                continue
            path[current] = None
            following = next((name for name in remaining if name not in finished), None)
            if following is None:
                finished[current] = None
                path.pop(current)
                waiting.pop()
            elif following in path:
                circle = [*list(path)[list(path).index(following) :], following]
                raise TemplateError(
                    "Deployment template validation failed: 'Circular dependency detected: "
                    f"{' -> '.join(by_id[name].name for name in circle)}'. "
                    "Take one dependsOn or reference() away.",
                    by_id[following].target,
                )
            else:
                waiting.append((following, iter(depends_on.get(following, ()))))
    return [by_id[name] for name in finished]
