"""The oldest and the newest servers of each family, where they can be had; `make matrix` tries all of them."""

import pytest

from matrix.fetching import Cache, UnavailableError
from matrix.places import cache_directory
from matrix.programs import PROGRAMS
from matrix.runs import roles_of, try_program

#: What depends most on the version: events, replication stream, snapshots, commands. All cases would take minutes.
CASES = (
    "(test_life and (both_ways or many_kinds or no_writes)) or test_rdb"
    " or every_write_command or leaves_empty or filled_anew"
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("program", [each for each in PROGRAMS if each.ci], ids=lambda program: program.name)
def test_it_works_as_site_and_as_hub(program, tmp_path):
    try:
        fetched = Cache(cache_directory()).get(program)
    except UnavailableError as error:
        pytest.skip(f"{program.name} from {program.source} cannot be had here: {error}")
    outcome = try_program(fetched, roles_of(program.family)[0], tmp_path, quick=True, choice=CASES)
    log = outcome.logs and (outcome.logs / "pytest.log").read_text()
    assert not outcome.failures, f"{fetched.name}, seed {outcome.seed}, logs in {outcome.logs}:\n{log}"
