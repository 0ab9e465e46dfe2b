"""`mpslice-webhook`: its flags, and how they become settings."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mpslice.errors import MpsliceError
from mpslice.flags import (
    FlagParser,
    absolute_path,
    address,
    boolean,
    choice,
    duration,
    need_programs_extra,
    user_id,
)
from mpslice.slices import SliceSize, parse_size_label
from webhook.errors import BadStart

if TYPE_CHECKING:
    from webhook.certificate import Source
    from webhook.service import ServiceSettings
    from webhook.settings import Settings

_SHORTEST_LIFE: Final = 5.0  # seconds
_LONGEST_LIFE: Final = 876_000 * 3600.0


_DESCRIPTION: Final = """\
Completes slice pods, and refuses bad ones.

Examples:
  mpslice-webhook --namespace=mpslice-system --enforcement=warn --allowed-sizes=10gb,20gb
  mpslice-webhook --standalone --listen=127.0.0.1:8443"""


def flags() -> FlagParser:
    """The flags; others may rely on those in docs/design/programs.md."""
    parser = FlagParser("mpslice-webhook", _DESCRIPTION)
    parser.add_version()
    parser.flag("--listen", address, "0.0.0.0:8443", "admission reviews, with TLS")
    parser.flag("--ops-listen", address, "0.0.0.0:8080", "health, readiness and metrics")
    _policy_flags(parser)
    _certificate_flags(parser)
    text = "CA certificates; only clients with a certificate from them are served, else all"
    parser.flag("--client-ca-file", str, "", text, "FILE")
    text = "common names, by commas, that clients' certificates may have, else all from that CA"
    parser.flag("--client-names", _names, "", text, "LIST")
    text = "no cluster at all: GPU sizes are unknown; without files, a certificate nobody trusts"
    parser.flag("--standalone", boolean, "false", text)
    parser.flag("--shutdown-delay", duration, "10s", "serve on for so long after SIGTERM")
    parser.flag("--kubeconfig", str, "", "in-cluster credentials are used without it", "FILE")
    levels = choice("debug", "info", "warning", "error")
    parser.flag("--log-level", levels, "info", "the least severe lines to log")
    return parser


def _policy_flags(parser: FlagParser) -> None:
    deny_or_warn = choice("deny", "warn")
    parser.flag("--mps-user", user_id, "1000", "the uid that the MPS servers serve")
    parser.flag("--host-ipc", boolean, "true", "slice pods get and need hostIPC")
    parser.flag("--gate", boolean, "true", "slice pods get the scheduling gate")
    parser.flag("--enforcement", deny_or_warn, "deny", "what becomes of a bad slice pod")
    parser.flag("--dev-shm", choice("deny", "strip"), "deny", "what becomes of mounts at /dev/shm")
    parser.flag(
        "--allowed-sizes", _sizes, "", "slice sizes that may be asked for, else all", "LIST"
    )
    text = "slice pods get their gb as the resource mpslice.io/gb, which quotas count"
    parser.flag("--quota", boolean, "false", text)
    parser.flag("--too-large", deny_or_warn, "warn", "a slice larger than every known GPU")
    text = "slice containers that are privileged or may become root"
    parser.flag("--privilege-escalation", deny_or_warn, "warn", text)
    compute = choice("shared", "proportional")
    parser.flag("--compute", compute, "shared", "proportional: the thread percentage is reserved")
    text = "the RuntimeClass that slice pods get that name none"
    parser.flag("--pod-runtime-class-name", str, "", text, "NAME")
    text = "where the MPS daemons' pipes are on the host; no container of a slice pod mounts it"
    parser.flag("--mps-root", absolute_path, "/run/mpslice", text, "DIR")


def _certificate_flags(parser: FlagParser) -> None:
    parser.flag("--tls-cert-file", str, "", "a chain that others renew; reloaded on change", "FILE")
    parser.flag("--tls-private-key-file", str, "", "its key", "FILE")
    parser.flag("--tls-secret", str, "mpslice-webhook-tls", "the Secret of our own certificates")
    parser.flag("--tls-ca-lifetime", _lifetime, "43800h", "how long our CA lives")
    parser.flag("--tls-cert-lifetime", _lifetime, "2160h", "how long our certificate lives")
    text = "a new CA signs once every API server has had it for so long"
    parser.flag("--tls-propagation", duration, "30s", text)
    parser.flag("--namespace", str, "mpslice-system", "where Service and Secret are")
    parser.flag("--service-name", str, "mpslice-webhook", "the Service, part of the names")
    parser.flag("--cluster-domain", str, "cluster.local", "the cluster's domain, likewise")
    text = "the configurations, by commas, that get our CA"
    parser.flag("--mutating-configurations", _names, "mpslice-pods", text, "LIST")
    parser.flag(
        "--validating-configurations", _names, "mpslice-pods,mpslice-workloads", text, "LIST"
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _lifetime(text: str) -> timedelta:
    """Whole seconds are all that X.509 counts, and its years have four digits."""
    seconds = duration(text)
    if not _SHORTEST_LIFE <= seconds <= _LONGEST_LIFE:
        raise ValueError("is no lifetime of 5s to 876000h (100 years)")
    return timedelta(seconds=seconds)


def _sizes(text: str) -> frozenset[SliceSize]:
    sizes = {label: parse_size_label(label) for label in _names(text)}
    if None in sizes.values():
        raise ValueError("is not a list of sizes; write for example 10gb,20gb")
    return frozenset(size for size in sizes.values() if size is not None)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; ends with 0 after SIGTERM, with 1 and one line when it cannot go on."""
    options = flags().parse(arguments)
    need_programs_extra("mpslice-webhook", "cryptography", "msgspec")
    # Imported late, so that --help and a bad flag answer at once.
    from mpslice.logs import set_up_logging
    from mpslice.processes import run_until_signal
    from webhook.service import serve

    set_up_logging(options.log_level)
    try:
        run_until_signal(serve(_settings(options)))
    except MpsliceError as error:
        sys.exit(f"mpslice-webhook: {error}")


def _settings(options: Namespace) -> ServiceSettings:
    from webhook.service import ServiceSettings

    if options.client_names and not options.client_ca_file:
        raise BadStart("--client-names needs --client-ca-file; give both, or neither")
    return ServiceSettings(
        policy=_policy(options),
        listen=options.listen,
        ops_listen=options.ops_listen,
        certificate=_certificate(options),
        standalone=options.standalone,
        kubeconfig=options.kubeconfig,
        shutdown_delay=options.shutdown_delay,
        client_ca_file=options.client_ca_file,
        client_names=options.client_names or (),
    )


def _policy(options: Namespace) -> Settings:
    from webhook.settings import (
        Compute,
        DevShm,
        Enforcement,
        PrivilegeEscalation,
        Settings,
        TooLarge,
    )

    return Settings(
        mps_user=options.mps_user,
        host_ipc=options.host_ipc,
        gate=options.gate,
        enforcement=Enforcement(options.enforcement),
        dev_shm=DevShm(options.dev_shm),
        too_large=TooLarge(options.too_large),
        privilege_escalation=PrivilegeEscalation(options.privilege_escalation),
        compute=Compute(options.compute),
        pod_runtime_class_name=options.pod_runtime_class_name or "",
        mps_root=str(options.mps_root),
        allowed_sizes=options.allowed_sizes or frozenset(),
        quota=options.quota,
    )


def settings_of(arguments: Iterable[str]) -> Settings:
    """What the arguments of a webhook that runs say of admission, as in its Deployment; those about
    anything else are left out.
    """
    parser = FlagParser("mpslice-webhook")
    _policy_flags(parser)
    known = {name for action in parser._actions for name in action.option_strings}
    ours = [text for text in arguments if text.partition("=")[0] in known]
    return _policy(parser.parse(ours, {}))


def _certificate(options: Namespace) -> Source:
    from webhook.certificate import Files, Managed, Names, Throwaway

    names = Names(
        namespace=options.namespace,
        service_name=options.service_name,
        cluster_domain=options.cluster_domain,
        mutating_configurations=options.mutating_configurations,
        validating_configurations=options.validating_configurations,
    )
    certificate, key = options.tls_cert_file, options.tls_private_key_file
    if certificate and key:
        return Files(certificate, key, names)
    if certificate or key:
        missing = "--tls-private-key-file" if certificate else "--tls-cert-file"
        raise BadStart(f"{missing} is missing; a certificate and its key are given together")
    if options.standalone:
        return Throwaway(names)
    return Managed(
        secret_name=options.tls_secret,
        names=names,
        authority_life=options.tls_ca_lifetime,
        leaf_life=options.tls_cert_lifetime,
        propagation=options.tls_propagation,
    )


if __name__ == "__main__":
    main()
