//! The transcripts against the server's own session over memory, which shows each single write.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use atedge_server::session::{Caller, serve};
use atedge_server::store::Tenant;
use atedge_server::{Node, ServerConfig};
use atedge_tests::replay::{Conversation, Owner, prepare, replay};
use atedge_tests::transcript::Transcript;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

/// These need more than a session: a peer's server to call back, a directory to ask, the signing key that
/// a whole server makes when it starts. The scenario `transcripts` replays them, too.
const NEED_A_SERVER: &[&str] = &["lookup", "pkam", "pol"];

const ALICE: &str = "@alice";
const SECRET: &str = "sesame";
const PATIENCE: Duration = Duration::from_secs(60);

/// The server's end: reads from memory, and hands on every write by itself.
struct ServerEnd {
    input: DuplexStream,
    writes: Option<UnboundedSender<Vec<u8>>>,
}

impl AsyncRead for ServerEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_read(context, buffer)
    }
}

impl AsyncWrite for ServerEnd {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = self.writes.as_ref().is_some_and(|writes| writes.send(bytes.to_vec()).is_ok());
        Poll::Ready(if sent { Ok(bytes.len()) } else { Err(io::ErrorKind::BrokenPipe.into()) })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes = None;
        Poll::Ready(Ok(()))
    }
}

/// The client's end.
struct ClientEnd<'a> {
    runtime: &'a Runtime,
    output: DuplexStream,
    writes: UnboundedReceiver<Vec<u8>>,
}

impl Conversation for ClientEnd<'_> {
    fn say(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.runtime.block_on(self.output.write_all(bytes))?)
    }

    fn hear(&mut self) -> Result<Option<String>> {
        let write = async { tokio::time::timeout(PATIENCE, self.writes.recv()).await };
        let write = self.runtime.block_on(write).context("waited for an answer")?;
        Ok(write.map(String::from_utf8).transpose()?)
    }
}

/// A greeted connection to the node's only tenant.
fn connect<'a>(runtime: &'a Runtime, node: &Arc<Node>) -> Result<ClientEnd<'a>> {
    let (output, input) = duplex(64 * 1024);
    let (sender, writes) = unbounded_channel();
    let caller = Caller { tenant: Some(ALICE.parse()?), ..Caller::default() };
    let end = ServerEnd { input, writes: Some(sender) };
    runtime.spawn(serve(end, Arc::clone(node), caller, CancellationToken::new()));
    let mut client = ClientEnd { runtime, output, writes };
    let greeting = client.hear()?;
    ensure!(greeting.as_deref() == Some("@"), "greeted with {greeting:?}");
    Ok(client)
}

#[test]
fn every_answer_is_as_written_and_one_write() -> Result<()> {
    let runtime = Runtime::new()?;
    let owner = Owner::new(SECRET)?;
    let all = Transcript::all(|_| "alice".to_owned())?;
    ensure!(NEED_A_SERVER.iter().all(|name| all.iter().any(|transcript| transcript.name == *name)));
    let mut faults = Vec::new();
    for transcript in all.iter().filter(|transcript| !NEED_A_SERVER.contains(&transcript.name.as_str())) {
        if let Err(fault) = say(&runtime, &owner, transcript) {
            faults.push(format!("{}: {fault:#}", transcript.name));
        }
    }
    ensure!(faults.is_empty(), "\n{}", faults.join("\n"));
    Ok(())
}

fn say(runtime: &Runtime, owner: &Owner, transcript: &Transcript) -> Result<()> {
    let node = Arc::new(runtime.block_on(Node::in_memory(ServerConfig::default()))?);
    let tenant = Tenant { atsign: ALICE.parse()?, listen: None };
    ensure!(runtime.block_on(node.add_tenant(tenant, SECRET))?, "@alice was there already");
    let mut wire = connect(runtime, &node)?;
    let memory = prepare(transcript, ALICE, owner, &mut wire, &mut connect(runtime, &node)?)?;
    replay(transcript, memory, owner, &mut wire)?;
    Ok(())
}
