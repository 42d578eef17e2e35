import os

import pytest

if not hasattr(os, "fork"):
    pytest.skip("faults strike processes of POSIX", allow_module_level=True)

from benchmarks.faults.__main__ import Config, outcomes
from benchmarks.faults.strike import FAULTS, Outcome
from benchmarks.faults.subjects import SUBJECTS


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_nothing_is_lost_beyond_the_last_checkpoint_and_every_fault_is_told(tmp_path):
    found = list(outcomes(Config(num_faults=16, out=tmp_path)))
    assert list(outcomes(Config(num_faults=16, out=tmp_path))) == found
    assert {(one.subject, one.fault) for one in found} == {(name, fault) for name in SUBJECTS for fault in FAULTS}
    assert all(one.recovered for one in found), found
    assert all(one.told for one in found if one.subject != "library of skills"), "a page of SQLite has unused bytes"
    assert max(one.lost for one in found if one.lost is not None) <= 2


def test_harm_without_a_word_is_counted():
    assert Outcome("weights", "kill", "", "", 0, recovered=False).silent
    assert not Outcome("weights", "kill", "", "killed", 0, recovered=False).silent
