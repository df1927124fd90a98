//! MQTT packets written by hand, for what a well-behaved client never sends.

use std::net::Ipv4Addr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::gateway::within;

pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0];
pub(crate) const PINGRESP: [u8; 2] = [0xd0, 0];
pub(crate) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// A version of MQTT, as its CONNECT writes it.
pub(crate) const V3: u8 = 4;
pub(crate) const V5: u8 = 5;

/// What a CONNECT asks for.
pub(crate) struct Connect<'c> {
    pub(crate) version: u8,
    pub(crate) client_id: &'c str,
    pub(crate) clean: bool,
    /// Seconds.
    pub(crate) keep_alive: u8,
}

impl Connect<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = b"\x00\x04MQTT".to_vec();
        body.extend([self.version, u8::from(self.clean) << 1, 0, self.keep_alive]);
        if self.version == V5 {
            // One property: the session expires after 60 seconds.
            body.extend([5, 0x11, 0, 0, 0, 60]);
        }
        body.extend(text(self.client_id));
        packet(0x10, &body)
    }
}

/// A PUBLISH of QoS 0 where `id` is 0.
pub(crate) fn publish(version: u8, flags: u8, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if id != 0 {
        body.extend(id.to_be_bytes());
    }
    if version == V5 {
        body.push(0);
    }
    body.extend(payload);
    packet(0x30 | flags, &body)
}

pub(crate) fn puback(id: u16) -> Vec<u8> {
    packet(0x40, &id.to_be_bytes())
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut length = body.len();
    loop {
        let byte = (length & 0x7f) as u8;
        length >>= 7;
        packet.push(if length == 0 { byte } else { byte | 0x80 });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// A device that says just what it is told to.
pub(crate) struct Device(Box<dyn Duplex>);

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl Device {
    /// Opens a connection; the listener may need a moment to be there.
    pub(crate) async fn open(port: u16) -> Self {
        Self(Box::new(Self::stream(port).await))
    }

    /// Opens a connection with TLS; a device without one is turned away at the latest when it reads.
    pub(crate) async fn open_tls(port: u16, connector: &TlsConnector) -> std::io::Result<Self> {
        let name = "localhost".try_into().unwrap();
        let stream = connector.connect(name, Self::stream(port).await).await?;
        Ok(Self(Box::new(stream)))
    }

    async fn stream(port: u16) -> TcpStream {
        let open = async {
            loop {
                match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        within("a listener", open).await
    }

    /// Opens a connection and introduces itself. Says whether there is a session.
    pub(crate) async fn connect(port: u16, connect: &Connect<'_>) -> (Self, bool) {
        let mut device = Self::open(port).await;
        let session_present = device.introduce(connect).await;
        (device, session_present)
    }

    /// Says who it is. Says whether there is a session.
    pub(crate) async fn introduce(&mut self, connect: &Connect<'_>) -> bool {
        self.says(&connect.bytes()).await;
        let answer = self.hears().await;
        assert_eq!((answer[0], answer[3]), (0x20, 0), "CONNACK, accepted");
        answer[2] == 1
    }

    pub(crate) async fn says(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next packet.
    pub(crate) async fn hears(&mut self) -> Vec<u8> {
        self.hears_or_ends().await.expect("the connection ended")
    }

    /// The next packet, or nothing if the connection ends.
    pub(crate) async fn hears_or_ends(&mut self) -> Option<Vec<u8>> {
        let packet = async {
            let mut packet = vec![0; 2];
            self.0.read_exact(&mut packet).await.ok()?;
            assert!(packet[1] < 0x80, "these tests hear short packets only");
            packet.resize(2 + usize::from(packet[1]), 0);
            self.0.read_exact(&mut packet[2..]).await.ok()?;
            Some(packet)
        };
        within("a packet or the end", packet).await
    }
}
