"""Objects that are no Kubernetes objects: the first field that is wrong is named."""

from typing import Any

import pytest

from mpslice.kube.shapes import NODE, POD, WrongShape, check_shape

WRONG: list[tuple[Any, Any, str]] = [
    (POD, 5, "the object is 5; write a map"),
    (POD, {"spec": {"nodeName": 5}}, "spec.nodeName is 5; write a text"),
    (POD, {"spec": {"priority": True}}, "spec.priority is True; write a whole number"),
    (POD, {"spec": {"tolerations": {}}}, "spec.tolerations is {}; write a list"),
    (POD, {"spec": {"tolerations": [None]}}, "spec.tolerations[0] is None; write a map"),
    (POD, {"spec": {"hostNetwork": "yes"}}, "spec.hostNetwork is 'yes'; write true or false"),
    (NODE, {"metadata": {"labels": {"zone": {}}}}, "metadata.labels.zone is {}; write a text"),
    (NODE, {"metadata": {"labels": {1: "a"}}}, "metadata.labels.1 is 1; write a text"),
    (NODE, {"spec": {"taints": [{"key": []}]}}, "spec.taints[0].key is []; write a text"),
]


@pytest.mark.parametrize(("shape", "value", "message"), WRONG)
def test_first_wrong_field_is_named_with_what_to_write(
    shape: Any, value: Any, message: str
) -> None:
    with pytest.raises(WrongShape) as raised:
        check_shape(value, shape)
    assert str(raised.value) == message


def test_null_stands_for_absent_and_unknown_fields_are_anything() -> None:
    check_shape({"metadata": None, "spec": {"nodeName": None, "hostname": 5}}, POD)
