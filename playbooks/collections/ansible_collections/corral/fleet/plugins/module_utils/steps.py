"""Steps that are told before they are done, and only told in check mode."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.corral.fleet.plugins.module_utils.module import Result


class Steps:
    """Does one step after the other; the result says which, also when one fails."""

    def __init__(self, check: bool, result: Result) -> None:
        self._check = check
        self._result = result
        result |= {"steps": [], "diff": {"prepared": ""}}

    def do(self, what: str, work: Callable[[], object]) -> None:
        """One step."""
        self._result["steps"].append(what)
        self._result["diff"]["prepared"] += f"{what}\n"
        self._result["changed"] = True
        if not self._check:
            work()
