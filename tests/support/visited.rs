//! What scenarios ask of the portal on a real host, as its users and their scripts do.

use std::time::{Duration, Instant};

use serde_json::Value;
use vgrid::model::stage::Order;

use super::portal::id_of;

/// A host with a portal.
pub trait Visited {
    /// The portal's address, `http://127.0.0.1:PORT`.
    fn portal(&self) -> &str;

    /// Everyone's password.
    fn password(&self) -> &str;

    /// The longest that it may take to carry out an order, in seconds.
    fn patience(&self) -> u64;

    /// The last lines of vGrid's log on the host.
    fn log(&self) -> String;

    /// Sends a GET as a script would. Returns status and body.
    fn ask(&self, user: &str, page: &str, query: &str) -> (u16, String) {
        self.try_ask(user, page, query).unwrap_or_else(|error| panic!("{page}?{query}: {error}"))
    }

    /// Like [`Visited::ask`], but the portal may be stopped before it answers.
    fn try_ask(&self, user: &str, page: &str, query: &str) -> Result<(u16, String), ureq::Error> {
        let portal = self.portal().replace("://", &format!("://{user}:{}@", self.password()));
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(180)))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build()
            .into();
        let mut response = agent.get(format!("{portal}/cgi-bin/user/{page}?{query}")).call()?;
        let status = response.status().as_u16();
        Ok((status, response.body_mut().read_to_string()?))
    }

    /// Requests a deploy. Returns the status and the JSON, whether machine or error.
    fn try_deploy(&self, user: &str, fields: &str) -> (u16, Value) {
        let (status, text) = self.ask(user, "deploy", &format!("format=json&{fields}"));
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")))
    }

    /// Requests a deploy, which must be accepted. Returns the machine's id.
    fn deploy(&self, user: &str, fields: &str) -> String {
        let (status, answer) = self.try_deploy(user, fields);
        assert_eq!(status, 202, "{fields}: {answer}");
        id_of(&answer)
    }

    /// Deploys a machine and waits until it runs. Returns its id.
    fn deployed(&self, user: &str, fields: &str) -> String {
        let id = self.deploy(user, fields);
        self.wait_for(user, &id, "deployed", self.patience());
        id
    }

    /// Gives an order, which must be accepted. `fields` name the machine.
    fn order(&self, user: &str, order: Order, fields: &str) {
        let (status, text) = self.ask(user, order.as_str(), &format!("format=json&{fields}"));
        assert_eq!(status, 202, "{order} {fields}: {text}");
    }

    /// Gives an order and waits until the machine is in the state that it leads to.
    fn carry_out(&self, user: &str, order: Order, id: &str, state: &str) -> Value {
        self.order(user, order, &format!("id={id}"));
        self.wait_for(user, id, state, self.patience())
    }

    /// Deletes a saved image.
    fn delete_image(&self, user: &str, name: &str) {
        let (status, text) = self.ask(user, "images", &format!("format=json&do=delete&name={name}"));
        assert_eq!(status, 202, "{name}: {text}");
    }

    /// A page as JSON.
    fn get_json(&self, user: &str, page: &str, query: &str) -> Value {
        let query = format!("format=json&{query}");
        let (status, text) = self.ask(user, page, query.trim_end_matches('&'));
        assert_eq!(status, 200, "{page}?{query}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// All machines that the portal lists.
    fn machines(&self) -> Vec<Value> {
        let page = self.get_json("admin", "list", "scope=all");
        page["machines"].as_array().expect("machines").clone()
    }

    /// The machine with that name; `None` if it is gone.
    fn named(&self, name: &str) -> Option<Value> {
        self.machines().into_iter().find(|machine| machine["virtual_host"] == name)
    }

    /// A machine's console, as the portal shows it.
    fn console(&self, user: &str, id: &str) -> String {
        let (status, console) = self.ask(user, "console", &format!("format=text&id={id}"));
        assert_eq!(status, 200, "{console}");
        console
    }

    /// A machine as `show` presents it.
    fn machine(&self, user: &str, id: &str) -> Value {
        self.get_json(user, "show", &format!("id={id}"))["machine"].clone()
    }

    /// Waits at most `limit` seconds for a machine to reach a state, and fails at once if it comes
    /// to rest in another.
    fn wait_for(&self, user: &str, id: &str, state: &str, limit: u64) -> Value {
        let end = Instant::now() + Duration::from_secs(limit);
        loop {
            let machine = self.machine(user, id);
            if machine["state"] == state {
                return machine;
            }
            let settled = machine["moving"] == false;
            assert!(!settled && Instant::now() < end, "waited for {state}: {machine:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(400));
        }
    }

    /// Terminates a machine and waits until it is gone.
    fn terminate(&self, user: &str, id: &str) {
        self.order(user, Order::Terminate, &format!("id={id}"));
        self.wait_for(user, id, "notDeployed", self.patience());
    }
}
