//! Scripted nodes: a small HTTP server on one port of several loopback addresses.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use vgrid::model::fault::Fault;
use vgrid::model::lease::Moment;
use vgrid::model::names::{DomainNumber, VmId};
use vgrid::model::sign::{
    Key, NONCE_HEADER, Nonce, RECIPIENT_HEADER, REGISTRY_HEADER, Recipient, SIGNATURE_HEADER, Signed,
    SignedAnswer, TIME_HEADER,
};
use vgrid::model::size::Amount;
use vgrid::model::stage::{Order, OrderNumber};
use vgrid::model::wire::{
    Accepted, ConsoleTail, Discarded, Domain, Foreign, HostFacts, ImageDone, Job, NodeInfo, NodeRefusal,
    Snapshot, SnapshotAct, SnapshotDone, SnapshotOrder,
};

use super::lock;

/// How a node answers.
#[derive(Debug, Clone)]
pub enum Conduct {
    /// Accepts every request: orders with 202, images and orphans as ordered, and a fixed console.
    Accept,
    /// Refuses with 409 and a fault.
    Refuse(Fault),
    /// Refuses requests to one program, accepts all others.
    RefuseTo(&'static str, Fault),
    /// Does not answer until it is dropped.
    Hang,
    /// Closes the connection at once.
    Close,
    /// Sends bytes that are not HTTP.
    Garbage,
    /// Answers with this status and body.
    Say(u16, String),
    /// Answers 200 with a page, unsigned.
    Page(String),
    /// Announces more bytes than it sends.
    CutOff,
}

/// A request that a node received.
#[derive(Debug, Clone)]
pub struct Received {
    /// The address it was sent to, which identifies the node.
    pub at: IpAddr,
    /// Path and query.
    pub path: String,
    pub body: Vec<u8>,
    /// Whether it had a valid, current signature with the shared key.
    pub signed: bool,
    /// Its signature, which the signature of the answer covers.
    signature: String,
}

impl Received {
    /// The last component of the path: an order, `info`, `console`.
    pub fn program(&self) -> &str {
        self.path.split('?').next().unwrap_or_default().rsplit('/').next().unwrap_or_default()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

#[derive(Debug)]
struct Shared {
    key: Key,
    conduct: Mutex<Conduct>,
    /// The conduct of single nodes, by address.
    exceptions: Mutex<BTreeMap<IpAddr, Conduct>>,
    /// The `info` of single nodes; the others have nothing.
    infos: Mutex<BTreeMap<IpAddr, NodeInfo>>,
    /// How many seconds their clocks are ahead.
    ahead: Mutex<i64>,
    received: Mutex<Vec<Received>>,
    stopped: Mutex<bool>,
    stop: Condvar,
    closing: AtomicBool,
}

/// Nodes that share a port; stopped when dropped.
#[derive(Debug)]
pub struct Nodes {
    pub port: u16,
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Nodes {
    /// Starts that many nodes, at 127.0.0.1, 127.0.0.2 … They accept everything unless told
    /// otherwise.
    pub fn start(key: &Key, many: u16) -> Self {
        let listeners = listen(many);
        let port = listeners[0].local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            key: key.clone(),
            conduct: Mutex::new(Conduct::Accept),
            exceptions: Mutex::default(),
            infos: Mutex::default(),
            ahead: Mutex::new(0),
            received: Mutex::default(),
            stopped: Mutex::new(false),
            stop: Condvar::new(),
            closing: AtomicBool::new(false),
        });
        let addresses = listeners.iter().map(|l| l.local_addr().expect("an address")).collect();
        let threads = listeners
            .into_iter()
            .map(|listener| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&listener, &shared))
            })
            .collect();
        Self { port, addresses, shared, threads }
    }

    /// Sets how all nodes behave from now on.
    pub fn conduct(&self, conduct: Conduct) {
        *lock(&self.shared.conduct) = conduct;
    }

    /// Sets how the node at an address behaves from now on, regardless of the others.
    pub fn conduct_at(&self, at: Ipv4Addr, conduct: Conduct) {
        lock(&self.shared.exceptions).insert(at.into(), conduct);
    }

    /// Sets the `info` of the node at an address.
    pub fn has(&self, at: Ipv4Addr, info: NodeInfo) {
        lock(&self.shared.infos).insert(at.into(), info);
    }

    /// Sets how many seconds the clocks of the nodes are ahead of ours.
    pub fn clock_is_ahead(&self, seconds: i64) {
        *lock(&self.shared.ahead) = seconds;
    }

    /// Turns the nodes into a web site with a single page.
    pub fn serve_page(&self, page: &str) {
        self.conduct(Conduct::Page(page.to_owned()));
    }

    /// All requests received so far.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// The requests received so far for one program.
    pub fn orders(&self, program: &str) -> Vec<Received> {
        self.received().into_iter().filter(|r| r.program() == program).collect()
    }

    /// Stops listening.
    pub fn shut_down(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        *lock(&self.shared.stopped) = true;
        self.shared.stop.notify_all();
        for address in &self.addresses {
            // Wakes the thread that waits for a connection, if it still does.
            let _ = TcpStream::connect_timeout(address, Duration::from_secs(1));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// The address of the nth node, counted from 1: 127.0.0.1, 127.0.0.2 …
pub fn address(n: u16) -> Ipv4Addr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(127, 0, high, low)
}

/// Listeners on the same free port of several addresses.
fn listen(many: u16) -> Vec<TcpListener> {
    for _ in 0..50 {
        let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = first.local_addr().expect("an address").port();
        let others = (2..=many).map(|n| TcpListener::bind((address(n), port)));
        if let Ok(all) = std::iter::once(Ok(first)).chain(others).collect() {
            return all;
        }
    }
    panic!("no port is free on {many} addresses");
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.closing.load(Ordering::SeqCst) {
            return;
        }
        if let Ok(stream) = stream {
            let shared = Arc::clone(shared);
            // The thread ends with its connection, at the latest when the nodes are dropped.
            std::thread::spawn(move || answer(stream, &shared));
        }
    }
}

fn answer(mut stream: TcpStream, shared: &Shared) {
    // The client may be gone, for instance after a timeout. Some tests provoke that.
    let Some(received) = read(&stream, &shared.key) else { return };
    lock(&shared.received).push(received.clone());
    let exception = lock(&shared.exceptions).get(&received.at).cloned();
    let conduct = exception.unwrap_or_else(|| lock(&shared.conduct).clone());
    let (status, body) = match conduct {
        Conduct::RefuseTo(program, fault) if program == received.program() => {
            (409, serde_json::to_string(&NodeRefusal { fault }).expect("JSON"))
        }
        Conduct::Accept | Conduct::RefuseTo(..) => accept(&received, lock(&shared.infos).get(&received.at)),
        Conduct::Refuse(fault) => (409, serde_json::to_string(&NodeRefusal { fault }).expect("JSON")),
        Conduct::Say(status, body) => (status, body),
        Conduct::Page(page) => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(page.as_bytes()));
            return;
        }
        Conduct::Close => return,
        Conduct::Garbage => {
            let _ = stream.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n");
            return;
        }
        Conduct::CutOff => {
            let _ = stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 500\r\n\r\n{\"id\":");
            return;
        }
        Conduct::Hang => {
            let stopped = lock(&shared.stopped);
            let _ = shared.stop.wait_timeout_while(stopped, Duration::from_secs(60), |stopped| !*stopped);
            return;
        }
    };
    let now = vgrid::system::clock::now().plus_seconds(*lock(&shared.ahead)).unix();
    let date = jiff::Timestamp::from_second(now)
        .and_then(|now| jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now))
        .expect("a date");
    let answer = SignedAnswer { request: &received.signature, status, registry: None, body: body.as_bytes() };
    let headers = answer
        .headers(&shared.key)
        .iter()
        .fold(String::new(), |text, (name, value)| text + name + ": " + value + "\r\n");
    let head = format!(
        "HTTP/1.1 {status} Whatever\r\nDate: {date}\r\n{headers}Content-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

fn read(stream: &TcpStream, key: &Key) -> Option<Received> {
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let at = stream.local_addr().ok()?.ip();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut parts = line.split_whitespace().map(str::to_owned);
    let (method, path) = (parts.next()?, parts.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let header =
        |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let length = header("content-length").map_or(Some(0), |text| text.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let time = header(TIME_HEADER)
        .and_then(|text| text.parse().ok())
        .map_or(Moment::from_unix(0), Moment::from_unix);
    let to: Option<Recipient> = header(RECIPIENT_HEADER).and_then(|text| text.parse().ok());
    let nonce: Option<Nonce> = header(NONCE_HEADER).and_then(|text| text.parse().ok());
    let registry = header(REGISTRY_HEADER).and_then(|text| text.parse().ok());
    let signature = header(SIGNATURE_HEADER).unwrap_or_default().to_owned();
    let signed = to.zip(nonce).is_some_and(|(to, nonce)| {
        let (to, nonce) = (&to, &nonce);
        Signed { to, registry, nonce, time, method: &method, path_and_query: &path, body: &body }
            .verify(key, &signature, vgrid::system::clock::now())
            .is_ok()
    });
    Some(Received { at, path, body, signed, signature })
}

/// The answer of a working node.
fn accept(received: &Received, info: Option<&NodeInfo>) -> (u16, String) {
    match received.program() {
        program if program.parse::<Order>().is_ok() => {
            let order = received.json();
            // An order to save has the machine in a part of its own.
            let machine = order.get("machine").unwrap_or(&order);
            let id: VmId = machine["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
            (202, serde_json::to_string(&Accepted { id, host: facts() }).expect("JSON"))
        }
        "info" => {
            let nothing = nothing();
            (200, serde_json::to_string(info.unwrap_or(&nothing)).expect("JSON"))
        }
        "image" => (200, serde_json::to_string(&ImageDone { host: facts() }).expect("JSON")),
        // It remembers nothing: there is the snapshot of the order, unless that has been deleted. If the
        // order names none, there are those that it was given.
        "snapshot" => {
            let SnapshotOrder { act, machine } = serde_json::from_slice(&received.body).expect("an order");
            let taken = Moment::from_unix(1_795_348_800);
            let host = HostFacts { snapshots: true, ..facts() };
            let snapshots = match act {
                SnapshotAct::Take(name) | SnapshotAct::RollBack(name) => {
                    vec![Snapshot { name, taken, holds: Amount::from_mib(57) }]
                }
                SnapshotAct::Delete(_) => Vec::new(),
                SnapshotAct::AsNew => {
                    let volumes = info.iter().flat_map(|info| &info.volumes);
                    let its = volumes.filter(|volume| volume.machine == Some(machine.id));
                    its.filter_map(|volume| volume.snapshot.clone()).collect()
                }
            };
            (200, serde_json::to_string(&SnapshotDone { snapshots, host }).expect("JSON"))
        }
        "discard" => {
            let stranger: Foreign = serde_json::from_slice(&received.body).expect("an orphan");
            (200, serde_json::to_string(&Discarded { stranger }).expect("JSON"))
        }
        "console" => {
            let tail =
                ConsoleTail { text: "[    0.000000] Linux version 6.1\nlogin: ".into(), truncated: true };
            (200, serde_json::to_string(&tail).expect("JSON"))
        }
        _ => (404, json!({"error": {"message": "no such program"}}).to_string()),
    }
}

/// The `info` of a node that has nothing.
pub fn nothing() -> NodeInfo {
    NodeInfo {
        host: facts(),
        toolstack: "xl".to_owned(),
        domains: Vec::new(),
        volumes: Vec::new(),
        jobs: Vec::new(),
        images: Vec::new(),
        saved: Vec::new(),
        unknown: Vec::new(),
    }
}

/// The `info` of a node with running machines, (id, name) each, and no work in progress.
pub fn with_machines(machines: &[(&str, &str)]) -> NodeInfo {
    let mut info = nothing();
    for (n, (id, name)) in (1..).zip(machines) {
        info.jobs.push(Job {
            id: id.parse().expect("an id"),
            machine: name.parse().expect("a machine's name"),
            work: None,
            stage: None,
            stopped: false,
            since: Moment::from_unix(0),
            number: OrderNumber::default(),
            order: None,
        });
        let (memory, state) = (Amount::from_mib(128), "running".to_owned());
        info.domains.push(Domain { name: (*name).to_owned(), id: DomainNumber::new(n), memory, state });
    }
    info
}

/// The free resources that hosts report in tests.
pub fn facts() -> HostFacts {
    HostFacts {
        memory_free: Amount::from_mib(3000),
        memory_total: Amount::from_mib(4096),
        disk_free: Amount::from_mib(50 * 1024),
        disk_total: Amount::from_mib(100 * 1024),
        version: vgrid::VERSION.to_owned(),
        common_digest: "0123456789abcdef".to_owned(),
        max_cpus: None,
        images: None,
        emulated: false,
        snapshots: false,
        pool: None,
    }
}
