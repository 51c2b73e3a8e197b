"""The short form of ``make faults``: of what no other test kills."""

import pytest
from faults.kills import survive
from faults.operations import Kitchen


@pytest.mark.parametrize("name, kills", [("separate", 3), ("evaluate", 2)])
def test_killed_at_random_moments(kitchen: Kitchen, name: str, kills: int) -> None:
    found = survive(kitchen.operation(name), kills)
    assert found.kills == kills and found.ends >= 1 and found.files > 1
