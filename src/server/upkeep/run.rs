//! One run: queries every host, carries out what follows from the answers and from leases, sends
//! orders to hosts, and sends mail.

use std::collections::{BTreeMap, BTreeSet};

use indicatif::{ProgressBar, ProgressStyle};

use crate::config::{self, Common};
use crate::model::lease::Moment;
use crate::model::names::{PhysicalHost, VmId};
use crate::model::stage::Order;
use crate::model::state::State;
use crate::model::wire::{Accepted, NodeInfo, Part};
use crate::server::audit;
use crate::server::machine::moving::Mover;
use crate::server::machine::orders;
use crate::server::mail::{self, Notice, Post};
use crate::server::nodes::{CallFailure, Nodes};
use crate::server::orphans::find;
use crate::server::registry::upkeep::Life;
use crate::server::registry::user::Owner;
use crate::server::registry::vm::{Scope, Vm};
use crate::server::registry::{Reader, Registry, RegistryError, Writer};
use crate::server::upkeep::contact::Attempt;
use crate::server::upkeep::notify::{note, tell};
use crate::server::upkeep::parallel::in_parallel;
use crate::server::upkeep::plan::{self, Action, Context, Step};
use crate::server::upkeep::{Summary, compare, lease, ping, pool};
use crate::system::clock;
use crate::system::log::Level;

/// The most steps in one transaction: pages wait for its end.
const BATCH: usize = 20;

/// The most mails sent in one run.
const MAILS: u32 = 1000;

/// The answer of one host.
struct Heard {
    host: PhysicalHost,
    answer: Result<Box<NodeInfo>, CallFailure>,
}

/// Records which snapshots a host has of its machines, except those about which orders were given
/// since they were read: its answer may be older.
fn keep_snapshots(writer: &Writer<'_>, known: &[&Vm], info: &NodeInfo) -> Result<(), RegistryError> {
    for vm in known {
        if writer.vm(vm.id)?.is_none_or(|now| now.number != vm.number) {
            continue;
        }
        let ours = info.volumes.iter().filter(|volume| volume.machine == Some(vm.id));
        writer
            .keep_snapshots(vm.id, &ours.filter_map(|volume| volume.snapshot.clone()).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// One run.
pub(super) struct Run<'a> {
    config: &'a config::Server,
    common: &'a Common,
    nodes: &'a Nodes<'a>,
    post: Post<'a>,
    registry: Registry,
    dry: bool,
    now: Moment,
    life: Life,
    summary: Summary,
    /// Hosts that did not answer in this run.
    silent: BTreeSet<PhysicalHost>,
    /// Orders to send to hosts.
    letters: Vec<(Vm, Order)>,
}

/// Groups machines by host.
fn by_host(vms: &[Vm]) -> BTreeMap<&PhysicalHost, Vec<&Vm>> {
    let mut hosts: BTreeMap<&PhysicalHost, Vec<&Vm>> = BTreeMap::new();
    for vm in vms {
        hosts.entry(&vm.physical_host).or_default().push(vm);
    }
    hosts
}

/// Returns a progress bar, hidden unless `shown`.
fn bar(shown: bool, what: &'static str) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix:8} {wide_bar} {pos}/{len}");
    ProgressBar::new(0).with_prefix(what).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl<'a> Run<'a> {
    /// Prepares a run that starts at `now`, with the portal's own clock at `life`.
    pub(super) fn new(
        config: &'a config::Server,
        common: &'a Common,
        nodes: &'a Nodes<'a>,
        registry: Registry,
        dry: bool,
        now: Moment,
        life: Life,
    ) -> Self {
        Self {
            config,
            common,
            nodes,
            post: Post::new(config),
            registry,
            dry,
            now,
            life,
            summary: Summary { dry, ..Summary::default() },
            silent: BTreeSet::new(),
            letters: Vec::new(),
        }
    }

    /// Does everything that is due. `shown` draws progress bars.
    pub(super) fn everything(mut self, shown: bool) -> Result<Summary, RegistryError> {
        self.hosts(&bar(shown, "Hosts"))?;
        self.leases()?;
        self.pings()?;
        self.tell_hosts(&bar(shown, "Orders"))?;
        self.mail()?;
        self.prune()?;
        Ok(self.summary)
    }
}

impl Run<'_> {
    fn live(&self) -> Result<Vec<Vm>, RegistryError> {
        self.registry.read(|reader| reader.live(Scope::All, u32::MAX, 0))
    }

    /// Carries out steps in batches, one transaction each, and collects the orders for hosts.
    fn carry_out(&mut self, steps: &[Step]) -> Result<(), RegistryError> {
        // A host that did not answer gets no orders; the next run tries again.
        let tells = |action: &Action| {
            matches!(
                action,
                Action::StopForLease
                    | Action::BringBack
                    | Action::Delete
                    | Action::DeleteSilent
                    | Action::Again
                    | Action::Resume
                    | Action::RemoveLeftover
            )
        };
        let possible: Vec<&Step> = steps
            .iter()
            .filter(|step| !tells(&step.action) || !self.silent.contains(&step.vm.physical_host))
            .collect();
        if self.dry {
            self.summary.steps.extend(possible.iter().map(ToString::to_string));
            return Ok(());
        }
        for batch in possible.chunks(BATCH) {
            let (life, grace) = (self.life, self.config.leases.grace);
            let mover = Mover::new(self.config, self.common);
            let ground = Context { life, grace, mover };
            let post = &self.post;
            let done = self.registry.write(|writer| {
                let mut done = Vec::new();
                for step in batch {
                    if let Some((vm, order)) = plan::carry_out(writer, ground, step)? {
                        tell(post, writer, &vm, &step.action)?;
                        done.push((*step, vm, order));
                    }
                }
                Ok::<_, RegistryError>(done)
            })?;
            for (step, vm, order) in done {
                self.summary.steps.push(step.to_string());
                audit::record(Level::Info, "upkeep.step", &vm, self.registry.actor(), &step.to_string());
                if let Some(order) = order {
                    self.letters.push((vm, order));
                }
            }
        }
        Ok(())
    }

    // ----- hosts -----

    fn hosts(&mut self, bar: &ProgressBar) -> Result<(), RegistryError> {
        let vms = self.live()?;
        let machines = by_host(&vms);
        let pool = self.common.physical_hosts.iter().map(|(host, _)| host);
        // Hosts that have left the pool may still have machines.
        let hosts: BTreeSet<&PhysicalHost> = pool.chain(machines.keys().copied()).collect();
        let hosts: Vec<&PhysicalHost> = hosts.into_iter().collect();
        bar.set_length(u64::try_from(hosts.len()).unwrap_or_default());
        let stems = self.image_stems()?;
        let nodes = self.nodes;
        let ask =
            |host: &&PhysicalHost| Heard { host: (*host).clone(), answer: nodes.info(host).map(Box::new) };
        in_parallel(&hosts, ask, |heard| {
            bar.inc(1);
            let known = machines.get(&heard.host).map(Vec::as_slice).unwrap_or_default();
            self.host(&heard, known, stems.get(&heard.host))
        })?;
        bar.finish_and_clear();
        if !self.dry {
            let all_are = |writer: &Writer<'_>| writer.compared();
            self.registry.write(all_are)?;
        }
        Ok(())
    }

    /// Returns the files of saved images that each host should have.
    fn image_stems(&self) -> Result<BTreeMap<PhysicalHost, BTreeSet<String>>, RegistryError> {
        let mut stems: BTreeMap<PhysicalHost, BTreeSet<String>> = BTreeMap::new();
        for image in self.registry.read(|reader| reader.images())? {
            stems.entry(image.host.clone()).or_default().insert(image.id().stem());
        }
        Ok(stems)
    }

    /// Updates the registry from a host's answer, or its silence, and carries out what follows for
    /// its machines.
    fn host(
        &mut self,
        heard: &Heard,
        known: &[&Vm],
        stems: Option<&BTreeSet<String>>,
    ) -> Result<(), RegistryError> {
        // When the answer arrived. The machines were read before it was requested.
        let now = clock::now();
        let (silence, post) = (self.config.upkeep.host_silence, &self.post);
        let info = match &heard.answer {
            Ok(info) => info,
            Err(trouble) => {
                self.silent.insert(heard.host.clone());
                self.summary.silent.push(trouble.fault.to_string());
                if !self.dry {
                    let attempt = Attempt {
                        host: &heard.host,
                        machines: known.len(),
                        fault: Some(&trouble.fault),
                        now,
                    };
                    self.registry.write(|writer| attempt.keep(writer, silence, post))?;
                }
                return self.carry_out(&compare::unreachable(known, &trouble.fault, self.now));
            }
        };
        self.summary.answered += 1;
        let none = BTreeSet::new();
        let unexpected = find::unexpected(known, stems.unwrap_or(&none), info);
        if !self.dry {
            let host = &heard.host;
            let strays = find::remembered(&unexpected.strays);
            let attempt = Attempt { host, machines: known.len(), fault: None, now };
            let new = self.registry.write(|writer| {
                attempt.keep(writer, silence, post)?;
                writer.keep_facts(host, &info.host)?;
                pool::watch(writer, host, info.host.pool, post)?;
                let images = info.images.iter().filter(|image| image.bytes.is_some());
                writer.keep_images(host, &images.map(|image| &image.tag).collect::<Vec<_>>())?;
                if info.knows(Part::Volumes) {
                    keep_snapshots(writer, known, info)?;
                }
                let new = writer.keep_strays(host, &strays, &info.unknown)?;
                if !new.is_empty() {
                    let notice = Notice::Strays { host, strays: &new };
                    note(post.to_administrators(writer, &notice)?, &"administrators");
                }
                Ok::<_, RegistryError>(new)
            })?;
            let told = new.iter().map(|stray| format!("{host}: {} {}", stray.kind.as_str(), stray.name));
            self.summary.strays.extend(told);
        }
        let mut steps = compare::machines(known, info, self.now);
        steps.extend(self.leftovers(&heard.host, &unexpected.ids)?);
        self.carry_out(&steps)
    }

    /// Plans the removal of what a host still has of machines that are gone according to the
    /// registry: their removal was reported, or forced.
    fn leftovers(&self, host: &PhysicalHost, ids: &BTreeSet<VmId>) -> Result<Vec<Step>, RegistryError> {
        self.registry.read(|reader| {
            let mut steps = Vec::new();
            for id in ids {
                if let Some(vm) = reader.vm(*id)?
                    && vm.state == State::NotDeployed
                    && vm.physical_host == *host
                {
                    steps.push(Step { vm, action: Action::RemoveLeftover });
                }
            }
            Ok(steps)
        })
    }

    // ----- leases -----

    fn leases(&mut self) -> Result<(), RegistryError> {
        let vms = self.live()?;
        let steps = self.registry.read(|reader| {
            let mut steps = Vec::new();
            for vm in vms {
                if let Some(action) = self.due(reader, &vm)? {
                    steps.push(Step { vm, action });
                }
            }
            Ok::<_, RegistryError>(steps)
        })?;
        self.carry_out(&steps)
    }

    fn due(&self, reader: Reader<'_>, vm: &Vm) -> Result<Option<Action>, RegistryError> {
        let Some(end) = vm.expires else { return Ok(None) };
        let given = |kind: &str| reader.notice(vm.id, kind, end);
        let mail = || self.mail_to(reader, &vm.owner);
        lease::due(vm, self.now, self.life, &self.config.leases, given, mail)
    }

    /// Returns whether mail to an owner has left. An owner who could not be notified loses nothing.
    fn mail_to(&self, reader: Reader<'_>, owner: &Owner) -> Result<lease::Mail, RegistryError> {
        Ok(match self.post.address(reader, owner)? {
            Some(address) if reader.has_mail_for(&address.to_string())? => lease::Mail::Waits,
            None if self.post.is_on() => lease::Mail::NoAddress,
            _ => lease::Mail::Left,
        })
    }

    // ----- pings -----

    fn pings(&mut self) -> Result<(), RegistryError> {
        if !self.config.upkeep.ping {
            return Ok(());
        }
        let vms = self.live()?;
        let running: Vec<&Vm> = vms
            .iter()
            .filter(|vm| vm.state == State::Deployed && !self.silent.contains(&vm.physical_host))
            .collect();
        let names: Vec<_> = running.iter().map(|vm| &vm.virtual_host).collect();
        let alive = match ping::alive(&names) {
            Ok(alive) => alive,
            Err(trouble) => {
                self.summary.trouble.push(trouble.to_string());
                return Ok(());
            }
        };
        let steps = self.registry.read(|reader| {
            let mut steps = Vec::new();
            for vm in running {
                for action in ping::actions(vm, alive.contains(&vm.virtual_host), &self.config.upkeep) {
                    // An owner who could not be notified loses nothing.
                    let is_told = action != Action::DeleteSilent
                        || self.mail_to(reader, &vm.owner)? == lease::Mail::Left;
                    let action = if is_told { action } else { Action::TellSilent };
                    steps.push(Step { vm: vm.clone(), action });
                }
            }
            Ok::<_, RegistryError>(steps)
        })?;
        self.carry_out(&steps)
    }

    // ----- orders -----

    /// Sends the collected orders to hosts, and records their answers.
    fn tell_hosts(&mut self, bar: &ProgressBar) -> Result<(), RegistryError> {
        let letters = std::mem::take(&mut self.letters);
        bar.set_length(u64::try_from(letters.len()).unwrap_or_default());
        let nodes = self.nodes;
        let send = |(vm, order): &(Vm, Order)| (vm.clone(), *order, orders::tell(nodes, vm, *order));
        in_parallel(&letters, send, |(vm, order, answer)| {
            bar.inc(1);
            self.settle(vm, order, answer)
        })?;
        bar.finish_and_clear();
        Ok(())
    }

    fn settle(
        &mut self,
        vm: Vm,
        order: Order,
        answer: Result<Accepted, CallFailure>,
    ) -> Result<(), RegistryError> {
        let name = vm.virtual_host.clone();
        if !vm.state.is_live() {
            // Nothing is recorded about a machine that is gone; the next run checks whether
            // anything is left of it.
            if let Err(trouble) = answer {
                self.summary.trouble.push(format!("{name}: {}", trouble.fault));
            }
            return Ok(());
        }
        let (_, fault) = orders::settle(&mut self.registry, &self.post, vm, order, answer)?;
        if let Some(fault) = fault {
            self.summary.trouble.push(format!("{name}, {order}: {fault}"));
        }
        Ok(())
    }

    // ----- mail -----

    /// Sends queued mail.
    fn mail(&mut self) -> Result<(), RegistryError> {
        if self.dry {
            return Ok(());
        }
        // By the current time, not the start of the run: some mail was written since, and hosts may
        // have been slow.
        let sent = mail::send_due(&mut self.registry, self.config, MAILS)?;
        self.summary.mail = Some(sent);
        Ok(())
    }

    // ----- history -----

    fn prune(&mut self) -> Result<(), RegistryError> {
        if self.dry {
            return Ok(());
        }
        let before = self.now.plus_seconds(-self.config.upkeep.history.seconds());
        let prune = |writer: &Writer<'_>| {
            let events = writer.prune_events(before)?;
            Ok::<_, RegistryError>(events + writer.prune_gone(before)?)
        };
        self.summary.pruned = self.registry.write(prune)?;
        Ok(())
    }
}
