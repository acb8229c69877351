"""A connection to a board: files, commands, and every way in which it can fail."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import threading
import time
from pathlib import Path, PurePosixPath

import pytest
from devices.sshd import Sshd, left
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.devices.connection import output
from edgecompile.devices.ssh import Address, SshConnection
from edgecompile.errors import ConnectionFailedError, DeviceError, HostKeyError


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ssh://pi@rpi4", Address("rpi4", "pi")),
        ("ssh://rpi4:2222", Address("rpi4", None, 2222)),
        ("ssh://me@[fe80::1]:22/", Address("fe80::1", "me", 22)),
    ],
)
def test_an_address_is_read_from_its_url(url: str, address: Address) -> None:
    assert Address.parse(url) == address
    assert Address.parse(address.url) == address


@pytest.mark.parametrize("url", ["pi@rpi4", "http://rpi4", "ssh://", "ssh://a:b@c", "ssh://a:99999", "ssh://a/b", ""])
def test_what_is_no_address_says_what_one_looks_like(url: str) -> None:
    with pytest.raises(DeviceError, match="no address of a board") as caught:
        Address.parse(url)
    assert "ssh://[user@]host[:port]" in caught.value.format_message()


@given(st.text())
def test_no_text_breaks_the_reading_of_an_address(text: str) -> None:
    try:
        found = Address.parse(text)
    except DeviceError:
        return
    assert Address.parse(found.url) == found


def test_words_arrive_as_they_are(sshd: Sshd) -> None:
    words = ["a b", "$HOME", "'", '"', ";exit 3", "*", "\\", "ä", ""]
    with SshConnection(sshd.address) as board:
        assert output(board, "loopback", ["printf", "%s\\n", *words]).split("\n") == words
        process = board.exec(["sh", "-c", "echo out; echo err >&2; exit 7"])
        assert list(process.lines()) == ["out"]
        assert (process.wait(), process.errors) == (7, "err")
        killed = board.exec(["sh", "-c", "kill -9 $$"])
        assert killed.wait() == -9
        with pytest.raises(DeviceError, match="exit status 2"):
            output(board, "loopback", ["sh", "-c", "exit 2"])


def test_a_line_of_many_megabytes_arrives_whole(sshd: Sshd) -> None:
    """A result's times are one line, longer than the library's window after long runs."""
    code = "import sys; sys.stdout.write('x' * 5_000_000 + chr(10) + 'end' + chr(10))"
    with SshConnection(sshd.address) as board:
        lines = list(board.exec(["python3", "-c", code]).lines(60))
    assert [len(lines[0]), *lines[1:]] == [5_000_000, "end"]


def test_a_file_arrives_whole_and_what_was_cut_goes_on(sshd: Sshd, tmp_path: Path) -> None:
    source, there = tmp_path / "model.bin", tmp_path / "board" / "deep" / "model.bin"
    source.write_bytes(os.urandom(3_000_000))
    done: list[int] = []
    with SshConnection(sshd.address) as board:

        def cut(now: int, total: int) -> None:
            done.append(now)
            if now > total / 2:
                sshd.cut()

        with pytest.raises(ConnectionFailedError, match="was cut") as caught:
            board.put(source, PurePosixPath(there), cut)
    assert "goes on from here" in caught.value.format_message()
    assert not there.exists()
    done.clear()
    with SshConnection(sshd.address) as board:
        board.put(source, PurePosixPath(there), lambda now, _: done.append(now))
        assert there.read_bytes() == source.read_bytes()
        assert min(done) > 1_000_000  # it went on
        assert sorted(path.name for path in there.parent.iterdir()) == ["model.bin"]
        board.get(PurePosixPath(there), tmp_path / "back" / "model.bin")
    assert (tmp_path / "back" / "model.bin").read_bytes() == source.read_bytes()
    assert left(sshd) == []


def test_a_wrong_beginning_is_sent_again(sshd: Sshd, tmp_path: Path) -> None:
    source, there = tmp_path / "model.bin", tmp_path / "board" / "model.bin"
    source.write_bytes(os.urandom(1_000_000))
    there.parent.mkdir()
    (there.parent / "model.bin.part").write_bytes(b"of another file")
    with SshConnection(sshd.address) as board:
        board.put(source, PurePosixPath(there))
    assert there.read_bytes() == source.read_bytes()


def test_a_port_of_the_board_is_one_of_ours(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].sendall(b"hello"), daemon=True).start()
        with SshConnection(sshd.address) as board:
            port = board.forward(server.getsockname()[1])
            with socket.create_connection(("127.0.0.1", port)) as client:
                assert client.recv(5) == b"hello"


def test_an_unknown_host_key_is_told_with_the_cure(sshd: Sshd) -> None:
    (sshd.folder / "known_hosts").write_text("")
    with pytest.raises(HostKeyError, match="is not in") as caught:
        SshConnection(sshd.address)
    assert f"ssh -p {sshd.port}" in caught.value.format_message()
    assert left(sshd) == []


def test_a_changed_host_key_is_told_apart(sshd: Sshd) -> None:
    sshd.trust("stranger")
    with pytest.raises(HostKeyError, match="another than") as caught:
        SshConnection(sshd.address)
    assert f"-R '[127.0.0.1]:{sshd.port}'" in caught.value.format_message()
    assert left(sshd) == []


def test_who_is_not_let_in_is_told_how(sshd: Sshd) -> None:
    for change in ({"user": "nobody-here"}, {"identity": sshd.folder / "stranger"}):
        address = dataclasses.replace(sshd.address, **change)  # type: ignore[arg-type]
        with pytest.raises(ConnectionFailedError, match="lets nobody in") as caught:
            SshConnection(address)
        message = caught.value.format_message()
        assert f"`{address.command()}` has to work without a password: ssh-copy-id" in message
        assert "User and IdentityFile in ~/.ssh/config" in message
    assert left(sshd) == []


def test_nobody_there(sshd: Sshd) -> None:
    sshd.stop()
    with pytest.raises(ConnectionFailedError, match="can't be reached") as caught:
        SshConnection(sshd.address)
    assert "see what `ssh" in caught.value.format_message()
    sshd.start()


def test_a_cut_while_a_command_runs(sshd: Sshd) -> None:
    with SshConnection(sshd.address) as board:
        process = board.exec(["sh", "-c", "echo ready; exec cat"])
        lines = process.lines()
        assert next(lines) == "ready"
        sshd.cut()
        with pytest.raises(ConnectionFailedError, match="was cut") as caught:
            next(lines)
    assert "the same command goes on from here" in caught.value.format_message()
    assert left(sshd) == []


def test_nothing_goes_on_after_we_left(sshd: Sshd, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    with SshConnection(sshd.address) as board:
        process = board.exec(["sh", "-c", f"touch {alive}; cat > /dev/null; rm {alive}"])
        while not alive.exists():
            time.sleep(0.05)
        process.kill()
        for _ in range(100):
            if not alive.exists():
                break
            time.sleep(0.05)
    assert not alive.exists()


def test_the_users_own_configuration_counts(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    shutil.copy(sshd.folder / "known_hosts", home / ".ssh" / "known_hosts")
    (home / ".ssh" / "config").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {sshd.port}\n User {sshd.address.user}\n"
        f" IdentityFile {sshd.folder / 'user'}\n"
        f"Host far\n HostName 127.0.0.1\n Port {sshd.port}\n User {sshd.address.user}\n"
        f" IdentityFile {sshd.folder / 'user'}\n ProxyJump board\n"
    )
    for name in ("board", "far"):
        with SshConnection(Address.parse(f"ssh://{name}")) as board:
            assert output(board, "loopback", ["echo", name]) == name


def test_a_changed_host_key_of_an_alias_is_told_apart(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSH keeps keys under the name and port that an alias stands for, in the file that the configuration names."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {sshd.port}\n UserKnownHostsFile {tmp_path / 'own'}\n"
    )
    sshd.trust("stranger")
    shutil.copy(sshd.folder / "known_hosts", tmp_path / "own")
    with pytest.raises(HostKeyError, match="another than") as caught:
        SshConnection(Address.parse("ssh://board"))
    assert f"-f {tmp_path / 'own'} -R '[127.0.0.1]:{sshd.port}'" in caught.value.format_message()


@pytest.mark.parametrize("program", [None, "/usr/lib/none/sftp-server"])
def test_a_board_without_an_sftp_server(sshd: Sshd, tmp_path: Path, program: str | None) -> None:
    """OpenSSH refuses the subsystem; it starts a program that isn't there, as Dropbear always does."""
    sshd.use_sftp(program)
    sshd.set_environment()
    (tmp_path / "file").touch()
    with SshConnection(sshd.address) as board:
        with pytest.raises(DeviceError, match=r"127\.0\.0\.1 has no SFTP server") as caught:
            board.put(tmp_path / "file", PurePosixPath(tmp_path / "there"))
        assert "openssh-sftp-server" in caught.value.format_message()
        assert output(board, "loopback", ["echo", "on"]) == "on"


def test_a_cut_before_anything_was_copied(sshd: Sshd, tmp_path: Path) -> None:
    with SshConnection(sshd.address) as board:
        sshd.cut()
        with pytest.raises(ConnectionFailedError, match="was cut"):
            board.has(PurePosixPath(tmp_path), 1)
