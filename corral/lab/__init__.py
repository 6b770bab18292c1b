"""The lab: a Proxmox-compatible API on loopback whose containers are real system containers.

    runtime  what the API asks of a machine: volumes, guests, archives (a protocol)
    lxc      the same with LXC, overlays and bridges
    dry      the same without containers, for figures about hundreds of them

What Proxmox answers is the API's matter, what a container is the runtime's. The fleet's own code
knows neither: it speaks to this API as it speaks to a real cluster.
"""
