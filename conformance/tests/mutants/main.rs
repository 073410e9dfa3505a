//! Whether the suite can fail: backends with one fault each, and the case that catches it.
//!
//! Each is the memory backend with something wrong. Without a fault it passes all of these cases.

mod registry;
mod watcher;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use registry_conformance::{Backend, check};

use registry::{Mutant, Wrong};

/// What is wrong, the case that must notice, and words of its message: it must fail for the right reason.
#[rustfmt::skip]
const MUTANTS: &[(Wrong, &str, &str)] = &[
    (Wrong::LosesMetadata, "register::a_record_reads_back_field_by_field", "metadata is"),
    (Wrong::IgnoresChecks, "register::a_check_that_the_registry_cannot_run_is_refused", "what is said to a"),
    (Wrong::ToleratesConflicts, "register::two_live_owners_of_an_id_conflict", "what the second owner is told"),
    (Wrong::ToleratesConflicts, "register::owners_of_one_id_do_not_fight", "what the second is told"),
    (Wrong::WritesLate, "register::writes_of_one_instance_take_effect_in_order", "nothing changes any more"),
    (Wrong::ReplacesByRemoval, "register::a_changed_record_is_one_upsert", "what was told of one change"),
    (Wrong::Repeats, "register::a_changed_record_is_one_upsert", "what was told of one change"),
    (Wrong::ShortensTtl, "liveness::a_silent_registration_lapses_and_not_before_its_ttl", "it was told as gone after"),
    (Wrong::IgnoresTtl, "liveness::a_silent_registration_lapses_and_not_before_its_ttl", "nobody who lives"),
    (Wrong::AlwaysRenews, "liveness::a_forgotten_registration_is_unknown_to_a_renewal", "one of which was lost"),
    (Wrong::RenewalCreates, "liveness::a_renewal_creates_nothing", "renewals of what is not registered say"),
    (Wrong::RepublishesTheFirst, "liveness::a_forgotten_registration_comes_back_as_last_published", "weight is 1 and not 5"),
    (Wrong::KeepsTheDeregistered, "deregister::what_was_deregistered_is_gone_for_everybody", "watch to show 1 instances"),
    (Wrong::DropsRemovals, "deregister::what_was_deregistered_is_gone_for_everybody", "watch to show 1 instances"),
    (Wrong::RefusesUnknownKeys, "deregister::deregistering_again_is_ok", "no such instance"),
    (Wrong::FailureIsEmpty, "lookup::an_outage_is_an_error_and_not_an_empty_list", "lookup answers Ok"),
    (Wrong::MatchesPrefixes, "lookup::a_service_is_matched_exactly", "watch to show 1 instances"),
    (Wrong::IgnoresTheDatacenter, "lookup::a_datacenter_is_refused", "what lookup says to a data centre"),
    (Wrong::ListsWhatWas, "lookup::services_are_those_with_an_instance", "the one that is left"),
    (Wrong::OutlivesClose, "lookup::a_closed_registry_refuses_every_call", "the end of the watch"),
    (Wrong::SkipsTheSnapshot, "watch::first_event_is_a_snapshot", "the first item is"),
    (Wrong::OpensLate, "watch::nothing_is_missed_while_a_watch_starts", "for the watch to show"),
    (Wrong::GoesBack, "watch::an_instance_never_goes_back", "came after state"),
    (Wrong::TellsHeartbeats, "watch::nothing_is_told_without_a_change", "nothing changed and the watch told"),
    (Wrong::HidesTheUnhealthy, "watch::an_unhealthy_instance_is_not_removed", "watch to show 1 instances"),
    (Wrong::ResumesAfterAGap, "watch::a_watch_that_failed_is_finished", "the end of the watch took longer"),
    (Wrong::GoesOnAfterAnError, "watch::a_watch_that_failed_is_finished", "after its error the watch yields"),
    (Wrong::LosesWhatIsDropped, "watch::a_dropped_next_loses_nothing", "watch"),
    (Wrong::BuffersWithoutBound, "watch::a_slow_consumer_is_coalesced_and_hurts_nobody", "were kept for a watch"),
    (Wrong::WaitsForReaders, "watch::a_slow_consumer_is_coalesced_and_hurts_nobody", "a slow reader holds up"),
    (Wrong::OneWatchPerService, "watch::two_watches_each_get_everything", "watch to show 1 instances"),
    (Wrong::LeavesATask, "watch::first_event_is_a_snapshot", "every task to end"),
    (Wrong::HidesTheUnhealthy, "health::a_failing_check_shows_until_it_passes", "watch to show 1 instances"),
    (Wrong::HidesTheUnhealthy, "health::what_a_program_reports_of_itself_shows", "watch to show 1 instances"),
    (Wrong::DropsRemovals, "grpc::a_server_that_restarts_costs_no_call", "a fresh view of 2 instances"),
    (Wrong::HidesTheUnhealthy, "grpc::who_cannot_be_called_costs_no_call", "the removal of an unknown instance"),
    (Wrong::OutageIsEmpty, "faults::an_outage_keeps_the_last_good_set", "view to be stale"),
    (Wrong::BelievesTheEmpty, "faults::a_mass_loss_is_doubted_and_then_believed", "the loss is doubted"),
    (Wrong::ClaimsLess, "limits::capability_is_as_pinned", "what the client claims"),
    (Wrong::IgnoresOptions, "security::an_unknown_option_is_refused_by_name", "an unknown option was ignored"),
    (Wrong::ShowsItsUrl, "security::a_secret_never_shows", "the password shows"),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(16);
    let caught = MUTANTS.iter().map(|&(wrong, case, words)| {
        Trial::test(
            format!("{wrong:?} is caught by {case}"),
            move || match check(&backend(Some(wrong)), case) {
                Ok(()) => Err(Failed::from("it passes")),
                Err(failure) if failure.message().contains(words) => Ok(()),
                Err(failure) => Err(Failed::from(format!(
                    "it fails without saying {words:?}: {}",
                    failure.message()
                ))),
            },
        )
    });
    let cases: BTreeSet<_> = MUTANTS.iter().map(|(_, case, _)| *case).collect();
    let passed = cases.into_iter().map(|case| {
        Trial::test(format!("without a fault {case} passes"), move || {
            check(&backend(None), case).map_err(|failure| Failed::from(failure.message()))
        })
    });
    libtest_mimic::run(&arguments, passed.chain(caught).collect()).exit_code()
}

fn backend(wrong: Option<Wrong>) -> Arc<dyn Backend> {
    Arc::new(Mutant::new(wrong))
}
