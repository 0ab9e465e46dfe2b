"""Rights that the person lacks, and the commands by which an administrator grants them.

The API server's answer 403 names the account and the right, so no further request is needed.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cli.terminal import inert
from mpslice.kube.api import Resource
from mpslice.kube.errors import Forbidden

_USER: Final = re.compile(r'User "(.+?)" cannot ')
_ACCOUNT: Final = "system:serviceaccount:"
_VERBS: Final = "get,list,watch"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """A verb on a resource; `namespace` is "" for the whole cluster.

    `resource` is written as kubectl does: `nodes`, `nodelayouts.mpslice.io`, `pods/proxy`.
    """

    verb: str
    resource: str
    namespace: str = ""
    namespaced: bool = False

    def __str__(self) -> str:
        return f"{self.verb} {self.where}"

    @property
    def where(self) -> str:
        """The resource, and of which namespaces."""
        if self.namespace:
            return f"{self.resource} in namespace {inert(self.namespace)}"
        return f"{self.resource} in all namespaces" if self.namespaced else self.resource


@dataclass(frozen=True, slots=True)
class Denied:
    """A right that was refused; `user` is as RBAC knows the person, "" where it does not say."""

    right: Right
    user: str = ""


def denied(error: Forbidden, verb: str, resource: Resource, namespace: str = "") -> Denied:
    """Reads from a 403 which right is missing."""
    found = _USER.search(str(error))
    group = resource.api_version.partition("/")[0] if "/" in resource.api_version else ""
    name = f"{resource.plural}.{group}" if group else resource.plural
    return Denied(Right(verb, name, namespace, resource.namespaced), found[1] if found else "")


def sentence(lacking: Sequence[Denied], consequence: str) -> str:
    """`you may not list nodes, or pods in all namespaces: consequence`."""
    said: list[str] = []
    verb = ""
    for right in dict.fromkeys(each.right for each in lacking):
        said.append(right.where if right.verb == verb else str(right))
        verb = right.verb
    rights = said[-1] if len(said) < 2 else f"{', '.join(said[:-1])} or {said[-1]}"
    return f"you may not {rights}: {consequence}"


def granting(lacking: Iterable[Denied]) -> list[str]:
    """Returns the kubectl commands by which an administrator grants the rights."""
    lacking = list(lacking)
    user = next((each.user for each in lacking if each.user), "")
    rights = sorted({each.right for each in lacking})
    everywhere = [right for right in rights if not right.namespace]
    if everywhere:
        rights = [r for r in rights if r.resource not in {e.resource for e in everywhere}]
        rights = [*everywhere, *rights]
    return [
        command
        for namespace in sorted({right.namespace for right in rights})
        for command in _commands([r for r in rights if r.namespace == namespace], namespace, user)
    ]


def _commands(rights: Sequence[Right], namespace: str, user: str) -> Iterator[str]:
    """A role and its binding; of a namespace alone where it is named."""
    kind, binding = ("role", "rolebinding") if namespace else ("clusterrole", "clusterrolebinding")
    where = f" --namespace={_quoted(namespace)}" if namespace else ""
    resources = ",".join(right.resource for right in rights)
    verbs = "get" if {right.verb for right in rights} == {"get"} else _VERBS
    short = (right.resource.partition(".")[0].replace("/", "-") for right in rights)
    name = f"mpslice-sees-{'-'.join(short)}"
    bound = _quoted(f"{name}:{re.sub('[/%]', '-', user.removeprefix(_ACCOUNT)) or 'NAME'}")
    yield f"kubectl create {kind} {name} --verb={verbs} --resource={resources}{where}"
    yield f"kubectl create {binding} {bound} --{kind}={name} {_subject(user)}{where}"


def _subject(user: str) -> str:
    if user.startswith(_ACCOUNT):
        return f"--serviceaccount={_quoted(user.removeprefix(_ACCOUNT))}"
    return f"--user={_quoted(user or 'NAME')}"


def _quoted(text: str) -> str:
    return shlex.quote(inert(text))
