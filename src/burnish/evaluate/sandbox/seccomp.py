"""The system calls denied to a sandboxed process, as a kernel filter (seccomp).

The namespaces already hide files, network and processes. The filter removes what could still be
abused: new processes and threads (so no fork bomb, and one process's memory limit is the total),
memory outside all limits, and the kernel interfaces through which most sandbox escapes went.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

#: Each fails with EPERM.
DENIED_CALLS = (
    # processes and threads
    "clone", "clone3", "fork", "vfork",
    # namespaces, mounts, roots
    "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount",
    "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "name_to_handle_at",
    "open_by_handle_at",
    # sockets, except socketpair
    "socket", "connect", "bind", "listen", "accept", "accept4",
    # memory outside the limits
    "memfd_create", "memfd_secret", "shmget", "shmat", "shmctl", "msgget", "semget", "mq_open",
    # other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_open", "pidfd_getfd", "kcmp",
    # the kernel itself
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter",
    "io_uring_register", "io_setup", "keyctl", "add_key", "request_key", "init_module",
    "finit_module", "delete_module", "kexec_load", "kexec_file_load", "fanotify_init", "quotactl",
    "swapon", "swapoff", "reboot", "acct", "settimeofday", "clock_settime", "adjtimex", "syslog",
    "personality", "iopl", "ioperm", "modify_ldt", "vmsplice", "seccomp",
)  # fmt: skip


@contextmanager
def write_filter() -> Iterator[int]:
    """Yield a file descriptor with the filter, as bubblewrap reads it. Raises OSError without
    libseccomp.

    Calls of another architecture (32 bits on 64) kill the process: libseccomp's own default.
    """
    import pyseccomp  # loads libseccomp, which not every machine has

    rules = pyseccomp.SyscallFilter(defaction=pyseccomp.ALLOW)
    for name in DENIED_CALLS:
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) > 0:
            rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
    with os.fdopen(os.memfd_create("calls"), "wb") as file:
        rules.export_bpf(file)
        file.flush()
        file.seek(0)
        yield file.fileno()
