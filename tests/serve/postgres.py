"""A throw-away PostgreSQL cluster from the Debian package, in a folder of its own."""

import contextlib
import glob
import importlib.util
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
def with_pgvector():
    """The folder of programs that have pgvector: Debian's or, copied to where any user can read it,
    the package `pgserver`'s. None without either."""
    for control in glob.glob("/usr/share/postgresql/*/extension/vector.control"):
        yield Path("/usr/lib/postgresql") / Path(control).parts[4] / "bin"
        return
    found = importlib.util.find_spec("pgserver")
    if found is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="burnish-pgserver-") as folder:
        Path(folder).chmod(0o755)
        package = Path(found.origin).parent
        for part in package.parent.glob("pgserver*"):
            if not part.name.endswith("-info"):
                shutil.copytree(part, Path(folder) / part.name, symlinks=True)
        yield Path(folder) / package.name / "pginstall" / "bin"


@contextlib.contextmanager
def cluster(programs=None):
    """Its URL. PostgreSQL refuses to run as root, so root hands it to the user `postgres`."""
    folder = Path(tempfile.mkdtemp(prefix="burnish-postgres-"))
    programs = programs or binaries()
    user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        user = ["runuser", "-u", "postgres", "--"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def do(word, *arguments):
        command = [*user, str(programs / word), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL)

    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    do("initdb", "-U", "burnish", "-A", "trust", "--no-sync")
    do("pg_ctl", "-w", "-l", str(folder / "log"), "-o", settings, "start")
    try:
        yield f"postgresql+psycopg://burnish@127.0.0.1:{port}/postgres"
    finally:
        do("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)
