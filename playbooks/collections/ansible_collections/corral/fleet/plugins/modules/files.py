"""The module `files`: text files of a machine, as many as there are, in one step.

It runs on machines of the fleet, with nothing but their own Python: neither Corral nor YAML.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Write text files, all in one step
version_added: 1.0.0
description:
  - Does for many files what M(ansible.builtin.copy) does for one - each is written beside its place
    and moved there, and only where its content, owner or mode is not what it should be.
  - One module on the machine instead of two a file is what makes a second deploy quick.
  - Folders that lack are made, for everybody to read. Those that are there stay as they are.
options:
  files:
    description: The content of each path. Templates come in by the lookup
      P(ansible.builtin.template#lookup).
    type: dict
    required: true
  owner:
    description: Whose they are.
    type: str
    default: root
  group:
    description: The group that they belong to.
    type: str
    default: root
  mode:
    description: What may be done with them, as four octal digits.
    type: raw
    default: "0644"
  unit:
    description:
      - The systemd unit that reads them when it starts. While it runs, a file that was written
        after its start counts as written now, so that its handler is notified.
      - That file was written by a run that was killed before its handlers, and the next run would
        find nothing to do.
    type: str
  validate:
    description: Command that must succeed before a file is moved to its place. C(%s) stands for the
      file.
    type: str
attributes:
  check_mode:
    description: Says which files it would write and writes none.
    support: full
  diff_mode:
    description: Shows what is written.
    support: full
author: The Corral authors
"""

EXAMPLES = r"""
- name: Write configuration and unit
  corral.fleet.files:
    files:
      /etc/corral/nap.yaml: "{{ lookup('ansible.builtin.template', 'nap.yaml.j2') }}"
      /etc/systemd/system/nap.service: "{{ lookup('ansible.builtin.template', 'nap.service.j2') }}"
    unit: nap.service
  notify: Restart the nap
"""

RETURN = r"""
written:
  description: Paths whose content, owner or mode changed, or that O(unit) has not read yet, in the
    order in which they were given.
  returned: always
  type: list
  elements: str
"""

import os
import tempfile
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule

# The documentation again: on the machine there is no YAML to read it with.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "files": {"type": "dict", "required": True},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "raw", "default": "0644"},
    "unit": {"type": "str"},
    "validate": {"type": "str"},
}


def settle(
    module: AnsibleModule, path: str, text: str, before: str | None, since: float
) -> dict[str, Any] | None:
    """Have the text at the path; returns what changed, as Ansible shows it, if anything did.

    `before`: what is there. `since`: when the unit started that reads it, in Unix time.
    """
    change: dict[str, Any] = {"before_header": path, "after_header": path}
    if before != text:
        if not module.check_mode:
            _write(module, path, text)
        change |= {"before": before or "", "after": text}
    elif os.stat(path).st_mtime > since:
        change |= {
            "before": f"{module.params['unit']} runs with the file before this one\n",
            "after": "",
        }
    if before is not None or not module.check_mode:
        attributes = module.load_file_common_arguments(module.params, path)
        shown: dict[str, Any] = {}
        if module.set_fs_attributes_if_different(attributes, changed=False, diff=shown):
            change = shown | change
    return change if "after" in change else None


def _started(module: AnsibleModule) -> float:
    """When the unit that reads the files did: Unix time.

    One that does not run will read them all. One that systemd should load anew has read none.
    """
    if not module.params["unit"]:
        return float("inf")
    properties = "--property=ActiveState,NeedDaemonReload,ExecMainStartTimestamp"
    asked = ["systemctl", "show", "--timestamp=us+utc", properties, module.params["unit"]]
    _, said, _ = module.run_command(asked, check_rc=True, environ_update={"LC_ALL": "C"})
    known = dict(line.partition("=")[::2] for line in said.splitlines())
    if known["ActiveState"] != "active":
        return float("inf")
    if known["NeedDaemonReload"] == "yes":
        return float("-inf")
    _, _, date = known["ExecMainStartTimestamp"].partition(" ")  # after the day of the week
    moment = datetime.strptime(date, "%Y-%m-%d %H:%M:%S.%f %Z")
    return moment.replace(tzinfo=UTC).timestamp()


def _content(module: AnsibleModule, path: str) -> str | None:
    """What is there; None: no file of its own, so a link is replaced and not followed."""
    if os.path.islink(path) or not os.path.lexists(path):
        return None
    if not os.path.isfile(path):
        module.fail_json(msg=f"{path} is there and no file; remove it or name another path.")
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return file.read()


def _write(module: AnsibleModule, path: str, text: str) -> None:
    handle, draft = tempfile.mkstemp(dir=module.tmpdir)
    with open(handle, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    if module.params["validate"]:
        command = module.params["validate"].replace("%s", draft)
        status, said, complained = module.run_command(command)
        if status:
            why = (complained or said).strip()
            module.fail_json(msg=f"{path} is refused by {module.params['validate']}: {why}")
    os.umask(0o022)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        module.fail_json(msg=f"There can be no folder for {path}: {error}.")
    module.atomic_move(draft, path)


def main() -> None:
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    files = module.params["files"]
    for path, text in files.items():  # a dict of texts is nothing that an argument spec can say
        if not isinstance(text, str):
            module.fail_json(msg=f"The content of {path} is {text!r}, which is no text; quote it.")
    # All is looked at before anything is written: who fails half-way notifies no handler.
    before = {path: _content(module, path) for path in files}
    since = _started(module)
    shown = {path: settle(module, path, files[path], before[path], since) for path in files}
    written = [path for path, change in shown.items() if change is not None]
    module.exit_json(changed=bool(written), written=written, diff=[shown[path] for path in written])


if __name__ == "__main__":
    main()
