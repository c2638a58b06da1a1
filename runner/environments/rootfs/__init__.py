"""A root folder with this machine's programs: what the sandbox and proot run tasks in."""

from runner.environments.rootfs.environment import remove_stale_roots, rootfs_refusal

__all__ = ["remove_stale_roots", "rootfs_refusal"]
