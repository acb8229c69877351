"""An OpenSSH server on loopback with keys and configuration of its own: a board that is this machine."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from edgecompile.devices.ssh import Address

_SFTP = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")


def missing() -> str | None:
    """The Debian package that a server needs and that isn't installed."""
    if not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()):
        return "openssh-server"
    return None if shutil.which("ssh-keygen") else "openssh-client"


def left(server: Sshd) -> list[str]:
    """What is on a board that mustn't be once all connections are closed: processes, given some seconds to end, and
    files outside the cache folder, in its user's home and its folder for temporary files."""
    for _ in range(100):
        running = server.processes()
        if not running:
            break
        time.sleep(0.1)
    cache = server.folder / "home"
    strange = [path for path in (cache.iterdir() if cache.is_dir() else ()) if path.name != "edgecompile"]
    return running + [str(path) for path in (*strange, *(found for home in server.homes for found in home.iterdir()))]


class Sshd:
    """Running until `stop`. `folder` holds all it needs; `address` lets the current user in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("host", "user", "stranger"):
            if not (folder / name).exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized_keys")
        (folder / "authorized_keys").chmod(0o600)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.trust("host")
        sftp = next(path for path in _SFTP if Path(path).exists())
        settings = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": folder / "host",
            "PidFile": folder / "pid",
            "AuthorizedKeysFile": folder / "authorized_keys",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "Subsystem": f"sftp {sftp}",
        }
        self._settings = [f"{name} {value}" for name, value in settings.items()]
        # Nothing is to be written on a board but in its cache folder: `left` looks into these.
        self.homes = (folder / "person", folder / "tmp")
        for path in self.homes:
            path.mkdir(exist_ok=True)
        self._environment = {
            "XDG_CACHE_HOME": str(folder / "home"), "HOME": str(self.homes[0]), "TMPDIR": str(self.homes[1]),
        }  # fmt: skip
        self._configure()
        self.start()

    def _configure(self) -> None:
        environment = " ".join(f"{name}={value}" for name, value in self._environment.items())
        (self.folder / "config").write_text("\n".join([*self._settings, f"SetEnv {environment}"]) + "\n")

    def set_environment(self, **variables: str) -> None:
        """Of what runs over connections from now on."""
        self._environment |= variables
        self.stop()
        self._configure()
        self.start()

    def use_internal_sftp(self) -> None:
        """The server's own, which starts no shell; it counts from the next start."""
        self._settings = ["Subsystem sftp internal-sftp" if s.startswith("Subsystem") else s for s in self._settings]

    def use_sftp(self, program: str | None) -> None:
        """Of this path, None: there is no such subsystem; it counts from the next start."""
        others = [s for s in self._settings if not s.startswith("Subsystem")]
        self._settings = [*others, f"Subsystem sftp {program}"] if program else others

    def trust(self, key: str) -> None:
        kind, blob, *_ = (self.folder / f"{key}.pub").read_text().split()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {blob}\n")

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", getpass.getuser(), self.port, self.folder / "user", self.folder / "known_hosts")

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where a server of root's puts its children
        command = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "config")]
        self._log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(command, stderr=self._log, start_new_session=True)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError((self.folder / "log").read_text())

    def processes(self) -> list[str]:
        """The command lines of all that was started over connections, and of what that started: known by the
        environment that only they have. A process may end while it is read."""
        known = f"TMPDIR={self.folder / 'tmp'}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if known in (path / "environ").read_bytes().split(b"\0"):
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return [line for line in found if line]  # one that has ended, and wasn't waited for yet, has none

    def cut(self) -> None:
        """End every connection there is, as a pulled cable does; new ones are let in."""
        subprocess.run(["pkill", "-KILL", "-P", str(self._process.pid)], check=False)

    def stop(self) -> None:
        self.cut()
        self._process.kill()
        self._process.wait()
        self._log.close()
