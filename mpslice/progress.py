"""What the planner notes on a pod and the agent reads there, too, with the names in it."""

import json
from collections.abc import Mapping
from typing import Any, Final

PROGRESS: Final = "mpslice.io/progress"
"""The annotation, a JSON object. Only the planner reads its other members."""

NOMINATED: Final = "nominated"
"""The node to which the planner nominated the pod."""

LATE: Final = "late"
"""True of a nomination that was made when the pod had no gate any more: a scheduler may have
decided on another node before."""

_LONGEST: Final = 65536  # characters; ours are far shorter


def members(text: str) -> Mapping[str, Any]:
    """The members of the annotation's object, {} for text that is not ours.

    The creator of a pod may write anything there.
    """
    if not text or len(text) > _LONGEST:
        return {}
    try:
        found = json.loads(text)
        if "\\u" in text:  # half a character may be escaped, which cannot be written
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_early(text: str, node: str) -> bool:
    """Whether the annotation says that the pod had its gate when it was nominated to the node."""
    found = members(text)
    return bool(node) and found.get(NOMINATED) == node and found.get(LATE) is not True
