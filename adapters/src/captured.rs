//! What an adapter hands to the gateway.

use std::collections::VecDeque;
use std::sync::Arc;

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
    /// The sender has provably processed our acknowledgements of these: each
    /// [`Delivery`](crate::Delivery) of them need no longer be remembered.
    Settled {
        /// The MQTT session.
        session: Arc<str>,
        /// The number of the last; all before it are settled as well.
        upto: u64,
    },
    /// The session began anew: nothing remembered of it holds any more.
    SessionLost {
        /// The MQTT session.
        session: Arc<str>,
    },
    /// The device or broker is reached: what it says is heard from now on.
    Reached,
    /// It is not, and is tried again.
    Unreached {
        /// Why.
        why: String,
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
    /// Puts what is known of the way to the device or broker behind the others, in place of what was last said
    /// of it: so it takes no more room, however often that changes while nobody listens.
    pub(crate) fn tell(self, waiting: &mut VecDeque<Self>) {
        waiting.pop_back_if(|last| matches!(last, Self::Reached | Self::Unreached { .. }));
        waiting.push_back(self);
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_way_only_the_last_is_told() {
        let settled = || Captured::Settled { session: "s".into(), upto: 1 };
        let mut waiting = VecDeque::from([settled()]);
        for _ in 0..1000 {
            Captured::Reached.tell(&mut waiting);
            Captured::Unreached { why: "unplugged".to_owned() }.tell(&mut waiting);
        }
        waiting.push_back(settled());
        Captured::Reached.tell(&mut waiting);
        assert_eq!(waiting.len(), 4);
        assert!(matches!(&waiting[1], Captured::Unreached { why } if why == "unplugged"));
    }
}
