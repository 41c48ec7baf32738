"""Which tests show that no peer hurts the daemon and no refusal loses data, for each fault; a file: all tests in it."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SHOWN = {
    "lengths and counts are not believed": """
        hostile/test_hostile_peers.py hostile/test_hostile_direct_hub.py wire/test_resp.py
        local/test_client.py::test_a_list_is_not_made_before_its_elements_come
        wire/test_feed.py::test_a_damaged_message""",
    "replies without an end": """
        hostile/test_hostile_peers.py remote/test_endless.py hostile/test_endless_scans.py wire/test_scan.py
        hostile/test_listener_clients.py
        local/test_client.py::test_only_a_reply_with_values_may_be_large""",
    "values outside the namespaces, and too large ones": """
        hostile/test_hostile_peers.py::test_a_hostile_site wire/test_unwanted.py""",
    "replies of the wrong shape": """
        hostile/test_hostile_peers.py hostile/test_hostile_direct_hub.py hostile/test_fuzz.py remote/test_any_reply.py
        local/test_client.py::test_replies_of_any_shape_are_values_or_errors_of_ours""",
    "a long poll for each namespace": """
        e2e/test_subscribe.py::test_three_hundred_namespaces_with_one_push_at_a_time
        e2e/test_subscribe.py::test_each_namespace_has_a_connection_for_its_long_poll""",
    "a hub that is down": """
        hostile/test_refusing_peers.py::test_a_hub_that_is_down_is_tried_ten_times_in_ten_seconds
        remote/test_health.py""",
    "a server that refuses everything": """
        hostile/test_refusing_peers.py::test_whatever_a_hub_answers_to_everything_no_key_is_given_up
        hostile/test_refusing_peers.py::test_a_hub_that_refuses_everything_gives_up_no_key
        hostile/test_refusing_peers.py::test_a_hub_that_refuses_everything_is_tried_seldom
        hostile/test_refusing_peers.py::test_a_hub_that_refuses_everything_is_seldom_fetched_from flow/test_tries.py
        hostile/test_refusing_peers.py::test_a_site_that_refuses_everything_gives_up_no_key
        e2e/test_denied_keys.py engine/test_refusals.py
        remote/test_push.py::test_a_hub_that_refuses_everything_is_no_fault_of_a_key
        remote/test_push.py::test_a_hub_that_finds_every_request_too_large_is_no_fault_of_a_key
        subcommands/test_check.py::test_a_hub_whose_password_webdis_does_not_have""",
    "a proxy that cannot keep bodies": """
        remote/test_push.py::test_a_real_proxy_that_cannot_keep_bodies_is_found_out
        remote/test_push.py::test_a_body_that_the_proxy_refuses_is_halved_until_it_fits
        remote/test_push.py::test_a_hub_that_is_back_when_it_is_asked_had_nothing_against_the_size
        subcommands/test_check.py::test_a_proxy_that_cannot_keep_bodies""",
    "evictions": """
        e2e/test_ancestor_evicted.py flow/test_pushing.py::test_what_the_site_evicted_is_not_removed_at_the_hub
        flow/test_applying.py::test_before_the_hub_loses_what_the_site_lacks_the_site_is_asked_whether_it_evicts
        subcommands/test_check.py::test_eviction""",
    "clocks, and expiries that no server can hold": """
        hostile/test_refusing_peers.py::test_no_expiry_that_a_peer_claims_is_too_large
        hostile/test_refusing_peers.py::test_a_hub_whose_clock_jumps_takes_nothing_from_the_site
        e2e/test_clocks.py flow/test_clocks.py remote/test_clock_shift.py
        subcommands/test_check.py::test_a_wrong_clock_is_told_with_the_remedy""",
    "commands that are denied or not known": """
        hostile/test_refusing_peers.py::test_a_hub_that_refuses_everything_gives_up_no_key
        e2e/test_missing_commands.py subcommands/test_check_commands.py""",
    "whom the site's connections trust": """
        local/test_client.py::test_only_the_authority_that_was_given_is_trusted
        e2e/test_errors.py::test_tls_trouble_at_the_site""",
    "no secret is shown": "test_showing.py e2e/test_errors.py::test_no_password_is_ever_shown",
    "an authority that was removed": """
        e2e/test_reload.py::test_an_authority_that_was_taken_out_of_the_file_is_not_trusted_any_more
        e2e/test_reload.py::test_an_authority_of_the_site_that_was_taken_out_is_not_trusted_any_more""",
    "what a terminal would obey": """
        hostile/test_refusing_peers.py::test_nothing_that_a_peer_says_is_obeyed_by_a_terminal
        test_showing.py::test_every_way_to_a_terminal_is_plain test_showing.py::test_the_live_table_is_plain
        observe/test_service.py::test_nothing_that_a_peer_says_is_told_as_it_is
        subcommands/test_conflicts.py""",
    "files that other users made": """
        store/test_directory.py tls/test_contexts.py::test_whether_others_may_read_a_key""",
    "files that are no files": """
        hostile/test_odd_files.py test_files.py store/test_directory.py::test_what_is_no_file_is_named""",
    "the shipped hub keeps its sites apart": "testbed/test_hub_files.py",
    "misleading words": "tls/test_contexts.py e2e/test_errors.py remote/test_transport.py",
    "pipes, proxies and versions": """
        subcommands/test_rdb_command_line.py remote/test_transport.py e2e/test_http_proxy.py""",
}


@pytest.mark.parametrize("fault", SHOWN)
def test_what_is_named_is_there(fault):
    for named in SHOWN[fault].split():
        name, _, test = named.partition("::")
        text = (TESTS / name).read_text()
        assert re.search(rf"(?m)^(async )?def {test or 'test_'}", text), named
