"""The chart's webhook objects: their scope, their guards, and what the service account may do."""

from collections.abc import Callable
from typing import Any

import pytest

from hack.cluster.parts import Parts
from mpslice.slices import LOOKALIKE
from tests import chart
from tests.webhook.cases import Manifest
from webhook.main import flags

Render = Callable[..., list[Manifest]]
CONFIGURATIONS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


@pytest.fixture(scope="module")
def render(cluster_parts: Parts) -> Render:
    """The webhook's documents of the chart, with values set."""

    def rendered(*values: str) -> list[Manifest]:
        arguments = [argument for value in values for argument in ("--set", value)]
        documents = chart.render(cluster_parts.helm, *arguments)
        label = "app.kubernetes.io/component"
        return [d for d in documents if d["metadata"]["labels"][label] == "webhook"]

    return rendered


def hooks(documents: list[Manifest]) -> dict[str, Any]:
    """Every webhook by its name."""
    return {
        hook["name"]: hook
        for document in documents
        if document["kind"] in CONFIGURATIONS
        for hook in document["webhooks"]
    }


def one(documents: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


def excluded(selector: Manifest) -> set[str]:
    """The namespaces that are left out by name; those with the label are, too."""
    by_name, by_label = selector["matchExpressions"]
    assert by_label == {"key": "mpslice.io/admission", "operator": "NotIn", "values": ["ignore"]}
    assert (by_name["key"], by_name["operator"]) == ("kubernetes.io/metadata.name", "NotIn")
    return set(by_name["values"])


def test_webhooks_have_the_names_and_guards_of_the_contract(render: Render) -> None:
    found = hooks(render())
    assert set(found) == {
        "mutate.pods.mpslice.io",
        "validate.pods.mpslice.io",
        "validate.workloads.mpslice.io",
    }
    for hook in found.values():
        assert hook["timeoutSeconds"] == 5
        assert excluded(hook["namespaceSelector"]) == {"kube-system"}
        assert hook["sideEffects"] == "None"
        assert hook["matchPolicy"] == "Equivalent"
        assert hook["admissionReviewVersions"] == ["v1"]
        assert "mentions-a-slice" in {c["name"] for c in hook["matchConditions"]}
    assert found["mutate.pods.mpslice.io"]["reinvocationPolicy"] == "IfNeeded"
    assert found["validate.workloads.mpslice.io"]["failurePolicy"] == "Ignore"


def test_bundle_of_cas_is_never_templated(render: Render) -> None:
    for hook in hooks(render()).values():
        assert "caBundle" not in hook["clientConfig"]


@pytest.mark.parametrize("policy", ["Fail", "Ignore"])
def test_failure_policy_is_a_value_for_pods_only(render: Render, policy: str) -> None:
    found = hooks(render(f"admission.failurePolicy={policy}"))
    assert found["mutate.pods.mpslice.io"]["failurePolicy"] == policy
    assert found["validate.pods.mpslice.io"]["failurePolicy"] == policy
    assert found["validate.workloads.mpslice.io"]["failurePolicy"] == "Ignore"


def test_same_condition_guards_webhooks_and_policy(render: Render) -> None:
    documents = render()
    policy = one(documents, "ValidatingAdmissionPolicy", "mpslice-pods")
    found = hooks(documents)
    guards = [
        {c["name"]: c["expression"] for c in owner["matchConditions"]}["mentions-a-slice"]
        for owner in (
            found["mutate.pods.mpslice.io"],
            found["validate.pods.mpslice.io"],
            policy["spec"],
        )
    ]
    assert len(set(guards)) == 1


def test_scope_is_the_same_for_webhooks_and_policies_and_never_that_of_the_release(
    render: Render,
) -> None:
    documents = render("admission.excludedNamespaces={legacy,kube-system}")
    selectors = [hook["namespaceSelector"] for hook in hooks(documents).values()]
    selectors += [
        one(documents, "ValidatingAdmissionPolicy", name)["spec"]["matchConstraints"][
            "namespaceSelector"
        ]
        for name in ("mpslice-pods", "mpslice-workloads")
    ]
    assert len(selectors) == 5
    assert [excluded(selector) for selector in selectors] == [{"kube-system", "legacy"}] * 5


def test_further_conditions_hold_for_the_webhooks_of_pods_and_their_policy(render: Render) -> None:
    name, expression = "is-not-legacy", "!has(object.metadata.labels.legacy)"
    given = "admission.matchConditions[0]"
    documents = render(f"{given}.name={name}", f"{given}.expression={expression}")
    found = hooks(documents)
    policy = one(documents, "ValidatingAdmissionPolicy", "mpslice-pods")["spec"]
    for owner in (found["mutate.pods.mpslice.io"], found["validate.pods.mpslice.io"], policy):
        assert {"name": name, "expression": expression} in owner["matchConditions"]
    workloads = found["validate.workloads.mpslice.io"]
    assert name not in {each["name"] for each in workloads["matchConditions"]}


def test_timeout_is_a_value(render: Render) -> None:
    found = hooks(render("webhook.timeoutSeconds=15"))
    assert {hook["timeoutSeconds"] for hook in found.values()} == {15}


def test_condition_has_the_kernels_own_expression_of_a_slices_name(render: Render) -> None:
    for hook in hooks(render()).values():
        (guard,) = (
            condition["expression"]
            for condition in hook["matchConditions"]
            if condition["name"] == "mentions-a-slice"
        )
        assert f'name.lowerAscii().matches("{LOOKALIKE}")' in guard


def test_policy_and_workload_warnings_can_be_left_out(render: Render) -> None:
    documents = render("admission.policy.enabled=false", "admission.workloads=false")
    policies = {
        d["metadata"]["name"]
        for d in documents
        if d["kind"].startswith("ValidatingAdmissionPolicy")
    }
    assert policies & {"mpslice-pods", "mpslice-workloads"} == set()
    assert set(hooks(documents)) == {"mutate.pods.mpslice.io", "validate.pods.mpslice.io"}


def test_policy_follows_the_values_it_repeats(render: Render) -> None:
    policy = one(
        render("mps.userID=33", "mps.hostIPC=false"), "ValidatingAdmissionPolicy", "mpslice-pods"
    )
    text = str(policy["spec"])
    assert "HostIPCRequired" not in text
    assert "PrivilegeEscalation: " not in text
    assert "UserNamespaceConflict" in text
    assert "MPS serves user 33 only" in text
    binding = one(
        render("admission.enforcement=warn"), "ValidatingAdmissionPolicyBinding", "mpslice-pods"
    )
    assert binding["spec"]["validationActions"] == ["Audit"]


def test_service_account_writes_nothing_but_its_own_objects(render: Render) -> None:
    documents = render()
    cluster = one(documents, "ClusterRole", "mpslice-webhook")["rules"]
    writing = [rule for rule in cluster if set(rule["verbs"]) - {"get", "list", "watch"}]
    assert [(rule["resourceNames"], rule["verbs"]) for rule in writing] == [
        (["mpslice-pods"], ["get", "list", "watch", "patch"]),
        (["mpslice-pods", "mpslice-workloads"], ["get", "list", "watch", "patch"]),
    ]
    role = one(documents, "Role", "mpslice-webhook")["rules"]
    assert [(rule.get("resourceNames"), rule["verbs"]) for rule in role] == [
        (None, ["create"]),
        (["mpslice-webhook-tls"], ["get", "list", "watch", "patch"]),
    ]


@pytest.mark.parametrize("mode", ["cert-manager", "secret"])
def test_certificates_of_others_need_no_right_to_write(render: Render, mode: str) -> None:
    documents = render(f"tls.mode={mode}")
    assert not [d for d in documents if d["kind"] == "Role"]
    for rule in one(documents, "ClusterRole", "mpslice-webhook")["rules"]:
        assert set(rule["verbs"]) <= {"get", "list", "watch"}


def test_cert_manager_is_told_where_to_inject(render: Render) -> None:
    for document in render("tls.mode=cert-manager"):
        if document["kind"] in CONFIGURATIONS:
            wanted = "mpslice-system/mpslice-webhook"
            annotations = document["metadata"]["annotations"]
            assert annotations["cert-manager.io/inject-ca-from"] == wanted


def test_service_leads_to_the_port_that_the_program_listens_on(render: Render) -> None:
    documents = render("webhook.securePort=9443")
    (port,) = one(documents, "Service", "mpslice-webhook")["spec"]["ports"]
    pod = one(documents, "Deployment", "mpslice-webhook")["spec"]["template"]["spec"]
    ports = {each["name"]: each["containerPort"] for each in pod["containers"][0]["ports"]}
    assert (port["port"], ports[port["targetPort"]]) == (443, 9443)
    assert flags().parse(pod["containers"][0]["args"], {}).listen.port == 9443
