//! The effect of a node's report on a machine in its current state. Pure, except for [`take`],
//! which records it.

use super::life::{self, Interest};
use crate::model::lease::Lease;
use crate::model::stage::Order;
use crate::model::state::{Event, State};
use crate::model::wire::{News, NextOrder, Report, StatusReply, Verdict};
use crate::server::registry::image::Image;
use crate::server::registry::vm::{Change, OnNode, Vm};
use crate::server::registry::{At, RegistryError, Writer};

/// The outcome of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The reply to the node.
    pub reply: StatusReply,
    /// What happened to the machine, if it matters to people.
    pub news: Option<(&'static str, String)>,
    /// Whether this report made a deploy fail.
    pub deploy_failed: bool,
}

/// The effect of a report on a machine.
struct Meaning {
    reply: StatusReply,
    news: Option<(&'static str, String)>,
    change: Option<Change>,
    /// Whether its disk has been saved under the intended name.
    is_saved: bool,
}

/// Records the effect of a report on the machine as it is now, within a transaction.
pub fn take(writer: &Writer<'_>, report: &Report, grace: Lease) -> Result<Outcome, RegistryError> {
    let Some(vm) = writer.vm(report.id)? else {
        let reply = StatusReply { verdict: Verdict::Unknown, next: None };
        return Ok(Outcome { reply, news: None, deploy_failed: false });
    };
    if let Some(facts) = &report.host {
        writer.keep_facts(&vm.physical_host, facts)?;
    }
    let Meaning { reply, news, change, is_saved } = meaning(&vm, report, grace, writer.at());
    if is_saved {
        keep_image(writer, &vm, report)?;
    }
    let has_changed = change.is_some();
    if let Some(change) = change {
        writer.apply(&vm, change)?;
    }
    let of_a_deploy = has_changed && report.order == Order::Deploy && vm.state == State::Deploying;
    if of_a_deploy && report.news == News::Done {
        writer.host_works(&vm.physical_host)?;
    }
    let deploy_failed = of_a_deploy && matches!(report.news, News::Failed { .. });
    Ok(Outcome { reply, news, deploy_failed })
}

/// Returns whether a report says that a deploy failed, that this still matters, and that nothing of
/// the machine is on its host.
pub fn leaves_nothing(vm: &Vm, report: &Report) -> bool {
    let interpreted = interpret(vm, report);
    report.order == Order::Deploy
        && interpreted.event == Some(Event::Failed)
        && interpreted.on_node == Some(OnNode::No)
}

fn meaning(vm: &Vm, report: &Report, grace: Lease, at: At) -> Meaning {
    let Interpretation { verdict, event, on_node, news } = interpret(vm, report);
    let lines = |news: &Option<(&'static str, String)>| {
        news.iter().map(|(what, detail)| ((*what).to_owned(), detail.clone())).collect::<Vec<_>>()
    };
    let Some(event) = event else {
        let is_gone = on_node == Some(OnNode::No);
        let known = if is_gone { life::not_there(vm) } else { Change::silent(vm.clone()) };
        let says_something = is_gone || news.is_some();
        let change = says_something.then(|| Change { history: lines(&news), ..known });
        let next = unheard(vm, report);
        return Meaning { reply: StatusReply { verdict, next }, news, change, is_saved: false };
    };
    let is_saved = matches!(report.news, News::Saved { .. }) && vm.saving.is_some();
    let ended = !matches!(report.news, News::Progress { .. });
    let settles_sizes = ended && report.order == Order::Resize && vm.resizing.is_some();
    let becomes = life::reported(vm, report, event, on_node, at);
    let (new, follows) = match becomes {
        Some(new) => (new, true),
        None if is_saved => (life::saved_late(vm), false),
        None if settles_sizes => (life::resized_late(vm, report), false),
        None if event == Event::Deployed && vm.state == State::Deployed && vm.fault.is_some() => {
            (life::mended(vm), false)
        }
        None => {
            let reply = StatusReply { verdict, next: None };
            return Meaning { reply, news: None, change: None, is_saved };
        }
    };
    let ends = is_saved && vm.saving.as_ref().is_some_and(|saving| saving.then_terminate);
    let change = Change { history: lines(&news), ..Change::silent(new) }.and(|new| match (follows, ends) {
        (false, _) => None,
        (true, true) => life::ordered(new, Order::Terminate, Interest::Owner, None, at),
        (true, false) => life::after_stop(new, vm, report.order, grace, at),
    });
    let next = change.next.map(|_| last_order(&change.vm));
    Meaning { reply: StatusReply { verdict, next }, news, change: Some(change), is_saved }
}

/// Returns the order given in the reply to an earlier copy of this report. A node repeats a report
/// if it never received the reply.
fn unheard(vm: &Vm, report: &Report) -> Option<NextOrder> {
    let ended = !matches!(report.news, News::Progress { .. });
    let waits = vm.state.is_transitional() && vm.sequence == 0 && vm.order != report.order;
    (ended && waits && !matches!(vm.order, Order::Deploy | Order::Save | Order::Resize))
        .then(|| last_order(vm))
}

/// Returns the last order about a machine.
fn last_order(vm: &Vm) -> NextOrder {
    NextOrder { order: vm.order, number: vm.number }
}

/// Records the image that a machine's disk was saved as.
fn keep_image(writer: &Writer<'_>, vm: &Vm, report: &Report) -> Result<(), RegistryError> {
    let (News::Saved { bytes }, Some(saving)) = (&report.news, &vm.saving) else { return Ok(()) };
    writer.keep_image(&Image {
        owner: vm.owner.clone(),
        name: saving.name.clone(),
        host: vm.physical_host.clone(),
        base: vm.spec.image.clone(),
        bytes: *bytes,
        disk: vm.spec.disk,
        shared: false,
        saved: writer.now(),
    })
}

/// The verdict on a report.
struct Interpretation {
    verdict: Verdict,
    /// The resulting event of the machine.
    event: Option<Event>,
    /// Whether anything of it can still be on its host.
    on_node: Option<OnNode>,
    /// A line for its history.
    news: Option<(&'static str, String)>,
}

/// Judges a report by the machine as it is now. Reports may be late, repeated, or about an order
/// that was given up.
///
/// A node's report about the last order counts even then, as far as the table of states allows,
/// with one exception: a machine that counts as failed or gone must not come to life behind its
/// owner's back. The node is told to undo its deploy, which it does unless the machine has already
/// run.
fn interpret(vm: &Vm, report: &Report) -> Interpretation {
    let nothing = |verdict| Interpretation { verdict, event: None, on_node: None, news: None };
    let Report { order, news, number, .. } = report;
    // Whether the report means that nothing of the machine is left on its node.
    let ended =
        matches!((order, news), (Order::Deploy, News::Failed { .. }) | (Order::Terminate, News::Done));
    if !vm.state.is_live() {
        return nothing(if ended { Verdict::Continue } else { Verdict::Abandon });
    }
    if vm.state == State::Failed && *order == Order::Deploy && !ended {
        // The node keeps a machine that has run; its owner can terminate it.
        let line = match news {
            News::Done => ("runs all the same", "its deploy counts as failed; terminate it to remove it"),
            _ => ("told to undo it", "its host reported work on a machine that counts as failed"),
        };
        return Interpretation { news: Some((line.0, line.1.to_owned())), ..nothing(Verdict::Abandon) };
    }
    // The report concerns an earlier order, possibly of the same kind.
    let is_late = *order == vm.order && *number < vm.number;
    if is_late || *order == vm.order && report.sequence < vm.sequence {
        return nothing(Verdict::Continue);
    }
    // The server had given up waiting, but the node did have the order.
    let given_up = vm.state == State::Failed && *order == Order::Terminate && vm.order == Order::Terminate;
    if vm.state == State::Failed && ended && !given_up {
        // The node has undone the deploy after all; the reason why it counts as failed stays.
        let undone = vm.on_node == OnNode::Maybe;
        return Interpretation {
            on_node: undone.then_some(OnNode::No),
            news: undone.then(|| ("removed by its host", "nothing of it is left there".to_owned())),
            ..nothing(Verdict::Continue)
        };
    }
    if *order != vm.order {
        return nothing(Verdict::Continue);
    }
    let (event, line) = match (news, order) {
        // A new percentage alone is not worth a line.
        (News::Progress { stage, .. }, _) => {
            (Event::Progress, (vm.stage != Some(*stage)).then(|| ("stage", stage.to_string())))
        }
        (News::Done, Order::Deploy) => (Event::Deployed, Some(("deployed", "it runs".to_owned()))),
        (News::Done, Order::Start) => (Event::Deployed, Some(("started", "it runs".to_owned()))),
        (News::Done, Order::Reboot) => (Event::Deployed, Some(("rebooted", "it runs again".to_owned()))),
        (News::Saved { .. }, Order::Save) => {
            let name = vm.saving.as_ref().map(|saving| saving.name.to_string());
            (Event::Stopped, Some(("saved", format!("as the image {}", name.unwrap_or_default()))))
        }
        (News::Saved { .. }, _) => return nothing(Verdict::Continue),
        // The node shut the machine down to save it, whether or not it was running.
        (News::Failed { fault }, Order::Save) => (Event::Stopped, Some(("save failed", fault.to_string()))),
        // Without the size of the image there is no image.
        (News::Done, Order::Stop | Order::Save) => {
            (Event::Stopped, Some(("stopped", "its disk is kept".to_owned())))
        }
        (News::Done, Order::Resize) => {
            let told = vm.resizing.map_or(String::new(), |sizes| vm.spec.sizes().changed_to(sizes));
            (Event::Stopped, Some(("resized", told)))
        }
        (News::Done, Order::Terminate) => (
            if given_up { Event::Forget } else { Event::Terminated },
            Some(("terminated", "nothing of it is left".to_owned())),
        ),
        (News::Failed { fault }, Order::Deploy) => {
            (Event::Failed, Some(("deploy failed", fault.to_string())))
        }
        (News::Failed { fault }, Order::Terminate) => {
            (Event::Failed, Some(("terminate failed", fault.to_string())))
        }
        (News::Failed { fault }, Order::Stop) => (Event::Failed, Some(("stop failed", fault.to_string()))),
        (News::Failed { fault }, Order::Start) => (Event::Failed, Some(("start failed", fault.to_string()))),
        (News::Failed { fault }, Order::Resize) => {
            (Event::Failed, Some(("resize failed", fault.to_string())))
        }
        // The machine was shut down and did not come up again.
        (News::Failed { fault }, Order::Reboot) => {
            (Event::Stopped, Some(("reboot failed", fault.to_string())))
        }
    };
    let leaves_console = matches!(news, News::Failed { fault } if fault.leaves_console());
    let on_node = if ended && !leaves_console { OnNode::No } else { OnNode::Maybe };
    Interpretation { verdict: Verdict::Continue, event: Some(event), on_node: Some(on_node), news: line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fault::Fault;
    use crate::model::lease::Term;
    use crate::model::names::PhysicalHost;
    use crate::model::stage::Stage;
    use crate::model::stage::{OrderNumber, Percent};
    use crate::server::machine::fixture::{OneMachine, without_mail};
    use crate::server::machine::orders;
    use crate::server::mail::Post;
    use crate::server::registry::vm::Saving;
    use crate::system::clock;

    impl OneMachine {
        /// Creates the fixture with the machine reported as running.
        fn deployed() -> Self {
            let mut one = Self::deploying();
            one.report(Order::Deploy, 9, News::Done);
            one
        }

        fn report(&mut self, order: Order, sequence: u32, news: News) -> Verdict {
            self.reported(order, sequence, news).reply.verdict
        }

        fn reported(&mut self, order: Order, sequence: u32, news: News) -> Outcome {
            let report = Report { id: self.vm.id, order, number: self.vm.number, sequence, news, host: None };
            let outcome = self.registry.write(|writer| take(writer, &report, "7d".parse().unwrap())).unwrap();
            self.reload();
            outcome
        }

        /// Returns the order that follows when an order ends.
        fn next(&mut self, order: Order, news: News) -> Option<Order> {
            let next = self.reported(order, 9, news).reply.next;
            assert!(
                next.is_none_or(|next| next.number == self.vm.number && next.order == self.vm.order),
                "{next:?}"
            );
            next.map(|next| next.order)
        }

        /// Orders the disk to be saved as the image `new`.
        fn save(&mut self, then_terminate: bool) {
            let given = self.registry.write(|writer| {
                let saving = Saving { name: "new".parse().unwrap(), then_terminate };
                orders::give(writer, &self.vm, Order::Save, Interest::Portal, Some(saving))
            });
            self.vm = given.unwrap().unwrap();
        }

        /// Makes the lease end `seconds` from now.
        fn lease(&mut self, seconds: i64) {
            let term: Term = "1m".parse().unwrap();
            let since = clock::now().plus_seconds(seconds - 60);
            let set: Result<_, RegistryError> =
                self.registry.write(|writer| writer.set_lease(self.vm.id, term, since));
            set.unwrap();
            self.reload();
        }

        /// Orders a stop because the lease has ended, not because the owner wants it.
        fn stop_for_its_lease(&mut self) {
            let given = self
                .registry
                .write(|writer| orders::give(writer, &self.vm, Order::Stop, Interest::Portal, None));
            self.vm = given.unwrap().unwrap();
        }

        fn images(&self) -> Vec<Image> {
            self.registry.read(|reader| reader.images()).unwrap()
        }

        /// Reports something that must change nothing.
        #[track_caller]
        fn in_vain(&mut self, order: Order, sequence: u32, news: News) {
            let (before, told) = (self.vm.clone(), self.history());
            assert_eq!(self.report(order, sequence, news), Verdict::Continue);
            assert_eq!((&self.vm, self.history()), (&before, told));
        }

        /// Makes the server give up waiting for the node.
        fn give_up(&mut self) {
            self.happens(Event::Failed, |vm| {
                vm.fault = Some(Fault::HostSilent { host: vm.physical_host.clone(), seconds: 7 });
            });
        }
    }

    fn progress(stage: Stage, percent: u8) -> News {
        News::Progress { stage, percent: Percent::try_from(percent).ok(), place: None }
    }

    fn waiting(place: u32) -> News {
        News::Progress { stage: Stage::Accepted, percent: None, place: Some(place) }
    }

    fn fault() -> Fault {
        Fault::FilesystemFailed { detail: "x".to_owned() }
    }

    const SAVED: News = News::Saved { bytes: 77 };

    fn failed() -> News {
        News::Failed { fault: fault() }
    }

    #[test]
    fn a_deploy_is_followed_to_its_end() {
        let mut one = OneMachine::deploying();
        let mut report = |n, news| {
            assert_eq!(one.report(Order::Deploy, n, news), Verdict::Continue);
            one.vm.clone()
        };
        report(1, progress(Stage::Accepted, 0));
        report(2, progress(Stage::Unpack, 10));
        assert_eq!(report(3, progress(Stage::Unpack, 90)).percent.map(u8::from), Some(90));
        let vm = report(4, News::Done);
        assert_eq!((vm.state, vm.stage), (State::Deployed, None));
        assert_eq!(one.history(), ["stage", "stage", "deployed"]);
    }

    #[test]
    fn a_late_word_on_a_deploy_says_nothing_of_its_host() {
        let mut one = OneMachine::deploying();
        one.report(Order::Deploy, 5, progress(Stage::Unpack, 10));
        let failed = one.reported(Order::Deploy, 4, News::Failed { fault: Fault::PrivilegeRefused });
        assert!(!failed.deploy_failed && failed.news.is_none(), "administrators would hear of it");
        let host: PhysicalHost = "node1".parse().unwrap();
        let fails = |writer: &Writer<'_>| writer.host_failed(&host, |_| 60);
        one.registry.write(fails).unwrap();
        one.reported(Order::Deploy, 4, News::Done);
        let failures = one.registry.read(|reader| reader.failures()).unwrap();
        assert_eq!(failures.len(), 1, "its host would count as one that works");
    }

    #[test]
    fn every_order_is_followed_to_its_end() {
        for (order, before, during, after, told) in [
            (Order::Terminate, State::Deployed, State::Terminating, State::NotDeployed, "terminated"),
            (Order::Stop, State::Deployed, State::Stopping, State::Stopped, "stopped"),
            (Order::Start, State::Stopped, State::Starting, State::Deployed, "started"),
            (Order::Reboot, State::Deployed, State::Rebooting, State::Deployed, "rebooted"),
        ] {
            let mut one = OneMachine::deployed();
            if before == State::Stopped {
                assert!(one.is_ordered(Order::Stop));
                one.report(Order::Stop, 1, News::Done);
            }
            assert_eq!(one.vm.state, before);
            assert!(one.is_ordered(order));
            for (n, stage) in (1..).zip(order.stages()) {
                assert_eq!(one.report(order, n, progress(*stage, 0)), Verdict::Continue);
                assert_eq!((one.vm.state, one.vm.stage), (during, Some(*stage)));
                assert!(one.vm.deadline.is_some());
            }
            one.report(order, 9, News::Done);
            let Vm { state, stage, deadline, fault, on_node, .. } = one.vm.clone();
            assert_eq!((state, stage, deadline, fault), (after, None, None, None), "{order}");
            assert_eq!(on_node == OnNode::No, order == Order::Terminate);
            assert_eq!(one.history().last().map(String::as_str), Some(told));
            // Repeating the report is no news and brings nothing back to life.
            for news in [News::Done, progress(order.stages()[0], 0)] {
                let verdict = if news == News::Done || order != Order::Terminate {
                    Verdict::Continue
                } else {
                    Verdict::Abandon
                };
                let before = (one.vm.clone(), one.history());
                assert_eq!(one.report(order, 9, news), verdict, "{order}");
                assert_eq!((one.vm.clone(), one.history()), before);
            }
        }
    }

    #[test]
    fn what_goes_wrong_is_kept_with_the_machine() {
        for (order, after) in [
            (Order::Terminate, State::Failed),
            (Order::Stop, State::Deployed),
            (Order::Start, State::Stopped),
            (Order::Reboot, State::Stopped),
        ] {
            let mut one = OneMachine::deployed();
            if order == Order::Start {
                assert!(one.is_ordered(Order::Stop));
                one.report(Order::Stop, 1, News::Done);
            }
            assert!(one.is_ordered(order));
            one.report(order, 1, progress(order.stages()[0], 0));
            assert_eq!(one.report(order, 2, failed()), Verdict::Continue);
            assert_eq!((one.vm.state, one.vm.fault.as_ref()), (after, Some(&fault())), "{order}");
            assert_eq!(one.vm.stage.is_some(), after == State::Failed, "{order}");
            assert_eq!(one.vm.on_node, OnNode::Maybe);
            assert_eq!(one.history().last().cloned(), Some(format!("{order} failed")));
            one.in_vain(order, 2, progress(order.stages()[0], 0));
            // The next order clears the fault.
            let next = if after == State::Stopped { Order::Start } else { Order::Terminate };
            assert!(one.is_ordered(next));
            assert_eq!(one.vm.fault, None);
        }
    }

    #[test]
    fn a_deploy_that_waits_has_a_place() {
        let mut one = OneMachine::deploying();
        for place in [3, 2] {
            one.report(Order::Deploy, 1, waiting(place));
            assert_eq!((one.vm.state, one.vm.place), (State::Deploying, Some(place)));
        }
        assert_eq!(one.history(), ["stage"], "to move up is no news");
        one.report(Order::Deploy, 2, waiting(0));
        assert_eq!(one.vm.place, None, "places count from one");
        one.report(Order::Deploy, 3, waiting(1));
        let elsewhere = News::Progress { stage: Stage::Volumes, percent: None, place: Some(1) };
        one.report(Order::Deploy, 4, elsewhere);
        assert_eq!((one.vm.stage, one.vm.place), (Some(Stage::Volumes), None));
        let elsewhere = News::Progress { stage: Stage::Unpack, percent: None, place: Some(1) };
        one.report(Order::Deploy, 5, elsewhere);
        assert_eq!(one.vm.place, Some(1), "it waits for its image");
        one.report(Order::Deploy, 6, progress(Stage::Unpack, 50));
        assert_eq!(one.vm.place, None);
        // Any other event clears the place too.
        for order in [Order::Deploy, Order::Terminate] {
            let mut one = OneMachine::deploying();
            one.report(Order::Deploy, 1, waiting(3));
            match order {
                Order::Terminate => assert!(one.is_ordered(order)),
                _ => drop(one.report(order, 2, failed())),
            }
            assert_eq!(one.vm.place, None, "{order}");
        }
    }

    #[test]
    fn late_and_repeated_reports_change_nothing() {
        let mut one = OneMachine::deploying();
        one.report(Order::Deploy, 5, progress(Stage::Unpack, 50));
        one.in_vain(Order::Deploy, 4, progress(Stage::Volumes, 0));
        one.report(Order::Deploy, 6, News::Done);
        one.in_vain(Order::Deploy, 6, News::Done);
        one.in_vain(Order::Deploy, 7, failed());
        assert_eq!(one.vm.state, State::Deployed);
        assert!(one.is_ordered(Order::Terminate));
        one.in_vain(Order::Deploy, 8, News::Done);
        assert_eq!(one.vm.state, State::Terminating);
        assert_eq!(one.report(Order::Terminate, 1, News::Done), Verdict::Continue);
        assert_eq!(one.vm.state, State::NotDeployed);
        assert_eq!(one.report(Order::Deploy, 9, News::Done), Verdict::Abandon);
    }

    #[test]
    fn reports_of_earlier_orders_change_nothing() {
        let mut one = OneMachine::deployed();
        assert!(one.is_ordered(Order::Stop));
        one.report(Order::Stop, 3, News::Done);
        assert!(one.is_ordered(Order::Start));
        let late = |order: Order| [progress(order.stages()[0], 5), News::Done, failed()];
        for news in late(Order::Stop).into_iter().chain([progress(Stage::Unpack, 3)]) {
            one.in_vain(Order::Stop, 9, news);
        }
        one.report(Order::Start, 1, News::Done);
        for news in late(Order::Stop) {
            one.in_vain(Order::Stop, 9, news);
        }
        assert!(one.is_ordered(Order::Reboot));
        for news in late(Order::Start).into_iter().chain([News::Done]) {
            one.in_vain(Order::Start, 9, news);
        }
        for news in late(Order::Deploy) {
            one.in_vain(Order::Deploy, 99, news);
        }
        assert!(one.is_ordered(Order::Terminate));
        for order in [Order::Stop, Order::Start, Order::Reboot] {
            for news in late(order) {
                one.in_vain(order, 9, news);
            }
        }
        assert_eq!(one.vm.state, State::Terminating);
        // A failed machine is no exception: a late report about an earlier order neither makes it
        // run nor undoes it.
        one.report(Order::Terminate, 1, failed());
        for order in [Order::Stop, Order::Start, Order::Reboot] {
            for news in late(order) {
                one.in_vain(order, 9, news);
            }
        }
    }

    #[test]
    fn an_order_that_was_given_up_may_have_been_carried_out() {
        // The order, the state when the server gave up, the node's last report, and the resulting
        // state.
        for (order, given_up, word, after) in [
            (Order::Stop, State::Deployed, News::Done, State::Stopped),
            (Order::Reboot, State::Deployed, News::Done, State::Deployed),
            (Order::Reboot, State::Deployed, failed(), State::Stopped),
            (Order::Start, State::Stopped, News::Done, State::Deployed),
        ] {
            let mut one = OneMachine::deployed();
            if order == Order::Start {
                assert!(one.is_ordered(Order::Stop));
                one.report(Order::Stop, 1, News::Done);
            }
            assert!(one.is_ordered(order));
            one.give_up();
            assert_eq!(one.vm.state, given_up, "{order}");
            one.in_vain(order, 1, progress(order.stages()[0], 0));
            assert_eq!(one.report(order, 2, word.clone()), Verdict::Continue);
            assert_eq!(one.vm.state, after, "{order} {word:?}");
            let failed = matches!(word, News::Failed { .. });
            assert_eq!(one.vm.fault.is_some(), failed, "{order} {word:?}");
            assert_eq!(one.report(order, 2, word.clone()), Verdict::Continue);
            assert_eq!(one.vm.state, after, "{order} {word:?}, twice");
        }
    }

    #[test]
    fn what_a_failed_machine_said_is_kept_at_its_host() {
        let mut one = OneMachine::deploying();
        let fault = Fault::DidNotRun { detail: "it crashed".to_owned() };
        one.report(Order::Deploy, 1, News::Failed { fault });
        assert_eq!((one.vm.state, one.vm.on_node), (State::Failed, OnNode::Maybe));
    }

    #[test]
    fn a_failed_deploy_leaves_nothing_and_keeps_its_reason() {
        let mut one = OneMachine::deploying();
        one.report(Order::Deploy, 1, progress(Stage::Start, 0));
        one.report(Order::Deploy, 2, failed());
        assert_eq!((one.vm.state, one.vm.on_node), (State::Failed, OnNode::No));
        assert_eq!(one.vm.fault, Some(fault()));
        assert_eq!(one.vm.stage, Some(Stage::Start), "how far it had come");
    }

    #[test]
    fn what_counts_as_failed_does_not_come_to_life() {
        let mut one = OneMachine::deploying();
        one.give_up();
        for news in [progress(Stage::Accepted, 0), News::Done] {
            assert_eq!(one.report(Order::Deploy, 1, news), Verdict::Abandon);
        }
        assert_eq!(one.vm.on_node, OnNode::Maybe);
        assert_eq!(one.report(Order::Deploy, 2, failed()), Verdict::Continue);
        assert_eq!((one.vm.state, one.vm.on_node), (State::Failed, OnNode::No));
    }

    #[test]
    fn what_was_saved_is_remembered_and_the_machine_is_as_it_was() {
        for (stopped, next, after) in
            [(true, None, State::Stopped), (false, Some(Order::Start), State::Starting)]
        {
            let mut one = OneMachine::deployed();
            if stopped {
                assert!(one.is_ordered(Order::Stop));
                one.report(Order::Stop, 1, News::Done);
            }
            one.save(false);
            one.report(Order::Save, 1, progress(Stage::Shutdown, 0));
            one.report(Order::Save, 2, progress(Stage::Pack, 40));
            assert_eq!((one.vm.state, one.vm.stage), (State::Saving, Some(Stage::Pack)));
            assert!(one.images().is_empty());
            assert_eq!(one.next(Order::Save, SAVED), next);
            assert_eq!((one.vm.state, &one.vm.saving), (after, &None));
            let [image] = &one.images()[..] else { panic!("{:?}", one.images()) };
            let Image { owner, name, host, base, bytes, disk, shared, .. } = image;
            assert_eq!((owner, host, base), (&one.vm.owner, &one.vm.physical_host, &one.vm.spec.image));
            assert_eq!((name.as_str(), *bytes, *disk, *shared), ("new", 77, one.vm.spec.disk, false));
            // The node may have missed the reply: it gets the same one, and nothing happens twice.
            let history = one.history();
            assert_eq!(one.next(Order::Save, SAVED), next);
            assert_eq!((one.history(), one.images().len()), (history, 1));
        }
    }

    #[test]
    fn what_was_saved_to_be_terminated_is_terminated_next() {
        let mut one = OneMachine::deployed();
        one.save(true);
        assert_eq!(one.next(Order::Save, SAVED), Some(Order::Terminate));
        assert_eq!((one.vm.state, one.vm.order), (State::Terminating, Order::Terminate));
        assert_eq!(one.images().len(), 1);
        assert_eq!(one.next(Order::Save, SAVED), Some(Order::Terminate), "it never saw the answer");
        assert_eq!(one.next(Order::Terminate, News::Done), None);
        assert_eq!(one.vm.state, State::NotDeployed);
        assert_eq!(one.images().len(), 1, "it outlives the machine");
    }

    #[test]
    fn a_machine_whose_disk_could_not_be_saved_is_as_it_was() {
        for then_terminate in [false, true] {
            let mut one = OneMachine::deployed();
            one.save(then_terminate);
            assert_eq!(one.next(Order::Save, failed()), Some(Order::Start));
            assert_eq!((one.vm.state, one.vm.fault.as_ref()), (State::Starting, Some(&fault())));
            one.report(Order::Start, 1, News::Done);
            assert_eq!((one.vm.state, one.vm.fault.as_ref()), (State::Deployed, Some(&fault())));
            assert_eq!((&one.vm.saving, one.images().len()), (&None, 0));
            assert!(one.is_ordered(Order::Stop));
            assert_eq!(one.vm.fault, None);
            one.report(Order::Stop, 1, News::Done);
            one.save(then_terminate);
            assert_eq!(one.next(Order::Save, failed()), None);
            assert_eq!((one.vm.state, one.vm.fault.as_ref()), (State::Stopped, Some(&fault())));
        }
    }

    #[test]
    fn a_save_that_was_given_up_may_have_been_carried_out() {
        for stopped in [true, false] {
            let mut one = OneMachine::deployed();
            if stopped {
                assert!(one.is_ordered(Order::Stop));
                one.report(Order::Stop, 1, News::Done);
            }
            one.save(true);
            let fault = Fault::HostSilent { host: one.vm.physical_host.clone(), seconds: 7 };
            let trouble = crate::server::nodes::CallFailure { fault, taken: OnNode::Maybe };
            let vm = one.vm.clone();
            let config = without_mail();
            orders::settle(&mut one.registry, &Post::new(&config), vm, Order::Save, Err(trouble)).unwrap();
            one.report(Order::Save, 1, progress(Stage::Pack, 5));
            let before = if stopped { State::Stopped } else { State::Deployed };
            assert_eq!(one.vm.state, before);
            // The image exists; the follow-up was given up, so nothing is removed.
            let next = one.next(Order::Save, SAVED);
            assert_eq!(next, (!stopped).then_some(Order::Start));
            assert_eq!((one.images().len(), &one.vm.saving), (1, &None));
            assert_eq!(one.history().iter().filter(|what| *what == "saved").count(), 1);
            one.report(Order::Save, 9, SAVED);
            assert_eq!(one.history().iter().filter(|what| *what == "saved").count(), 1);
        }
    }

    #[test]
    fn a_stop_that_was_given_up_and_came_about_is_not_undone() {
        let mut one = OneMachine::deployed();
        assert!(one.is_ordered(Order::Stop));
        let fault = Fault::HostSilent { host: one.vm.physical_host.clone(), seconds: 7 };
        let trouble = crate::server::nodes::CallFailure { fault, taken: OnNode::Maybe };
        let vm = one.vm.clone();
        let config = without_mail();
        orders::settle(&mut one.registry, &Post::new(&config), vm, Order::Stop, Err(trouble)).unwrap();
        assert_eq!(one.next(Order::Stop, News::Done), None);
        assert_eq!(one.vm.state, State::Stopped);
    }

    #[test]
    fn what_is_stopped_after_the_end_of_its_lease_has_expired() {
        let mut one = OneMachine::deployed();
        one.lease(-1);
        one.stop_for_its_lease();
        assert_eq!(one.next(Order::Stop, News::Done), None);
        let deletion = one.vm.deletion.expect("a date");
        assert_eq!(one.vm.state, State::Expired);
        assert!(deletion > clock::now().plus_seconds(6 * 86_400), "{deletion}");
        assert_eq!(one.history().last().map(String::as_str), Some("lease ended"));
        // Saving the disk, or failing to, postpones nothing.
        for news in [SAVED, failed()] {
            one.save(false);
            assert_eq!(one.next(Order::Save, news), None);
            assert_eq!((one.vm.state, one.vm.deletion), (State::Expired, Some(deletion)));
        }
    }

    #[test]
    fn a_lease_that_is_extended_while_its_machine_is_stopped_starts_it_again() {
        let mut one = OneMachine::deployed();
        one.lease(-1);
        one.stop_for_its_lease();
        one.lease(600);
        assert_eq!(one.next(Order::Stop, News::Done), Some(Order::Start));
        assert_eq!((one.vm.state, one.vm.deletion), (State::Starting, None));
        assert_eq!(one.next(Order::Stop, News::Done), Some(Order::Start), "it never saw the answer");
        assert_eq!(one.next(Order::Start, News::Done), None);
        assert_eq!(one.vm.state, State::Deployed);
        // A machine stopped by its owner stays stopped.
        assert!(one.is_ordered(Order::Stop));
        assert_eq!(one.next(Order::Stop, News::Done), None);
        assert_eq!(one.vm.state, State::Stopped);
    }

    #[test]
    fn a_terminate_that_was_given_up_may_still_succeed() {
        let mut one = OneMachine::deployed();
        assert!(one.is_ordered(Order::Terminate));
        one.report(Order::Terminate, 1, failed());
        assert_eq!((one.vm.state, one.vm.on_node), (State::Failed, OnNode::Maybe));
        one.in_vain(Order::Terminate, 2, progress(Stage::Remove, 0));
        one.report(Order::Terminate, 3, News::Done);
        assert_eq!(one.vm.state, State::NotDeployed);
    }

    #[test]
    fn an_unknown_machine_is_kept() {
        let mut one = OneMachine::deploying();
        let id = crate::model::names::VmId::generate();
        for &order in Order::ALL {
            let number = OrderNumber::default();
            let report = Report { id, order, number, sequence: 1, news: News::Done, host: None };
            let outcome = one.registry.write(|writer| take(writer, &report, "7d".parse().unwrap())).unwrap();
            assert_eq!(outcome.reply.verdict, Verdict::Unknown);
        }
    }

    #[test]
    fn a_late_word_on_an_earlier_order_of_the_same_kind_changes_nothing() {
        let mut one = OneMachine::deployed();
        assert!(one.is_ordered(Order::Reboot));
        let first = one.vm.number;
        one.report(Order::Reboot, 3, News::Done);
        assert!(one.is_ordered(Order::Reboot));
        assert!(one.vm.number > first);
        let late = Report {
            id: one.vm.id,
            order: Order::Reboot,
            number: first,
            sequence: 9,
            news: News::Done,
            host: None,
        };
        one.registry.write(|writer| take(writer, &late, "7d".parse().unwrap())).unwrap();
        let vm = one.registry.read(|reader| reader.vm(late.id)).unwrap().unwrap();
        assert_eq!(vm.state, State::Rebooting);
    }
}
