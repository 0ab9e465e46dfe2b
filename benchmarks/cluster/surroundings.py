"""What figures depend on besides what was measured, for whoever reads them later."""

import os
import platform
from datetime import UTC, datetime

from benchmarks.cluster.figures import Figures
from benchmarks.packing_instances import data_folder
from hack.cluster.versions import ETCD, KUBERNETES
from mpslice import __version__


def surroundings(command: str) -> Figures:
    """What the figures depend on besides: the command, when, where, with what."""
    return {
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {
            "cores": os.cpu_count(),
            "gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "linux": platform.release(),
            "load_before": round(os.getloadavg()[0], 1),
        },
        "versions": {
            "mpslice": __version__,
            "kubernetes": KUBERNETES.version,
            "etcd": ETCD.version,
            "python": platform.python_version(),
        },
        "drawn_from": "a synthetic law" if data_folder() is None else "the trace openb_gpushare100",
    }
