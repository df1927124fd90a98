//! What an adapter hands to the gateway.

use tokio::sync::mpsc;

use crate::decode::Decoded;
use crate::{Ack, DeviceName, Reading, Refusal, StreamName};

/// Where an adapter puts what it captured. The receiver sets the bound; when it is full, the adapter
/// stops reading from its devices until there is room.
pub type Intake = mpsc::Sender<Captured>;

/// Something an adapter heard.
#[derive(Debug)]
pub enum Captured {
    /// A reading.
    Reading {
        /// What was said.
        reading: Reading,
        /// To be accepted once the reading is on disk.
        ack: Ack,
    },
    /// The sender has provably processed our acknowledgements of these packets: their
    /// [`Delivery`](crate::Delivery) need no longer be remembered.
    Settled {
        /// The MQTT session.
        session: String,
        /// The packet identifiers, each once.
        packets: Vec<u16>,
    },
    /// The session began anew: nothing remembered of it holds any more.
    SessionLost {
        /// The MQTT session.
        session: String,
    },
    /// A reading was not reported, as the rules want it ([`report`](crate::report)). It was acknowledged: count
    /// it.
    Suppressed {
        /// Who said it.
        device: DeviceName,
    },
    /// Something was said that cannot become a reading. It was acknowledged, so that it is not
    /// repeated for ever, and it is gone: count it.
    Refused {
        /// Who said it, where that is known.
        device: Option<DeviceName>,
        /// What was wrong.
        why: Refusal,
    },
}

impl Captured {
    /// What a device has said that waits for no acknowledgement and repeats nothing. `device` is whose it is
    /// unless it says so itself.
    pub(crate) fn said(
        device: Option<&DeviceName>,
        stream: &StreamName,
        decoded: Result<Decoded, Refusal>,
    ) -> Self {
        let device = device.cloned();
        match decoded {
            Ok(Decoded { points, time, device_id, device: said }) => {
                let stream = stream.clone();
                let Some(device) = said.or(device) else {
                    return Self::Refused { device: None, why: Refusal::Nobody };
                };
                let reading = Reading { device, stream, points, time, device_id, delivery: None };
                Self::Reading { reading, ack: Ack::nobody_waits() }
            }
            Err(why) => Self::Refused { device, why },
        }
    }
}
