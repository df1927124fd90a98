//! Clients that cost as little as possible: they count line ends and do not look at answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use at_protocol::crypto::{Hash, RsaPrivateKey};
use atedge_tests::random::Random;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::meter::micros;

/// One connection.
pub(crate) struct Client {
    stream: TlsStream<TcpStream>,
    /// Bytes of the prompt that follows an answer's line end.
    prompt: usize,
    /// What has come and was not counted yet.
    heard: Vec<u8>,
}

impl Client {
    /// Connects and takes the greeting off.
    pub(crate) async fn dial(address: SocketAddr, tls: &Arc<ClientConfig>) -> Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let mut stream = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await?;
        let mut greeting = [0];
        stream.read_exact(&mut greeting).await?;
        ensure!(&greeting == b"@", "greeted with {greeting:?}");
        Ok(Self { stream, prompt: 1, heard: Vec::new() })
    }

    /// Proves to be the owner.
    pub(crate) async fn sign_in(&mut self, atsign: &str, key: &RsaPrivateKey) -> Result<()> {
        let challenge = self.ask(&format!("from:{atsign}\n")).await?;
        self.prompt = atsign.len() + 1;
        let answer = self.ask(&proof(key, &challenge)).await?;
        ensure!(answer == "data:success", "not signed in: {answer}");
        Ok(())
    }

    /// Says a line and gives the answer's line.
    pub(crate) async fn ask(&mut self, line: &str) -> Result<String> {
        self.say(line).await?;
        while self.whole(1).is_none() {
            self.read().await?;
        }
        let end = self.heard.iter().position(|byte| *byte == b'\n').context("an answer ends its line")?;
        let answer = String::from_utf8(self.heard[..end].to_vec())?;
        self.heard.clear();
        Ok(answer)
    }

    pub(crate) async fn say(&mut self, lines: &str) -> Result<()> {
        self.stream.write_all(lines.as_bytes()).await?;
        Ok(self.stream.flush().await?)
    }

    /// Says lines and waits for as many answers.
    pub(crate) async fn exchange(&mut self, lines: &str, answers: usize) -> Result<()> {
        self.say(lines).await?;
        self.hear(answers).await
    }

    /// Waits for this many answers, all of which are data.
    pub(crate) async fn hear(&mut self, answers: usize) -> Result<()> {
        let end = loop {
            if let Some(end) = self.whole(answers) {
                break end;
            }
            self.read().await?;
        };
        let refused = self.heard.starts_with(b"error:");
        ensure!(!refused, "refused: {}", String::from_utf8_lossy(&self.heard[..end]));
        self.heard.drain(..end);
        Ok(())
    }

    /// Says a line after which there are no prompts and no answers, only lines.
    pub(crate) async fn turn(&mut self, line: &str) -> Result<()> {
        self.prompt = 0;
        self.say(line).await
    }

    /// How many bytes the next line has, with its end.
    pub(crate) async fn measure(&mut self) -> Result<usize> {
        loop {
            if let Some(length) = self.whole(1) {
                return Ok(length);
            }
            self.read().await?;
        }
    }

    /// Where the first `answers` answers end, if they are there.
    fn whole(&self, answers: usize) -> Option<usize> {
        let ends = self.heard.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let last = ends.map(|(place, _)| place).nth(answers - 1)?;
        let end = last + 1 + self.prompt;
        (self.heard.len() >= end).then_some(end)
    }

    async fn read(&mut self) -> Result<()> {
        let count = self.stream.read_buf(&mut self.heard).await?;
        ensure!(count > 0, "hung up on");
        Ok(())
    }

    /// How long a line's answer takes, in microseconds.
    pub(crate) async fn latency(&mut self, line: &str) -> Result<f64> {
        let began = Instant::now();
        self.exchange(line, 1).await?;
        Ok(micros(began.elapsed()))
    }
}

/// The line that answers a challenge.
pub(crate) fn proof(key: &RsaPrivateKey, challenge: &str) -> String {
    let challenge = challenge.strip_prefix("data:").unwrap_or(challenge);
    format!("pkam:{}\n", key.sign(challenge.as_bytes(), Hash::Sha256))
}

/// Many connections.
#[derive(Default)]
pub(crate) struct Crowd {
    pub(crate) clients: Vec<Client>,
}

impl Crowd {
    /// Each client says `rounds` times `window` lines in one write and waits for their answers.
    pub(crate) async fn rush<F>(&mut self, rounds: usize, window: usize, line: F) -> Result<()>
    where
        F: Fn(&mut Random) -> String + Clone + Send + 'static,
    {
        self.all(move |number, mut client| {
            let line = line.clone();
            async move {
                let mut random = Random::new(number);
                for _ in 0..rounds {
                    let lines: String = (0..window).map(|_| line(&mut random)).collect();
                    client.exchange(&lines, window).await?;
                }
                Ok(client)
            }
        })
        .await
    }

    /// Each client, with its number, does something at the same time as the others.
    pub(crate) async fn all<F, W>(&mut self, does: F) -> Result<()>
    where
        F: Fn(u64, Client) -> W,
        W: Future<Output = Result<Client>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for (number, client) in (0..).zip(self.clients.drain(..)) {
            tasks.spawn(does(number, client));
        }
        while let Some(done) = tasks.join_next().await {
            self.clients.push(done??);
        }
        Ok(())
    }
}
