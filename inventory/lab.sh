# How playbooks, and the command `corral`, reach the lab that runs on this machine. Type: source inventory/lab.sh
#
# Needs a lab (`make lab`) and, for all but keys.yml, secrets (`ansible-playbook playbooks/keys.yml` makes them).
# What belongs to one lab, its vault and its size, is in an inventory of its own, in the lab's folder.

export CORRAL_LAB=${CORRAL_LAB:-/var/lib/corral/lab}
CORRAL_LAB_VARIABLES=$(.venv/bin/python - "$CORRAL_LAB" <<'PYTHON'
import json, pathlib, shlex, sys
from corral.lab import image
folder = pathlib.Path(sys.argv[1])
try:
    lab = json.loads((folder / "lab.json").read_bytes())
except FileNotFoundError:
    sys.exit(f"there is no lab in {folder}; type: make lab")
address = json.loads((folder / "settings.json").read_bytes())["bridges"]["vmbr0"]
network = address.rpartition(".")[0]
for name, value in {
    "PROXMOX_HOST": lab["host"],
    "PROXMOX_PORT": lab["port"],
    "PROXMOX_CA_FILE": lab["ca_file"],
    "PROXMOX_TOKEN_ID": lab["tokens"]["deploy"]["id"],
    "PROXMOX_TOKEN_SECRET": lab["tokens"]["deploy"]["secret"],
    "CORRAL_BROKER": f"tcp://{network}.10:5555",
    "CORRAL_KEY": folder / "operator.key",
    "CORRAL_LAB_IMAGE": image.cached(image.cache()),
    "CORRAL_LAB_NETWORK": network,
}.items():
    print(f"export {name}={shlex.quote(str(value))}")
own = folder / "inventory"
(own / "group_vars/all").mkdir(parents=True, exist_ok=True)
(own / "lab.yml").write_text("all: {}\n")
PYTHON
) || return 1
eval "$CORRAL_LAB_VARIABLES"
unset CORRAL_LAB_VARIABLES
export ANSIBLE_INVENTORY=inventory/lab,$CORRAL_LAB/inventory
export ANSIBLE_VAULT_PASSWORD_FILE=$CORRAL_LAB/vault-password
[ -e "$ANSIBLE_VAULT_PASSWORD_FILE" ] || (umask 077 && head -c 30 /dev/urandom | base64 >"$ANSIBLE_VAULT_PASSWORD_FILE")
