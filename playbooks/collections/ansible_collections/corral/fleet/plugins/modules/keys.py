"""The module `keys`: who has which key, told to the broker."""

from __future__ import annotations

DOCUMENTATION = r"""
module: keys
short_description: Let keys in at the broker, each in place of what its name had before
version_added: 1.0.0
description:
  - Speaks to the broker through Corral's own client, so it runs where Corral is installed and the
    broker can be reached - the broker's own machine, or the controller.
  - A machine that was made anew has a new key, and whoever still holds the old one is not this
    machine. So a name has one key of a role - the one that is given here - and every other one is
    revoked.
  - Keys of names that are not given stay as they are.
options:
  keys:
    description: The public half of a key for each name.
    type: dict
    required: true
  role:
    description: What their holders may do.
    type: str
    choices: [client, viewer, operator, worker]
    required: true
  broker:
    description: Endpoints of the broker, tried in turn. Default is what Corral's configuration
      says.
    type: list
    elements: str
    default: []
  key:
    description: Key file of an operator. Default is what Corral's configuration says.
    type: path
attributes:
  check_mode:
    description: Says which keys it would let in and revoke and does nothing.
    support: full
  diff_mode:
    description: Shows the keys of these names before and after.
    support: full
author: The Corral authors
"""

EXAMPLES = r"""
- name: Let two workers in
  corral.fleet.keys:
    role: worker
    keys:
      worker-1: rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7
      worker-2: Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID
    broker: ["tcp://10.90.0.10:5555"]
    key: /etc/corral/operator.key
"""

RETURN = r"""
added:
  description: Names whose key was let in, in alphabetical order.
  returned: success
  type: list
  elements: str
revoked:
  description: Public halves that lost their access.
  returned: success
  type: list
  elements: str
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.corral.fleet.plugins.module_utils.arguments import argument_spec

from corral.client import Client
from corral.errors import CorralError


def converge(
    client: Client, wanted: Mapping[str, str], role: str, check: bool, result: dict[str, Any]
) -> None:
    """Give each name its key, and no other of the role."""
    listed = client.keys()
    known = [one for one in listed if one.revoked is None and one.name in wanted]
    old = [one for one in known if one.role == role and one.public != wanted[one.name]]
    has = {(one.name, one.public) for one in known if one.role == role}
    new = [name for name in sorted(wanted) if (name, wanted[name]) not in has]
    result |= {
        "changed": bool(old or new),
        "added": new,
        "revoked": [one.public for one in old],
        "diff": {
            "before": _shown((one.name, one.public) for one in known if one.role == role),
            "after": _shown(wanted.items()),
        },
    }
    if check:
        return
    for one in old:
        client.revoke_key(one.public)
    for name in new:
        client.add_key(wanted[name], role, name)


def _shown(held: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{name} {public}\n" for name, public in sorted(held))


def main() -> None:
    module = AnsibleModule(argument_spec(DOCUMENTATION, api=False), supports_check_mode=True)
    options = module.params
    result: dict[str, Any] = {"changed": False}
    try:
        with Client(options["broker"] or None, key=options["key"]) as client:
            converge(client, options["keys"], options["role"], module.check_mode, result)
    except CorralError as error:
        module.fail_json(msg=f"{error.message} {error.cure}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
