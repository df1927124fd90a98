//! The devices of a scenario: an MQTT 3.1.1 client that publishes with QoS 1.
//!
//! Written here and not taken from a library, so that what is sent and what is acknowledged is known to
//! the byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};

use crate::process::PATIENCE;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH_QOS1: u8 = 0x32;
const PUBACK: u8 = 0x40;

/// A connection to a broker.
pub struct Publisher {
    socket: TcpStream,
    next: u16,
}

impl Publisher {
    /// Connects under `client`, with a clean session.
    ///
    /// # Errors
    /// The broker is not there or does not want us.
    pub fn connect(broker: SocketAddr, client: &str) -> Result<Self> {
        let mut socket = TcpStream::connect(broker)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut body = Vec::new();
        text(&mut body, "MQTT");
        // Version 3.1.1, clean session, no keep alive.
        body.extend([4, 2, 0, 0]);
        text(&mut body, client);
        socket.write_all(&packet(CONNECT, &body))?;
        let mut answer = [0; 4];
        socket.read_exact(&mut answer)?;
        ensure!(answer == [CONNACK, 2, 0, 0], "the broker answered {answer:?}");
        Ok(Self { socket, next: 1 })
    }

    /// Publishes all `messages` (topic and payload), and returns when the broker has acknowledged each.
    ///
    /// # Errors
    /// The broker hangs up or acknowledges something else.
    pub fn publish(&mut self, messages: &[(String, String)]) -> Result<()> {
        for some in messages.chunks(100) {
            let mut bytes = Vec::new();
            let mut waiting = Vec::new();
            for (topic, payload) in some {
                let mut body = Vec::new();
                text(&mut body, topic);
                body.extend(self.next.to_be_bytes());
                body.extend(payload.as_bytes());
                bytes.extend(packet(PUBLISH_QOS1, &body));
                waiting.push(self.next);
                self.next = self.next.checked_add(1).unwrap_or(1);
            }
            self.socket.write_all(&bytes)?;
            for id in waiting {
                let mut answer = [0; 4];
                self.socket.read_exact(&mut answer)?;
                let [high, low] = id.to_be_bytes();
                ensure!(answer == [PUBACK, 2, high, low], "the broker answered {answer:?} to {id}");
            }
        }
        Ok(())
    }
}

pub(crate) fn text(body: &mut Vec<u8>, text: &str) {
    // Names and topics of scenarios are short.
    body.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    body.extend(text.as_bytes());
}

pub(crate) fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut length = body.len();
    loop {
        let digit = u8::try_from(length % 128).unwrap_or_default();
        length /= 128;
        packet.push(if length > 0 { digit | 0x80 } else { digit });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_as_mqtt_wants_them() {
        assert_eq!(packet(PUBACK, &[0, 7]), [0x40, 2, 0, 7]);
        assert_eq!(packet(CONNECT, &[0; 321])[..3], [0x10, 0xc1, 0x02]);
    }
}
