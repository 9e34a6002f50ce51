from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from dagrad_bus.workers.launch.ssh import is_local, launch_words, python_words, real_name, remote_command, ssh_words

WORD = st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), max_size=20)


@dataclass(frozen=True)
class Host:
    host: str = "node1"
    user: str | None = None
    port: int | None = None
    python: str | None = None


def test_the_plain_line() -> None:
    words = ssh_words(Host(), ["/opt/py thon", "-u", "-m", "mod"])
    assert " ".join(words) == (
        "ssh -T -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
        " -o ControlMaster=no -- node1 exec '/opt/py thon' -u -m mod"
    )


def test_user_port_and_configuration_stand_before_the_host() -> None:
    words = ssh_words(Host(host="fe80::1", user="ann", port=2222), ["python"], config=Path("cfg"))
    assert words[words.index("-F") :] == ["-F", "cfg", "-p", "2222", "--", "ann@fe80::1", "exec 'python'"]


def test_a_host_is_never_an_option() -> None:
    words = ssh_words(Host(host="-oProxyCommand=x"), ["python"])
    assert words[words.index("-oProxyCommand=x") - 1] == "--"


def test_an_alias_of_the_configuration_leads_to_the_real_name(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host gpu1\n HostName 10.1.2.3\n")
    assert real_name(Host(host="gpu1"), config=config) == "10.1.2.3"
    assert real_name(Host(host="node1", user="ann", port=22), config=config) == "node1"
    config.write_text("no such keyword\n")
    assert real_name(Host(host="gpu1"), config=config) == "gpu1"


def test_localhost_needs_no_ssh_unless_it_is_a_forwarded_one() -> None:
    assert launch_words(Host(host="localhost"), "mod", "a b") == [sys.executable, "-u", "-m", "mod", "a b"]
    assert launch_words(Host(host="127.0.0.1", python="py"), "mod") == ["py", "-u", "-m", "mod"]
    for host in (Host(host="localhost", port=2222), Host(host="localhost", user="ann"), Host()):
        assert not is_local(host)
        assert launch_words(host, "mod")[0] == "ssh"


def test_the_interpreter_is_ours_unless_the_host_names_one() -> None:
    assert python_words(Host(), "mod")[0] == sys.executable
    assert python_words(Host(python=""), "mod")[0] == sys.executable
    assert python_words(Host(python="~/venv/bin/python"), "mod")[0] == "~/venv/bin/python"


def test_the_home_folder_is_that_of_the_other_side() -> None:
    assert remote_command(["~/my venv/python", "~/x"]) == "exec ~/'my venv/python' '~/x'"
    said = subprocess.run(
        ["sh", "-c", remote_command(["~/echo", "hi"])],
        capture_output=True,
        text=True,
        env={"HOME": "/bin"},
        check=False,
    )
    assert said.stdout == "hi\n", said.stderr


@given(st.lists(WORD, max_size=3), st.text("ab '\"$`\\!*~ü", min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_every_word_arrives_as_it_is(arguments: list[str], program: str) -> None:
    line = remote_command([f"./{program}", *arguments])
    assert shlex.split(line) == ["exec", f"./{program}", *arguments]


def test_a_shell_takes_odd_words_as_they_are() -> None:
    odd = ["a b", "$HOME", "it's", '"', "`id`", "*", "\\", ";", "ü"]
    program = "import sys; print(sys.argv[1:])"
    line = remote_command([sys.executable, "-c", program, *odd])
    assert subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout == f"{odd}\n"
