"""What each cause, reason and condition means for the person: one sentence of what helps.

`why` prints it to accounts that may read the planner's verdict alone. For accounts with more rights
remedies.py names the pods and nodes.
"""

from collections.abc import Mapping
from typing import Final

from mpslice.nodelayout import KUBELET_UNAVAILABLE, STOPPING
from planner.model.plan import Cause

CAUSES: Final[Mapping[Cause, str]] = {
    Cause.NOT_READY: "the node or its agent has to come back; an administrator can see which",
    Cause.UNSCHEDULABLE: "an administrator has cordoned the node; `kubectl uncordon` opens it",
    Cause.NODE_NAME: "the pod names another node; leave out spec.nodeName",
    Cause.NODE_AFFINITY: "widen the pod's nodeSelector or node affinity, or have a node labelled",
    Cause.TAINT: "give the pod a toleration of the taint that is named",
    Cause.HOST_PORT: "leave out hostPort, or wait for the pod that has the port",
    Cause.CPU: "request less CPU, or wait for a pod to end",
    Cause.MEMORY: "request less memory, or wait for a pod to end",
    Cause.EPHEMERAL_STORAGE: "request less ephemeral storage, or wait for a pod to end",
    Cause.PODS: "the node has as many pods as its kubelet takes; wait for one to end",
    Cause.EXTENDED_RESOURCE: "request less of the resource that is named, or wait for it",
    Cause.VOLUME: "check the PersistentVolumeClaim or PersistentVolume that is named",
    Cause.POD_AFFINITY: "widen the pod's affinity or anti-affinity to other pods",
    Cause.TOPOLOGY_SPREAD: "raise maxSkew, or let the pod's spread be ScheduleAnyway",
    Cause.AVOIDED: "kube-scheduler refused the pod there just now; the planner tries another node",
    Cause.GPU_TOO_SMALL: "ask for a smaller slice; waiting does not help",
    Cause.GPU_SLOTS: "wait for a pod with a slice to end: a GPU has a limited number of slices",
    Cause.GPU_MEMORY: "wait for a pod with a slice to end, or ask for a smaller slice",
    Cause.NO_NODE: "an administrator has to hand a node over to mpslice, by its label",
    Cause.GROUP: "create the group's missing pods, or wait until all of them fit at once",
    Cause.RESERVED: "wait: another pod has waited longer, and goes first",
    Cause.BACKOFF: "correct what is quoted; the planner tries the pod again by itself",
    Cause.GATED: "the program that set the scheduling gate has to remove it",
}

CONDITIONS: Final[Mapping[str, str]] = {
    "SliceReady": "nothing: the slice is there, and kube-scheduler binds the pod next",
    "Carving": "nothing: the slice is being made",
    "Bound": "nothing: the pod has its node",
}
"""The reasons of the pod's condition mpslice.io/SliceAvailable that are no causes."""

NODES: Final[Mapping[str, str]] = {
    STOPPING: "the agent is being replaced; it is back in seconds",
    KUBELET_UNAVAILABLE: "the kubelet does not answer the agent; see the kubelet's log",
    "Excluded": "the node's annotation mpslice.io/exclude-gpus names the GPU; take it out there",
    "MigMode": "turn MIG off on the GPU (nvidia-smi -mig 0)",
    "ForeignPlugin": "remove the other device plugin from this node",
    "ForeignPartitioner": "remove nos from the node, and wait until its last pod there has ended",
    "TooOld": "MPS limits no memory on GPUs before Volta; use another node",
    "NothingLeft": "lower mps.reservedMemory",
    "GpusRefused": "the message names each GPU and why it is left alone",
    "XidError": "the driver reported an error of the GPU; see dmesg, and reset the GPU",
    "MpsDown": "the GPU's MPS daemon does not serve; see the log of the node's mps pod",
    "MpsFault": "a process made the GPU's MPS server fail; it comes back by itself",
    "MpsWrongUser": "an MPS server of another user runs on the node; end it",
    "Lost": "the GPU is gone from the bus; the node has to be restarted or repaired",
    "ResetRequired": "reset the GPU",
    "Unhealthy": "the GPU is not healthy",
    "DriverNotLoaded": "load NVIDIA's driver on the node",
    "NvmlMissing": "install NVIDIA's driver on the node, or set driverRoot or runtimeClassName",
    "DriverClosed": "mpslice-nodeagent close-driver was called; run it with --end to undo that",
    "DriverTooOld": "install a newer driver on the node",
    "DriverHangs": "the driver does not answer; see dmesg",
    "NotPermitted": "let the agent run as root",
    "NoGpus": "the driver shows no GPU that can be sliced",
}
"""What helps for the reason of a NodeLayout's condition Ready, and of a GPU."""


def of_condition(reason: str) -> str:
    """What helps a pod that has this reason in its condition; "" for an unknown reason."""
    if reason in CONDITIONS:
        return CONDITIONS[reason]
    return CAUSES[Cause(reason)] if reason in Cause.__members__.values() else ""
