//! One connection: its stream, and time, for the conversation of [`crate::wire`].

use std::io;
use std::pin::Pin;
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::directory::SignedRecord;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::desk::Desk;
use crate::wire::{Conversation, Dialect, NULL, PROMPT, STOPPING, Step, registered};

/// Bytes of one read, which a connection holds all the time: names that come together, and as many records as one
/// TLS record has, since those are kept in one commit.
const READ: usize = 1024;
const READ_EXTENDED: usize = 16 * 1024;
/// Answers are sent when there are so many bytes of them: with the longest answer behind them they still fit
/// into one TLS record.
const ENOUGH: usize = 8 * 1024;
/// Registrations that are kept in one commit.
const TOGETHER: usize = 64;

/// Talks with a client until either side ends it.
pub(crate) async fn serve<S>(
    stream: S,
    desk: &Desk,
    dialect: Dialect,
    stop: &CancellationToken,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let idle = desk.in_force().rules.limits.idle;
    let mut talk = Talk { stream, desk, idle, conversation: Conversation::new(dialect), out: Vec::new() };
    talk.out.extend_from_slice(PROMPT.as_bytes());
    talk.send().await?;
    let stopped = stop.cancelled();
    let silence = sleep(idle);
    tokio::pin!(stopped, silence);
    let mut buffer = match dialect {
        Dialect::Classic => vec![0; READ],
        Dialect::Extended => vec![0; READ_EXTENDED],
    };
    loop {
        let count = talk.read(&mut buffer, silence.as_mut(), stopped.as_mut()).await?;
        if count == 0 {
            break;
        }
        talk.conversation.read(&buffer[..count]);
        if !talk.answer(stopped.as_mut()).await? {
            break;
        }
    }
    timeout(idle, talk.stream.shutdown()).await?
}

type Stopped<'a, 'b> = Pin<&'a mut WaitForCancellationFuture<'b>>;

struct Talk<'a, S> {
    stream: S,
    desk: &'a Desk,
    idle: Duration,
    conversation: Conversation,
    /// Answers that were not sent yet.
    out: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<'_, S> {
    /// The next bytes; none where it is over.
    async fn read(
        &mut self,
        buffer: &mut [u8],
        mut silence: Pin<&mut Sleep>,
        mut stopped: Stopped<'_, '_>,
    ) -> io::Result<usize> {
        let since = Instant::now();
        loop {
            tokio::select! {
                biased;
                count = self.stream.read(buffer) => return count,
                () = &mut stopped => return Ok(0),
                // One timer for all reads: it is set anew only when it rings.
                () = &mut silence => {
                    let due = since + self.idle;
                    if Instant::now() >= due {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    silence.as_mut().reset(due);
                }
            }
        }
    }

    /// Answers what has come; `false` when it is over.
    async fn answer(&mut self, mut stopped: Stopped<'_, '_>) -> io::Result<bool> {
        let desk = self.desk;
        let mut records = Vec::new();
        loop {
            // What is behind registrations is answered behind them.
            let mut behind = Vec::new();
            let out = if records.is_empty() { &mut self.out } else { &mut behind };
            let mut step = self.conversation.next(|name, out| desk.find(name, out), out);
            if let Step::Register(record) = step {
                records.push(*record);
                if records.len() < TOGETHER {
                    continue;
                }
                step = Step::Answered;
            }
            if !records.is_empty() {
                self.register(std::mem::take(&mut records)).await;
                self.out.append(&mut behind);
            }
            if let Step::Record(atsign) = step {
                step = self.record(&atsign).await?;
            } else if let Step::Ask(atsign) = step {
                // It may take a while.
                self.send().await?;
                let address = tokio::select! {
                    biased;
                    () = &mut stopped => None,
                    address = desk.ask_upstream(&atsign) => address,
                };
                step = self.conversation.heard(address.map(String::from).as_deref(), &mut self.out);
            }
            match step {
                Step::Answered => {
                    if self.out.len() >= ENOUGH {
                        self.send().await?;
                    }
                }
                Step::Read => {
                    self.send().await?;
                    return Ok(true);
                }
                Step::Hold { delay, is_last } => {
                    self.send().await?;
                    let is_stopped = tokio::select! {
                        biased;
                        () = &mut stopped => true,
                        () = sleep(delay) => false,
                    };
                    self.out.extend_from_slice(if is_stopped { STOPPING } else { NULL }.as_bytes());
                    self.send().await?;
                    if is_last || is_stopped {
                        return Ok(false);
                    }
                }
                Step::Close => {
                    self.send().await?;
                    return Ok(false);
                }
                Step::Ask(_) | Step::Record(_) | Step::Register(_) => {}
            }
        }
    }

    async fn record(&mut self, atsign: &AtSign) -> io::Result<Step> {
        let record = match self.desk.record(atsign).await {
            Ok(record) => record,
            Err(error) => {
                // Rather no answer than a wrong one.
                tracing::error!(%error, "a record cannot be read");
                return Err(io::ErrorKind::Other.into());
            }
        };
        let is_guess = self.desk.in_force().rules.registrars.govern(atsign);
        Ok(match record {
            None if !is_guess => self.conversation.not_so(&mut self.out),
            record => self.conversation.heard(record.as_deref(), &mut self.out),
        })
    }

    async fn register(&mut self, records: Vec<SignedRecord>) {
        sleep(self.conversation.patience()).await;
        for result in self.desk.register(records).await {
            match &result {
                Ok(_) => self.conversation.trusted(),
                Err(error) if error.is_suspicious() => self.conversation.suspicious(),
                Err(_) => {}
            }
            registered(&result.map_err(|error| error.to_string()), &mut self.out);
        }
    }

    /// One write, one TLS record.
    async fn send(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        timeout(self.idle, async {
            self.stream.write_all(&self.out).await?;
            self.stream.flush().await
        })
        .await??;
        self.out.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use atedge_service::tls::{DevAuthority, OwnCertificate};
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::desk::Rules;
    use crate::registry::Registry;

    const IDLE: Duration = Duration::from_mins(2);

    struct Client {
        wire: DuplexStream,
        stop: CancellationToken,
        _folder: tempfile::TempDir,
    }

    /// A conversation on virtual time, greeted.
    async fn client() -> Client {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path()).unwrap();
        registry.put(&"@alice".parse().unwrap(), &"host.example:6464".parse().unwrap()).unwrap();
        let authority = DevAuthority::open_or_create(folder.path(), &[]).unwrap();
        let certificate = OwnCertificate::open(&authority.cert(), &authority.key()).unwrap();
        let desk = Desk::new(registry, Rules::plain(certificate)).unwrap();
        let (wire, far) = duplex(4096);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move { serve(far, &desk, Dialect::Classic, &stopped).await });
        let mut client = Client { wire, stop, _folder: folder };
        assert_eq!(client.hear().await, "@");
        client
    }

    impl Client {
        async fn ask(&mut self, line: &str) -> String {
            self.wire.write_all(line.as_bytes()).await.unwrap();
            self.hear().await
        }

        async fn hear(&mut self) -> String {
            let mut buffer = [0; 4096];
            let count = self.wire.read(&mut buffer).await.unwrap();
            String::from_utf8(buffer[..count].to_vec()).unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn misses_wait_three_seconds_and_the_third_ends_it() {
        let mut client = client().await;
        let began = Instant::now();
        assert_eq!(client.ask("bob\n").await, "null\r\n@");
        assert_eq!(client.ask("alice\n").await, "host.example:6464\r\n@");
        assert_eq!(began.elapsed().as_secs(), 0);
        assert_eq!(client.ask("bob\n").await, "null\r\n@");
        assert_eq!(began.elapsed().as_secs(), 3);
        assert_eq!(client.ask("bob\n").await, "null\r\n@");
        assert_eq!(began.elapsed().as_secs(), 6);
        assert_eq!(client.hear().await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it() {
        let mut client = client().await;
        let began = Instant::now();
        assert_eq!(client.hear().await, "");
        assert_eq!(began.elapsed().as_secs(), IDLE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_while_the_directory_stops_is_told() {
        let mut client = client().await;
        assert_eq!(client.ask("bob\n").await, "null\r\n@");
        client.wire.write_all(b"bob\n").await.unwrap();
        let stop = client.stop.clone();
        let waiting = client.hear();
        tokio::pin!(waiting);
        assert!(timeout(Duration::from_secs(1), &mut waiting).await.is_err(), "held back");
        stop.cancel();
        assert_eq!(waiting.await, STOPPING);
    }
}
