"""A throw-away PostgreSQL cluster from the Debian package, in a folder of its own."""

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path


def binaries():
    """The folder of `initdb` and `pg_ctl`, or None where PostgreSQL isn't installed."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    named = found[-1] if found else shutil.which("initdb")
    return Path(named).parent if named else None


@contextlib.contextmanager
def cluster():
    """Its URL. PostgreSQL refuses to run as root, so root hands it to the user `postgres`."""
    folder = Path(tempfile.mkdtemp(prefix="burnish-postgres-"))
    user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def do(word, *arguments):
        command = [*user, str(binaries() / word), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL)

    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    do("initdb", "-U", "burnish", "-A", "trust", "--no-sync")
    do("pg_ctl", "-w", "-l", str(folder / "log"), "-o", settings, "start")
    try:
        yield f"postgresql+psycopg://burnish@127.0.0.1:{port}/postgres"
    finally:
        do("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)
