"""Template expressions: what they evaluate to, and what is refused."""

from typing import Any

import pytest

from opengallery.arm.templates import DeploymentScope, ProviderType, TemplateError
from opengallery.arm.templates.expressions import Evaluator

SCOPE = DeploymentScope(
    tenant_id="t",
    subscription_id="s",
    resource_group="rg",
    location="westeurope",
    deployment_name="d",
    subscription_name="One",
    tags={"team": "a"},
    providers={"Microsoft.Compute": {"disks": ProviderType(("2025-01-02", "2024-01-01"), ("West Europe",))}},
)
GROUP = "/subscriptions/s/resourceGroups/rg"
VM = {"id": "/vm", "location": "westeurope", "properties": {"vmId": "v", "tags": [{"a": 1}]}}


def evaluate(value: Any) -> Any:
    parameters = {"name": "vm1", "count": 3, "on": True, "list": ["a", "b"], "object": {"Key": {"inner": 5}}}
    variables = {
        "twice": "[concat(parameters('name'), parameters('name'))]",
        "nested": {"x": "[variables('twice')]"},
    }
    evaluator = Evaluator(SCOPE, parameters, variables, get_resource=lambda name, version: VM)
    return evaluator.evaluate(value, "here")


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("plain", "plain"),
        ("[[escaped]", "[escaped]"),
        ("[not one", "[not one"),
        ("", ""),
        (5, 5),
        (None, None),
        ("['it''s']", "it's"),
        ("[-7]", -7),
        ("[ concat ( 'a' , 'b' ) ]", "ab"),
        ("[CONCAT('a', 1, true())]", "a1True"),
        ("[concat(parameters('list'), createArray('c'))]", ["a", "b", "c"]),
        ("[parameters('LIST')[1]]", "b"),
        ("[parameters('object').key.inner]", 5),
        ("[parameters('object')['Key']['inner']]", 5),
        ("[parameters('list')[sub(parameters('count'), 2)]]", "b"),
        ("[variables('twice')]", "vm1vm1"),
        ("[variables('nested').x]", "vm1vm1"),
        ("[resourceId('A.B/c', 'x')]", f"{GROUP}/providers/A.B/c/x"),
        ("[resourceId('other', 'A.B/c/d', 'x', 'y')]", f"{GROUP[:-2]}other/providers/A.B/c/x/d/y"),
        (
            "[resourceId('s2', 'other', 'A.B/c', 'x')]",
            "/subscriptions/s2/resourceGroups/other/providers/A.B/c/x",
        ),
        (
            "[resourceId(subscription().subscriptionId, resourceGroup().name, 'A.B/c', 'x')]",
            f"{GROUP}/providers/A.B/c/x",
        ),
        ("[subscriptionResourceId('A.B/c', 'x')]", "/subscriptions/s/providers/A.B/c/x"),
        ("[tenantResourceId('A.B/c', 'x')]", "/providers/A.B/c/x"),
        ("[extensionResourceId('/subscriptions/s', 'A.B/c', 'x')]", "/subscriptions/s/providers/A.B/c/x"),
        ("[reference('/vm').vmId]", "v"),
        ("[reference('/vm', '2024-01-01', 'Full').location]", "westeurope"),
        ("[reference('/vm').tags[0].a]", 1),
        ("[providers('microsoft.compute', 'Disks').apiVersions[0]]", "2025-01-02"),
        ("[providers('Microsoft.Compute').resourceTypes[0].locations]", ["West Europe"]),
        ("[resourceGroup().location]", "westeurope"),
        ("[resourceGroup().tags.team]", "a"),
        ("[deployment().name]", "d"),
        ("[format('{0}-{1:D3}-{{x}}', 'a', 7)]", "a-007-{x}"),
        ("[if(parameters('on'), 'yes', reference(1))]", "yes"),
        ("[and(true(), not(false()))]", True),
        ("[or(false(), equals('a', 'A'))]", False),
        ("[equals(1, true())]", False),
        ("[coalesce(null(), 'x')]", "x"),
        ("[empty(createObject())]", True),
        ("[contains('abc', 'b')]", True),
        ("[contains(parameters('object'), 'KEY')]", True),
        ("[contains(parameters('list'), 'z')]", False),
        (
            "[union(createObject('a', createObject('b', 1)), createObject('a', createObject('c', 2)))]",
            {"a": {"b": 1, "c": 2}},
        ),
        ("[union(parameters('list'), createArray('b', 'c'))]", ["a", "b", "c"]),
        ("[intersection(parameters('list'), createArray('b', 'c'))]", ["b"]),
        ("[first(parameters('list'))]", "a"),
        ("[last('abc')]", "c"),
        ("[split('a,b;c', createArray(',', ';'))]", ["a", "b", "c"]),
        ("[join(parameters('list'), '+')]", "a+b"),
        ("[replace('a-b', '-', '')]", "ab"),
        ("[substring('abcdef', 1, 3)]", "bcd"),
        ("[string(createObject('a', createArray(1, true())))]", '{"a":[1,true]}'),
        ("[int('42')]", 42),
        ("[length(parameters('object'))]", 1),
        ("[div(-7, 2)]", -3),
        ("[mod(-7, 2)]", -1),
        ("[range(2, 3)]", [2, 3, 4]),
        ("[max(1, 9, 3)]", 9),
        ("[base64ToString(base64('x'))]", "x"),
        ("[json('{\"a\": 1}').a]", 1),
        ("[padLeft(7, 3, '0')]", "007"),
        ("[toUpper(take('abc', 2))]", "AB"),
        ("[array('a')]", ["a"]),
        ("[guid('a', 'b')]", "2d796349-8c7e-55ec-9624-54ece82ed031"),
        ({"a": ["[add(1, 2)]"], "[concat('k', 'ey')]": 1}, {"a": [3], "key": 1}),
    ],
)  # fmt: skip
def test_an_expression_evaluates_to(expression: Any, result: Any) -> None:
    assert evaluate(expression) == result


def test_a_unique_string_is_stable_and_of_13_signs() -> None:
    value = evaluate("[uniqueString(resourceGroup().id, 'x')]")
    assert value == evaluate("[uniqueString(resourceGroup().id, 'x')]")
    assert value != evaluate("[uniqueString(resourceGroup().id, 'y')]")
    assert len(value) == 13 and value == value.lower()


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("[frobnicate('x')]", "'frobnicate' is not valid"),
        ("[copyIndex()]", "copy loops are not supported"),
        ("[concat('a']", "unexpected the end at character 11"),
        ("[concat('a') 'b']", "unexpected"),
        ("[concat('a', )]", "unexpected ')'"),
        ("[concat('a]", "unexpected"),
        ("[a.b]", "unexpected '.'"),
        ("[]", "unexpected the end"),
        ("[99999999999999999999]", "unexpected"),
        ("[toLower()]", "takes 1 arguments, not 0"),
        ("[toLower(5)]", "a text is expected, not 'Integer'"),
        ("[parameters('nothing')]", "'nothing' is not found"),
        ("[variables('nothing')]", "'nothing' is not found"),
        ("[parameters('object').other]", "no property 'other'. It has: Key"),
        ("[parameters('list')[2]]", "the array has 2 elements"),
        ("[parameters('list')[-1]]", "none at index -1"),
        ("[parameters('name').x]", "of the type 'String'"),
        (
            "[resourceId('Microsoft.Network/loadBalancers/probes', 'lb')]",
            "needs 2 resource names, and 1 are given",
        ),
        ("[resourceId('a', 'b', 'c', 'A.B/c', 'x')]", "a resource type such as"),
        ("[providers('Microsoft.Nothing', 'x')]", "'Microsoft.Nothing' is not known"),
        ("[reference('x')]", "'x' is not defined in the template"),
        ("[reference('/vm', '2024-01-01', 'Half')]", "'Full' or left out"),
        ("[if('yes', 1, 2)]", "a boolean is expected"),
        ("[div(1, 0)]", "the divisor is 0"),
        ("[substring('abc', 2, 2)]", "beyond a text of 3"),
        ("[int('x')]", "'x' is no integer"),
        ("[format('{1}', 'a')]", "without an argument"),
        ("[range(0, 100000)]", "between 0 and 10000"),
        ("[" + "not(" * 100 + "true()" + ")" * 100 + "]", "nested deeper"),
        ("['" + "x" * 30000 + "']", "at most 24576"),
    ],
)
def test_what_is_wrong_is_refused_with_the_place(expression: str, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        evaluate({"properties": {"x": ["", expression]}})
    assert words in caught.value.message
    assert caught.value.code == "InvalidTemplate"
    assert caught.value.target == "here.properties.x[1]"


def test_variables_that_double_each_other_are_stopped() -> None:
    variables: dict[str, Any] = {"v0": "x" * 1000}
    variables |= {f"v{n}": [f"[variables('v{n - 1}')]"] * 2 for n in range(1, 24)}
    with pytest.raises(TemplateError, match="larger than"):
        Evaluator(SCOPE, {}, variables).evaluate("[variables('v23')]", "here")


def test_a_variable_that_refers_to_itself_is_refused() -> None:
    variables = {"a": "[variables('b')]", "b": "[variables('a')]"}
    with pytest.raises(TemplateError, match="refers to itself"):
        Evaluator(SCOPE, {}, variables).evaluate("[variables('a')]", "here")


def test_variables_cannot_refer_to_resources() -> None:
    evaluator = Evaluator(SCOPE, {}, {"v": "[reference('/vm')]"}, get_resource=lambda name, version: VM)
    with pytest.raises(TemplateError, match="not expected at this location"):
        evaluator.evaluate("[variables('v')]", "here")
