"""The lab's runtime on real LXC: system containers on this machine.

    machine   the runtime itself: open, close, and the protocol's calls
    volumes   root file systems as overlays, their snapshots and archives
    guests    a container's config, its start and its end
    files     what is written into a root file system before it boots
    cgroups   limits and use, for both versions of cgroups
    network   bridges, and the cards of a running guest
    kernel    limits of the whole machine that many containers need, and lxcfs
    work      what is under way, which the end waits for
    commands  running a program of the machine

Nothing here keeps state in memory that counts: what exists is read from the folder and the kernel,
so a process that takes over after `kill -9` sees the same containers.
"""

from __future__ import annotations

from corral.lab.lxc.machine import LxcRuntime

__all__ = ["LxcRuntime"]
