"""As which user, with which privileges and on what platform a slice pod runs."""

from tests.webhook.cases.case import Case
from tests.webhook.cases.manifests import (
    DENY_ESCALATION,
    ESCALATES,
    GROUP,
    SLICE,
    adds,
    container,
    pod,
    spread,
    sysctl,
    user,
)
from webhook.verdicts import Reason

RUNNING = (
    # UserNamespaceConflict
    Case("user namespace", pod(hostUsers=False), Reason.USER_NAMESPACE_CONFLICT),
    Case(
        "user namespace without hostIPC",
        pod(hostUsers=False),
        Reason.USER_NAMESPACE_CONFLICT,
        settings={"host_ipc": False},
    ),
    Case("host's users", pod(hostUsers=True)),
    Case(
        "user namespace and two slices",
        pod(container({SLICE: 2}), hostUsers=False),
        Reason.MULTIPLE_SLICES,
        (Reason.USER_NAMESPACE_CONFLICT,),
    ),
    Case("user namespace without slices", pod(container({}), hostUsers=False)),
    # RunAsUserMismatch
    Case("pod runs as root", pod(securityContext=user(0)), Reason.RUN_AS_USER_MISMATCH),
    Case(
        "container runs as root",
        pod(container(securityContext=user(0))),
        Reason.RUN_AS_USER_MISMATCH,
    ),
    Case(
        "container's wrong user over the pod's",
        pod(container(securityContext=user(1)), securityContext=user(1000)),
        Reason.RUN_AS_USER_MISMATCH,
    ),
    Case(
        "only the second container is wrong",
        pod(container(name="a"), container(name="b", securityContext=user(33))),
        Reason.RUN_AS_USER_MISMATCH,
    ),
    # RunAsNonRootConflict
    Case(
        "not root, as root",
        pod(securityContext=user(runAsNonRoot=True)),
        Reason.RUN_AS_NON_ROOT_CONFLICT,
        settings={"mps_user": 0},
    ),
    Case(
        "container not root, as root",
        pod(container(securityContext=user(runAsNonRoot=True))),
        Reason.RUN_AS_NON_ROOT_CONFLICT,
        settings={"mps_user": 0},
    ),
    Case(
        "container may be root, as root",
        pod(
            container(securityContext=user(runAsNonRoot=False)),
            securityContext=user(runAsNonRoot=True),
        ),
        settings={"mps_user": 0},
    ),
    # PrivilegeEscalation
    Case(
        "privileged",
        pod(container(securityContext={"privileged": True})),
        warns=("PrivilegeEscalation",),
    ),
    Case("may escalate", pod(container(securityContext=ESCALATES)), warns=("PrivilegeEscalation",)),
    Case("may not escalate", pod(container(securityContext={"allowPrivilegeEscalation": False}))),
    Case(
        "administrates",
        pod(container(securityContext=adds("NET_ADMIN", "SYS_ADMIN"))),
        warns=("PrivilegeEscalation",),
    ),
    Case(
        "administrates by the kernel's name",
        pod(container(securityContext=adds("CAP_SYS_ADMIN"))),
        warns=("PrivilegeEscalation",),
    ),
    Case(
        "every capability",
        pod(container(securityContext=adds("ALL"))),
        warns=("PrivilegeEscalation",),
    ),
    Case("another capability", pod(container(securityContext=adds("NET_ADMIN")))),
    Case(
        "privileged beside the slice",
        pod(container({}, name="side", securityContext={"privileged": True}), container()),
    ),
    Case("nothing said, denied", pod(), settings=DENY_ESCALATION),
    Case(
        "may not escalate, denied",
        pod(container(securityContext={"allowPrivilegeEscalation": False})),
        settings=DENY_ESCALATION,
    ),
    Case(
        "may escalate beside the slice, denied",
        pod(container({}, name="side", securityContext=ESCALATES), container()),
        settings=DENY_ESCALATION,
    ),
    *(
        Case(
            f"{name}, denied",
            pod(container(securityContext=security)),
            Reason.PRIVILEGE_ESCALATION,
            settings=DENY_ESCALATION,
        )
        for name, security in (
            ("privileged", {"privileged": True}),
            ("may escalate", ESCALATES),
            ("administrates", adds("NET_ADMIN", "SYS_ADMIN")),
            ("administrates by the kernel's name", adds("CAP_SYS_ADMIN")),
            ("every capability", adds("all")),
        )
    ),
    Case(
        "may escalate in an init container, denied",
        pod(init=(container(name="s", restartPolicy="Always", securityContext=ESCALATES),)),
        Reason.PRIVILEGE_ESCALATION,
        settings=DENY_ESCALATION,
    ),
    # UnsupportedPod
    Case(
        "1001 containers",
        pod(container(), *(container({}, name=f"c{i}") for i in range(1000))),
        Reason.UNSUPPORTED_POD,
    ),
    Case("for Windows", pod(os={"name": "windows"}), Reason.UNSUPPORTED_POD),
    Case(
        "for Windows without hostIPC",
        pod(os={"name": "windows"}),
        Reason.UNSUPPORTED_POD,
        settings={"host_ipc": False},
    ),
    Case(
        "shared memory's sysctl",
        pod(securityContext=sysctl("kernel.shm_rmid_forced")),
        Reason.UNSUPPORTED_POD,
    ),
    Case(
        "semaphores' sysctl with slashes",
        pod(securityContext=sysctl("kernel/sem")),
        Reason.UNSUPPORTED_POD,
    ),
    Case(
        "two sysctls of messages",
        pod(
            securityContext={
                "sysctls": [*sysctl("kernel.msgmax")["sysctls"], *sysctl("fs.mqueue.x")["sysctls"]]
            }
        ),
        Reason.UNSUPPORTED_POD,
        (Reason.UNSUPPORTED_POD,),
    ),
    Case("another sysctl", pod(securityContext=sysctl("net.ipv4.tcp_syncookies"))),
    Case(
        "shared memory's sysctl without hostIPC",
        pod(securityContext=sysctl("kernel.shm_rmid_forced")),
        settings={"host_ipc": False},
    ),
    # InvalidSpread
    Case("spread over nodes", pod(annotations=spread("node"), labels=GROUP), Reason.INVALID_SPREAD),
    Case("spread over nothing", pod(annotations=spread(""), labels=GROUP), Reason.INVALID_SPREAD),
    Case("spread without a group", pod(annotations=spread("gpu")), Reason.INVALID_SPREAD),
    Case("spread over GPUs", pod(annotations=spread("gpu"), labels=GROUP)),
    Case("spread over nodes without slices", pod(container({}), annotations=spread("node"))),
)
