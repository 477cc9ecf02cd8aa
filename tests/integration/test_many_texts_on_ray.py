"""The example app with a thousand texts at once, on two hosts."""

from __future__ import annotations

import pytest

from agentray import ManagerClient
from tests.support.texts import analyse


@pytest.mark.timeout(300)
async def test_each_of_a_thousand_texts_gets_its_own_analysis(manager: ManagerClient) -> None:
    await analyse(manager, 1000)
