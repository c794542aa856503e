"""A Slurm on this machine: munged, a controller and two nodes, without systemd, cgroups or accounting.

``running(folder)`` starts it on free ports, in about a second, and ends it. All that it keeps lies in
``folder``, but for what munged has, which must lie below folders that everybody may enter.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
NEEDED = "FINETUNE_TEST_SLURM"
"""An environment variable: where it is set, tests fail that would be skipped without a Slurm."""
NODES = ("one", "two")  # both are this machine
CPUS = 4  # of a node, declared, whatever the machine has
GPUS = ("/dev/null", "/dev/zero")  # of a node: devices that stand in for them
MOST_IN_ARRAY = 6  # small, so that a test need not submit a thousand jobs to meet the limit
STARTS = 3  # tries to start: a port that was free may be taken before it is used
PATIENCE_S = 45  # seconds for the cluster to come up, and for jobs to end; it looks at times every 15

# Without cgroups, the processes of a job are found by their parents. A job that is put back into the queue
# begins again after ``cred_expire`` seconds, of which 5 are the least and 120 usual.
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={socket},cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0,defer_batch=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
MaxArraySize={array}
MinJobAge=60
KillWait=5
MessageTimeout=5
GresTypes=gpu
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 MaxTime=INFINITE PreemptMode=REQUEUE
PartitionName=high Nodes=ALL PriorityTier=10 MaxTime=INFINITE PreemptMode=OFF
"""


class CannotStartError(Exception):
    """Slurm cannot be started here; the text says why."""


@dataclass
class Cluster:
    """A running cluster. ``environment``: what Slurm's commands need, besides the test's own."""

    folder: Path
    environment: Mapping[str, str]
    daemons: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def ask(self, *words: str) -> str:
        """The output of a command such as ``squeue``."""
        done = self._call(*words)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def wait(self, true: Callable[[], object], what: str = "nothing comes of it") -> None:
        """Waits until ``true()`` is. Raises ``CannotStartError`` where that takes long, or a daemon ends."""
        end = time.monotonic() + PATIENCE_S
        while not true():
            for name, daemon in self.daemons.items():
                if daemon.poll() is not None:
                    log = (self.folder / f"{name}.out").read_text(errors="replace").splitlines()
                    raise CannotStartError(f"{name} has ended: {log[-1] if log else 'without a word'}")
            if time.monotonic() > end:
                raise CannotStartError(f"{what} in {PATIENCE_S} seconds; see {self.folder}")
            time.sleep(0.1)

    def clear(self) -> None:
        """Ends all jobs, and waits until none is left that waits or runs."""
        if "slurmctld" not in self.daemons:  # of a test that has failed half-way
            self.start_controller()
        self.ask("scancel", f"--user={os.getuid()}")
        going = ("squeue", "--noheader", "--states=pending,running")  # others may be tidied up for a minute
        self.wait(lambda: not self.ask(*going), "jobs do not end")

    def start_controller(self) -> None:
        """Starts the controller, also again after ``stop_controller``."""
        self._start("slurmctld", "slurmctld", "-D")
        self.wait(lambda: self._call("scontrol", "ping").returncode == 0, "the controller does not answer")

    def stop_controller(self) -> None:
        """Ends the controller, as for a restart: jobs go on, and nobody answers."""
        _end(self.daemons.pop("slurmctld"))

    def end(self) -> None:
        """Ends all daemons."""
        for daemon in reversed(self.daemons.values()):
            _end(daemon)

    def start_node(self, name: str) -> None:
        self._start(f"slurmd-{name}", "slurmd", "-D", "-N", name)

    def nodes_are_idle(self) -> bool:
        done = self._call("sinfo", "--noheader", "--Node", "--partition=low", "--format=%T")
        return done.returncode == 0 and done.stdout.split() == ["idle"] * len(NODES)

    def start_munge(self, public: Path) -> None:
        """Starts munged as a user of its own, for it wants to be no root, and in folders that others read."""
        key = public / "key-file"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        public.chmod(0o755)
        for path in (public, key):
            shutil.chown(path, "munge", "munge")
        who = ("--reuid=munge", "--regid=munge", "--clear-groups")
        files = (
            f"--{name}={public / name}"
            for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")
        )
        self._start("munged", *who, "munged", "--foreground", *files)
        self.wait((public / "socket").exists, "munged makes no socket")

    def _call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        variables = {**os.environ, **self.environment}
        return subprocess.run(words, env=variables, capture_output=True, text=True, timeout=60, check=False)

    def _start(self, name: str, *words: str) -> None:
        """Starts a daemon that ends with this thread, however that ends: let it be the main one."""
        with (self.folder / f"{name}.out").open("ab") as stream:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig=TERM", *words],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                process_group=0,
            )


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster in ``folder``, which is made. Raises ``CannotStartError`` where there can be none."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise CannotStartError(f"no {', '.join(missing)} here: apt-get install slurm-wlm munge")
    if os.getuid() != 0:
        raise CannotStartError("slurmd must be started by root")
    with ExitStack() as stack:
        for left in reversed(range(STARTS)):
            with ExitStack() as ends:
                try:
                    cluster = _started(folder / f"start-{STARTS - left}", ends)
                except CannotStartError:
                    if not left:
                        raise
                    continue
                stack.push(ends.pop_all())
                break
        yield cluster
        cluster.clear()


def _started(folder: Path, ends: ExitStack) -> Cluster:
    """Starts a cluster, of which ``ends`` ends what has come up."""
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    public = Path(tempfile.mkdtemp(prefix="munge-", dir="/tmp"))
    ends.callback(shutil.rmtree, public, ignore_errors=True)
    cluster = Cluster(folder, {"SLURM_CONF": str(_configured(folder, public / "socket"))})
    ends.callback(cluster.end)
    cluster.start_munge(public)
    cluster.start_controller()
    for name in NODES:
        cluster.start_node(name)
    cluster.wait(cluster.nodes_are_idle, "the nodes do not come up")
    return cluster


def _configured(folder: Path, munge: Path) -> Path:
    """Writes the configuration of a cluster."""
    host = socket.gethostname().partition(".")[0]
    port, *ports = _free_ports(1 + len(NODES))
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory=4096 "
        f"Gres=gpu:{len(GPUS)} State=UNKNOWN"
        for name, port in zip(NODES, ports, strict=True)
    ]
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={file}\n" for file in GPUS), encoding="utf-8")
    file = folder / "slurm.conf"
    text = CONFIGURATION.format(
        host=host, port=port, socket=munge, folder=folder, array=MOST_IN_ARRAY, nodes="\n".join(nodes)
    )
    file.write_text(text, encoding="utf-8")
    return file


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    """Ends a daemon, and what it has started where it does not listen."""
    daemon.terminate()
    try:
        daemon.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()
