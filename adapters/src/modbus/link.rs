//! One question and its answer, over a serial line or over TCP.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::fault::Fault;
use super::pdu::{Request, Response, WrongResponse};
use super::rtu::{self, Listener, Noise};
use super::{UnitId, mbap};
use crate::write::write;

/// A connection over which nothing has come after so many questions is dead, whoever was asked.
const DEAD: u32 = 3;

/// What came of a question.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) answer: Result<Response, Fault>,
    /// What came besides: one of each kind.
    pub(super) strays: Vec<Fault>,
}

/// A serial line, or what stands for one.
pub(super) trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Line for S {}

/// The open way to the units. Questions go one at a time.
pub(super) enum Link {
    Rtu(RtuLink),
    Tcp(TcpLink),
}

impl Link {
    /// One that does not take silence for the end of the connection.
    pub(super) fn patient(self) -> Self {
        match self {
            Self::Rtu(link) => Self::Rtu(RtuLink { pulse: None, ..link }),
            Self::Tcp(link) => Self::Tcp(TcpLink { pulse: None, ..link }),
        }
    }

    /// Asks `unit`. An error means that the way is gone.
    pub(super) async fn ask(&mut self, unit: UnitId, request: &Request) -> io::Result<Heard> {
        match self {
            Self::Rtu(link) => link.ask(unit, request).await,
            Self::Tcp(link) => link.ask(unit, request).await,
        }
    }
}

pub(super) struct RtuLink {
    line: Box<dyn Line>,
    baud: u32,
    patience: Duration,
    /// When something was last on the line.
    busy: Instant,
    /// Where the line is at the end of a connection.
    pulse: Option<Pulse>,
    /// Whether what we send comes back to us.
    echo: bool,
}

impl RtuLink {
    pub(super) fn new(line: impl Line + 'static, baud: u32, patience: Duration) -> Self {
        Self { line: Box::new(line), baud, patience, busy: Instant::now(), pulse: None, echo: false }
    }

    /// The line behind a converter. A port that has gone says so; a connection may not.
    pub(super) fn over_connection(line: impl Line + 'static, baud: u32, patience: Duration) -> Self {
        Self { pulse: Some(Pulse::default()), ..Self::new(line, baud, patience) }
    }

    pub(super) fn with_echo(self, echo: bool) -> Self {
        Self { echo, ..self }
    }

    async fn ask(&mut self, unit: UnitId, request: &Request) -> io::Result<Heard> {
        let mut strays = Vec::new();
        if let Some(pulse) = &mut self.pulse {
            pulse.ask()?;
        }
        if self.drain().await? {
            strays.push(Fault::Late { unit });
        }
        let frame = rtu::frame(unit.0, request);
        write(&mut self.line, &frame).await?;
        let characters = frame.len() + 3 + request.response_length();
        let deadline = Instant::now() + self.patience + rtu::time_of(characters, self.baud);
        // What is still to come back of the question; the first byte that differs is an answer's.
        let mut echo = if self.echo { frame } else { Vec::new() };
        let mut listener = Listener::new(unit.0, request);
        let mut buffer = [0; 256];
        let mut answer = None;
        while answer.is_none()
            && let Some(count) = read(&mut self.line, &mut buffer, deadline).await?
        {
            let own = common(&echo, &buffer[..count]);
            echo = if own == count { echo.split_off(own) } else { Vec::new() };
            answer = listener.hear(&buffer[own..count]);
            if let Some(pulse) = &mut self.pulse {
                pulse.hear();
            }
        }
        self.busy = Instant::now();
        let noise = listener.noise().map(|noise| Fault::Noise { unit, noise });
        let answer = match answer {
            Some(answer) => {
                strays.extend(noise);
                answer.map_err(|wrong| fault(unit, request, wrong))
            }
            None => Err(noise.unwrap_or(Fault::Silent { unit, waited: self.patience })),
        };
        Ok(Heard { answer, strays })
    }

    /// Reads away whatever comes until the line has been silent for as long as between frames, and says
    /// whether there was anything. On a line that is never silent this ends nevertheless.
    async fn drain(&mut self) -> io::Result<bool> {
        let end = Instant::now() + self.patience;
        let mut buffer = [0; 256];
        let mut heard = false;
        while read(&mut self.line, &mut buffer, self.busy + rtu::silence(self.baud)).await?.is_some() {
            self.busy = Instant::now();
            heard = true;
            if self.busy > end {
                break;
            }
        }
        Ok(heard)
    }
}

pub(super) struct TcpLink {
    stream: TcpStream,
    reader: mbap::Reader,
    patience: Duration,
    transaction: u16,
    pulse: Option<Pulse>,
}

/// Whether a connection is alive.
#[derive(Debug, Default)]
struct Pulse {
    /// Questions in a row after which nothing came.
    unanswered: u32,
}

impl Pulse {
    fn ask(&mut self) -> io::Result<()> {
        if self.unanswered >= DEAD {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing comes over the connection"));
        }
        self.unanswered += 1;
        Ok(())
    }

    fn hear(&mut self) {
        self.unanswered = 0;
    }
}

impl TcpLink {
    pub(super) fn new(stream: TcpStream, patience: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            reader: mbap::Reader::default(),
            patience,
            transaction: 0,
            pulse: Some(Pulse::default()),
        })
    }

    async fn ask(&mut self, unit: UnitId, request: &Request) -> io::Result<Heard> {
        if let Some(pulse) = &mut self.pulse {
            pulse.ask()?;
        }
        self.transaction = self.transaction.wrapping_add(1);
        write(&mut self.stream, &mbap::frame(self.transaction, unit.0, request)).await?;
        let deadline = Instant::now() + self.patience;
        let (mut late, mut noise) = (None, None);
        let mut buffer = [0; 512];
        let answer = 'answer: loop {
            let broken = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            while let Some(frame) = self.reader.take().map_err(broken)? {
                if frame.transaction != self.transaction {
                    late = Some(Fault::Late { unit });
                } else if frame.unit != unit.0 {
                    noise = Some(Fault::Noise { unit, noise: Noise::OtherUnit { found: frame.unit } });
                } else {
                    break 'answer Some(request.read(&frame.pdu));
                }
            }
            let Some(count) = read(&mut self.stream, &mut buffer, deadline).await? else { break None };
            if let Some(pulse) = &mut self.pulse {
                pulse.hear();
            }
            self.reader.hear(&buffer[..count]);
        };
        let answer = match answer {
            Some(answer) => answer.map_err(|wrong| fault(unit, request, wrong)),
            None => Err(noise.take().unwrap_or(Fault::Silent { unit, waited: self.patience })),
        };
        Ok(Heard { answer, strays: late.into_iter().chain(noise).collect() })
    }
}

fn fault(unit: UnitId, request: &Request, wrong: WrongResponse) -> Fault {
    match wrong {
        WrongResponse::Exception(exception) => {
            Fault::Exception { unit, function: request.function(), address: request.address(), exception }
        }
        WrongResponse::Function { .. } | WrongResponse::Length { .. } | WrongResponse::Echo => {
            Fault::Wrong { unit, wrong }
        }
    }
}

/// How many bytes two begin with alike.
fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// What comes until `deadline`: what has come already is read even behind it.
async fn read(
    line: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
    deadline: Instant,
) -> io::Result<Option<usize>> {
    match timeout_at(deadline, line.read(buffer)).await {
        Err(_) => Ok(None),
        Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Ok(count)) => Ok(Some(count)),
        Ok(Err(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::net::TcpListener;

    use super::super::pdu::Table;
    use super::*;

    const UNIT: UnitId = UnitId(7);
    const QUESTION: Request = Request::Read { table: Table::Holding, address: 0, count: 1 };
    const PATIENCE: Duration = Duration::from_millis(100);

    fn answer_of(unit: u8, word: u16) -> Vec<u8> {
        let mut frame = vec![unit, 3, 2];
        frame.extend(word.to_be_bytes());
        frame.extend(rtu::crc(&frame).to_le_bytes());
        frame
    }

    fn rtu() -> (RtuLink, DuplexStream) {
        let (line, device) = duplex(4096);
        (RtuLink::new(line, 19_200, PATIENCE), device)
    }

    async fn hear_question(device: &mut DuplexStream) {
        let mut question = [0; 8];
        device.read_exact(&mut question).await.unwrap();
        assert_eq!(question.as_slice(), rtu::frame(7, &QUESTION));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_is_not_taken_for_the_next() {
        let (mut link, mut device) = rtu();
        let silent = link.ask(UNIT, &QUESTION).await.unwrap();
        assert_eq!(silent.answer, Err(Fault::Silent { unit: UNIT, waited: PATIENCE }));
        hear_question(&mut device).await;
        device.write_all(&answer_of(7, 1)).await.unwrap();
        let device = tokio::spawn(async move {
            hear_question(&mut device).await;
            device.write_all(&answer_of(7, 2)).await.unwrap();
            device
        });
        let heard = link.ask(UNIT, &QUESTION).await.unwrap();
        assert_eq!(heard.answer, Ok(Response::Registers(vec![2])));
        assert_eq!(heard.strays, [Fault::Late { unit: UNIT }]);
        device.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_line_is_silent_between_frames() {
        let (mut link, mut device) = rtu();
        let device = tokio::spawn(async move {
            hear_question(&mut device).await;
            device.write_all(&answer_of(7, 1)).await.unwrap();
            let answered = Instant::now();
            hear_question(&mut device).await;
            let pause = answered.elapsed();
            device.write_all(&answer_of(7, 2)).await.unwrap();
            pause
        });
        for _ in 0..2 {
            assert!(link.ask(UNIT, &QUESTION).await.unwrap().answer.is_ok());
        }
        let pause = device.await.unwrap();
        assert!(pause >= rtu::silence(19_200), "{pause:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn noise_has_a_name_and_the_line_that_never_stops_has_an_end() {
        let (mut link, mut device) = rtu();
        let device = tokio::spawn(async move {
            hear_question(&mut device).await;
            device.write_all(&answer_of(5, 1)).await.unwrap();
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if device.write_all(&[0x55; 16]).await.is_err() {
                    break;
                }
            }
        });
        let heard = link.ask(UNIT, &QUESTION).await.unwrap();
        assert!(matches!(heard.answer, Err(Fault::Noise { .. })), "{heard:?}");
        let heard = link.ask(UNIT, &QUESTION).await.unwrap();
        assert_eq!(heard.strays, [Fault::Late { unit: UNIT }]);
        assert!(matches!(heard.answer, Err(Fault::Noise { .. })), "{heard:?}");
        drop(link);
        device.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_echo_is_no_answer() {
        const WRITE: Request = Request::WriteRegister { address: 1, word: 3 };
        // The answer to a write is the same as its echo.
        for (echoes, answers) in [(true, true), (true, false), (false, true)] {
            let (link, mut device) = rtu();
            let mut link = link.with_echo(echoes);
            let device = tokio::spawn(async move {
                let mut question = [0; 8];
                device.read_exact(&mut question).await.unwrap();
                let said = [&question[..], &question[..]].concat();
                let said = &said[..8 * (usize::from(echoes) + usize::from(answers))];
                for part in said.chunks(3) {
                    device.write_all(part).await.unwrap();
                }
                device
            });
            let heard = link.ask(UNIT, &WRITE).await.unwrap();
            assert_eq!(heard.answer.is_ok(), answers, "{heard:?}");
            assert_eq!(heard.strays, []);
            device.await.unwrap();
        }
    }

    async fn tcp() -> (TcpLink, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (TcpLink::new(stream, PATIENCE).unwrap(), listener.accept().await.unwrap().0)
    }

    fn over_tcp(transaction: u8, unit: u8, word: u8) -> [u8; 11] {
        [0, transaction, 0, 0, 0, 5, unit, 3, 2, 0, word]
    }

    #[tokio::test]
    async fn answers_over_tcp_belong_to_their_questions() {
        let (mut link, mut device) = tcp().await;
        assert!(matches!(link.ask(UNIT, &QUESTION).await.unwrap().answer, Err(Fault::Silent { .. })));
        let all = [over_tcp(1, 7, 1), over_tcp(2, 5, 2), over_tcp(2, 7, 3)].concat();
        device.write_all(&all).await.unwrap();
        let heard = link.ask(UNIT, &QUESTION).await.unwrap();
        assert_eq!(heard.answer, Ok(Response::Registers(vec![3])));
        let other = Fault::Noise { unit: UNIT, noise: Noise::OtherUnit { found: 5 } };
        assert_eq!(heard.strays, [Fault::Late { unit: UNIT }, other]);
    }

    #[tokio::test]
    async fn a_connection_that_is_dead_or_no_modbus_is_given_up() {
        let (mut link, _device) = tcp().await;
        for _ in 0..DEAD {
            assert!(link.ask(UNIT, &QUESTION).await.unwrap().answer.is_err());
        }
        assert_eq!(link.ask(UNIT, &QUESTION).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (mut link, mut device) = tcp().await;
        device.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
        assert_eq!(link.ask(UNIT, &QUESTION).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
