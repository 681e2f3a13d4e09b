//! `vgrid-upkeep`: the portal keeps its own house. Started by cron; safe to kill and safe to repeat.
//!
//! One run asks every host what it has and brings what the server believes in line ([`compare`]), does what leases call
//! for ([`lease`]), pings machines ([`ping`]), and sends mail that waits. All that is to be done about a machine is first
//! found out, as data ([`plan`]), and then carried out under the write lock if the machine still is as it was.
//! A dead host costs its own time limit and nobody else's.

pub mod compare;
pub mod lease;
pub mod ping;
pub mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use indicatif::{ProgressBar, ProgressStyle};
use nix::unistd::{Uid, User};
use plan::{Act, Ground, Step};
use thiserror::Error;

use crate::config::{self, Common, ConfigError};
use crate::model::fault::Fault;
use crate::model::lease::{Lease, Moment};
use crate::model::names::{PhysicalHost, RequestId};
use crate::model::stage::Order;
use crate::model::state::State;
use crate::model::wire::{Accepted, NodeInfo};
use crate::server::audit;
use crate::server::machine::failures;
use crate::server::machine::moving::Mover;
use crate::server::machine::orders;
use crate::server::mail::{self, Notice, Post, Posted, Sent};
use crate::server::nodes::{Nodes, NodesError, Trouble};
use crate::server::orphans::find;
use crate::server::registry::event::Actor;
use crate::server::registry::host::Contact;
use crate::server::registry::upkeep::Life;
use crate::server::registry::user::Owner;
use crate::server::registry::vm::{Scope, Vm};
use crate::server::registry::{Reader, Registry, RegistryError, Writer};
use crate::system::log::{self, Level};
use crate::system::{clock, lock};

/// How many hosts are talked to at a time. Each that hangs holds one place for the node's time limit.
const HOSTS_AT_A_TIME: usize = 100;

/// The stack of a thread that talks to a host.
const STACK: usize = 512 << 10;

/// How many steps are carried out in one transaction at most: pages wait for its end.
const BATCH: usize = 20;

/// How many mails one run sends at most.
const MAILS: u32 = 1000;

/// A clock that is set back by more than this was wrong before, in seconds.
const SET_BACK: i64 = 3600;

/// Why upkeep could not do its work.
#[derive(Debug, Error)]
pub enum UpkeepError {
    /// The configuration can't be used.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The registry can't be used.
    #[error("{0}")]
    Registry(#[from] RegistryError),
    /// No node can be called.
    #[error("{0}")]
    Nodes(#[from] NodesError),
    /// It was started by root, whose files the web server's user could not use afterwards.
    #[error("run it as the user whom the registry belongs to: sudo -u {owner} vgrid-upkeep")]
    WrongUser {
        /// That user's name, or number.
        owner: String,
    },
    /// Its lock can't be taken.
    #[error("{}: {source}", file.display())]
    Lock {
        /// The lock's file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// Another one is at work.
    Busy,
    /// It did what there was to do, or says what it would do.
    Done(Summary),
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Summary {
    /// Whether nothing was really done.
    pub dry: bool,
    /// Hosts that answered.
    pub answered: usize,
    /// Hosts that did not, and why.
    pub silent: Vec<String>,
    /// What was done about machines, a line each.
    pub steps: Vec<String>,
    /// What was found on hosts that belongs to nobody, and was not known before.
    pub strays: Vec<String>,
    /// What went wrong and is tried again by the next run.
    pub trouble: Vec<String>,
    /// What became of the mail.
    pub mail: Option<Sent>,
    /// Entries of history that were too old.
    pub pruned: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.answered + self.silent.len();
        writeln!(f, "{} of {hosts} hosts answered.", self.answered)?;
        for line in &self.silent {
            writeln!(f, "  {line}")?;
        }
        let would = if self.dry { "would be " } else { "" };
        writeln!(f, "{} things {would}done about machines.", self.steps.len())?;
        for line in &self.steps {
            writeln!(f, "  {line}")?;
        }
        if !self.strays.is_empty() {
            writeln!(
                f,
                "{} things on hosts are unknown here; look at the administration page.",
                self.strays.len()
            )?;
            for line in &self.strays {
                writeln!(f, "  {line}")?;
            }
        }
        if !self.trouble.is_empty() {
            writeln!(f, "{} things went wrong and are tried again by the next run.", self.trouble.len())?;
            for line in &self.trouble {
                writeln!(f, "  {line}")?;
            }
        }
        if let Some(Sent { sent, waiting, given_up }) = self.mail {
            writeln!(f, "{sent} mails sent, {waiting} wait, {given_up} can't be sent.")?;
        }
        if self.pruned > 0 {
            writeln!(f, "{} old entries of the history removed.", self.pruned)?;
        }
        Ok(())
    }
}

/// What one host said.
struct Heard {
    host: PhysicalHost,
    answer: Result<Box<NodeInfo>, Trouble>,
}

/// How an attempt to reach a host ended.
struct Attempt<'a> {
    host: &'a PhysicalHost,
    /// How many machines it has.
    machines: usize,
    /// Why it could not be asked; `None` if it answered.
    fault: Option<&'a Fault>,
    now: Moment,
}

impl Attempt<'_> {
    /// Enters it, and writes to administrators about a host that is silent for longer than it may be, or is back.
    fn keep(
        &self,
        writer: &Writer<'_>,
        silence: Lease,
        post: &Post<'_>,
        actor: &Actor,
    ) -> Result<(), RegistryError> {
        let Self { host, machines, fault, now } = *self;
        let before = writer.contact(host)?;
        let same = before.as_ref().filter(|before| before.fault.is_some() == fault.is_some());
        // A clock that was set back is no reason to wait for ever.
        let since = same.map(|before| before.since).filter(|since| *since <= now).unwrap_or(now);
        let was_told = before.as_ref().is_some_and(|before| before.told);
        let told = fault.is_some() && (was_told || now.since(since) >= silence.seconds());
        if told != was_told {
            let reason = fault.map(Fault::to_string).unwrap_or_default();
            let machines = u32::try_from(machines).unwrap_or(u32::MAX);
            let was_since = before.as_ref().map_or(since, |before| before.since);
            let (what, notice) = match fault {
                Some(_) => {
                    ("host does not answer", Notice::HostVanished { host, since, reason: &reason, machines })
                }
                None => ("host answers again", Notice::HostBack { host, since: was_since }),
            };
            writer.record_about(host.as_str(), now, actor, what, &reason)?;
            note(post.to_administrators(writer, &notice, now)?, &"administrators");
        }
        let fault = fault.map(Fault::to_string);
        writer.keep_contact(&Contact { name: host.clone(), tried: now, fault, since, told })
    }
}

/// One run.
struct Run<'a> {
    config: &'a config::Server,
    common: &'a Common,
    nodes: &'a Nodes<'a>,
    post: Post<'a>,
    registry: Registry,
    dry: bool,
    now: Moment,
    life: Life,
    actor: Actor,
    summary: Summary,
    /// Hosts that did not answer in this run.
    silent: BTreeSet<PhysicalHost>,
    /// What hosts are to be told.
    letters: Vec<(Vm, Order)>,
}

/// Does all there is to do, or with `dry` finds it out and does nothing. `shown` has a bar of progress drawn, on a
/// terminal.
///
/// # Errors
/// [`UpkeepError`], when nothing, or not everything, could be done. What was done is whole, and the next run does the rest.
pub fn run(dir: &Path, dry: bool, shown: bool) -> Result<Outcome, UpkeepError> {
    let config = config::Server::load(dir)?;
    let common = Common::load(dir)?;
    not_as_root(&config.general.registry_file)?;
    Registry::inspect(&config.general.registry_file)?;
    let request = RequestId::generate();
    log::start("upkeep", request.clone(), Some(&config.general.log_file));
    let nodes = Nodes::new(&config, &request)?;
    let file = config.general.registry_file.with_extension("upkeep.lock");
    let held = lock::try_take(&file).map_err(|source| UpkeepError::Lock { file, source })?;
    let Some(_held) = held else { return Ok(Outcome::Busy) };
    let now = clock::now();
    let file = &config.general.registry_file;
    let mut registry = if dry { Registry::open_to_read(file)? } else { Registry::open(file)? };
    let life = if dry {
        registry.read(|reader| Ok::<_, RegistryError>(reader.life()?.at(now)))?
    } else {
        registry.write(|writer| {
            writer.forget_notices_after(now.plus_seconds(SET_BACK))?;
            writer.live_on(now)
        })?
    };
    let mut run = Run {
        config: &config,
        common: &common,
        nodes: &nodes,
        post: Post::new(&config),
        registry,
        dry,
        now,
        life,
        actor: Actor { who: "upkeep".to_owned(), from: "-".to_owned() },
        summary: Summary { dry, ..Summary::default() },
        silent: BTreeSet::new(),
        letters: Vec::new(),
    };
    run.hosts(&bar(shown, "Hosts"))?;
    run.leases()?;
    run.pings()?;
    run.tell_hosts(&bar(shown, "Orders"))?;
    run.mail()?;
    run.prune()?;
    let summary = run.summary;
    log::event(
        Level::Info,
        "upkeep",
        &[
            ("answered", &summary.answered),
            ("silent", &summary.silent.len()),
            ("steps", &summary.steps.len()),
            ("trouble", &summary.trouble.len()),
            ("dry", &dry),
        ],
    );
    Ok(Outcome::Done(summary))
}

/// Lets root through only where the registry is root's.
fn not_as_root(registry: &Path) -> Result<(), UpkeepError> {
    let place = if registry.exists() { Some(registry) } else { registry.parent() };
    // What can't be looked at is told by who opens it.
    let Some(facts) = place.and_then(|place| std::fs::metadata(place).ok()) else { return Ok(()) };
    if !Uid::effective().is_root() || facts.uid() == 0 {
        return Ok(());
    }
    let owner = User::from_uid(Uid::from_raw(facts.uid())).ok().flatten();
    let owner = owner.map_or_else(|| format!("'#{}'", facts.uid()), |user| user.name);
    Err(UpkeepError::WrongUser { owner })
}

/// A bar of progress on a terminal, and nothing elsewhere.
fn bar(shown: bool, what: &'static str) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix:8} {wide_bar} {pos}/{len}");
    ProgressBar::new(0).with_prefix(what).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// All live machines, by host.
fn by_host(vms: &[Vm]) -> BTreeMap<&PhysicalHost, Vec<&Vm>> {
    let mut hosts: BTreeMap<&PhysicalHost, Vec<&Vm>> = BTreeMap::new();
    for vm in vms {
        hosts.entry(&vm.physical_host).or_default().push(vm);
    }
    hosts
}

/// Does `work` for each of `items`, many at a time; what comes of it goes through `take`, in this thread, one by one.
fn in_parallel<I: Sync, O: Send, E>(
    items: &[I],
    work: impl Fn(&I) -> O + Sync,
    take: impl FnMut(O) -> Result<(), E>,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let (done, results) = sync_channel(HOSTS_AT_A_TIME);
    std::thread::scope(|scope| {
        for _ in 0..HOSTS_AT_A_TIME.min(items.len()) {
            let (done, next, work) = (done.clone(), &next, &work);
            let body = move || {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if done.send(work(item)).is_err() {
                        // The other side has failed and gone.
                        return;
                    }
                }
            };
            // Without a thread the others do its share.
            if let Err(error) = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, body) {
                log::event(Level::Warning, "thread.not-started", &[("error", &error)]);
            }
        }
        drop(done);
        // It owns the receiver and drops it when it fails: nobody waits for ever to send.
        results.into_iter().try_for_each(take)
    })
}

/// Writes the mail that goes with what was done about a machine, which is now `vm`.
fn tell(
    post: &Post<'_>,
    writer: &Writer<'_>,
    vm: &Vm,
    act: &Act,
    actor: &Actor,
    now: Moment,
) -> Result<(), RegistryError> {
    let notice = match act {
        Act::Warn(_) => Notice::LeaseEnds { machine: vm, ends: vm.expires.unwrap_or(now) },
        Act::TellEnded => Notice::LeaseEnded { machine: vm, deletion: vm.deletion.unwrap_or(now) },
        Act::Delete => Notice::Deleted { machine: vm },
        Act::TellSilent => Notice::Silent { machine: vm },
        Act::DeleteSilent => Notice::SilentTerminated { machine: vm },
        Act::GiveUp { fault, .. } if vm.order == Order::Deploy && vm.state == State::Failed => {
            return failures::deploy_failed(writer, post, vm, fault, now);
        }
        _ => return Ok(()),
    };
    let posted = post.to_owner(writer, &vm.owner, &notice, now)?;
    note(posted, &vm.owner.as_str());
    match posted {
        Posted::Queued(_) => writer.note_reachable(&vm.owner)?,
        Posted::NoAddress if writer.note_unreachable(&vm.owner, now)? => {
            let notice = Notice::Unreachable { machine: vm };
            note(post.to_administrators(writer, &notice, now)?, &"administrators");
        }
        Posted::NoAddress | Posted::NoTransport | Posted::Unwritten => {}
    }
    let record = match posted {
        Posted::Queued(_) => Some(("owner told", "")),
        Posted::NoAddress => Some(("owner not told", "; no address is known")),
        Posted::NoTransport => Some(("owner not told", "; mail is off")),
        Posted::Unwritten => None,
    };
    if let (Some(of_what), Some((what, why))) = (news(vm, act), record) {
        writer.record(vm.id, now, actor, what, &format!("{of_what}{why}"))?;
    }
    // Who can't be told for a broken template is told when it is mended, and nothing is removed before.
    match act {
        Act::Warn(before) if posted == Posted::Unwritten => {
            writer.forget_notice(vm.id, &plan::warning(*before))
        }
        Act::TellEnded if matches!(posted, Posted::Unwritten | Posted::NoAddress) => {
            writer.forget_notice(vm.id, plan::ENDED)
        }
        _ => Ok(()),
    }
}

/// What a machine's history says that its owner was told, where nothing else in it says so.
fn news(vm: &Vm, act: &Act) -> Option<String> {
    match act {
        Act::Warn(_) => vm.expires.map(|end| format!("the lease ends {end}")),
        Act::TellEnded => {
            vm.deletion.map(|deletion| format!("the lease has ended; the disk is kept until {deletion}"))
        }
        Act::TellSilent => Some("it does not answer".to_owned()),
        _ => None,
    }
}

/// Logs that a notice reached nobody.
fn note(posted: Posted, whom: &dyn fmt::Display) {
    if matches!(posted, Posted::NoAddress | Posted::Unwritten) {
        log::event(Level::Warning, "nobody-told", &[("whom", whom)]);
    }
}

impl Run<'_> {
    fn live(&self) -> Result<Vec<Vm>, RegistryError> {
        self.registry.read(|reader| reader.live(Scope::All, u32::MAX, 0))
    }

    /// Carries out steps, each batch in a transaction, and notes what hosts are to be told.
    fn carry_out(&mut self, steps: &[Step]) -> Result<(), RegistryError> {
        // A host that can't be told is not ordered to do anything: the next run does that.
        let tells = |act: &Act| {
            matches!(
                act,
                Act::StopForLease
                    | Act::BringBack
                    | Act::Delete
                    | Act::DeleteSilent
                    | Act::Again
                    | Act::Resume
                    | Act::RemoveLeftover
            )
        };
        let possible: Vec<&Step> = steps
            .iter()
            .filter(|step| !tells(&step.act) || !self.silent.contains(&step.vm.physical_host))
            .collect();
        if self.dry {
            self.summary.steps.extend(possible.iter().map(ToString::to_string));
            return Ok(());
        }
        for batch in possible.chunks(BATCH) {
            let (now, life, grace) = (self.now, self.life, self.config.leases.grace);
            let mover = Mover::new(self.config, self.common);
            let ground = Ground { now, life, grace, actor: &self.actor, mover };
            let post = &self.post;
            let done = self.registry.write(|writer| {
                let mut done = Vec::new();
                for step in batch {
                    if let Some((vm, order)) = plan::carry_out(writer, ground, step)? {
                        tell(post, writer, &vm, &step.act, &self.actor, now)?;
                        done.push((*step, vm, order));
                    }
                }
                Ok::<_, RegistryError>(done)
            })?;
            for (step, vm, order) in done {
                self.summary.steps.push(step.to_string());
                audit::record(Level::Info, "upkeep", &vm, &self.actor, &step.to_string());
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
        // Those that were taken out of the pool may still have machines.
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
            let now = self.now;
            self.registry.write(|writer| writer.compared(now))?;
        }
        Ok(())
    }

    /// The files of saved images that each host should have.
    fn image_stems(&self) -> Result<BTreeMap<PhysicalHost, BTreeSet<String>>, RegistryError> {
        let mut stems: BTreeMap<PhysicalHost, BTreeSet<String>> = BTreeMap::new();
        for image in self.registry.read(|reader| reader.images())? {
            stems.entry(image.host.clone()).or_default().insert(image.id().stem());
        }
        Ok(stems)
    }

    /// Makes of a host's answer, or its silence, what it means for its machines.
    fn host(
        &mut self,
        heard: &Heard,
        known: &[&Vm],
        stems: Option<&BTreeSet<String>>,
    ) -> Result<(), RegistryError> {
        // The answer is as old as this; the machines were read before it was asked for.
        let now = clock::now();
        let (silence, post, actor) = (self.config.upkeep.host_silence, &self.post, &self.actor);
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
                    self.registry.write(|writer| attempt.keep(writer, silence, post, actor))?;
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
                attempt.keep(writer, silence, post, actor)?;
                writer.keep_facts(host, &info.host, now)?;
                let images = info.images.iter().filter(|image| image.bytes.is_some());
                writer.keep_images(host, &images.map(|image| &image.tag).collect::<Vec<_>>())?;
                let new = writer.keep_strays(host, &strays, now)?;
                if !new.is_empty() {
                    let notice = Notice::Strays { host, strays: &new };
                    note(post.to_administrators(writer, &notice, now)?, &"administrators");
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

    /// What is on a host of machines that the server knows to be gone: it was told, or forced, to forget them.
    fn leftovers(
        &self,
        host: &PhysicalHost,
        ids: &BTreeSet<crate::model::names::VmId>,
    ) -> Result<Vec<Step>, RegistryError> {
        self.registry.read(|reader| {
            let mut steps = Vec::new();
            for id in ids {
                if let Some(vm) = reader.vm(*id)?
                    && vm.state == State::NotDeployed
                    && vm.physical_host == *host
                {
                    steps.push(Step { vm, act: Act::RemoveLeftover });
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
                if let Some(act) = self.due(reader, &vm)? {
                    steps.push(Step { vm, act });
                }
            }
            Ok::<_, RegistryError>(steps)
        })?;
        self.carry_out(&steps)
    }

    fn due(&self, reader: Reader<'_>, vm: &Vm) -> Result<Option<Act>, RegistryError> {
        let Some(end) = vm.expires else { return Ok(None) };
        let given = |kind: &str| reader.notice(vm.id, kind, end);
        let mail = || self.mail_to(reader, &vm.owner);
        lease::due(vm, self.now, self.life, &self.config.leases, given, mail)
    }

    /// What has become of mail to an owner. Who could not be told loses nothing.
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
                for act in ping::acts(vm, alive.contains(&vm.virtual_host), &self.config.upkeep) {
                    // Nothing is removed of whom nobody could tell.
                    let is_told =
                        act != Act::DeleteSilent || self.mail_to(reader, &vm.owner)? == lease::Mail::Left;
                    let act = if is_told { act } else { Act::TellSilent };
                    steps.push(Step { vm: vm.clone(), act });
                }
            }
            Ok::<_, RegistryError>(steps)
        })?;
        self.carry_out(&steps)
    }

    // ----- orders -----

    /// Tells hosts what was ordered, and enters what they answer.
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
        answer: Result<Accepted, Trouble>,
    ) -> Result<(), RegistryError> {
        let name = vm.virtual_host.clone();
        if !vm.state.is_live() {
            // Of what is gone nothing is entered; the next run sees whether it is still there.
            if let Err(trouble) = answer {
                self.summary.trouble.push(format!("{name}: {}", trouble.fault));
            }
            return Ok(());
        }
        let post = self.post.clone();
        let (_, fault) =
            orders::settle_with(&mut self.registry, vm, order, answer, &self.actor, |writer, vm, fault| {
                match order {
                    Order::Deploy => failures::deploy_failed(writer, &post, vm, fault, clock::now()),
                    _ => Ok(()),
                }
            })?;
        if let Some(fault) = fault {
            self.summary.trouble.push(format!("{name}, {order}: {fault}"));
        }
        Ok(())
    }

    // ----- mail -----

    /// Sends what waits.
    fn mail(&mut self) -> Result<(), RegistryError> {
        if self.dry {
            return Ok(());
        }
        // Not the time at which this run began: some of it was written since, and hosts may have taken a while.
        let sent = mail::send_due(&mut self.registry, self.config, clock::now(), MAILS)?;
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
