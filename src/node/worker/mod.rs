//! The worker: carries out one order, detached from the request that delivered it.
//!
//! Usage: `vgrid-worker begin|recover ID`, with the machine's lock as standard input. `vgrid-worker
//! decompress` is for the helper, which has it read images as nobody, and `vgrid-worker prepare` prepares
//! images while there are no orders. It may be
//! killed at any moment: the record shows what was being done, and `recover` finishes it.
//!
//! | file | what is there |
//! | --- | --- |
//! | `mod` | the program, and the choice of what to carry out |
//! | `deploy`, `power`, `save`, `resize`, `remove` | one kind of order each: its stages, and how it is undone |
//! | `answers` | whether something has a new machine's address already |
//! | `prepare` | which deploy prepares an image for all |
//! | `ahead` | images that are prepared before they are deployed |
//! | `disk` | machines of whole-disk images: their disk, their owner's keys |
//! | `recover` | what happens to an order whose worker was killed |
//! | `progress` | reports to the server while an order is carried out |
//! | `outcome` | what is recorded and reported at the end of an order |

mod ahead;
mod answers;
mod deploy;
mod disk;
mod outcome;
mod power;
mod prepare;
mod progress;
mod recover;
mod remove;
mod resize;
mod save;

use std::io;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Common};
use crate::model::fault::{self, Fault};
use crate::model::names::VmId;
use crate::model::stage::{Order, Stage};
use crate::node::helper::Filling;
use crate::node::image::{self, CopyError};
use crate::node::jobs::{JobError, Jobs, Record, RecordLock, Slot, Turn};
use crate::node::privileged::Helper;
use crate::node::report::Reporter;
use crate::node::storage::prepared::Key;
use crate::system::log::{self, Level};
use crate::system::{detach, pin};

#[derive(Debug, Parser)]
#[command(name = "vgrid-worker", version, about = "Carries out one order on a vGrid node")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Clone, Subcommand)]
enum Verb {
    /// Carry out the order of this record
    Begin {
        /// The machine's id
        id: VmId,
    },
    /// Bring the work of a worker that is gone to an end
    Recover {
        /// The machine's id
        id: VmId,
    },
    /// Prepare images before they are deployed, with the lock of those who do as standard input
    Prepare {
        /// What they are to be prepared from, as the helper tells it
        #[arg(required = true)]
        images: Vec<Key>,
    },
    /// Decompress the image on standard input to a plain tar archive on standard output
    Decompress,
}

/// The program's `main` function. Exit status: 0 if the order was carried out or its failure
/// reported, 1 if nothing could be done, 2 on wrong usage.
pub fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    let work: Box<dyn FnOnce() -> Result<(), String>> = match verb {
        Verb::Begin { id } => Box::new(move || run(id, false)),
        Verb::Recover { id } => Box::new(move || run(id, true)),
        Verb::Prepare { images } => Box::new(move || ahead::prepare(&images)),
        // It ends with the helper that started it, so it stays in its session.
        Verb::Decompress => {
            return image::decompress().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
        }
    };
    if let Err(error) = detach::detach_process() {
        return fail(&format!("can't detach: {error}"));
    }
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => fail(&sentence),
    }
}

fn fail(sentence: &str) -> ExitCode {
    log::event(Level::Error, "worker.failed", &[("why", &sentence)]);
    // Nobody reads this under Apache, but it helps when the worker is started by hand.
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("vgrid-worker: {sentence}\n"));
    ExitCode::FAILURE
}

fn run(id: VmId, resumes: bool) -> Result<(), String> {
    let dir = config::directory();
    let config = config::Node::load(&dir).map_err(|error| error.to_string())?;
    let common = Common::load(&dir).map_err(|error| error.to_string())?;
    let key = config.key().map_err(|error| error.to_string())?;
    let state = &config.general.state_directory;
    let jobs = Jobs::open(state).map_err(|error| format!("{}: {error}", state.display()))?;
    let Some(lock) = jobs.adopt(id).map_err(|error| format!("the lock of {id}: {error}"))? else {
        return Err(format!("another worker is at work on {id}"));
    };
    let registry = pin::read(state).map_err(|error| error.to_string())?;
    let record = match lock.read() {
        Ok(Some(record)) => record,
        Ok(None) => return Err(format!("there is no record of {id}")),
        Err(error) => return Err(error.to_string()),
    };
    let request = record.request.clone();
    log::start("worker", request.clone(), Some(&config.general.log_file));
    let mut worker = Worker {
        reporter: Reporter::new(&config, &key, registry, &request),
        helper: Helper::new(&request),
        config: &config,
        common: &common,
        jobs,
        lock,
        record,
        slot: None,
        turn: None,
        filling: Filling::Stream,
    };
    worker.record.worker = i32::try_from(std::process::id()).ok();
    worker.write_record().map_err(|error| error.to_string())?;
    let done = if resumes { worker.recover() } else { worker.begin() };
    done.map_err(|error| error.to_string())
}

struct Worker<'a> {
    config: &'a config::Node,
    common: &'a Common,
    jobs: Jobs,
    lock: RecordLock,
    record: Record,
    reporter: Reporter<'a>,
    helper: Helper,
    /// Held while a deploy is running.
    slot: Option<Slot>,
    /// Held by a deploy that prepares its image.
    turn: Option<Turn>,
    /// What is left to be done for the root disk of a machine that is being deployed.
    filling: Filling,
}

/// Why the work is not continued.
enum Stop {
    /// It failed.
    Failed(Fault),
    /// The server has given up this deploy, and the machine has never run.
    Abandoned,
    /// The record can't be written, so anything created from now on would be forgotten.
    Unrecorded(JobError),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl From<JobError> for Stop {
    fn from(error: JobError) -> Self {
        Self::Unrecorded(error)
    }
}

/// Maps an error in writing an image to a fault.
fn not_written(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::NoRoomForImage,
        _ => Fault::SaveFailed { detail: fault::detail(&format!("writing it: {error}")) },
    }
}

/// A stage and its work.
type Step = (Stage, fn(&mut Worker<'_>) -> Result<(), Stop>);

/// How an order about an existing machine is carried out.
struct Plan {
    /// The stages, in order.
    steps: &'static [Step],
    /// Cleans up after a failure in any step, and reports the fault.
    undo: fn(&mut Worker<'_>, Fault) -> Result<(), JobError>,
}

impl Worker<'_> {
    /// Carries out the order in the record.
    fn begin(&mut self) -> Result<(), JobError> {
        match self.record.work {
            Order::Deploy => self.deploy(),
            Order::Terminate => self.terminate(),
            Order::Stop => self.carry_out(&power::STOP),
            Order::Start => self.carry_out(&power::START),
            Order::Reboot => self.carry_out(&power::REBOOT),
            Order::Save => self.carry_out(&save::SAVE),
            Order::Resize => self.carry_out(&resize::RESIZE),
        }
    }

    fn carry_out(&mut self, plan: &Plan) -> Result<(), JobError> {
        match self.walk(plan.steps) {
            Ok(()) => self.finish(None),
            Err(Stop::Failed(fault)) => (plan.undo)(self, fault),
            // Only deploys are ever abandoned.
            Err(Stop::Abandoned) => (plan.undo)(self, Fault::Interrupted { stage: self.record.stage }),
            Err(Stop::Unrecorded(error)) => Err(error),
        }
    }

    fn walk(&mut self, steps: &[Step]) -> Result<(), Stop> {
        for (stage, work) in steps {
            self.in_stage(*stage, work)?;
        }
        Ok(())
    }

    /// Writes the record so that it survives a power failure.
    fn write_record(&mut self) -> Result<(), JobError> {
        self.lock.write(&mut self.record)
    }

    /// Logs why an image can't be opened. Returns the fault.
    fn image_missing(&self, (fault, error): (Fault, String)) -> Fault {
        log::event(
            Level::Error,
            "image.missing",
            &[("vm", &self.record.id), ("machine", &self.record.machine), ("why", &error)],
        );
        fault
    }

    /// Returns the outcome of packing a disk, from that of writing the image, and that of the helper.
    fn packed(&self, written: Option<Result<(), CopyError>>, read: Result<(), Fault>) -> Result<(), Stop> {
        // If the disk for images is full, nobody reads the helper's output, so the helper fails as
        // well; and if that fails, its stream ends early.
        match (written, read) {
            (Some(Err(CopyError::Write(error))), _) => Err(not_written(&error).into()),
            (_, Err(fault)) => Err(fault.into()),
            (Some(Ok(())), Ok(())) => Ok(()),
            (Some(Err(error)), Ok(())) => {
                Err(Fault::SaveFailed { detail: fault::detail(&error.to_string()) }.into())
            }
            (None, Ok(())) => Err(self.internal("the disk was not packed").into()),
        }
    }

    /// Returns the machine's address.
    fn address(&self) -> Result<Ipv4Addr, Fault> {
        self.record.ip.ok_or_else(|| self.internal("a machine without an address"))
    }

    /// Creates the fault for an error that should not occur; `detail` is only logged.
    fn internal(&self, detail: &str) -> Fault {
        log::event(
            Level::Error,
            "worker.faulted",
            &[("vm", &self.record.id), ("machine", &self.record.machine), ("why", &detail)],
        );
        Fault::Internal { request: self.record.request.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;
    use crate::model::names::{RegistryId, RequestId};
    use crate::model::sign::Key;
    use crate::model::sign::tests::http_answer;
    use crate::model::stage::OrderNumber;
    use crate::model::wire::MachineOrder;
    use crate::system::clock;

    /// A server that gives the same answer to every report.
    #[derive(Clone)]
    pub struct TestServer {
        pub key: Key,
        pub registry: RegistryId,
        /// The body of the answer.
        pub body: String,
    }

    impl TestServer {
        pub fn saying(body: &str) -> Self {
            let key = Key::new(&"k".repeat(64)).unwrap();
            Self { key, registry: RegistryId::generate(), body: body.to_owned() }
        }

        /// Accepts that many reports. Returns the server's URL.
        pub fn start(&self, reports: usize) -> String {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let server = self.clone();
            std::thread::spawn(move || {
                for _ in 0..reports {
                    let (mut stream, _) = listener.accept().unwrap();
                    let (mut received, mut buffer) = (String::new(), [0; 4096]);
                    while !received.contains("\"news\"") {
                        let length = stream.read(&mut buffer).unwrap();
                        received.push_str(&String::from_utf8_lossy(&buffer[..length]));
                    }
                    let TestServer { key, registry, body } = &server;
                    let answer = http_answer(&received, key, Some(*registry), (200, "OK"), body);
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            });
            url
        }
    }

    /// A node bound to the server of one registry, and an order about one machine on it.
    pub struct TestNode {
        dir: tempfile::TempDir,
        config: config::Node,
        common: Common,
        key: Key,
        request: RequestId,
        registry: RegistryId,
        pub order: MachineOrder,
    }

    impl TestNode {
        /// Creates a node that is bound to that registry and whose server is at `url`.
        pub fn new(url: &str, registry: RegistryId) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
            write(
                "node.cfg",
                &format!(
                    "[General]\nserverHostname = \"s\"\nserverURL = \"{url}\"\nimageDirectory = \"/none\"\n\
                     volumeGroupName = \"none\"\n"
                ),
            );
            write("common.cfg", "[VMImages]\n[PhysicalHostsPool]\n[VirtualHostsPool]\n");
            let config = config::Node::load(dir.path()).unwrap();
            let common = Common::load(dir.path()).unwrap();
            let order = MachineOrder {
                id: VmId::generate(),
                number: OrderNumber::default().next(5),
                user: "eve".parse().unwrap(),
                virtual_host: "vm9".parse().unwrap(),
            };
            let key = Key::new(&"k".repeat(64)).unwrap();
            Self { dir, config, common, key, request: "abc".parse().unwrap(), registry, order }
        }

        pub fn jobs(&self) -> Jobs {
            Jobs::open(self.dir.path()).unwrap()
        }

        /// Creates a worker for an order about the machine.
        pub fn worker(&self, edit: impl FnOnce(&mut Record)) -> Worker<'_> {
            let machine = "eve_vm9".parse().unwrap();
            let mut record = Record::unknown(&self.order, machine, self.request.clone(), clock::now());
            edit(&mut record);
            let jobs = self.jobs();
            let mut worker = Worker {
                reporter: Reporter::new(&self.config, &self.key, Some(self.registry), &self.request),
                helper: Helper::new(&self.request),
                config: &self.config,
                common: &self.common,
                lock: jobs.take(self.order.id, Duration::ZERO).unwrap().unwrap(),
                jobs,
                record,
                slot: None,
                turn: None,
                filling: Filling::Stream,
            };
            worker.write_record().unwrap();
            worker
        }
    }

    #[test]
    fn every_plan_has_the_stages_of_its_order() {
        let plans = [
            (Order::Stop, &power::STOP),
            (Order::Start, &power::START),
            (Order::Reboot, &power::REBOOT),
            (Order::Save, &save::SAVE),
            (Order::Resize, &resize::RESIZE),
        ];
        for (order, plan) in plans {
            let stages: Vec<Stage> = plan.steps.iter().map(|(stage, _)| *stage).collect();
            assert_eq!(stages, order.stages(), "{order}");
        }
    }
}
