"""`Microsoft.Authorization`: role definitions, role assignments, and what the caller may do. Of any scope."""

AUTHORIZATION_VERSIONS = (
    "2022-05-01-preview",
    "2022-04-01",
    "2018-07-01",
    "2018-01-01-preview",
    "2015-07-01",
)
ASSIGNMENT_VERSIONS = (
    "2022-04-01", "2021-04-01-preview", "2020-10-01-preview", "2020-08-01-preview", "2020-04-01-preview",
    "2020-03-01-preview", "2018-09-01-preview", "2018-01-01-preview", "2015-07-01",
)  # fmt: skip
DEFINITIONS = "/providers/Microsoft.Authorization/roleDefinitions"
