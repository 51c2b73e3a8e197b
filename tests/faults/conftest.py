"""What the operations of these tests are made of, made once."""

import pytest
from faults.operations import Kitchen


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    return Kitchen(tmp_path_factory.mktemp("faults"))
