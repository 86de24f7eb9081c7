"""The system calls that a sandboxed process may not make, as a filter for the kernel (seccomp).

The namespaces already hide files, network and processes. This takes away what is left to misuse:
new processes and threads (so no fork bomb, and a limit of one process's memory is a limit of all),
memory that no limit counts, and the corners of the kernel in which most ways out have been found.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

#: Each is answered with "operation not permitted".
DENIED_CALLS = (
    # processes and threads
    "clone", "clone3", "fork", "vfork",
    # namespaces, mounts, roots
    "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount",
    "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "name_to_handle_at",
    "open_by_handle_at",
    # sockets, other than a pair of one's own
    "socket", "connect", "bind", "listen", "accept", "accept4",
    # memory that is nobody's
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
    """A file descriptor with the filter, as bubblewrap reads it. Raises OSError without libseccomp.

    Calls of another architecture (32 bits on 64) end the process: libseccomp's own default.
    """
    import pyseccomp  # loads libseccomp, which is not on every machine

    rules = pyseccomp.SyscallFilter(defaction=pyseccomp.ALLOW)
    for name in DENIED_CALLS:
        if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) > 0:
            rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
    with os.fdopen(os.memfd_create("calls"), "wb") as file:
        rules.export_bpf(file)
        file.flush()
        file.seek(0)
        yield file.fileno()
