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


@pytest.mark.parametrize(
    ("env", "field"),
    [
        ({"pip": 5}, "pip"),
        ({"pip": "requirements.txt"}, "pip"),
        ({"pip": ["a", 5]}, "pip"),
        ({"pip": {}}, "pip.packages"),
        ({"pip": {"packages": "a"}}, "pip.packages"),
        ({"pip": {"packages": ["a"], "pip_check": "yes"}}, "pip.pip_check"),
        ({"pip": {"packages": ["a"], "index": "b"}}, "pip.index"),
        ({"uv": {"packages": ["a"], "pip_check": True}}, "uv.pip_check"),
        ({"uv": {"packages": ["a"], "uv_pip_install_options": [1]}}, "uv.uv_pip_install_options"),
        ({"conda": 5}, "conda"),
        ({"conda": "environment.yml"}, "conda"),
        ({"pip": ["a"], "uv": ["b"]}, "uv"),
        ({"conda": "base", "pip": ["a"]}, "conda"),
        ({"excludes": "a"}, "excludes"),
        ({"java_jars": [1]}, "java_jars"),
        ({"py_executable": ["python"]}, "py_executable"),
        ({"image_uri": 5}, "image_uri"),
        ({"image_uri": "a/b:1", "pip": ["a"]}, "image_uri"),
        ({"container": "a"}, "container"),
        ({"container": {"image": "a"}, "working_dir": "gcs://a.zip"}, "container"),
        ({"worker_process_setup_hook": 5}, "worker_process_setup_hook"),
        ({"config": 5}, "config"),
        ({"config": {"setup_timeout_seconds": 0}}, "config.setup_timeout_seconds"),
        ({"config": {"setup_timeout_seconds": True}}, "config.setup_timeout_seconds"),
        ({"config": {"eager_install": 1}}, "config.eager_install"),
        ({"config": {"timeout": 1}}, "config.timeout"),
        ({"working_dir": 5}, "working_dir"),
        ({"py_modules": "gcs://a.zip"}, "py_modules"),
        ({"py_modules": ["a"]}, "py_modules"),
        ({"env_vars": ["A"]}, "env_vars"),
        ({"env_vars": {"A": 1}}, "env_vars"),
        ({"nested": [{"a": ["\0"]}]}, "nested"),
    ],
)
def test_an_environment_that_ray_could_not_read_is_refused_by_its_field(
    env: dict[str, Any], field: str
) -> None:
    with pytest.raises(JobRejected) as refused:
        check_submission(submission(runtime_env=env))
    assert refused.value.field == f"runtime_env.{field}"


@pytest.mark.parametrize(
    "env",
    [
        {"pip": None, "uv": ["a"], "working_dir": None},
        {"pip": ["a"], "uv": [], "conda": None},
        {"pip": {"packages": ["a"], "pip_check": False, "pip_version": "==22.0.2"}},
        {"pip": {"packages": [], "pip_install_options": ["--upgrade"]}},
        {"uv": {"packages": ["a"], "uv_version": "==0.4.0", "uv_check": True}},
        {"conda": {"dependencies": ["pip", {"pip": ["a"]}]}},
        {"conda": "base", "excludes": ["*.log"], "env_vars": {}},
        {"image_uri": "a/b:1", "env_vars": {"A": "1"}, "config": {"eager_install": False}},
        {"config": {"setup_timeout_seconds": -1, "log_files": ["a"]}},
        {"plugin_of_theirs": {"anything": [1, None]}, "nsight": "default"},
    ],
)
def test_an_environment_that_ray_can_read_is_taken(env: dict[str, Any]) -> None:
    check_submission(submission(runtime_env=env))
