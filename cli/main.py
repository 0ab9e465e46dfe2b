"""`kubectl mpslice`: the command line. Each command imports what it needs when it is called."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli import kueue
from cli.connect import KUBECONFIG_HELP, with_session
from cli.nodetemplate import command as node_template
from cli.plan import command as plan
from cli.status import command as status
from cli.terminal import inert
from cli.top import command as memory
from cli.why import command as why
from mpslice import __version__
from mpslice.errors import MpsliceError
from mpslice.flags import FlagParser, choice, slice_size

if TYPE_CHECKING:
    from mpslice.kube.session import Session

_DESCRIPTION = """\
Shows GPU memory slices of pods, explains why pods wait, and plans without a cluster.

Examples:
  kubectl mpslice plan --live -f my-pods.yaml --assume-label=nvidia.com/gpu.present=true
  kubectl mpslice status --namespace=team-a
  kubectl mpslice why train-0"""

_PLACED, _SOME_NOT, _UNUSABLE = 0, 1, 2
_SOME_HOLD = 1
_INTERRUPTED = 130  # as shells have it for SIGINT


def parser() -> FlagParser:
    """The commands and their flags."""
    top = FlagParser("kubectl mpslice", _DESCRIPTION)
    top.add_version()
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (plan, status, why, memory, node_template):
        command.add_command(commands)
    holders = commands.add_parser(
        "holders",
        help="list the containers that hold a slice",
        description=(
            "Lists the containers that hold a slice, before a node is drained or the chart is\n"
            "uninstalled.\n\n"
            "Examples:\n"
            "  kubectl mpslice holders --node=gpu-1\n"
            "  kubectl mpslice holders --gated\n\n"
            "Exit status: 0 there are none; 1 there are some; 2 the answer is unknown."
        ),
    )
    holders.flag("--node", str, "", "only this node", "NAME")
    text = "name the pods that carry the gate, too; they do not change the exit status"
    holders.add_argument("--gated", action="store_true", help=text)
    holders.flag("--kubeconfig", str, "", KUBECONFIG_HELP, "FILE")
    holders.set_defaults(run=_holders)
    ungate = commands.add_parser(
        "ungate",
        help="take mpslice's scheduling gate away from pods, after mpslice was removed",
        description=(
            "Takes the gate mpslice.io/carve away from all pods that carry it, so that the\n"
            "scheduler says why they wait. Meant for a cluster that mpslice was removed from;\n"
            "mpslice need not be there.\n\n"
            "Examples:\n"
            "  kubectl mpslice ungate --dry-run\n"
            "  kubectl mpslice ungate --namespace=team-a\n\n"
            "Exit status: 0 no pod carries the gate; 1 a gate could not be taken away, or\n"
            "--dry-run found some; 2 the answer is unknown."
        ),
    )
    ungate.add_argument("--dry-run", action="store_true", help="only name the pods")
    text = "do nothing while mpslice's webhook is installed, which gives pods the gate"
    ungate.add_argument("--if-uninstalled", action="store_true", help=text)
    ungate.flag("--namespace", str, "", "only this namespace", "NAME", short="-n")
    ungate.flag("--kubeconfig", str, "", KUBECONFIG_HELP, "FILE")
    ungate.set_defaults(run=_ungate)
    kueue.add_command(commands)
    check = commands.add_parser(
        "check",
        help="ask in dry run whether slice pods are completed and wrong ones refused",
        description=(
            "Asks the API server, in dry run, for a slice pod and for one that breaks a rule, and\n"
            "prints what the pod gets and how the other is refused. `helm test` runs it.\n\n"
            "Examples:\n"
            "  kubectl mpslice check --namespace=team-a --size=20gb\n"
            "  kubectl mpslice check --enforcement=warn\n\n"
            "Exit status: 0 all is as it should be; 1 it is not; 2 the answer is unknown."
        ),
    )
    check.flag("--namespace", str, "default", "the namespace of the pods", "NAME", short="-n")
    check.flag("--size", slice_size, "10gb", "the slice size to ask for")
    text = "the chart's admission.enforcement; with warn nothing is refused"
    check.flag("--enforcement", choice("deny", "warn"), "deny", text)
    check.flag("--kubeconfig", str, "", KUBECONFIG_HELP, "FILE")
    check.set_defaults(run=_check)
    completion = commands.add_parser(
        "completion",
        help="print the program that completes words for kubectl",
        description=(
            "Prints the program that kubectl's own completion, in any shell, runs for the words\n"
            "after `kubectl mpslice`. An installation by pip or pipx has it already; after one\n"
            "by krew it has to be put on the PATH.\n\n"
            "Examples:\n"
            "  kubectl mpslice completion > ~/.krew/bin/kubectl_complete-mpslice\n"
            "  chmod +x ~/.krew/bin/kubectl_complete-mpslice"
        ),
    )
    completion.set_defaults(run=_completion)
    version = commands.add_parser(
        "version",
        help="print the version",
        description="Prints the version.\n\nExamples:\n  kubectl mpslice version",
    )
    version.set_defaults(run=_version)
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; exits with the command's status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["__complete"]:
        return complete(words[1:])
    options = parser().parse(words)
    try:
        result = options.run(options)
        sys.stdout.flush()
        sys.exit(result)
    except MpsliceError as error:
        print(f"kubectl mpslice: {inert(error)}", file=sys.stderr)
        sys.exit(_UNUSABLE)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader is gone: print nothing more, not even at exit
        sys.exit(_UNUSABLE)
    except OSError as error:  # such as a full disk behind `>`
        print(f"kubectl mpslice: {inert(error.strerror or error)}", file=sys.stderr)
        # Python flushes what is left at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_UNUSABLE)


def complete(words: Sequence[str] | None = None) -> None:
    """The program `kubectl_complete-mpslice`: prints what the last of the words may become."""
    from cli.completion import answer, ask_kubectl
    from mpslice.commandline import describe

    given = sys.argv[1:] if words is None else words
    print("\n".join(answer(describe(parser()), given, ask_kubectl, os.environ)))


def _holders(options: Namespace) -> int:
    from cli.gates import find_gated
    from cli.holders import find

    async def ask(kube: Session) -> int:
        # The gated pods first: an uninstall that is refused ends with what refuses it.
        for pod in await find_gated(kube) if options.gated else ():
            print(f"{pod}; once mpslice is uninstalled, `kubectl mpslice ungate` takes it away")
        found = await find(kube, options.node or "")
        for holder in found:
            print(holder)
        return _SOME_HOLD if found else _PLACED

    return with_session(options, ask)


def _ungate(options: Namespace) -> int:
    from cli.gates import CONFIGURATION, find_gated, is_installed, ungate

    async def remove(kube: Session) -> int:
        if options.if_uninstalled and await is_installed(kube):
            text = (
                f"mutating webhook configuration {CONFIGURATION} is there, so mpslice is installed"
            )
            print(f"{text} and its planner takes gates away; nothing was done")
            return _PLACED
        failed = False
        for pod in await find_gated(kube, options.namespace or ""):
            if options.dry_run:
                print(pod)
                failed = True
                continue
            error = await ungate(kube, pod)
            failed = failed or bool(error)
            what = f"keeps it: {error}" if error else "the gate is taken away"
            print(f"{pod.namespace}/{pod.name}: {what}")
        return _SOME_HOLD if failed else _PLACED

    return with_session(options, remove)


def _check(options: Namespace) -> int:
    from cli.check import completed, refused

    async def ask(kube: Session) -> int:
        findings = [await completed(kube, options.namespace, options.size)]
        if options.enforcement == "deny":
            findings.append(await refused(kube, options.namespace, options.size))
        for finding in findings:
            print("\n".join(finding.lines))
        return _PLACED if all(finding.good for finding in findings) else _SOME_NOT

    return with_session(options, ask)


def _completion(_options: Namespace) -> int:
    from cli.completion import SCRIPT

    print(SCRIPT, end="")
    return _PLACED


def _version(_options: Namespace) -> int:
    print(__version__)
    return _PLACED


if __name__ == "__main__":
    main()
