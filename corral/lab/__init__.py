"""The lab: a Proxmox-compatible API on loopback whose containers are real system containers.

    server    the door: TLS, who calls, which call it is, the form of answers
    schema    requests against the API's own schema; formats are its named formats
    access    users, tokens, tickets, roles, access lists, and the checks that calls declare
    api       the calls, one file per noun
    cluster   the state: nodes, containers, pools, storages, locks
    tasks     what calls start and do not wait for
    faults    what goes wrong on demand; admin are the lab's own calls for that
    runtime   what the API asks of a machine: volumes, guests, archives (a protocol)
    lxc       the same with LXC, overlays and bridges
    dry       the same without containers, for figures about hundreds of them

`python -m corral.lab` is the process; `corral lab` starts it and never imports it.

What Proxmox answers is the API's matter, what a container is the runtime's. The fleet's own code
knows neither: it speaks to this API as it speaks to a real cluster.
"""
