"""What ends the agent is also said in the NodeLayout, where there is one: a start that fails over
and over on one node is seen by whoever looks at the cluster, not only in that pod's log.
"""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Final

from mpslice.errors import MpsliceError
from mpslice.kube.api import NODE_LAYOUTS, Kube, PatchType
from mpslice.nodelayout import (
    ConditionType,
    condition_to_json,
    merge_conditions,
)
from nodeagent.agent import Connect
from nodeagent.cluster.report import ready
from nodeagent.cluster.view import project_layout, reported_status
from nodeagent.errors import AgentError

_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


def agent_error(error: BaseException) -> AgentError | None:
    """The AgentError that ended the agent, alone or somewhere in a group."""
    if isinstance(error, AgentError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(agent_error, error.exceptions)), None)
    return None


async def report_failure(connect: Connect, node_name: str, error: AgentError) -> None:
    """Makes the error the NodeLayout's condition Ready, if that can be done within seconds."""
    try:
        async with asyncio.timeout(_SECONDS):
            kube = await connect()
            try:
                await _write(kube, node_name, error)
            finally:
                await kube.close()
    except (MpsliceError, TimeoutError) as failure:
        log.debug("the NodeLayout does not tell", extra={"error": str(failure)})


async def _write(kube: Kube, node_name: str, error: AgentError) -> None:
    before = reported_status(project_layout(await kube.read(NODE_LAYOUTS, node_name))).conditions
    others = [condition for condition in before if condition.type is not ConditionType.READY]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = merge_conditions(before, [ready(error.condition, str(error)), *others], now=now)
    status = {"conditions": [condition_to_json(condition) for condition in conditions]}
    await kube.patch(
        NODE_LAYOUTS, node_name, {"status": status}, type=PatchType.MERGE, subresource="status"
    )
