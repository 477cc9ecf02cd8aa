"""What is refused of a submission because no process could be started with it."""

from __future__ import annotations

from typing import Any

import pytest

from agentray.errors import JobRejected
from agentray.jobs.checks import check_submission
from agentray.protocol.jobs import JobSubmission

LONGEST = 128 * 1024 - 1  # bytes of one environment variable, its name included


def submission(**more: Any) -> JobSubmission:
    return JobSubmission.model_validate({"entrypoint": "true", **more})


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"secrets": {"A": "x" * (LONGEST - 1)}}, "secrets"),
        ({"secrets": {"A": "é" * (LONGEST // 2)}}, "secrets"),
        ({"metadata": {"a": "x" * 100_000}}, "metadata"),
        ({"runtime_env": {"env_vars": {"A": "x" * 100_000}}}, "runtime_env"),
        ({"entrypoint_resources": {"tpu": 2.0**50}}, "entrypoint_resources"),
    ],
)
def test_what_is_too_large_to_be_started_is_refused(more: dict[str, Any], field: str) -> None:
    with pytest.raises(JobRejected) as refused:
        check_submission(submission(**more))
    assert refused.value.field == field


def test_what_is_just_small_enough_is_taken() -> None:
    check_submission(
        submission(
            secrets={"A": "x" * (LONGEST - 2), "B": "x" * (LONGEST - 2)},
            metadata={"a": "x" * 40_000},
            runtime_env={"env_vars": {"A": "x" * 40_000}, "py_modules": ["gcs://a.zip"]},
            entrypoint_num_gpus=2,
            entrypoint_resources={"tpu": 0.5},
        )
    )
