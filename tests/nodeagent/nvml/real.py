"""Reads this machine's GPUs as the agent does and prints what it found, as JSON.

A process of its own, since a library that is loaded for the other tests would be taken for it.
"""

import asyncio
import json
import sys
from dataclasses import asdict

from nodeagent.errors import NvmlError
from nodeagent.gpus.nvml import Nvml
from nodeagent.gpus.real import NvmlGpus


async def _with_processes() -> list[dict[str, object]]:
    gpus = await NvmlGpus.start()
    try:
        return [
            {**asdict(gpu), "processes": [asdict(p) for p in await gpus.processes(gpu.uuid)]}
            for gpu in gpus.read()
        ]
    finally:
        gpus.close()


def main() -> int:
    try:
        with Nvml() as nvml:
            uuids = [nvml.gpu(index).uuid for index in range(nvml.count())]
            watch = nvml.watch_xids(uuids)
            found = {
                "driver": nvml.driver_version(),
                "gpus": asyncio.run(_with_processes()),
                "compute_modes": {uuid: nvml.compute_mode(uuid).name for uuid in uuids},
                "needs_recovery": {uuid: nvml.needs_recovery(uuid) for uuid in uuids},
                "without_xids": watch.unwatched,
                "xid": watch.next(0.1),
            }
            watch.close()
    except NvmlError as error:
        print(json.dumps({"error": str(error)}))  # noqa: T201  its one purpose
        return 1
    print(json.dumps(found, indent=2))  # noqa: T201  its one purpose
    return 0


if __name__ == "__main__":
    sys.exit(main())
