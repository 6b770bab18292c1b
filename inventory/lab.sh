# How playbooks reach the lab that runs on this machine. Type: source inventory/lab.sh
#
# Needs a lab (`corral lab up`) and secrets (`ansible-playbook playbooks/keys.yml`, which makes them).

CORRAL_LAB=${CORRAL_LAB:-/var/lib/corral/lab}
eval "$(python3 - "$CORRAL_LAB/lab.json" <<'PYTHON'
import json, shlex, sys
lab = json.load(open(sys.argv[1]))
for name, value in {
    "PROXMOX_HOST": lab["host"],
    "PROXMOX_PORT": lab["port"],
    "PROXMOX_CA_FILE": lab["ca_file"],
    "PROXMOX_TOKEN_ID": lab["tokens"]["deploy"]["id"],
    "PROXMOX_TOKEN_SECRET": lab["tokens"]["deploy"]["secret"],
}.items():
    print(f"export {name}={shlex.quote(str(value))}")
PYTHON
)"
export CORRAL_LAB
export ANSIBLE_INVENTORY=${ANSIBLE_INVENTORY:-inventory/lab}
export ANSIBLE_VAULT_PASSWORD_FILE=${ANSIBLE_VAULT_PASSWORD_FILE:-$CORRAL_LAB/vault-password}
[ -e "$ANSIBLE_VAULT_PASSWORD_FILE" ] || (umask 077 && head -c 30 /dev/urandom | base64 >"$ANSIBLE_VAULT_PASSWORD_FILE")
