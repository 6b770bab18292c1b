# The life of a fleet, on the lab of this machine. `make lab-demo` runs it after `make lab`.
#
# What it shows behind a $ is what an operator types, on the lab as on a real cluster. It believes no playbook: how
# many workers there are, and what became of the tasks, it asks the broker.
set -euo pipefail

PATH=$PWD/.venv/bin:$PATH
source inventory/lab.sh
export ANSIBLE_DISPLAY_OK_HOSTS=false ANSIBLE_DISPLAY_SKIPPED_HOSTS=false # only what changes

NEXT=0.1.1 # the release that is rolled out: this tree under another number
notes=$(mktemp -d)
trap 'rm -r "$notes"' EXIT

chapter() { printf '\n===== %s   [%d:%02d]\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }
run() { printf '\n$ %s\n' "$*" >&2 && "$@"; }
play() { run ansible-playbook "playbooks/$1.yml" "${@:2}"; }

missed() { echo "lab-demo: $1 were expected. The lab is left as it is." >&2 && exit 1; }
expect() { # what it is, how many are wanted, how many are seen
    printf -- '--> %s: %d\n' "$1" "$3"
    [ "$2" -eq "$3" ] || missed "$2"
}
in_time() { # minutes that all until here may take
    printf -- '--> seconds: %d\n' "$SECONDS"
    [ "$SECONDS" -le $(($1 * 60)) ] || missed "at most $1 minutes"
}

live_workers() { corral worker list -o jsonl | grep -c '"health": *"live"'; }
submit() { # a file for the ids, how many, seconds that each takes
    run corral task submit sleep seconds="$3" --file <(yes '{}' | head -n "$2") -o name >"$1"
    printf -- '--> %d tasks of %s s are accepted\n' "$(wc -l <"$1")" "$3"
}
well_ended() { corral task list --state succeeded --all -o name | grep -cxFf "$1" || true; }
there() { ansible-inventory --host "$1" >/dev/null 2>&1; }
wait_for() { xargs corral task watch <"$1" >/dev/null; }

chapter "a template, a broker and three workers"
play keys
run make -s bundle
play template
play deploy
play verify
expect "live workers" 3 "$(live_workers)"
in_time 6

chapter "eight workers"
play scale -e workers=8
expect "live workers" 8 "$(live_workers)"

chapter "another release, while they work"
submit "$notes/first" 300 1
run make -s bundle RELEASE=$NEXT
echo "fleet_release: $NEXT" >"$CORRAL_LAB/inventory/group_vars/all/release.yml"
play update -e batch=4
wait_for "$notes/first"
expect "tasks that ended well" 300 "$(well_ended "$notes/first")"
expect "workers with $NEXT" 8 "$(corral worker list -o jsonl | grep -c "\"corral\": *\"$NEXT\"")"

chapter "two workers"
play scale -e workers=2
expect "live workers" 2 "$(live_workers)"

chapter "a backup, and the broker's container is lost"
submit "$notes/second" 40 2
play backup
run ansible broker --connection local -m ansible.builtin.uri -a '{
    "url": "https://{{ lookup(\"env\", \"PROXMOX_HOST\") }}:{{ lookup(\"env\", \"PROXMOX_PORT\") }}/api2/json/nodes/{{ fleet_node }}/lxc/{{ fleet_vmid }}?force=1",
    "method": "DELETE",
    "ca_path": "{{ lookup(\"env\", \"PROXMOX_CA_FILE\") }}",
    "headers": {"Authorization": "PVEAPIToken={{ lookup(\"env\", \"PROXMOX_TOKEN_ID\") }}={{ lookup(\"env\", \"PROXMOX_TOKEN_SECRET\") }}"}}'
while there broker; do sleep 1; done # its task ends after the call
play restore
expect "results from before, still there" 300 "$(well_ended "$notes/first")"
wait_for "$notes/second"
expect "queued tasks from before, now done" 40 "$(well_ended "$notes/second")"
play verify

chapter "the end"
cat <<END
The fleet stays. In this folder:

  source .venv/bin/activate && source inventory/lab.sh
  corral worker list
  ansible-playbook playbooks/scale.yml -e workers=5
  corral lab down        removes it all
END
