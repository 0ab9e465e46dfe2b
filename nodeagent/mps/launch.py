"""How the control program is run: its environment, and the command of one GPU's daemon."""

from collections.abc import Mapping
from pathlib import Path

from mpslice.gpus import GpuUuid
from nodeagent.mps.answers import FOREGROUND
from nodeagent.mps.children import Command
from nodeagent.mps.settings import MpsSettings


def mps_environment(
    environment: Mapping[str, str], pipe: Path, log_directory: Path
) -> dict[str, str]:
    """For the control program, as a daemon or to command one."""
    return {
        # What the environment says of MPS is meant for clients, if for anybody here.
        **{k: v for k, v in environment.items() if not k.startswith("CUDA_MPS_")},
        "CUDA_MPS_PIPE_DIRECTORY": str(pipe),
        "CUDA_MPS_LOG_DIRECTORY": str(log_directory),
    }


def daemon_command(settings: MpsSettings, gpu: str) -> Command:
    """The daemon of one GPU, by UUID; its servers inherit the environment.

    Raises ControlProgramMissing.
    """
    root, uuid = settings.root, GpuUuid(gpu)
    environment = settings.environment()
    program = settings.control_program(environment)
    return Command(
        (program, FOREGROUND),
        {
            **mps_environment(environment, root.pipe(uuid), root.log(uuid)),
            "CUDA_VISIBLE_DEVICES": gpu,
        },
        root.output(uuid),
    )
