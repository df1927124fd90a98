//! The least that any server has to do: TLS on the same runtime, every line answered alike, and one loop
//! that writes the same bytes to many. It runs in a process of its own, as the server does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use atedge_service::tls::{ClientCertificates, server_config};
use atedge_tests::process::Process;
use atedge_tests::town::free_address;
use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::client::{Client, Crowd};
use crate::ground::Ground;

/// What the floor's process is told.
#[derive(Args)]
pub(crate) struct Told {
    #[arg(long)]
    address: SocketAddr,
    /// Certificate and key, in one file
    #[arg(long)]
    pem: PathBuf,
    /// What follows each answer's line end is `@`
    #[arg(long)]
    answer: String,
}

/// The floor's process.
pub(crate) struct Floor<'a> {
    ground: &'a Ground,
    pub(crate) address: SocketAddr,
    process: Process,
}

impl<'a> Floor<'a> {
    /// Starts it. It is not waited for: the first to connect does that.
    pub(crate) fn launch(ground: &'a Ground, answer: &str) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["floor", "--address", &address.to_string(), "--answer", answer, "--pem"]);
        command.arg(ground.authority.cert());
        let process = Process::start("floor", &mut command, ground.folder.path())?;
        Ok(Self { ground, address, process })
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn start(ground: &'a Ground, answer: &str) -> Result<Self> {
        let floor = Self::launch(ground, answer)?;
        floor.process.line()?.context("the floor ended")?;
        Ok(floor)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) async fn dial(&self) -> Result<Client> {
        Client::dial(self.address, &self.ground.tls).await
    }

    pub(crate) async fn crowd(&self, size: usize) -> Result<Crowd> {
        let mut crowd = Crowd::default();
        for _ in 0..size {
            crowd.clients.push(self.dial().await?);
        }
        Ok(crowd)
    }
}

type Watching = Arc<Mutex<Vec<TlsStream<TcpStream>>>>;

/// The floor itself, until its process is killed.
#[expect(clippy::print_stdout, reason = "that it listens")]
pub(crate) async fn serve(told: Told) -> Result<()> {
    let acceptor = TlsAcceptor::from(server_config(&told.pem, &told.pem, ClientCertificates::Recorded)?);
    let listener = TcpListener::bind(told.address).await?;
    println!("listening");
    let answer: Arc<[u8]> = format!("{}\n@", told.answer).into_bytes().into();
    let watching = Watching::default();
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        let (acceptor, answer, watching) = (acceptor.clone(), Arc::clone(&answer), Arc::clone(&watching));
        tokio::spawn(async move {
            // Who hangs up has had enough.
            if let Ok(stream) = Box::pin(acceptor.accept(tcp)).await {
                echo(stream, &answer, watching).await.ok();
            }
        });
    }
}

async fn echo(mut stream: TlsStream<TcpStream>, answer: &[u8], watching: Watching) -> Result<()> {
    write(&mut stream, b"@").await?;
    loop {
        // No buffer while nothing comes.
        let mut first = [0];
        if stream.read(&mut first).await? == 0 {
            return Ok(());
        }
        let (mut lines, mut out) = (first.to_vec(), Vec::new());
        loop {
            if lines.ends_with(b"\n") {
                break;
            }
            lines.reserve(8 * 1024);
            if stream.read_buf(&mut lines).await? == 0 {
                return Ok(());
            }
        }
        if lines == b"watch\n" {
            watching.lock().await.push(stream);
            return Ok(());
        }
        if let Some(order) = lines.strip_prefix(b"fan ") {
            fan(std::str::from_utf8(order)?, &watching).await?;
        }
        for _ in lines.iter().filter(|byte| **byte == b'\n') {
            out.extend_from_slice(answer);
        }
        write(&mut stream, &out).await?;
    }
}

/// `<times> <bytes>`: writes so many bytes to all that watch, so many times.
async fn fan(order: &str, watching: &Watching) -> Result<()> {
    let (times, bytes) = order.trim().split_once(' ').context("times and bytes")?;
    let mut line = vec![b'x'; bytes.parse()?];
    line[bytes.parse::<usize>()? - 1] = b'\n';
    let mut watching = watching.lock().await;
    for _ in 0..times.parse()? {
        for stream in watching.iter_mut() {
            write(stream, &line).await?;
        }
    }
    Ok(())
}

async fn write(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).await?;
    Ok(stream.flush().await?)
}
