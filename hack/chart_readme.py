"""`python -m hack.chart_readme`: writes the chart's README and docs/values.md, with all values.

The comments of values.yaml are the text of both.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

from hack.chart_values import value_sections
from hack.cluster.layout import CHART

README = CHART / "README.md"
PAGE = CHART.parents[1] / "docs" / "values.md"

_HEAD = """\
<!-- Made by `python -m hack.chart_readme` from Chart.yaml and values.yaml. -->
# {name}

{description}.

| chart | application | Kubernetes |
| --- | --- | --- |
| {version} | {appVersion} | {kubeVersion} |

```sh
helm install mpslice helm/mpslice --namespace mpslice-system --create-namespace --wait \\
    --set image.repository=registry.example.com/mpslice
helm test mpslice --namespace mpslice-system         # is admission asked, and does it answer?
helm uninstall mpslice --namespace mpslice-system    # refused while pods hold slices
```

The pages `docs/install.md`, `docs/gitops.md` and `docs/operations.md` of the project say more. Give
`--no-hooks` to `helm template`: the Jobs of `helm test` and `helm uninstall` do not belong to an
installation.

"""


_PAGE_HEAD = """\
<!-- Made by `python -m hack.chart_readme` from values.yaml. -->
# Values

Every value of the chart with its default, made from `helm/mpslice/values.yaml`. A value that cannot
work is refused by `helm install` with its name and what is allowed. *Tested*: that each reaches the
flag of its program, and that the combinations of the modes are accepted by a real API server.

"""


def page() -> str:
    """The documentation's page as it should be."""
    return re.sub(r"\n{3,}", "\n\n", _PAGE_HEAD + "\n".join(value_sections()).rstrip() + "\n")


def text() -> str:
    """The README as it should be."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    sections = re.sub(r"^## ", "### ", "\n".join(value_sections()), flags=re.MULTILINE)
    whole = _HEAD.format(**chart) + "## Values\n\n" + sections.rstrip() + "\n"
    return re.sub(r"\n{3,}", "\n\n", whole)


def main() -> None:
    """Write both, or the README alone to the path given."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text())
        return
    README.write_text(text())
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
