"""A real Slurm on this machine alone: three nodes that pose as ROSIE's, with graphics cards that are links to nowhere.

munged, slurmctld and a slurmd a node run as the user who tests, from a folder of their own, and listen on the loopback interface only.
For that the machine's own name must lead to 127.0.0.1, which is asked first.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel"]
NODES = {"teach01": ("teaching", "t4", 4), "dgx01": ("dgx", "v100", 8), "h10001": ("dgxh100", "h100", 8)}

_CONFIGURATION = """
ClusterName=lottery
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until its first credential has expired.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=20
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
{memory}
KillWait=5
MinJobAge=3600
# A job of the partition urgent takes the place of one on dgx, which is warned as it is of its time limit, and requeued.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=urgent Nodes=dgx01 PriorityTier=10
"""


# Without control groups memory is polled, and a job beyond its own is killed.
_POLLED, _CONFINED = "TaskPlugin=task/none\nJobAcctGatherParams=OverMemoryKill", "TaskPlugin=task/cgroup"
GROUPS = Path("/sys/fs/cgroup/memory")  # where version 1 of control groups has those of memory


class Cluster:
    """**Arguments**: an empty folder, whose path must be short, because sockets are made in it; ``confines``, whether jobs are put into
    control groups with their limit of memory, as on most clusters."""

    def __init__(self, folder: Path, confines: bool = False):
        self.folder, self.confines = folder, confines
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    @staticmethod
    def missing() -> str:
        """What a cluster here lacks, or nothing."""
        if absent := [program for program in PROGRAMS if shutil.which(program) is None]:
            return f"Slurm ({', '.join(absent)})"
        try:
            address = socket.gethostbyname(socket.gethostname())
        except OSError:
            address = "nothing"
        return "" if address == "127.0.0.1" else f"a host name that leads to 127.0.0.1 (here {address}; /etc/hosts)"

    @staticmethod
    def cannot_confine() -> str:
        """Why jobs cannot be put into control groups here, or nothing. Those of version 2 belong to systemd, and a test leaves it alone."""
        writable = os.access(GROUPS / "cgroup.procs", os.W_OK)
        return "" if writable else f"no memory control groups of version 1 that may be written in {GROUPS}"

    def start(self) -> None:
        self.folder.chmod(0o755)  # munge wants its socket within reach of all
        self._configure()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        munge = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        self._start(
            "munged", f"--socket={munge['socket']}", f"--key-file={key}", f"--pid-file={munge['pid']}", f"--log-file={munge['log']}",
            f"--seed-file={munge['seed']}",
        )  # fmt: skip
        self._start("slurmctld")
        for node in NODES:
            self._start("slurmd", "-N", node)
        self.wait(lambda: self.nodes() == dict.fromkeys(NODES, "idle"), 40)

    def stop(self) -> None:
        try:
            if (self.folder / "slurmctld.pid").exists():
                self.clear()
        finally:
            for pid in sorted(self.folder.glob("*.pid"), reverse=True):  # slurmd before slurmctld before munged
                with suppress(ProcessLookupError):  # it did not start
                    os.kill(int(pid.read_text()), signal.SIGTERM)
            self.wait(lambda: not list(self.folder.glob("*.pid")), 20, strict=False)
            if self.confines:
                for node in NODES:  # slurmd leaves its own groups behind, with no process in them
                    for group in sorted((GROUPS / f"slurm_{node}").glob("**/"), reverse=True):
                        group.rmdir()

    def run(self, *line: str) -> str:
        return subprocess.run(line, env=self.environment, capture_output=True, text=True, check=True).stdout

    def nodes(self) -> dict[str, str]:
        rows = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").split("\n")
        return dict(row.split() for row in rows if row)

    def resume(self, node: str) -> None:
        """Brings a node back that is down. Slurm refuses that where the node has registered itself anew just before, which is as good."""

        def up() -> bool:
            if self.nodes()[node].startswith("down"):
                subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], env=self.environment, capture_output=True)
            return not self.nodes()[node].startswith("down")

        self.wait(up, 60)

    def clear(self) -> None:
        """Cancels what is left of a test that failed and brings all nodes back, so that the next test begins with nothing."""
        self.run("scancel", "--full", f"--user={os.getuid()}")
        for node in NODES:
            self.resume(node)
        self.wait(lambda: not self.run("squeue", "--noheader").strip(), 60)

    def job(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job, such as ``JobState``."""
        return dict(word.split("=", 1) for word in self.run("scontrol", "--oneliner", "show", "job", job).split() if "=" in word)

    def wait(self, done, seconds: float, *, strict: bool = True) -> None:
        until = time.monotonic() + seconds
        while not done():
            if time.monotonic() > until:
                if strict:
                    raise TimeoutError(f"waited {seconds} s:\n{self.run('squeue', '--array')}{self._logs()}")
                return
            time.sleep(0.3)

    def _start(self, *line: str) -> None:
        program = subprocess.run(line, env=self.environment, capture_output=True, text=True)
        if program.returncode:
            raise RuntimeError(f"{line[0]}: {program.stderr}{self._logs()}")

    def _configure(self) -> None:
        host, user = socket.gethostname().split(".")[0], subprocess.check_output(["id", "-un"], text=True).strip()
        port = _free_ports(1 + len(NODES))
        text = _CONFIGURATION.format(folder=self.folder, host=host, user=user, port=port, memory=_CONFINED if self.confines else _POLLED)
        cards = ["AutoDetect=off"]
        (self.folder / "state").mkdir()
        for number, (node, (partition, card, count)) in enumerate(NODES.items(), 1):
            (self.folder / f"spool-{node}").mkdir()
            # More cores than there are, as config_overrides allows.
            text += (
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + number} CPUs=64 RealMemory=400000"
                f" Gres=gpu:{card}:{count} State=UNKNOWN\n"
                f"PartitionName={partition} Nodes={node} MaxTime=21-00:00:00 GraceTime=60 State=UP{' Default=YES' if number == 1 else ''}\n"
            )
            for index in range(count):
                link = self.folder / f"{node}-nvidia{index}"
                link.symlink_to("/dev/null")
                cards.append(f"NodeName={node} Name=gpu Type={card} File={link}")
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text("\n".join(cards) + "\n")
        version = subprocess.check_output(["slurmctld", "-V"], text=True).split()[1]
        if self.confines:
            (self.folder / "cgroup.conf").write_text(f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={GROUPS.parent}\nConstrainRAMSpace=yes\n")
        elif tuple(map(int, version.split(".")[:2])) >= (23, 2):  # older ones want no such file at all
            (self.folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")

    def _logs(self) -> str:
        return "".join(f"\n{path.name}:\n" + path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.log")))


def _free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on now."""
    for first in range(16900, 20000, count):
        taken = []
        try:
            for port in range(first, first + count):
                taken.append(socket.socket())
                taken[-1].bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for one in taken:
                one.close()
    raise RuntimeError("no free ports")
