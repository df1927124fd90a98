//! A real broker of our own, on a free loopback port.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::watch;

use super::gateway::within;
use super::tls::Authority;

const BINARY: &str = "/usr/sbin/mosquitto";

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A running broker. It keeps its sessions over a [`restart`](Self::restart).
pub(crate) struct Mosquitto {
    pub(crate) port: u16,
    folder: TempDir,
    process: Child,
    /// Every line it has logged since its last start.
    log: watch::Receiver<Arc<Vec<String>>>,
}

impl Mosquitto {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "allow_anonymous true").await
    }

    /// Starts a broker that only lets `gateway` in, with the password `open sesame`.
    pub(crate) async fn start_guarded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let passwords = folder.path().join("passwords");
        let made = Command::new("mosquitto_passwd")
            .args(["-c", "-b"])
            .arg(&passwords)
            .args(["gateway", "open sesame"])
            .status()
            .unwrap();
        assert!(made.success());
        Self::start_in(folder, &format!("allow_anonymous false\npassword_file {}", passwords.display())).await
    }

    /// Starts a broker that also listens at a second port, with TLS and this authority, and there only lets in
    /// who has a certificate of it.
    pub(crate) async fn start_with_tls(authority: &Authority) -> (Self, u16) {
        let secure = free_port();
        let [cert, key] = authority.issue("broker");
        let listener = format!(
            "allow_anonymous true\nlistener {secure} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n\
             require_certificate true",
            authority.ca().display(),
            cert.display(),
            key.display()
        );
        (Self::start_in(tempfile::tempdir().unwrap(), &listener).await, secure)
    }

    async fn start_in(folder: TempDir, access: &str) -> Self {
        let port = free_port();
        let config = format!(
            "listener {port} 127.0.0.1\n{access}\nuser root\npersistence true\n\
             persistence_location {}/\nlog_dest stderr\nlog_type all\n",
            folder.path().display()
        );
        std::fs::write(folder.path().join("mosquitto.conf"), config).unwrap();
        let (process, log) = run(folder.path().join("mosquitto.conf"));
        let broker = Self { port, folder, process, log };
        broker.logs("running").await;
        broker
    }

    /// Waits for a line with this text.
    pub(crate) async fn logs(&self, text: &str) {
        self.logs_more_than(0, text).await;
    }

    /// Waits for more than `count` lines with this text.
    pub(crate) async fn logs_more_than(&self, count: usize, text: &str) {
        let mut log = self.log.clone();
        let found = log.wait_for(|lines| lines.iter().filter(|line| line.contains(text)).count() > count);
        within(&format!("{text:?} in the broker's log"), found).await.expect("the broker ended");
    }

    /// The lines with this text so far.
    pub(crate) fn logged(&self, text: &str) -> Vec<String> {
        self.log.borrow().iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// Ends the broker; it writes down its sessions.
    pub(crate) fn stop(&mut self) {
        let terminated = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(terminated.success());
        self.process.wait().unwrap();
    }

    /// Starts the broker that was stopped, on its old port; with `forget`, it has lost its sessions.
    pub(crate) async fn restart(&mut self, forget: bool) {
        if forget {
            std::fs::remove_file(self.folder.path().join("mosquitto.db")).unwrap();
        }
        (self.process, self.log) = run(self.folder.path().join("mosquitto.conf"));
        self.logs("running").await;
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn run(config: PathBuf) -> (Child, watch::Receiver<Arc<Vec<String>>>) {
    let mut process =
        Command::new(BINARY).arg("-c").arg(config).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!("these tests need Mosquitto at {BINARY} (apt-get install mosquitto): {error}")
        });
    let (tell, log) = watch::channel(Arc::default());
    let stderr = BufReader::new(process.stderr.take().unwrap());
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            tell.send_modify(|lines: &mut Arc<Vec<String>>| Arc::make_mut(lines).push(line));
        }
    });
    (process, log)
}
