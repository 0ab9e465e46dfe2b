"""Missing rights are named as RBAC names them, with commands that grant exactly them."""

import shlex

from cli.rights import Denied, Right, denied, granting, sentence
from mpslice.kube.api import NODE_LAYOUTS, NODES, PODS
from mpslice.kube.errors import Forbidden
from tests.cli.fake_api import USER

ACCOUNT = "system:serviceaccount:team-a:viewer"


def forbidden(user: str = USER) -> Forbidden:
    words = f'GET /api/v1/nodes: nodes is forbidden: User "{user}" cannot list resource "nodes"'
    return Forbidden(f'{words} in API group "" at the cluster scope', status=403)


def test_refusal_is_told_in_one_sentence() -> None:
    lacking = [
        denied(forbidden(), "list", NODES),
        denied(forbidden(), "list", NODE_LAYOUTS),
        denied(forbidden(), "list", PODS),
    ]
    assert sentence(lacking, "nothing is seen") == (
        "you may not list nodes, nodelayouts.mpslice.io or pods in all namespaces: nothing is seen"
    )
    several = [denied(forbidden(), "get", NODES), denied(forbidden(), "list", PODS, "team-a")]
    assert sentence(several, "x") == "you may not get nodes or list pods in namespace team-a: x"


def test_commands_grant_all_that_is_missing_at_once() -> None:
    lacking = [denied(forbidden(), "list", NODES), denied(forbidden(), "list", NODE_LAYOUTS)]
    role = "mpslice-sees-nodelayouts-nodes"
    assert granting(lacking) == [
        (
            f"kubectl create clusterrole {role} --verb=get,list,watch "
            "--resource=nodelayouts.mpslice.io,nodes"
        ),
        f"kubectl create clusterrolebinding {role}:jane --clusterrole={role} --user=jane",
    ]


def test_service_account_and_namespace_are_kept_to() -> None:
    right = Right("get", "pods/proxy", "mpslice-system", namespaced=True)
    role = "mpslice-sees-pods-proxy"
    assert granting([Denied(right, ACCOUNT)]) == [
        f"kubectl create role {role} --verb=get --resource=pods/proxy --namespace=mpslice-system",
        (
            f"kubectl create rolebinding {role}:team-a:viewer --role={role} "
            "--serviceaccount=team-a:viewer --namespace=mpslice-system"
        ),
    ]


def test_right_in_all_namespaces_makes_one_in_a_namespace_needless() -> None:
    lacking = [denied(forbidden(), "list", PODS, "team-a"), denied(forbidden(), "list", PODS)]
    assert all("--namespace" not in command for command in granting(lacking))


def test_name_of_a_user_is_no_command() -> None:
    evil = "a; rm -rf / #\x1b[2J"
    command = granting([denied(forbidden(evil), "list", NODES)])[1]
    assert shlex.split(command)[-1] == "--user=a; rm -rf / #\\x1b[2J"


def test_refusal_that_names_nobody_leaves_the_name_open() -> None:
    found = denied(Forbidden("a policy says no", status=403), "list", NODES)
    assert granting([found])[1].endswith("--user=NAME")


def test_nothing_missing_needs_no_command() -> None:
    assert granting([]) == []
