//! House rules: see `balsa_tests::tidy`.

use balsa_tests::{repository, tidy};

fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn crates_point_one_way() {
    none(tidy::forbidden_arrows(&repository()));
}

#[test]
fn every_file_says_what_it_is_about() {
    none(tidy::headless(&repository()));
}

#[test]
fn files_are_read_in_one_sitting() {
    none(tidy::too_long(&repository()));
}

#[test]
fn plans_are_pure() {
    none(tidy::impure_plans(&repository()));
}

#[test]
fn the_map_leads_somewhere() {
    none(tidy::dead_paths(&repository()));
}

#[test]
fn nothing_is_left_for_later_unsaid() {
    none(tidy::leftovers(&repository()));
}
