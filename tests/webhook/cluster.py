"""mpslice-webhook behind a real API server: the chart applied, replicas as processes.

Stands in for what Kubernetes would do around our Deployment: each replica has an EndpointSlice of
its own, whose `ready` is what its /readyz says.
"""

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hack.cluster import network, pki
from hack.cluster.controlplane import ControlPlane
from hack.cluster.programs import endpoints
from hack.cluster.versions import KUBERNETES, resolves_by_endpoints
from hack.cluster.waiting import wait_until
from tests import chart
from tests.waiting import DEADLINE
from tests.webhook.cases import Manifest, pod

NAMESPACE = "mpslice-system"
SERVICE = "mpslice-webhook"
_OF_OUR_SERVICE = "kubernetes.io/service-name"
AUDIT_LOG = "audit.log"
"""In the folder of an Installation: the API server's audit events of pods, one a line."""

CLIENT_CA = "webhook-clients"
CLIENT_NAME = "webhook-client"
"""In the folder of an Installation: the CA, in a file of that name with .crt, of the certificate
that the API server presents to webhooks under that common name."""

_WORKLOADS = ("Deployment", "DaemonSet", "PodDisruptionBudget")
_JUDGES = (
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingAdmissionPolicy",
)

_SLICE_POD = pod()
_NOT_CALLED = re.compile("connection refused|no endpoints available")


@dataclass
class Replica:
    """One process; `flags` are added to those that place it."""

    name: str
    command: list[str]
    port: int
    ops_port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    @property
    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.ops("readyz"), timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ops(self, path: str) -> str:
        return f"http://127.0.0.1:{self.ops_port}/{path}"

    def wait_ready(self, seconds: float = DEADLINE) -> None:
        deadline = time.monotonic() + seconds
        while not self.ready:
            ended = self.process is None or self.process.poll() is not None
            assert not ended, f"{self.name} has ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"{self.name}:\n{self.log.read_text()}"
            time.sleep(0.05)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Ends it and waits until it has; its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal_number)
        return self.process.wait(DEADLINE)


@dataclass
class Installation:
    """The chart on a control plane, and the replicas that serve for it."""

    plane: ControlPlane
    folder: Path
    namespace: str = NAMESPACE
    _files: int = field(default=0, init=False)
    _enforced: list[tuple[str, ...]] = field(default_factory=list)
    """What the API server has been seen to enforce, the last one last: namespace and values.

    Copies for another namespace share it, as they share the API server.
    """

    def kubectl(self, *arguments: str, objects: Sequence[Manifest] = ()) -> tuple[str, str]:
        """What kubectl prints to stdout and stderr, whether it succeeds or not."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        done = self.plane.kubectl(*arguments, input=text if objects else None, check=False)
        return done.stdout, done.stderr

    def apply(self, objects: Sequence[Manifest]) -> None:
        if not objects:
            return
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.plane.kubectl(
            "apply", "--server-side", "--force-conflicts", "--filename=-", input=text
        )

    def install(self, *values: str) -> None:
        """Applies the chart with Helm values such as `admission.enforcement=warn`.

        Returns when the API server enforces the policies of these values and none of others.
        """
        arguments = [argument for value in values for argument in ("--set", value)]
        documents = chart.render(self.plane.parts.helm, *arguments, namespace=self.namespace)
        kept = [document for document in documents if document["kind"] not in _WORKLOADS]
        for document in kept:
            if (document["kind"], document["metadata"]["name"]) == ("Service", SERVICE):
                del document["spec"]["selector"]  # endpoints are ours to write
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        self.apply([namespace])
        self.apply(kept)
        self._forget({(document["kind"], document["metadata"]["name"]) for document in kept})
        wanted = (self.namespace, *values)
        if self._enforced[-1:] != [wanted]:
            self._wait_until_enforced(wanted)

    def remove_admission(self) -> None:
        """Takes away what judges pods, and returns when the API server does without it."""
        for kind in _JUDGES:
            self.plane.kubectl("delete", kind, "mpslice-pods", "--ignore-not-found")
        self._wait_until_enforced(())

    def _wait_until_enforced(self, what: tuple[str, ...]) -> None:
        """Waits until the API server has seen all policies and bindings written so far.

        It reads them again about once a second. A new policy that refuses one dry run, with a new
        binding, is written last, so when it refuses, the API server has seen the rest.
        """
        name = f"probe-{len(self._enforced)}"
        self.apply(_probe(name))
        sees = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        try:
            wait_until(
                lambda: f"{name} is seen" in create(self, sees)[1],
                "the API server sees a new policy",
                seconds=DEADLINE,
            )
        finally:
            for kind in ("ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"):
                self.plane.kubectl("delete", kind, name)
        self._enforced.append(what)

    def _forget(self, kept: set[tuple[str, str]]) -> None:
        """Deletes what an earlier set of values had and this one has not, as Helm would."""
        for kind in _JUDGES[1:]:
            for name in ("mpslice-pods", "mpslice-workloads"):
                if (kind, name) not in kept:
                    self.plane.kubectl("delete", kind, name, "--ignore-not-found")

    def replica(self, *flags: str, account: str = SERVICE) -> Replica:
        """A replica that has not been started."""
        self._files += 1
        (port,) = network.free_ports(1, self.plane.address)
        (ops_port,) = network.free_ports(1)
        command = [
            *(sys.executable, "-m", "webhook.main"),
            f"--listen={self.plane.address}:{port}",
            f"--ops-listen=127.0.0.1:{ops_port}",
            f"--namespace={self.namespace}",
            f"--service-name={SERVICE}",
            f"--kubeconfig={self.kubeconfig(account)}",
            "--shutdown-delay=0s",
            *flags,
        ]
        name = f"replica-{self._files}"
        return Replica(name, command, port, ops_port, self.folder / f"{name}.log")

    def kubeconfig(self, account: str) -> Path:
        """Credentials of a service account of the chart's namespace."""
        path = self.folder / f"{self.namespace}-{account}.kubeconfig"
        if not path.exists():
            where = f"--namespace={self.namespace}"
            arguments = ("create", "token", account, where, "--duration=24h")
            token = self.plane.kubectl(*arguments).stdout.strip()
            authority = self.plane.pki.authority.pair.certificate
            pki.write_kubeconfig(path, self.plane.url, authority, {"token": token})
        return path

    @contextlib.contextmanager
    def serving(self, *flags: str) -> Iterator[Replica]:
        """One ready replica, to which the Service leads."""
        replica = self.replica(*flags)
        replica.start()
        try:
            replica.wait_ready()
            self.publish([replica])
            yield replica
        finally:
            replica.stop()

    def publish(self, replicas: Sequence[Replica]) -> None:
        """Makes the Service lead to these replicas, and to no others.

        Returns when the API server calls one of them. It has seen by then that the others are gone,
        which is written first.
        """
        wanted = {replica.name for replica in replicas}
        for item in self._published():
            if item["metadata"]["name"] not in wanted:
                self.plane.api.request("DELETE", f"{self._slices}/{item['metadata']['name']}")
        self.apply([self._endpoint_slice(replica, True) for replica in replicas])
        self._publish_to_old_servers()
        if replicas:
            wait_until(
                lambda: not _NOT_CALLED.search(create(self, _SLICE_POD)[1]),
                "the API server calls a replica",
                seconds=DEADLINE,
            )

    def _publish_to_old_servers(self) -> None:
        if resolves_by_endpoints(KUBERNETES.version):
            self.apply([endpoints(self.namespace, SERVICE, self._published())])

    def _published(self) -> list[dict[str, Any]]:
        """The EndpointSlices of our Service; the controller manager makes those of others."""
        chosen = f"labelSelector={_OF_OUR_SERVICE}={SERVICE}"
        items: list[dict[str, Any]] = self.plane.api.get(f"{self._slices}?{chosen}")["items"]
        return items

    @property
    def _slices(self) -> str:
        return f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"

    @contextlib.contextmanager
    def following(self, replicas: Sequence[Replica]) -> Iterator[None]:
        """While inside, endpoints follow each replica's /readyz, looked at every 100 ms."""
        stop = threading.Event()

        def follow() -> None:
            shown: dict[str, bool] = {}
            while not stop.wait(0.1):
                for replica in replicas:
                    ready = replica.ready
                    if shown.get(replica.name) != ready:
                        shown[replica.name] = ready
                        self._show(replica, ready)

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _show(self, replica: Replica, ready: bool) -> None:
        body = self._endpoint_slice(replica, ready)
        path = f"{self._slices}/{replica.name}?fieldManager=test&force=true"
        self.plane.api.request("PATCH", path, body, "application/apply-patch+yaml")
        self._publish_to_old_servers()

    def _endpoint_slice(self, replica: Replica, ready: bool) -> dict[str, Any]:
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": replica.name,
                "namespace": self.namespace,
                "labels": {_OF_OUR_SERVICE: SERVICE},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [self.plane.address], "conditions": {"ready": ready}}],
            "ports": [{"name": "https", "port": replica.port, "protocol": "TCP"}],
        }


def _probe(name: str) -> list[Manifest]:
    """A policy and its binding that refuse the ConfigMap of the same name."""
    version = "admissionregistration.k8s.io/v1"
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["configmaps"],
        "resourceNames": [name],
    }
    return [
        {
            "apiVersion": version,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {"resourceRules": [rule]},
                "validations": [{"expression": "false", "message": f"{name} is seen"}],
            },
        },
        {
            "apiVersion": version,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    ]


def called(
    manifest: Manifest, name: str, namespace: str = "default", **metadata: object
) -> Manifest:
    return {**manifest, "metadata": {"name": name, "namespace": namespace, **metadata}}


def create(installation: Installation, *objects: Manifest, real: bool = False) -> tuple[str, str]:
    dry = () if real else ("--dry-run=server",)
    return installation.kubectl("create", *dry, "--filename=-", objects=objects)
