"""kubernetes-asyncio's client comes without its generated modules, and leaves the package whole."""

import subprocess
import sys


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def test_no_generated_module_is_loaded() -> None:
    loaded = python(
        "import sys, mpslice.kube.session\n"
        "print(*(m for m in sys.modules if m.startswith('kubernetes_asyncio.client.')))"
    )
    assert "kubernetes_asyncio.client.api_client" in loaded.split()
    assert ".models." not in loaded
    assert ".api." not in loaded


def test_who_imports_the_package_afterwards_gets_all_of_it() -> None:
    same = python(
        "import mpslice.kube.client as ours\n"
        "import kubernetes_asyncio.client as whole\n"
        "print(whole.ApiClient is ours.ApiClient, whole.V1Pod.__name__, whole.CoreV1Api.__name__)"
    )
    assert same == "True V1Pod CoreV1Api"


def test_who_has_imported_the_package_before_keeps_it() -> None:
    same = python(
        "import kubernetes_asyncio.client as whole\n"
        "import mpslice.kube.client as ours\n"
        "import kubernetes_asyncio.client as still\n"
        "print(whole is still, whole.ApiClient is ours.ApiClient)"
    )
    assert same == "True True"
