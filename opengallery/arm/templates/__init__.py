"""ARM templates: read one, order its resources, evaluate what they say. No HTTP and no database here.

`parse_template` checks everything that can be known before a deployment starts; `Template.body` and
`Template.evaluate_outputs` are asked while it runs, when `reference()` has something to refer to.
"""

from opengallery.arm.templates.errors import TemplateError
from opengallery.arm.templates.relaxed_json import read_relaxed_json
from opengallery.arm.templates.scope import DeploymentScope, GetResource, ProviderType
from opengallery.arm.templates.template import Template, TemplateResource, parse_template

__all__ = [
    "DeploymentScope",
    "GetResource",
    "ProviderType",
    "Template",
    "TemplateError",
    "TemplateResource",
    "parse_template",
    "read_relaxed_json",
]
