"""Each control of Pod Security `baseline` from both sides, as parts that are added to a plain pod.

The list of controls and what they allow: k8s.io/pod-security-admission/policy, check_*.go.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """What is added to a pod: annotations, fields of its spec, and of its container `into`.

    `words` are in our refusal; "" where both policies let it pass. `since` is the minor version of
    Kubernetes from which Pod Security judges so.
    """

    words: str = ""
    spec: Json = field(default_factory=dict)
    container: Json = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    into: str = "main"
    since: int = 0

    @property
    def allowed(self) -> bool:
        return not self.words


def context(words: str = "", into: str = "main", since: int = 0, **fields: object) -> Part:
    """A security context of a container."""
    return Part(words, container={"securityContext": fields}, into=into, since=since)


def pod_context(words: str = "", **fields: object) -> Part:
    """A security context of the pod."""
    return Part(words, spec={"securityContext": fields})


def port(words: str = "", into: str = "main", **fields: object) -> Part:
    return Part(words, container={"ports": [{"containerPort": 8000, **fields}]}, into=into)


def probe(kind: str, how: str, host: str, into: str = "main") -> Part:
    """A probe of a host: kubelets ask it from their node's network."""
    words = f'container "{into}" has a {kind}.{how}.host' if host else ""
    handler = {"port": 80, **({"host": host} if host else {})}
    return Part(words, container={kind: {how: handler}}, into=into, since=34)


def hook(kind: str, how: str, host: str) -> Part:
    words = f'container "main" has a lifecycle.{kind}.{how}.host' if host else ""
    handler = {"port": 80, **({"host": host} if host else {})}
    return Part(words, container={"lifecycle": {kind: {how: handler}}}, since=34)


_APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/main"
_MAIN: Final = 'container "main"'
_FIRST: Final = 'container "first"'
_DEFAULT_CAPABILITIES: Final = [
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
    *("NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
]
_SAFE_SYSCTLS: Final = [
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies"),
    *("net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start"),
    *("net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time"),
    *("net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
    *("net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
]


def volume(**source: object) -> Part:
    words = 'volume "data" has a hostPath' if "hostPath" in source else ""
    return Part(words, spec={"volumes": [{"name": "data", **source}]})


def sysctls(words: str, *names: str) -> Part:
    return pod_context(words, sysctls=[{"name": name, "value": "1"} for name in names])


def se_linux(words: str = "", **options: str) -> Part:
    return context(words, seLinuxOptions=options)


CONTROLS: Final[dict[str, dict[str, Part]]] = {
    "hostNamespaces": {
        "false": Part(spec={"hostNetwork": False, "hostPID": False, "hostIPC": False}),
        "network": Part("spec.hostNetwork is true", spec={"hostNetwork": True}),
        "pids": Part("spec.hostPID is true", spec={"hostPID": True}),
        "ipc": Part(
            "spec.hostIPC is true, but no container asks for a slice", spec={"hostIPC": True}
        ),
    },
    "hostPathVolumes": {
        "emptyDir": volume(emptyDir={}),
        "secret": volume(secret={"secretName": "any"}),
        "claim": volume(persistentVolumeClaim={"claimName": "any"}),
        "hostPath": volume(hostPath={"path": "/run/mpslice"}),
        "hostPath of a file": volume(hostPath={"path": "/etc/shadow", "type": "File"}),
    },
    "hostPorts": {
        "none": port(),
        "port": port(f"{_MAIN} has a ports.hostPort", hostPort=8000),
        "first": port(f"{_FIRST} has a ports.hostPort", "first", hostPort=8000),
    },
    "hostProbesAndHostLifecycle": {
        "own": probe("livenessProbe", "httpGet", ""),
        "own socket": probe("startupProbe", "tcpSocket", ""),
        "own hook": hook("preStop", "httpGet", ""),
        **{
            f"{kind} {how}": probe(kind, how, "198.18.0.1")
            for kind in ("livenessProbe", "readinessProbe", "startupProbe")
            for how in ("httpGet", "tcpSocket")
        },
        **{
            f"{kind} {how}": hook(kind, how, "localhost")
            for kind in ("postStart", "preStop")
            for how in ("httpGet", "tcpSocket")
        },
    },
    "privileged": {
        "false": context(privileged=False),
        "true": context(f"{_MAIN} has securityContext.privileged true", privileged=True),
        "first": context(f"{_FIRST} has securityContext.privileged true", "first", privileged=True),
    },
    "capabilities": {
        "dropped": context(capabilities={"drop": ["ALL"]}),
        "default": context(capabilities={"add": _DEFAULT_CAPABILITIES}),
        "NET_RAW": context(f"{_MAIN} adds NET_RAW in", capabilities={"add": ["NET_RAW"]}),
        "two": context(
            f"{_FIRST} adds SYS_ADMIN, chown in",
            "first",
            capabilities={"add": ["CHOWN", "SYS_ADMIN", "chown"]},
        ),
        "prefixed": context(f"{_MAIN} adds CAP_CHOWN in", capabilities={"add": ["CAP_CHOWN"]}),
    },
    "procMount": {
        "default": context(procMount="Default"),
        "unmasked in a user namespace": Part(
            spec={"hostUsers": False},
            container={"securityContext": {"procMount": "Unmasked"}},
            since=35,
        ),
    },
    "appArmorProfile": {
        "runtime": context(appArmorProfile={"type": "RuntimeDefault"}),
        "local": context(appArmorProfile={"type": "Localhost", "localhostProfile": "p"}),
        "pod's": pod_context(appArmorProfile={"type": "RuntimeDefault"}),
        "unconfined": context(
            f"{_MAIN} has securityContext.appArmorProfile.type Unconfined",
            appArmorProfile={"type": "Unconfined"},
        ),
        "pod unconfined": pod_context(
            "spec has securityContext.appArmorProfile.type Unconfined",
            appArmorProfile={"type": "Unconfined"},
        ),
        "annotated": Part(annotations={_APPARMOR: "runtime/default"}),
        "annotated local": Part(annotations={_APPARMOR: "localhost/p"}),
        "annotated unconfined": Part("appArmorProfile", annotations={_APPARMOR: "unconfined"}),
    },
    "seccompProfile": {
        "runtime": context(seccompProfile={"type": "RuntimeDefault"}),
        "local": context(seccompProfile={"type": "Localhost", "localhostProfile": "p"}),
        "pod's": pod_context(seccompProfile={"type": "RuntimeDefault"}),
        "unconfined": context(
            f"{_MAIN} has securityContext.seccompProfile.type Unconfined",
            seccompProfile={"type": "Unconfined"},
        ),
        "first unconfined": context(
            f"{_FIRST} has securityContext.seccompProfile.type Unconfined",
            "first",
            seccompProfile={"type": "Unconfined"},
        ),
        "pod unconfined": pod_context(
            "spec has securityContext.seccompProfile.type Unconfined",
            seccompProfile={"type": "Unconfined"},
        ),
    },
    "seLinuxOptions": {
        **{
            kind: se_linux(type=kind)
            for kind in ("container_t", "container_init_t", "container_kvm_t", "container_engine_t")
        },
        "level": se_linux(level="s0:c123,c456"),
        "type": se_linux(f"{_MAIN} has securityContext.seLinuxOptions.type spc_t", type="spc_t"),
        "user": se_linux(f"{_MAIN} has securityContext.seLinuxOptions.user root", user="root"),
        "role": se_linux(f"{_MAIN} has securityContext.seLinuxOptions.role r", role="r"),
        "pod's type": pod_context(
            "spec has securityContext.seLinuxOptions.type spc_t", seLinuxOptions={"type": "spc_t"}
        ),
        "pod's user and role": pod_context(
            "spec has securityContext.seLinuxOptions.user u, securityContext.seLinuxOptions.role r",
            seLinuxOptions={"type": "container_t", "user": "u", "role": "r"},
        ),
    },
    "sysctls": {
        "safe": sysctls("", *_SAFE_SYSCTLS),
        "unsafe": sysctls(
            "spec.securityContext.sysctls has net.core.rmem_max", "net.core.rmem_max"
        ),
        "one unsafe": sysctls(
            "sysctls has net.core.somaxconn", "net.ipv4.tcp_syncookies", "net.core.somaxconn"
        ),
    },
    "windowsHostProcess": {
        "container": Part(
            f"{_MAIN} has securityContext.windowsOptions.hostProcess true",
            # Kubernetes wants all containers of a pod to be host processes, or none.
            spec={"hostNetwork": True, "initContainers": []},
            container={"securityContext": {"windowsOptions": {"hostProcess": True}}},
        ),
        "pod": Part(
            "spec has securityContext.windowsOptions.hostProcess true",
            spec={
                "hostNetwork": True,
                "securityContext": {"windowsOptions": {"hostProcess": True}},
            },
        ),
        "false": context(windowsOptions={"hostProcess": False}),
    },
}


def pod(*parts: Part, **limits: str) -> Json:
    """A pod with parts added; a later one wins over an earlier one in the same field."""
    containers: dict[str, Json] = {
        name: {"name": name, "image": "example.org/image:1"} for name in ("first", "main")
    }
    # A sidecar, so that it may have probes.
    containers["first"]["restartPolicy"] = "Always"
    if limits:
        containers["main"]["resources"] = {"limits": limits}
    spec: Json = {}
    annotations: dict[str, str] = {}
    for part in parts:
        _merge(containers[part.into], part.container)
        _merge(spec, part.spec)
        annotations |= part.annotations
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "judged", "annotations": annotations},
        "spec": {
            "initContainers": [containers["first"]],
            "containers": [containers["main"]],
            "automountServiceAccountToken": False,
            **spec,
        },
    }


def _merge(into: Json, added: Json) -> None:
    for key, value in added.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = deepcopy(value)
