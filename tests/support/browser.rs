//! A headless Chromium, driven by the WebDriver protocol (W3C) through Debian's chromedriver.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::apache::programs_of;
use super::eventually;
use super::stage::public_folder;

/// The longest that a step may take. A browser starts slowly on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two site names that Chromium does not take for localhost, so that they count as plain http. It
/// sends `Sec-Fetch-Site` only to https and to localhost.
const NAMES: &str = "--host-resolver-rules=MAP portal.test 127.0.0.1, MAP elsewhere.test 127.0.0.2";

/// A browser with one window; closed when dropped.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
    home: TempDir,
}

impl Browser {
    /// Starts a browser with a profile of its own.
    pub fn start() -> Self {
        let home = public_folder();
        let mut driver = Command::new("/usr/bin/chromedriver")
            .arg("--port=0")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("chromedriver can be started");
        let stdout = driver.stdout.take().expect("a pipe");
        let port: u16 = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_suffix('.')?.split_once(" successfully on port ")?.1.parse().ok())
            .expect("chromedriver prints its port");
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .proxy(None)
            .http_status_as_error(false)
            .build()
            .new_agent();
        let mut browser = Self { driver, agent, session: format!("http://127.0.0.1:{port}/session"), home };
        let profile = browser.home.path().join("profile");
        let options = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {
            "binary": "/usr/bin/chromium",
            "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--window-size=1200,900", NAMES,
                format!("--user-data-dir={}", profile.display()),
            ],
        }, "goog:loggingPrefs": {"browser": "ALL"}}}});
        let made = browser.command("POST", "", &options);
        let id = made["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {made}"));
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    #[track_caller]
    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.session);
        let answer = match method {
            "GET" => self.agent.get(&url).call(),
            "DELETE" => self.agent.delete(&url).call(),
            _ => self.agent.post(&url).content_type("application/json").send(body.to_string()),
        };
        let mut answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let text = answer.body_mut().read_to_string().expect("chromedriver's answer");
        let mut answer: Value = serde_json::from_str(&text).expect("chromedriver's JSON");
        assert!(answer["value"]["error"].is_null(), "{method} {path}: {}", answer["value"]);
        answer["value"].take()
    }

    /// Goes to an address.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({"url": url}));
    }

    /// The address of the current page.
    pub fn url(&self) -> String {
        self.command("GET", "/url", &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    /// Runs a script in the page, as the body of a function, and returns its result.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until an expression is true in the page.
    #[track_caller]
    pub fn wait(&self, expression: &str) {
        let script = format!("return Boolean({expression})");
        let holds = eventually(PATIENCE, || (self.run(&script) == true).then_some(()));
        assert!(holds.is_some(), "{expression} did not become true at {}\n{}", self.url(), self.text());
    }

    /// The text of the page, as a reader sees it.
    #[track_caller]
    pub fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// The WebDriver id of the element that a CSS selector finds.
    #[track_caller]
    fn element(&self, selector: &str) -> String {
        let found = self.command("POST", "/element", &json!({"using": "css selector", "value": selector}));
        let id = found.as_object().and_then(|ids| ids.values().next()).and_then(Value::as_str);
        id.expect("an element").to_owned()
    }

    /// Clicks on an element as a user would. It must exist and be visible.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let id = self.element(selector);
        self.command("POST", &format!("/element/{id}/click"), &json!({}));
    }

    /// Types a text into a field, replacing what was there.
    #[track_caller]
    pub fn fill(&self, selector: &str, text: &str) {
        let id = self.element(selector);
        self.command("POST", &format!("/element/{id}/clear"), &json!({}));
        self.command("POST", &format!("/element/{id}/value"), &json!({"text": text}));
    }

    /// Errors in the browser's log: blocked scripts, missing files, script errors.
    pub fn errors(&self) -> Vec<String> {
        let log = self.command("POST", "/se/log", &json!({"type": "browser"}));
        let entries = log.as_array().cloned().unwrap_or_default();
        entries.iter().filter(|e| e["level"] == "SEVERE").map(ToString::to_string).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium ends with its session. Whatever is left after that is killed.
        let _ = self.agent.delete(&self.session).call();
        let pid = Pid::from_raw(self.driver.id().cast_signed());
        let _ = kill(pid, Signal::SIGTERM);
        if eventually(Duration::from_secs(3), || self.driver.try_wait().ok().flatten()).is_none() {
            let _ = killpg(pid, Signal::SIGKILL);
            let _ = self.driver.wait();
        }
        // Chromium's child processes write to the profile until they are gone.
        eventually(Duration::from_secs(5), || {
            let left = programs_of(self.home.path());
            for &process in &left {
                let _ = kill(process, Signal::SIGKILL);
            }
            left.is_empty().then_some(())
        });
    }
}
