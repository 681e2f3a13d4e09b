//! Certificates for tests, and clients that use them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::portal::Portal;

/// What `openssl req` needs to make a key along with its certificate or request.
const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/// The extensions of a client's certificate.
pub const CLIENT: &str = "extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE\n";

/// The extensions of the certificate of a server on this machine.
pub const LOCALHOST: &str = "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n";

#[track_caller]
fn openssl(dir: &Path, args: &[&str]) {
    let output = Command::new("/usr/bin/openssl")
        .current_dir(dir)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("openssl can be started");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Certificate authorities of one test, with the certificates they signed, in a folder.
#[derive(Debug)]
pub struct Authority<'a> {
    pub dir: &'a Path,
}

impl Authority<'_> {
    /// Makes an authority: `NAME.key` and `NAME.pem`.
    pub fn found(&self, name: &str) {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = ["-days", "2", "-subj", "/O=Example/CN=A throw-away authority"];
        let files = ["-keyout", &key, "-out", &certificate];
        openssl(self.dir, &[&["req", "-x509"], &NEW_KEY[..], &subject, &files].concat());
    }

    /// Makes a key, and a certificate that an authority signs: `NAME.key` and `NAME.pem`.
    pub fn sign(&self, authority: &str, name: &str, subject: &str, extensions: &str) {
        let [key, request, certificate, file] =
            ["key", "csr", "pem", "ext"].map(|end| format!("{name}.{end}"));
        fs::write(self.dir.join(&file), extensions).expect("a file");
        let subject = ["-utf8", "-subj", subject, "-keyout", &key, "-out", &request];
        openssl(self.dir, &[&["req"], &NEW_KEY[..], &subject].concat());
        let [ca, ca_key] = ["pem", "key"].map(|end| format!("{authority}.{end}"));
        let signer = ["-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-extfile", &file];
        let files = ["-in", &request, "-out", &certificate];
        openssl(self.dir, &[&["x509", "-req", "-days", "2"], &signer[..], &files].concat());
    }
}

/// A self-signed certificate for 127.0.0.1, and its key.
pub fn self_signed(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let [certificate, key] = ["pem", "key"].map(|end| format!("{name}.{end}"));
    let subject = ["-days", "2", "-subj", "/CN=sink", "-addext", "subjectAltName=IP:127.0.0.1"];
    let files = ["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &certificate];
    openssl(dir, &[&["req", "-x509"], &NEW_KEY[..], &subject, &files].concat());
    (dir.join(certificate), dir.join(key))
}

/// The directives of a virtual host with the certificate `server` of that folder, for clients with
/// certificates of the authority `ca`; `verify` is the value of `SSLVerifyClient`.
pub fn site(dir: &Path, verify: &str) -> String {
    let dir = dir.display();
    format!(
        "ServerName localhost\nSSLCertificateFile \"{dir}/server.pem\"\nSSLCertificateKeyFile \"{dir}/server.key\"\n\
         SSLCACertificateFile \"{dir}/ca.pem\"\nSSLVerifyClient {verify}"
    )
}

/// A client that trusts the authority `ca` of that folder alone, and presents the certificate with
/// that name, if any. It follows no redirects.
pub fn client(dir: &Path, certificate: Option<&str>) -> ureq::Agent {
    let read = |name: &str| fs::read(dir.join(name)).expect("a PEM file");
    let root = Certificate::from_pem(&read("ca.pem")).expect("a certificate");
    let mut tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&[root]));
    if let Some(name) = certificate {
        let chain = [Certificate::from_pem(&read(&format!("{name}.pem"))).expect("a certificate")];
        let key = PrivateKey::from_pem(&read(&format!("{name}.key"))).expect("a key");
        tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    ureq::Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .new_agent()
}

/// Gets a page by TLS, with or without a client certificate: status and text.
pub fn get_with_certificate(
    portal: &Portal,
    dir: &Path,
    certificate: Option<&str>,
    path: &str,
) -> (u16, String) {
    let port = portal.apache.tls.expect("a port with TLS").port();
    let url = format!("https://localhost:{port}{path}");
    let mut answer = client(dir, certificate).get(url).call().expect("an answer");
    (answer.status().as_u16(), answer.body_mut().read_to_string().expect("a page"))
}
