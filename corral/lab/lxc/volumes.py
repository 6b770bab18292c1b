"""Volumes: root file systems as overlays, with their snapshots and archives.

A volume is a folder with an id that never changes; its name is a symbolic link to it, so a rename
is one step and moves nothing that is mounted. In the folder:

    base-NN/         what was unpacked or copied, the uppermost layer first; never written again, so
                     a copy of it is made of hard links
    files/           what was changed since: the overlay's upper folder
    parent           the id of the volume whose files are below, for a linked clone
    snapshots/NAME/  copies of files/
    root/, work/     where it is mounted, and the overlay's own folder

Whether a guest runs on a volume is not known here: the caller says so, and freezes it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from corral.lab.lxc.commands import run
from corral.lab.runtime import Log, RuntimeFailed

TAR = ("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls")
BUSY_SECONDS = 5.0  # that a file may stay open after its use
Freeze = AbstractContextManager[object]  # in it, nothing is written to the volume
COPY = ("cp", "--archive", "--reflink=auto", "--no-target-directory")
LINK = ("cp", "--archive", "--link", "--no-target-directory")


class Volumes:
    """The volumes in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder  # of the volumes by id; mounts name it relatively, which is short
        self._names = folder / "names"

    def open(self) -> None:
        """Make the folders, and remove what a killed process left half made."""
        self._names.mkdir(parents=True, exist_ok=True)
        named = {self._names.name, *(place for _, place in self._named())}
        for path in self._folder.iterdir():
            if path.name not in named:
                unmount_below(path)
                shutil.rmtree(path)

    def close(self) -> None:
        """Unmount everything, whoever mounted it."""
        unmount_below(self._folder)

    # --- names -----------------------------------------------------------------------------

    def _place(self, volume: str) -> Path:
        """The folder of an existing volume."""
        try:
            return self._folder / (self._names / volume).readlink()
        except OSError:
            raise RuntimeFailed(f"volume '{volume}' does not exist") from None

    @contextmanager
    def _new(self, volume: str) -> Iterator[Path]:
        """The folder of a volume to be, which gets its name when it is whole."""
        if (self._names / volume).is_symlink():
            raise RuntimeFailed(f"volume '{volume}' exists already")
        place = self._folder / uuid.uuid4().hex
        for part in ("files", "work", "root", "snapshots"):
            (place / part).mkdir(parents=True)
        try:
            yield place
            (self._names / volume).symlink_to(place.name)
        except BaseException:
            shutil.rmtree(place)
            raise

    def rename(self, volume: str, new: str) -> None:
        """Another name for the same folder."""
        self.unmount(volume)
        if (self._names / new).is_symlink():
            raise RuntimeFailed(f"volume '{new}' exists already")
        (self._names / volume).rename(self._names / new)

    def children(self, volume: str) -> Sequence[str]:
        """The names of the volumes that are layers over this one."""
        parent = self._place(volume).name
        return sorted(
            name for name, place in self._named() if _parent_of(self._folder / place) == parent
        )

    def _named(self) -> Iterator[tuple[str, str]]:
        """Every name and the id of its folder; others may be removed at the same time."""
        for name in self._names.iterdir():
            with suppress(FileNotFoundError):
                yield name.name, str(name.readlink())

    # --- making and removing -----------------------------------------------------------------

    def create(self, volume: str, archive: Path, log: Log) -> None:
        """Unpack an archive."""
        with self._new(volume) as place:
            base = place / "base-00"
            base.mkdir()
            log(f"extracting archive '{archive}'")
            run(*TAR, "--extract", "--preserve-permissions", "--file", archive, cwd=base)
            if not (base / "etc").is_dir():
                raise RuntimeFailed(f"archive '{archive}' holds no root file system: no /etc in it")

    def clone(self, source: str, volume: str, full: bool, frozen: Freeze) -> None:
        """A layer over the source, or a copy of all its layers."""
        with self._new(volume) as place:
            if full:
                self._keep(source, place / "files", frozen)
                for number, layer in enumerate(self._layers(self._place(source))[1:]):
                    run(*LINK, layer, place / f"base-{number:02}")
            else:
                self.unmount(source)
                (place / "parent").write_text(self._place(source).name)

    def delete(self, volume: str) -> None:
        """Remove it with its snapshots."""
        place = self._place(volume)
        if self.children(volume):
            raise RuntimeFailed(f"volume '{volume}' is still in use by linked clones")
        self.unmount(volume)
        (self._names / volume).unlink()
        shutil.rmtree(place)

    # --- content -----------------------------------------------------------------------------

    def _layers(self, place: Path) -> list[Path]:
        """The folders that make up a volume, the uppermost first."""
        own = [place / "files", *sorted(place.glob("base-*"))]
        parent = _parent_of(place)
        return own + (self._layers(self._folder / parent) if parent else [])

    def mount(self, volume: str) -> Path:
        """Where its files can be read and written."""
        place = self._place(volume)
        root = place / "root"
        if not root.is_mount():
            upper, *lower = self._layers(place)
            self._overlay(
                root,
                f"{self._lower(lower)},upperdir={self._relative(upper)}"
                f",workdir={self._relative(place / 'work')}",
            )
        return root

    def unmount(self, volume: str) -> None:
        """Let go of its files."""
        root = self._place(volume) / "root"
        if root.is_mount():
            _release(root)

    @contextmanager
    def mounted(self, volume: str) -> Iterator[Path]:
        """Its files, for a moment; not while a guest runs on it."""
        try:
            yield self.mount(volume)
        finally:
            self.unmount(volume)

    @contextmanager
    def _still(self, volume: str, frozen: Freeze) -> Iterator[Path]:
        """Its files as they are at one moment, to be read while a guest goes on writing."""
        _, *lower = self._layers(self._place(volume))
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="still-") as made:
            upper, root = Path(made, "files"), Path(made, "root")
            root.mkdir()
            self._keep(volume, upper, frozen)
            self._overlay(root, self._lower([upper, *lower]))
            try:
                yield root
            finally:
                _release(root)

    def _keep(self, volume: str, target: Path, frozen: Freeze) -> None:
        with frozen:
            run(*COPY, self._place(volume) / "files", target)

    def _overlay(self, root: Path, options: str) -> None:
        run("mount", "-t", "overlay", "corral-lab", root, "-o", options, cwd=self._folder)

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _lower(self, layers: list[Path]) -> str:
        return "lowerdir=" + ":".join(map(self._relative, layers))

    def written(self, volume: str) -> int:
        """Bytes in the layer that changes."""
        return _bytes(self._place(volume) / "files")

    def size(self, volume: str) -> int:
        """Bytes that the volume itself holds."""
        place = self._place(volume)
        return sum(_bytes(layer) for layer in (place / "files", *place.glob("base-*")))

    # --- snapshots and archives ----------------------------------------------------------------

    def _snapshot(self, volume: str, name: str) -> Path:
        path = self._place(volume) / "snapshots" / name
        if not path.is_dir():
            raise RuntimeFailed(f"volume '{volume}' has no snapshot '{name}'")
        return path

    def snapshot(self, volume: str, name: str, frozen: Freeze) -> None:
        """Copy the layer that changes."""
        path = self._place(volume) / "snapshots" / name
        if path.exists():
            raise RuntimeFailed(f"volume '{volume}' has a snapshot '{name}' already")
        try:
            self._keep(volume, path, frozen)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise

    def rollback(self, volume: str, name: str) -> None:
        """Put a copy of the snapshot in the place of the layer that changes."""
        place, kept = self._place(volume), self._snapshot(volume, name)
        self.unmount(volume)
        fresh, old = place / "files.new", place / "files.old"
        shutil.rmtree(fresh, ignore_errors=True)
        run(*COPY, kept, fresh)
        (place / "files").rename(old)
        fresh.rename(place / "files")
        shutil.rmtree(old)

    def delete_snapshot(self, volume: str, name: str) -> None:
        """Forget it."""
        shutil.rmtree(self._snapshot(volume, name))

    def archive(self, volume: str, target: Path, log: Log, frozen: Freeze) -> None:
        """Write all that it shows to a tar archive, compressed as its suffix says."""
        with self._still(volume, frozen) as root:
            try:
                said = run(
                    *TAR,
                    "--create",
                    "--auto-compress",
                    "--sparse",
                    "--totals",
                    "--warning=no-file-ignored",
                    "--file",
                    target,
                    ".",
                    cwd=root,
                )
            except BaseException:
                target.unlink(missing_ok=True)
                raise
        for line in said.splitlines():
            log(line)


def _parent_of(place: Path) -> str | None:
    try:
        return (place / "parent").read_text()
    except FileNotFoundError:
        return None


def _bytes(folder: Path) -> int:
    said = run("du", "--summarize", "--block-size=1", folder, accept=frozenset({0, 1}))
    return int(said.splitlines()[-1].split()[0])  # before it: complaints about files that went away


def _release(root: Path) -> None:
    """Unmount; another thread's fork may hold an open file of ours until its exec."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            run("umount", root)
        except RuntimeFailed:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def unmount_below(folder: Path) -> None:
    """Unmount all that is mounted in a folder, the latest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    targets = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    for target in reversed(targets):
        # A task may be about to unmount it as well.
        if target.startswith(f"{folder}{os.sep}") and os.path.ismount(target):
            run("umount", "--lazy", target)
