import os

import pytest

if not hasattr(os, "fork"):
    pytest.skip("faults strike processes of POSIX", allow_module_level=True)

from benchmarks.faults import FAULTS, Config, Outcome, outcomes


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_nothing_is_lost_beyond_the_last_checkpoint_and_every_fault_is_told(tmp_path):
    found = list(outcomes(Config(num_faults=16, out=tmp_path)))
    assert list(outcomes(Config(num_faults=16, out=tmp_path))) == found
    assert {one.fault for one in found} == set(FAULTS)
    assert all(one.recovered and one.told for one in found), found
    assert max(one.lost for one in found if one.lost is not None) <= 2


def test_harm_without_a_word_is_counted():
    assert Outcome("weights", "kill", "", "", 0, recovered=False).silent
    assert not Outcome("weights", "kill", "", "killed", 0, recovered=False).silent
