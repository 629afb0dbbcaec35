"""The first process of a node: its mounts, its programs and its children.

It runs here in a process of its own that is no first process, with programs that stand for those of
Kubernetes; what needs namespaces is tested on a real node.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.cluster.local import supervisor
from pipeline.cluster.local.node import Node, Program
from pipeline.cluster.local.supervisor import Children, foreign, mounts

if TYPE_CHECKING:
    from pathlib import Path

NODE = Node(folder="/state/cluster", built="/cache/x", cni="/usr/lib/cni", registry=5050)
MOUNTS = """\
1 0 8:1 / / rw - ext4 /dev/vda rw
2 1 0:5 / /proc rw - proc proc rw
3 1 0:6 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
4 1 0:7 / /run rw - tmpfs tmpfs rw
5 4 0:8 net:[1] /run/docker/netns/default rw - nsfs nsfs rw
6 1 0:9 / /var/lib/docker/overlay2/1/merged rw - overlay overlay rw
7 1 8:2 / /var/lib/jenkins rw - ext4 /dev/vdb rw
8 1 0:9 / /data/with\\040blank/merged rw - overlay overlay rw
9 1 8:3 / /home rw - ext4 /dev/vdc rw
"""


def test_mounts_of_other_containers_are_let_go_of() -> None:
    """And only those: what the node stands on stays, wherever it is."""
    assert foreign(MOUNTS, ["/var/lib/jenkins/state", "/home/x"]) == (
        "/data/with blank/merged",
        "/var/lib/docker/overlay2/1/merged",
        "/run/docker/netns/default",
    )


def test_the_machine_is_covered_where_the_node_writes() -> None:
    """And the kernel's settings can be read only, but for those of the network."""
    calls = mounts(NODE, ("vm/overcommit_memory",))
    targets = [arguments[-1] for arguments in calls]
    assert {"/run", "/var/log", "/var/lib", "/var/lib/kubelet", "/var/lib/cni"} <= set(targets)
    read_only = calls.index(("-o", "remount,bind,ro", "/proc/sys"))
    whole = calls.index(("--rbind", "/proc/sys", "/proc/sys"))
    for kept in ("/proc/sys/net", "/proc/sys/vm/overcommit_memory"):
        assert targets.index(kept) < whole < read_only


def test_the_state_folder_is_mounted_before_what_may_hide_it() -> None:
    """It may itself be below /run."""
    calls = mounts(NODE)
    run = calls.index(("--rbind", "/state/cluster/run", "/run"))
    assert calls.index(("--bind", "/state/cluster", "/state/cluster/run/slipway")) < run


@pytest.mark.anyio
async def test_every_child_is_reaped_and_its_end_is_told(tmp_path: Path) -> None:
    """A number for an exit, a negative one for a signal; what was written is in the log."""
    children = Children()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reaping, children)
            failed = children.start(["sh", "-c", "echo out; echo err >&2; exit 3"], tmp_path / "l")
            assert await children.wait(failed) == 3
            killed = children.start(["sleep", "60"], tmp_path / "l")
            assert children.running() == (killed,)
            await children.stop(killed, 5)
            assert await children.wait(killed) == -signal.SIGTERM
            tasks.cancel_scope.cancel()
    assert (tmp_path / "l").read_text() == "out\nerr\n"
    assert children.running() == ()


@pytest.mark.anyio
async def test_one_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    """Within the limit."""
    children = Children()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reaping, children)
            script = "trap '' TERM; touch ready; while :; do sleep 0.05; done"
            pid = children.start(["sh", "-c", f"cd {tmp_path}; {script}"], tmp_path / "l")
            while not (tmp_path / "ready").exists():  # noqa: ASYNC110  another process makes it
                await anyio.sleep(0.01)
            await children.stop(pid, 0.2)
            assert await children.wait(pid) == -signal.SIGKILL
            tasks.cancel_scope.cancel()


async def reaping(children: Children) -> None:
    """Reap as the supervisor does when it is told that a child ended."""
    while True:
        children.reap()
        await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_a_program_that_ends_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is held is not, until its file is gone."""
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    (tmp_path / "hold").mkdir()
    kept = supervisor.Supervisor(NODE, {"log": tmp_path, "hold": tmp_path / "hold"})
    program = Program("worker", ("sh", "-c", "echo $$ >> %s; sleep 60" % (tmp_path / "pids")))

    async def pid(count: int) -> int:
        while True:
            text = (tmp_path / "pids").read_text() if (tmp_path / "pids").exists() else ""
            if text.count("\n") == count:
                return int(text.split()[-1])
            await anyio.sleep(0.01)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reaping, kept.children)
            tasks.start_soon(kept.keep, program)
            first = await pid(1)
            os.kill(first, signal.SIGKILL)
            second = await pid(2)
            (tmp_path / "hold" / "worker").touch()
            kept.look_again()
            while kept.children.running():  # noqa: ASYNC110  the kernel ends it
                await anyio.sleep(0.01)
            await anyio.sleep(0.2)
            assert (tmp_path / "pids").read_text().count("\n") == 2
            (tmp_path / "hold" / "worker").unlink()
            kept.look_again()
            third = await pid(3)
            assert len({first, second, third}) == 3
            await kept.children.stop(third, 5)
            tasks.cancel_scope.cancel()
