//! Calls to nodes. Never made inside a transaction: a node may take seconds.

use std::time::Duration;

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::cgi::reply::Refusal;
use crate::config::{self, ConfigError};
use crate::model::fault::{Fault, detail};
use crate::model::names::{MachineName, PhysicalHost, RegistryId, RequestId, VmId};
use crate::model::sign::{Key, Recipient};
use crate::model::stage::Order;
use crate::model::wire::{
    Accepted, ConsoleTail, DeployOrder, Discarded, Foreign, ImageDone, ImageOrder, MachineOrder, NodeInfo,
    NodeRefusal, ResizeOrder, SaveOrder, SnapshotDone, SnapshotOrder,
};
use crate::remote::{Answer, Client, RemoteError};
use crate::server::registry::vm::OnNode;
use crate::server::registry::{Registry, RegistryError};

/// The shortest timeout of calls that wait for LVM and the toolstack.
const PATIENT: Duration = Duration::from_secs(50);

/// Why a call to a node failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallFailure {
    /// The fault to show to the user.
    pub fault: Fault,
    /// Whether the node may have accepted the order all the same.
    pub taken: OnNode,
}

/// Why no node can be called.
#[derive(Debug, Error)]
pub enum NodesError {
    /// There is no key to sign with.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The registry's identity can't be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl From<NodesError> for Refusal {
    fn from(error: NodesError) -> Self {
        match error {
            NodesError::Config(error) => error.into(),
            NodesError::Registry(error) => error.into(),
        }
    }
}

/// The client for calls to nodes, for one request.
#[derive(Debug)]
pub struct Nodes<'a> {
    config: &'a config::Server,
    request: &'a RequestId,
    key: Key,
    registry: RegistryId,
}

impl<'a> Nodes<'a> {
    /// Reads the key shared by server and nodes, and the registry's identity, by which nodes
    /// recognize their server. `request` is the id under which both sides log.
    ///
    /// # Errors
    /// [`NodesError`] if either is unavailable; no node has been called then.
    pub fn new(config: &'a config::Server, request: &'a RequestId) -> Result<Self, NodesError> {
        let key = config.key()?;
        let registry =
            Registry::open_to_read(&config.general.registry_file)?.read(|reader| reader.identity())?;
        Ok(Self { config, request, key, registry })
    }

    fn client(&self) -> Client<'_> {
        self.patient_client(self.config.node_timeout())
    }

    fn patient_client(&self, limit: Duration) -> Client<'_> {
        Client::new(&self.key, Some(self.registry), self.request, limit, &self.config.general.ca_file)
    }

    /// Orders a node to create a machine.
    ///
    /// # Errors
    /// [`CallFailure`] if the node did not acknowledge the order.
    pub fn deploy(&self, order: &DeployOrder) -> Result<Accepted, CallFailure> {
        let url = self.config.node_url(&order.physical_host, Order::Deploy.as_str());
        let host = &order.physical_host;
        accepted(host, order.id, self.client().post(&to(host), &url, order))
    }

    /// Sends a node an order about an existing machine.
    ///
    /// # Errors
    /// [`CallFailure`] if the node did not acknowledge the order.
    pub fn order(
        &self,
        order: Order,
        host: &PhysicalHost,
        machine: &MachineOrder,
    ) -> Result<Accepted, CallFailure> {
        let url = self.config.node_url(host, order.as_str());
        accepted(host, machine.id, self.client().post(&to(host), &url, machine))
    }

    /// Asks a node what it has.
    ///
    /// # Errors
    /// [`CallFailure`] if there is no usable answer.
    pub fn info(&self, host: &PhysicalHost) -> Result<NodeInfo, CallFailure> {
        done(host, self.client().get(&to(host), &self.config.node_url(host, "info")))
    }

    /// Orders a node to save a machine's disk as an image.
    ///
    /// # Errors
    /// [`CallFailure`] if the node did not acknowledge the order.
    pub fn save(&self, host: &PhysicalHost, order: &SaveOrder) -> Result<Accepted, CallFailure> {
        let url = self.config.node_url(host, Order::Save.as_str());
        accepted(host, order.machine.id, self.client().post(&to(host), &url, order))
    }

    /// Orders a node to give a stopped machine other sizes.
    ///
    /// # Errors
    /// [`CallFailure`] if the node did not acknowledge the order.
    pub fn resize(&self, host: &PhysicalHost, order: &ResizeOrder) -> Result<Accepted, CallFailure> {
        let url = self.config.node_url(host, Order::Resize.as_str());
        accepted(host, order.machine.id, self.client().post(&to(host), &url, order))
    }

    /// Sends a node an order about a saved image, and waits until it is carried out.
    ///
    /// # Errors
    /// [`CallFailure`] if the node did not confirm that.
    pub fn image(&self, host: &PhysicalHost, order: &ImageOrder) -> Result<ImageDone, CallFailure> {
        let url = self.config.node_url(host, "image");
        done(host, self.client().post(&to(host), &url, order))
    }

    /// Orders a node to do something with a snapshot, or to have a machine go back to its image, and
    /// waits until it is done.
    ///
    /// # Errors
    /// [`CallFailure`] if the node did not confirm that.
    pub fn snapshot(&self, host: &PhysicalHost, order: &SnapshotOrder) -> Result<SnapshotDone, CallFailure> {
        let client = self.patient_client(self.config.node_timeout().max(PATIENT));
        done(host, client.post(&to(host), &self.config.node_url(host, "snapshot"), order))
    }

    /// Orders a node to remove something that vGrid did not create, and waits until it is removed.
    ///
    /// # Errors
    /// [`CallFailure`] if the node did not confirm that.
    pub fn discard(&self, host: &PhysicalHost, stranger: &Foreign) -> Result<Discarded, CallFailure> {
        let client = self.patient_client(self.config.node_timeout().max(PATIENT));
        let url = self.config.node_url(host, "discard");
        done(host, client.post(&to(host), &url, stranger))
    }

    /// Fetches the end of a machine's console output.
    ///
    /// # Errors
    /// [`CallFailure`] if it is unavailable.
    pub fn console(&self, host: &PhysicalHost, machine: &MachineName) -> Result<ConsoleTail, CallFailure> {
        // In a query `+` means a blank; no other character of a machine name needs escaping.
        let query = machine.as_str().replace('+', "%2B");
        let url = format!("{}?machine={query}", self.config.node_url(host, "console"));
        done(host, self.client().get(&to(host), &url))
    }
}

fn to(host: &PhysicalHost) -> Recipient {
    Recipient::Node(host.clone())
}

fn accepted(
    host: &PhysicalHost,
    id: VmId,
    answer: Result<Answer, RemoteError>,
) -> Result<Accepted, CallFailure> {
    let answer = answer.map_err(|error| unheard(host, error))?;
    if !(200..300).contains(&answer.status) {
        return Err(refused(host, &answer));
    }
    let accepted: Accepted = answer.json().map_err(|error| unheard(host, error))?;
    if accepted.id == id {
        Ok(accepted)
    } else {
        Err(CallFailure { fault: garbled(host, "it answered about another machine"), taken: OnNode::Maybe })
    }
}

/// Reads the answer to a call that is carried out at once.
fn done<T: DeserializeOwned>(
    host: &PhysicalHost,
    answer: Result<Answer, RemoteError>,
) -> Result<T, CallFailure> {
    let answer = answer.map_err(|error| unheard(host, error))?;
    if answer.status == 200 {
        answer.json().map_err(|error| unheard(host, error))
    } else {
        Err(refused(host, &answer))
    }
}

fn garbled(host: &PhysicalHost, text: &str) -> Fault {
    Fault::HostGarbled { host: host.clone(), detail: detail(text) }
}

/// Returns the trouble for a missing or unreadable answer.
fn unheard(host: &PhysicalHost, error: RemoteError) -> CallFailure {
    match error {
        RemoteError::NotSent(text) => CallFailure {
            fault: Fault::HostDown { host: host.clone(), detail: detail(&text) },
            taken: OnNode::No,
        },
        RemoteError::TimedOut(limit) => CallFailure {
            fault: Fault::HostSilent { host: host.clone(), seconds: limit.as_secs() },
            taken: OnNode::Maybe,
        },
        RemoteError::Broken(text) => CallFailure { fault: garbled(host, &text), taken: OnNode::Maybe },
        error @ (RemoteError::Garbled { .. } | RemoteError::Unsigned(_)) => {
            CallFailure { fault: garbled(host, &error.to_string()), taken: OnNode::Maybe }
        }
    }
}

/// Returns the trouble for an answer that is not an acknowledgement. An answer with a 4xx status,
/// or with a fault, was decided before anything was done. A fault counts only if the answer is
/// signed.
fn refused(host: &PhysicalHost, answer: &Answer) -> CallFailure {
    if answer.signed
        && let Ok(NodeRefusal { fault }) = answer.json()
    {
        return CallFailure { fault, taken: OnNode::No };
    }
    let taken = if (400..500).contains(&answer.status) { OnNode::No } else { OnNode::Maybe };
    // vGrid's own refusals are JSON with a sentence; anything else is the page of another program,
    // whose title would help no one.
    let sentence = answer
        .json::<serde_json::Value>()
        .ok()
        .and_then(|json| json.pointer("/error/message").and_then(|text| text.as_str().map(detail)));
    if let (true, 503, Some(sentence)) = (answer.signed, answer.status, &sentence) {
        // A node answers 503 before it does anything.
        let fault = Fault::HostBusy { host: host.clone(), detail: sentence.trim_end_matches('.').to_owned() };
        return CallFailure { fault, taken: OnNode::No };
    }
    let sentence = sentence.unwrap_or_else(|| "without a reason that vGrid understands".to_owned());
    let fault = Fault::HostRefused { host: host.clone(), status: answer.status, detail: sentence };
    CallFailure { fault, taken }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;
    use crate::model::sign::tests::http_answer;
    use crate::model::size::Amount;
    use crate::model::stage::OrderNumber;

    fn host() -> PhysicalHost {
        "node1".parse().unwrap()
    }

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, date: None, signed: true, registry: None, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn a_node_s_own_reason_is_kept() {
        let fault = Fault::NotEnoughMemory { needed: Amount::from_mib(9), free: Amount::from_mib(1) };
        let body = serde_json::to_string(&NodeRefusal { fault: fault.clone() }).unwrap();
        assert_eq!(refused(&host(), &answer(409, &body)), CallFailure { fault, taken: OnNode::No });
    }

    #[test]
    fn a_reason_that_nobody_signed_is_not_the_node_s() {
        let fault = Fault::NotEnoughMemory { needed: Amount::from_mib(9), free: Amount::from_mib(1) };
        let body = serde_json::to_string(&NodeRefusal { fault }).unwrap();
        for status in [409, 503] {
            let trouble = refused(&host(), &Answer { signed: false, ..answer(status, &body) });
            assert!(matches!(trouble.fault, Fault::HostRefused { .. }), "{trouble:?}");
            assert!(!trouble.fault.sends_elsewhere(), "the node may have taken the order all the same");
        }
    }

    #[test]
    fn what_is_no_node_is_called_so() {
        let page = "<title>It works!</title>";
        let trouble = accepted(&host(), VmId::generate(), Ok(answer(200, page))).unwrap_err();
        assert!(matches!(trouble.fault, Fault::HostGarbled { .. }), "{trouble:?}");
        assert_eq!(trouble.taken, OnNode::Maybe);
        let trouble = refused(&host(), &answer(404, page));
        assert!(matches!(trouble.fault, Fault::HostRefused { status: 404, .. }), "{trouble:?}");
        assert_eq!(trouble.taken, OnNode::No);
        let message = r#"{"error":{"message":"Refused: the signature is wrong."}}"#;
        let trouble = refused(&host(), &answer(403, message));
        assert!(trouble.fault.to_string().contains("the signature is wrong"), "{trouble:?}");
        let message = r#"{"error":{"message":"This host is busy with other orders."}}"#;
        let trouble = refused(&host(), &answer(503, message));
        assert!(matches!(trouble.fault, Fault::HostBusy { .. }), "{trouble:?}");
        assert_eq!((trouble.fault.status(), trouble.taken), (503, OnNode::No));
    }

    #[test]
    fn only_what_was_never_sent_is_surely_not_there() {
        let limit = Duration::from_secs(7);
        for (error, taken) in [
            (RemoteError::NotSent("x".to_owned()), OnNode::No),
            (RemoteError::TimedOut(limit), OnNode::Maybe),
            (RemoteError::Broken("x".to_owned()), OnNode::Maybe),
        ] {
            assert_eq!(unheard(&host(), error).taken, taken);
        }
    }

    /// Starts a node that takes one connection, reads the request's head and body, waits, and sends
    /// what `answer` returns. Returns the URL of the nodes.
    fn scripted(answer: impl FnOnce(&str) -> String + Send + 'static, wait: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{{host}}:{}/cgi-bin/node", listener.local_addr().unwrap().port());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut received, mut buffer) = (String::new(), [0; 4096]);
            while !received.contains('}') {
                let length = stream.read(&mut buffer).unwrap();
                received.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
            assert!(received.to_lowercase().contains("x-vgrid-signature: "), "{received}");
            std::thread::sleep(wait);
            // The client may have given up.
            let _ = stream.write_all(answer(&received).as_bytes());
        });
        url
    }

    fn terminate(url: &str, id: VmId) -> Result<Accepted, CallFailure> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), KEY).unwrap();
        let text = format!(
            "[General]\nEnvUsernameVariable = 'REMOTE_USER'\nkeyFile = '{0}/key'\nnodeURL = '{url}'\n\
             registryFile = '{0}/registry.sqlite'\nnodeTimeout = 1\n",
            dir.path().display()
        );
        drop(Registry::create(&dir.path().join("registry.sqlite")).unwrap());
        std::fs::write(dir.path().join("server.cfg"), text).unwrap();
        let config = config::Server::load(dir.path()).unwrap();
        let request = RequestId::generate();
        let machine = MachineOrder {
            id,
            number: OrderNumber::default(),
            user: "alice".parse().unwrap(),
            virtual_host: "vm1".parse().unwrap(),
        };
        let nodes = Nodes::new(&config, &request).unwrap();
        nodes.order(Order::Terminate, &"localhost".parse().unwrap(), &machine)
    }

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    /// Returns the answer of a node that has this key.
    fn signed(key: &'static str, status: (u16, &'static str), body: String) -> impl Fn(&str) -> String {
        move |head| http_answer(head, &Key::new(key).unwrap(), None, status, &body)
    }

    #[test]
    fn a_node_that_accepts_is_believed_about_this_machine_only() {
        let facts = r#"{"memory_free":1,"memory_total":2,"disk_free":3,"disk_total":4,"version":"1","common_digest":"x"}"#;
        let ours = VmId::generate();
        for (id, believed) in [(ours, true), (VmId::generate(), false)] {
            let body = format!(r#"{{"id":"{id}","host":{facts}}}"#);
            let url = scripted(signed(KEY, (202, "Accepted"), body), Duration::ZERO);
            assert_eq!(terminate(&url, ours).is_ok(), believed);
        }
        // An impostor that does not have the key answers in the node's place.
        let body = format!(r#"{{"id":"{ours}","host":{facts}}}"#);
        let liar = signed("1123456789abcdef0123456789abcdef", (202, "Accepted"), body);
        let trouble = terminate(&scripted(liar, Duration::ZERO), ours).unwrap_err();
        assert!(trouble.fault.to_string().contains("not signed"), "{trouble:?}");
        assert_eq!(trouble.taken, OnNode::Maybe);
    }

    #[test]
    fn a_node_that_hangs_hangs_up_or_is_not_there_is_told_apart() {
        let id = VmId::generate();
        let hangs = terminate(&scripted(|_| String::new(), Duration::from_secs(3)), id).unwrap_err();
        assert!(matches!(hangs.fault, Fault::HostSilent { seconds: 1, .. }), "{hangs:?}");
        let hangs_up = terminate(&scripted(|_| String::new(), Duration::ZERO), id).unwrap_err();
        assert!(matches!(hangs_up.fault, Fault::HostGarbled { .. }), "{hangs_up:?}");
        let no_http = terminate(&scripted(|_| "SSH-2.0-x\r\n".to_owned(), Duration::ZERO), id).unwrap_err();
        assert!(matches!(no_http.fault, Fault::HostGarbled { .. }), "{no_http:?}");
        let busy = terminate(&scripted(signed(KEY, (503, "Busy"), "<html>".to_owned()), Duration::ZERO), id)
            .unwrap_err();
        assert!(matches!(busy.fault, Fault::HostRefused { status: 503, .. }), "{busy:?}");
        assert_eq!(busy.taken, OnNode::Maybe);
        // The port of a listener that has been closed.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let down = terminate(&format!("http://{{host}}:{port}/node"), id).unwrap_err();
        assert!(matches!(down.fault, Fault::HostDown { .. }), "{down:?}");
        let unknown = terminate(&format!("http://{{host}}.invalid:{port}/node"), id).unwrap_err();
        assert!(matches!(unknown.fault, Fault::HostDown { .. }), "{unknown:?}");
        assert_eq!((down.taken, unknown.taken), (OnNode::No, OnNode::No));
    }
}
