"""What every module does around its own work: arguments, the connection, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.corral.fleet.plugins.module_utils.arguments import argument_spec
from ansible_collections.corral.fleet.plugins.module_utils.connection import Api, Door
from ansible_collections.corral.fleet.plugins.module_utils.problems import Problem

Result = dict[str, Any]
Work = Callable[[Api, Mapping[str, Any], bool, Result], None]


def run(documentation: str, work: Work, **rules: Any) -> None:
    """Be a module that works through the API.

    Args:
        documentation: the module's own, which is its argument spec too.
        work: is given the API, the arguments, whether this is check mode, and the result that it
            fills; what is in there is returned also when it raises a Problem.
        rules: further arguments of AnsibleModule, such as required_if.
    """
    module = AnsibleModule(argument_spec(documentation), supports_check_mode=True, **rules)
    result: Result = {"changed": False}
    api: Api | None = None
    try:
        api = Api(Door.of(module.params))
        work(api, module.params, module.check_mode, result)
    except Problem as problem:
        module.fail_json(msg=str(problem), **_counted(api, result))
    module.exit_json(**_counted(api, result))


def _counted(api: Api | None, result: Result) -> Result:
    return result | ({"calls": api.calls} if api else {})
