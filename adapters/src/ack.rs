//! The promise that a reading is safe.

use std::fmt;

/// What became of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is safe on disk: tell the sender.
    Accepted,
    /// It was given up: the sender must keep it.
    Abandoned,
}

/// Given along with a reading; [`accept`](Self::accept) lets the adapter acknowledge it to its
/// sender.
///
/// Dropping an `Ack` abandons the reading: the sender gets no acknowledgement. Since MQTT wants
/// acknowledgements in the order of arrival, the adapter then starts the connection again, so that
/// the sender repeats this reading and those behind it.
pub struct Ack(Option<Box<dyn FnOnce(Verdict) + Send>>);

impl Ack {
    /// An `Ack` that hands its verdict to `tell`, once. `tell` must not block.
    pub fn new(tell: impl FnOnce(Verdict) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// An `Ack` for a sender that waits for nothing: a serial line, or QoS 0.
    pub fn nobody_waits() -> Self {
        Self(None)
    }

    /// Says that the reading is safe. Call it after the commit that keeps the reading, not before.
    pub fn accept(mut self) {
        self.tell(Verdict::Accepted);
    }

    /// Whether somebody waits for the verdict.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.0.is_some()
    }

    fn tell(&mut self, verdict: Verdict) {
        if let Some(tell) = self.0.take() {
            tell(verdict);
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        self.tell(Verdict::Abandoned);
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ack").field("waited_for", &self.0.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn one_verdict_is_given() {
        let (tell, told) = mpsc::channel();
        let also = tell.clone();
        Ack::new(move |verdict| tell.send(verdict).unwrap()).accept();
        drop(Ack::new(move |verdict| also.send(verdict).unwrap()));
        assert_eq!(told.iter().collect::<Vec<_>>(), [Verdict::Accepted, Verdict::Abandoned]);
    }
}
