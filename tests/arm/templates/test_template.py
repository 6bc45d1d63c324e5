"""Templates: what is checked before a deployment starts, and in which order its resources come."""

from typing import Any

import pytest

from opengallery.arm.templates import (
    DeploymentScope,
    Template,
    TemplateError,
    parse_template,
    read_relaxed_json,
)

SCOPE = DeploymentScope("t", "s", "rg", "westeurope", "d")
GROUP = "/subscriptions/s/resourceGroups/rg"


def resource(name: str, kind: str = "A.B/c", **more: Any) -> dict[str, Any]:
    return {"type": kind, "name": name, "apiVersion": "2024-01-01", **more}


def parse(*resources: Any, passed: dict[str, Any] | None = None, **sections: Any) -> Template:
    template = {"$schema": "x", "contentVersion": "1.0.0.0", "resources": list(resources), **sections}
    return parse_template(template, passed or {}, SCOPE)


def names(template: Template) -> list[str]:
    return [resource.name for resource in template.resources]


def refused(*resources: Any, **sections: Any) -> TemplateError:
    with pytest.raises(TemplateError) as caught:
        parse(*resources, **sections)
    assert caught.value.code == "InvalidTemplate"
    return caught.value


@pytest.mark.parametrize(
    "depends_on",
    [
        "b",
        "B",
        "A.B/c/b",
        "a.b/C/B",
        "[resourceId('A.B/c', 'b')]",
        f"{GROUP}/providers/A.B/c/b",
        "[concat('A.B/c/', 'b')]",
    ],
)
def test_depends_on_takes_every_form_of_a_name(depends_on: str) -> None:
    template = parse(resource("a", dependsOn=[depends_on]), resource("b"))
    assert names(template) == ["b", "a"]
    assert template.resources[1].depends_on == (f"{GROUP}/providers/A.B/c/b",)


@pytest.mark.parametrize("name", ["p/q", "A.B/c/p/d/q", "A.B/c/d/p/q", "[resourceId('A.B/c/d', 'p', 'q')]"])
def test_a_child_is_found_by_every_form_of_its_name(name: str) -> None:
    template = parse(resource("a", dependsOn=[name]), resource("p/q", "A.B/c/d"))
    assert names(template) == ["p/q", "a"]


def test_independent_resources_stay_as_written() -> None:
    assert names(parse(*(resource(f"r{number}") for number in range(9)))) == [
        f"r{number}" for number in range(9)
    ]


def test_a_long_chain_is_no_trouble() -> None:
    chain = [resource(f"r{n}", dependsOn=[f"r{n + 1}"] if n < 799 else []) for n in range(800)]
    assert names(parse(*chain)) == [f"r{n}" for n in reversed(range(800))]


def test_reference_is_a_dependency() -> None:
    by_id = {"x": "[reference(resourceId('A.B/c', 'b')).y]"}
    by_name = {"x": ["[concat('a', reference('C').y)]"]}
    template = parse(resource("a", properties=by_id), resource("b", properties=by_name), resource("c"))
    assert names(template) == ["c", "b", "a"]
    body = template.body(template.resources[1], lambda name, version: {"properties": {"y": name}})
    assert body == {"properties": {"x": [f"a{GROUP}/providers/A.B/c/c"]}}


def test_reference_of_a_resource_elsewhere_is_none() -> None:
    template = parse(resource("a", properties={"x": "[reference('/subscriptions/s/else').y]"}))
    assert template.resources[0].depends_on == ()


def test_a_circle_is_named() -> None:
    error = refused(
        resource("a", dependsOn=["b"]), resource("b", dependsOn=["c"]),
        resource("c", properties={"x": "[reference('a')]"}), resource("d", dependsOn=["a"]),
    )  # fmt: skip
    assert "Circular dependency detected: a -> b -> c -> a" in error.message
    assert "a -> a" in refused(resource("a", dependsOn=["a"])).message


def test_what_is_not_in_the_template_cannot_be_depended_on() -> None:
    error = refused(resource("a"), resource("b", dependsOn=["a", "nothing"]))
    assert "'nothing' is not defined in the template" in error.message
    assert error.target == "resources[1].dependsOn[1]"


def test_a_name_that_means_two_resources_is_refused() -> None:
    error = refused(resource("n", "A.B/c"), resource("n", "A.B/d"), resource("x", dependsOn=["n"]))
    assert "means several resources" in error.message


def test_children_inside_a_resource_are_flattened() -> None:
    child = {"type": "d", "name": "q", "apiVersion": "1", "dependsOn": ["p"], "resources": [
        {"type": "e", "name": "[concat('r', 1)]", "apiVersion": "1", "dependsOn": ["p/q"]}]}  # fmt: skip
    template = parse(resource("p", resources=[child]))
    assert names(template) == ["p", "p/q", "p/q/r1"]
    assert template.resources[2].type == "A.B/c/d/e"
    assert template.resources[2].id == f"{GROUP}/providers/A.B/c/p/d/q/e/r1"
    assert template.resources[2].target == "resources[0].resources[0].resources[0]"


def test_a_resource_that_is_not_wanted_is_left_out() -> None:
    template = parse(
        resource("a", condition="[equals(parameters('env'), 'prod')]"), resource("b", dependsOn=["a"]),
        parameters={"env": {"type": "string", "defaultValue": "test"}},
    )  # fmt: skip
    assert names(template) == ["b"]
    assert template.resources[0].depends_on == ()


@pytest.mark.parametrize(
    ("declaration", "passed", "words"),
    [
        ({"type": "string"}, None, "is not provided"),
        (
            {"type": "string"},
            {"value": 5},
            "expected a value of type 'string', but received one of type 'Integer'",
        ),
        ({"type": "int"}, {"value": True}, "'Boolean'"),
        ({"type": "int"}, {"value": "5"}, "'String'"),
        ({"type": "text"}, {"value": "x"}, "The type 'text' is not valid"),
        ({"type": "string", "allowedValues": ["a", "b"]}, {"value": "c"}, "allowed values 'a, b'"),
        ({"type": "string", "minLength": 3}, {"value": "ab"}, "'minLength' of 3"),
        ({"type": "int", "maxValue": 3}, {"value": 4}, "'maxValue' of 3"),
        ({"type": "array", "maxLength": 1}, {"value": [1, 2]}, "'maxLength' of 1"),
        ({"type": "string", "defaultValue": 7}, None, "'Integer'"),
        ({"type": "string"}, {"reference": {}}, "key vault"),
        ({"type": "string"}, "x", "an object with a 'value'"),
        ("string", {"value": "x"}, "An object with a 'type'"),
    ],
)
def test_a_parameter_is_checked(declaration: Any, passed: Any, words: str) -> None:
    error = refused(parameters={"p": declaration}, passed={} if passed is None else {"p": passed})
    assert words in error.message
    assert error.target == "parameters.p"


def test_an_unknown_parameter_is_refused() -> None:
    error = refused(parameters={"p": {"type": "int", "defaultValue": 1}}, passed={"q": {"value": 1}})
    assert "do not correspond to any parameters" in error.message and "'q'" in error.message


def test_parameters_are_shown_without_their_secrets() -> None:
    template = parse(
        resource("a", properties={"password": "[parameters('PASSWORD')]", "name": "[parameters('name')]"}),
        parameters={
            "password": {"type": "secureString"},
            "base": {"type": "string"},
            "name": {"type": "string", "defaultValue": "[concat(parameters('base'), '-x')]"},
        },
        passed={"password": {"value": "hunter2"}, "BASE": {"value": "b"}},
        outputs={"leak": {"type": "securestring", "value": "[parameters('password')]"}},
    )
    body = template.body(template.resources[0], lambda name, version: {})
    assert body == {"properties": {"password": "hunter2", "name": "b-x"}}
    assert "hunter2" not in str(template.shown_parameters())
    assert template.shown_parameters()["name"] == {"type": "String", "value": "b-x"}
    assert template.evaluate_outputs(lambda name, version: {}) == {"leak": {"type": "Securestring"}}
    assert "hunter2" not in repr(template)


def test_a_secret_is_not_in_the_error_about_it() -> None:
    error = refused(
        parameters={"p": {"type": "securestring", "minLength": 20}}, passed={"p": {"value": "hunter2"}}
    )
    assert "hunter2" not in error.message


@pytest.mark.parametrize(
    ("broken", "words", "target"),
    [
        ({"type": "A.B/c", "name": "a"}, "needs the text 'apiVersion'", "resources[0].apiVersion"),
        (resource("a/b"), "incorrect segment lengths", "resources[0].name"),
        (resource("a", "A.B"), "incorrect segment lengths", "resources[0].name"),
        (resource("a", "A.B/c/d"), "incorrect segment lengths", "resources[0].name"),
        (resource("[parameters('x')]"), "'x' is not found", "resources[0].name"),
        (resource("[reference('a')]"), "not expected at this location", "resources[0].name"),
        (resource("a", copy={"count": 2}), "Copy loops are not supported", "resources[0].copy"),
        (resource("a", properties={"copy": [{}]}), "Copy loops are not supported", "resources[0].properties"),
        (resource("a", dependsOn="b"), "has to be an array", "resources[0].dependsOn"),
        (resource("a", condition="yes"), "true or false", "resources[0].condition"),
        (
            resource("a", properties={"x": {"y": "[nope()]"}}),
            "'nope' is not valid",
            "resources[0].properties.x.y",
        ),
        (
            resource("a", properties="[if(true(), 1, nope())]"),
            "'nope' is not valid",
            "resources[0].properties",
        ),
        (resource("a", "Microsoft.Resources/deployments"), "inside a deployment", "resources[0].type"),
        ("text", "has to be an object", "resources[0]"),
    ],
)
def test_a_broken_resource_is_refused_with_its_place(broken: Any, words: str, target: str) -> None:
    error = refused(broken)
    assert words in error.message
    assert error.target == target


def test_the_same_resource_twice_is_refused_unless_one_is_unwanted() -> None:
    assert "defined multiple times" in refused(resource("a"), resource("A")).message
    assert names(parse(resource("a"), resource("a", condition=False))) == ["a"]


def test_broken_sections_are_refused() -> None:
    with pytest.raises(TemplateError, match=r"'\$schema' is missing"):
        parse_template({"contentVersion": "1", "resources": []}, {}, SCOPE)
    assert "'parameters' has to be an object" in refused(parameters=[]).message
    assert "at most 800" in refused(*[resource(f"r{n}") for n in range(801)]).message
    assert "has no 'value'" in refused(outputs={"o": {"type": "string"}}).message
    assert refused(outputs={"o": {"type": "string", "value": "[nope()]"}}).target == "outputs.o.value"
    assert "Symbolic names" in refused(resources={}).message


def test_an_output_of_the_wrong_type_is_refused() -> None:
    template = parse(outputs={"o": {"type": "string", "value": "[createArray()]"}})
    with pytest.raises(TemplateError, match="is not of its type"):
        template.evaluate_outputs(lambda name, version: {})


def test_the_body_that_az_sends_for_a_file_can_be_read() -> None:
    body = rb"""{"properties": {"parameters": {"n": {"value": "v // 9"}}, "mode": "Incremental", template:{
      // a comment
      "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
      /* another, with "quotes" and template: { */
      "contentVersion": "1.0.0.0", "resources": [ {"name": "a \"b\"
    c", "x": true, }, ],
    }}}"""
    properties = read_relaxed_json(body)["properties"]
    assert properties["parameters"] == {"n": {"value": "v // 9"}}
    assert properties["template"]["$schema"].endswith("deploymentTemplate.json#")
    assert properties["template"]["resources"] == [{"name": 'a "b"\n    c', "x": True}]


@pytest.mark.parametrize("body", [b"{", b"{a b}", b"\xff", b"[" * 100_000, b'{"a": }'])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(TemplateError) as caught:
        read_relaxed_json(body)
    assert caught.value.code == "InvalidRequestContent"
