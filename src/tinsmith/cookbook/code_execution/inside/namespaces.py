"""Namespaces of its own for a process: no network, no other processes, no files but those that Python needs.

A script's part, beside `launcher`. The calls are those of bubblewrap, which `walls` takes where only bubblewrap may
make namespaces. Every failed call raises OSError with the name of the call.
"""

from __future__ import annotations

import ctypes
import os
import sys

# From linux/sched.h, linux/mount.h, linux/prctl.h.
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
AT_RECURSIVE, MNT_DETACH = 0x8000, 2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SYS_MOUNT_SETATTR = 442  # since Linux 5.12; the same number on every architecture
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38

WORK = "/work"
DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """Call a function of the C library.

    Raises:
        OSError: it returned -1.
    """
    sent = [a.encode() if isinstance(a, str) else ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if getattr(_libc, name)(*sent) == -1:
        number = ctypes.get_errno()
        shown = ", ".join(str(a) for a in arguments if isinstance(a, str))
        raise OSError(number, f"{name}({shown}): {os.strerror(number)}")


def enter() -> None:
    """Leave the namespaces of this process; its next child is the first process of a new one."""
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
    user, group = os.getuid(), os.getgid()
    # Root needs no user namespace, and without one it can hand the program to another user.
    call("unshare", flags if user == 0 else flags | CLONE_NEWUSER)
    if user == 0:
        return
    _write("/proc/self/setgroups", "deny")
    # Mapped to itself, not to root: a program that is started as anybody else than root starts without capabilities.
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")


def build_root(mount_point: str, visible: list[str], hidden: list[str], size: int) -> None:
    """Make a root of its own, read-only but for `/work`, and move into it.

    Args:
        mount_point: an empty folder.
        visible: paths that are there, to read; those that do not exist are left out.
        hidden: folders in them that are shown empty.
        size: most bytes that all files together may hold.
    """
    call("mount", "none", "/", "none", MS_REC | MS_PRIVATE, 0)
    call("mount", "tmpfs", mount_point, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    root = f"{mount_point}/root"
    os.mkdir(root)
    call("mount", "tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in visible:
        _show(path, root + path)
    for path in filter(os.path.isdir, hidden):
        if os.path.isdir(root + path):
            call("mount", "tmpfs", root + path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k")
    os.makedirs(f"{root}/dev")
    for name in DEVICES:
        _bind(f"/dev/{name}", f"{root}/dev/{name}")
    os.mkdir(root + WORK)
    # An inode is memory too, and files of no bytes have one each.
    options = f"size={size},nr_inodes=10000,mode=1777"
    call("mount", "tmpfs", root + WORK, "tmpfs", MS_NOSUID | MS_NODEV, options)
    for path in ("/tmp", "/dev/shm"):
        os.symlink(WORK, root + path)
    os.mkdir(f"{root}/proc")
    call("mount", "proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV, 0)
    call("mount", "none", root, "none", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, 0)
    _move_into(mount_point, root)


def _move_into(mount_point: str, root: str) -> None:
    os.chdir(mount_point)
    # The old root lands on top of the new one and is taken away from there: it is not hidden, it is gone.
    call("syscall", SYS_PIVOT_ROOT[os.uname().machine], ".", ".")
    call("umount2", ".", MNT_DETACH)
    # One step further down, because the kernel gives no new user namespace, and with it no capabilities, to whoever
    # lives in a changed root.
    os.chroot("/root")
    os.chdir("/")


def _show(path: str, target: str) -> None:
    if os.path.islink(path):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.readlink(path), target)
    elif os.path.exists(path):
        _bind(path, target)
        # struct mount_attr: what is set, and three more numbers of 64 bits that are 0.
        attributes = (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID).to_bytes(8, sys.byteorder) + bytes(24)
        call("syscall", SYS_MOUNT_SETATTR, -100, target, AT_RECURSIVE, attributes, len(attributes))


def _bind(path: str, target: str) -> None:
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    call("mount", path, target, "none", MS_BIND | MS_REC, 0)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
