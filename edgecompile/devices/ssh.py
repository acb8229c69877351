"""A board behind SSH. Whatever knows SSH is in this file; asyncssh does the work, in an event loop of its own thread.

The user's ~/.ssh/config (ProxyJump, too), agent, keys and known_hosts are honoured; an unknown or changed host key ends
the connection. One connection serves all that is done with the board.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from edgecompile.artifact import sha256_file
from edgecompile.devices.event_loop import EventLoop
from edgecompile.errors import (
    ConnectionFailedError,
    DeviceError,
    DeviceTimeoutError,
    HostKeyError,
    ProvisioningError,
)

if TYPE_CHECKING:
    import asyncssh

T = TypeVar("T")

_CONNECT_SECONDS = 60  # an emulated board, or one that swaps, takes its time
_ALIVE_SECONDS, _ALIVE_MISSES = 15, 4
_CHUNK = 256 * 1024
_HASHED_SECONDS = 600.0  # of a large file, on a slow card
_TAIL = 40  # lines of what a command wrote to stderr
_GO_ON = "the same command goes on from here"


@dataclass(frozen=True)
class Address:
    """Where a board is. identity, known_hosts: files to use in place of the user's own; None: the user's."""

    host: str
    user: str | None = None
    port: int | None = None
    identity: Path | None = None
    known_hosts: Path | None = None

    @staticmethod
    def parse(url: str) -> Address:
        """ssh://[user@]host[:port]; DeviceError for anything else."""
        parts = urlsplit(url)
        wrong = DeviceError(f"{url!r} is no address of a board", hint="ssh://[user@]host[:port]")
        try:
            port = parts.port
        except ValueError:
            raise wrong from None
        extra = parts.path.rstrip("/") or parts.query or parts.fragment or parts.password
        if parts.scheme != "ssh" or not parts.hostname or extra:
            raise wrong
        return Address(parts.hostname, parts.username, port)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"

    def command(self) -> str:
        """What a person types to get there."""
        words = [
            "ssh",
            *(["-p", str(self.port)] if self.port else []),
            *(["-i", str(self.identity)] if self.identity else []),
        ]
        if self.known_hosts:
            words += ["-o", f"UserKnownHostsFile={self.known_hosts}"]
        return shlex.join([*words, f"{self.user}@{self.host}" if self.user else self.host])


class SshConnection:
    """An open connection; `with` closes it, which ends what still runs over it."""

    def __init__(self, address: Address) -> None:
        """Errors: ConnectionFailedError and HostKeyError, each with the command that helps."""
        self.address = address
        self._loop = EventLoop()
        try:
            self._ssh = self._run(lambda: _connect(address))
        except BaseException:
            self._loop.close()
            raise
        self._sftp: asyncssh.SFTPClient | None = None

    def __enter__(self) -> SshConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Once more does nothing. Whatever another thread waits for ends with ConnectionFailedError."""

        async def end() -> None:
            self._ssh.close()
            await self._ssh.wait_closed()

        with suppress(ConnectionFailedError):  # closed already
            self._loop.run(end)
        self._loop.close()

    def exec(self, argv: Sequence[str]) -> SshProcess:
        """Start a command. The board's shell sees each word quoted."""
        return SshProcess(self, self._run(lambda: self._ssh.create_process(shlex.join(argv), errors="replace")))

    def put(self, path: Path, remote: PurePosixPath, report: Callable[[int, int], None] = lambda *_: None) -> None:
        """Send a file. What an earlier try left of it is gone on from; the content is checked by its SHA-256.

        report: called with (bytes there, bytes in all).
        """
        self._run(lambda: self._put(path, remote, report))

    def has(self, remote: PurePosixPath, size: int) -> bool:
        """Whether a file of that many bytes is there."""

        async def look() -> bool:
            sftp = await self._client()
            return await sftp.isfile(str(remote)) and (await sftp.stat(str(remote))).size == size

        return self._run(look)

    def get(self, remote: PurePosixPath, path: Path) -> None:
        """Bring a file here. What an earlier try left beside `path` is gone on from; checked by its SHA-256."""
        self._run(lambda: self._get(remote, path))

    def forward(self, port: int) -> int:
        """A port of this machine that leads to one of the board's own."""
        listener = self._run(lambda: self._ssh.forward_local_port("localhost", 0, "localhost", port))
        return int(listener.get_port())

    # -- in the loop

    async def _client(self) -> asyncssh.SFTPClient:
        import asyncssh

        if self._sftp is None:
            try:
                self._sftp = await self._ssh.start_sftp_client()
            except (asyncssh.ChannelOpenError, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
                await self._ssh.run("true")  # where the connection was cut, this says so
                raise DeviceError(
                    f"{self.address.host} has no SFTP server, by which files are copied",
                    hint="install one there: the package openssh-sftp-server, which Dropbear takes too; for OpenSSH a "
                    "line `Subsystem sftp ...` in /etc/ssh/sshd_config, and a restart",
                ) from None
        return self._sftp

    async def _put(self, path: Path, remote: PurePosixPath, report: Callable[[int, int], None]) -> None:
        import asyncssh

        sftp = await self._client()
        size, part, expected = path.stat().st_size, f"{remote}.part", sha256_file(path)
        await sftp.makedirs(str(remote.parent), exist_ok=True)
        for again in (False, True):
            there = (await sftp.stat(part)).size or 0 if await sftp.exists(part) else 0
            there = there if there <= size and not again else 0
            await self._look_for_room(sftp, remote, size - there)
            async with sftp.open(part, "r+b" if there else "wb") as out:
                with path.open("rb") as source:
                    source.seek(there)
                    while chunk := source.read(_CHUNK):
                        await out.write(chunk, there)
                        there += len(chunk)
                        report(there, size)
            # Another command may bring the same file: whoever is first takes the part away from the other.
            with suppress(asyncssh.ProcessError, asyncssh.SFTPNoSuchFile):
                if await self._digest(part) == expected:
                    await sftp.posix_rename(part, str(remote))
                    return
            if await sftp.isfile(str(remote)) and await self._digest(str(remote)) == expected:
                return
        with suppress(asyncssh.SFTPNoSuchFile):
            await sftp.remove(part)
        raise DeviceError(
            f"{path.name} arrived changed on {self.address.host}, twice", hint="look at the board's storage"
        )

    async def _look_for_room(self, sftp: asyncssh.SFTPClient, remote: PurePosixPath, needed: int) -> None:
        import asyncssh

        try:
            disk = await sftp.statvfs(str(remote.parent))
        except asyncssh.SFTPOpUnsupported:  # not every server tells: then the copy itself fails
            return
        free = disk.bavail * disk.frsize
        if free < needed:
            raise ProvisioningError(
                f"{self.address.host} has {free:,} B free under {remote.parent}, {remote.name} takes {needed:,} more",
                hint="make space, or set XDG_CACHE_HOME there to a folder on a larger disk",
            )

    async def _get(self, remote: PurePosixPath, path: Path) -> None:
        sftp = await self._client()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        expected = await self._digest(str(remote))
        for again in (False, True):
            async with sftp.open(str(remote), "rb") as source:
                with part.open("wb" if again else "ab") as out:
                    here = out.tell()
                    while chunk := cast("bytes", await source.read(_CHUNK, here)):
                        out.write(chunk)
                        here += len(chunk)
            if sha256_file(part) == expected:
                part.replace(path)
                return
        part.unlink()
        raise DeviceError(
            f"{remote.name} arrived changed from {self.address.host}, twice", hint="look at the board's storage"
        )

    async def _digest(self, remote: str) -> str:
        done = await self._ssh.run(shlex.join(["sha256sum", "--", remote]), check=True, timeout=_HASHED_SECONDS)
        last = str(done.stdout).splitlines()[-1]  # a shell may have greeted before
        return last.split()[0].lstrip("\\")

    def _run(self, what: Callable[[], Awaitable[T]]) -> T:
        """In the loop; what goes wrong there as an error of ours."""
        import asyncssh

        try:
            return self._loop.run(what)
        except (
            asyncssh.DisconnectError,
            asyncssh.ChannelOpenError,
            asyncssh.SFTPConnectionLost,
            asyncssh.SFTPNoConnection,
            ConnectionError,
        ) as problem:
            raise ConnectionFailedError(
                f"the connection to {self.address.url} was cut: {problem}", hint=_GO_ON
            ) from None
        except asyncssh.SFTPBadMessage as problem:
            raise DeviceError(
                f"{self.address.host} doesn't speak SFTP: {problem.reason}",
                hint="a greeting in its user's ~/.bashrc breaks that: print it in interactive shells alone",
            ) from None
        except asyncssh.SFTPError as problem:
            raise DeviceError(
                f"copying to or from {self.address.host} failed: {problem.reason}",
                hint="see whether its disk is full, and the folder ours to write",
            ) from None
        except asyncssh.TimeoutError as problem:  # of one of our commands
            raise DeviceTimeoutError(
                f"{problem.command} on {self.address.host} took longer than {_HASHED_SECONDS:.0f} s",
                hint="look at the board's storage",
            ) from None
        except asyncssh.ProcessError as problem:
            raise DeviceError(f"{problem.command} on {self.address.host} failed: {problem}") from None


class SshProcess:
    """A command on the board. Its stdin is open as long as we are there, and what outlives us must end with that."""

    def __init__(self, connection: SshConnection, process: asyncssh.SSHClientProcess[str]) -> None:
        self._connection, self._process = connection, process
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._drained = connection._loop.start(self._drain)

    async def _drain(self) -> None:
        async for line in self._process.stderr:
            self._tail.append(line.rstrip("\n"))

    def lines(self, quiet: float | None = None) -> Iterator[str]:
        stdout: asyncssh.SSHReader[str] = self._process.stdout

        async def line() -> str:
            parts: list[str] = []
            while not parts or (parts[-1] and not parts[-1].endswith("\n")):  # a long line comes in pieces
                parts.append(await asyncio.wait_for(stdout.readline(), quiet))
            return "".join(parts)

        while True:
            try:
                found = self._connection._run(line)
            except asyncio.TimeoutError:
                where = self._connection.address.url
                raise DeviceTimeoutError(
                    f"nothing was heard from {where} for {quiet or 0:.0f} s",
                    hint="see whether the board is busy, or swaps",
                ) from None
            if not found:
                return
            yield found.rstrip("\n")

    def end_input(self) -> None:
        self._connection._loop.call(self._process.stdin.write_eof)

    def wait(self) -> int:
        """Its exit status; minus a signal's number where that ended it, -1 for one without a number."""
        import signal

        self._connection._run(lambda: self._process.wait(timeout=_HASHED_SECONDS))
        with suppress(Exception):  # the end of stderr is told where there is one
            self._drained.result(_ALIVE_SECONDS)
        if self._process.exit_signal is not None:
            name = f"SIG{self._process.exit_signal[0]}"
            return -int(getattr(signal, name, 1))
        if self._process.returncode is None:
            raise ConnectionFailedError(
                f"the connection to {self._connection.address.url} was cut while a command ran", hint=_GO_ON
            )
        return int(self._process.returncode)

    def kill(self) -> None:
        """End it: its stdin closes, and the channel with it."""
        self._connection._loop.call(self._process.close)

    @property
    def errors(self) -> str:
        """The end of what it wrote to stderr."""
        return "\n".join(self._tail).strip()


async def _connect(address: Address) -> asyncssh.SSHClientConnection:
    import asyncssh

    options: dict[str, Any] = {"keepalive_interval": _ALIVE_SECONDS, "keepalive_count_max": _ALIVE_MISSES}
    if address.user:
        options["username"] = address.user
    if address.port:
        options["port"] = address.port
    if address.identity:
        options |= {"client_keys": [str(address.identity)], "agent_path": None}
    if address.known_hosts:
        options["known_hosts"] = str(address.known_hosts)
    where, shell = address.url, address.command()
    try:
        return await asyncssh.connect(address.host, connect_timeout=_CONNECT_SECONDS, **options)
    except asyncssh.HostKeyNotVerifiable as problem:
        raise _host_key_error(address, str(problem)) from None
    except asyncssh.PermissionDenied:
        raise ConnectionFailedError(
            f"{where} lets nobody in with the keys and the user name it was given",
            hint=f"`{shell}` has to work without a password: ssh-copy-id, ssh-agent, or User and IdentityFile in "
            "~/.ssh/config",
        ) from None
    except ValueError as problem:  # of which asyncssh's errors about keys and configuration are kinds
        raise ConnectionFailedError(
            f"{where}: a key, the configuration or the known hosts can't be read: {problem}",
            hint="a key with a passphrase belongs into ssh-agent (ssh-add); else see ~/.ssh/config and known_hosts",
        ) from None
    except (OSError, asyncssh.Error, asyncio.TimeoutError) as problem:
        reason = str(problem) or f"no answer in {_CONNECT_SECONDS} s"
        raise ConnectionFailedError(f"{where} can't be reached: {reason}", hint=f"see what `{shell}` says") from None


def _host_key_error(address: Address, problem: str) -> HostKeyError:
    import asyncssh

    config = Path.home() / ".ssh" / "config"
    # Keys are known by the name and port that the user's configuration makes of an alias, in the file it names.
    found = asyncssh.SSHClientConnectionOptions(host=address.host, config=[str(config)] if config.is_file() else None)
    host, port = found.host_key_alias or found.host, address.port or found.port
    named = found.known_hosts if isinstance(found.known_hosts, list) else []
    path = address.known_hosts or Path(named[0] if named else "~/.ssh/known_hosts").expanduser()
    try:
        known = path.is_file() and any(asyncssh.match_known_hosts(str(path), host, "", port)[:1])
    except ValueError as unread:
        return HostKeyError(f"{path} can't be read: {unread}", hint="mend that line, or remove it")
    entry = host if port == 22 else f"[{host}]:{port}"
    asked = re.search(r"for host (\S+)", problem)  # on the way there may be others, each with a key of its own
    if asked and asked[1] not in (host, found.host, address.host):
        return HostKeyError(
            f"on the way to {address.url}: {problem}",
            hint=f"`ssh {shlex.quote(asked[1])}` once: it shows the key's fingerprint, and what is wrong with it",
        )
    if known:
        return HostKeyError(
            f"the host key of {address.url} is another than {path} has ({problem}): a board set up anew, "
            "or somebody in between",
            hint=f"if the board was set up anew: ssh-keygen -f {shlex.quote(str(path))} -R {shlex.quote(entry)}, then "
            f"`{address.command()}` once",
        )
    return HostKeyError(
        f"the host key of {address.url} is not in {path} ({problem})",
        hint=f"`{address.command()}` once: it shows the key's fingerprint, to be compared with the board's own, and "
        "keeps it",
    )
