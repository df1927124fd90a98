use super::FrameError;

/// Cuts frames where the line is silent. It holds at most `max` bytes.
#[derive(Debug)]
pub(super) struct Idle {
    max: usize,
    held: Vec<u8>,
    /// The beginning of what is said now is not known, or gone: it is passed over until silence.
    skipping: bool,
}

impl Idle {
    pub(super) fn new(max: usize) -> Self {
        Self { max, held: Vec::new(), skipping: true }
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn awaits_silence(&self) -> bool {
        self.skipping || !self.held.is_empty()
    }

    pub(super) fn read(&mut self, bytes: &[u8], mut found: impl FnMut(Result<&[u8], FrameError>)) {
        if self.skipping {
            return;
        }
        if self.held.len() + bytes.len() > self.max {
            found(Err(FrameError::TooLong { max: self.max }));
            self.held.clear();
            self.skipping = true;
        } else {
            self.held.extend(bytes);
        }
    }

    pub(super) fn silence(&mut self, mut found: impl FnMut(Result<&[u8], FrameError>)) {
        if !self.held.is_empty() {
            found(Ok(&self.held));
        }
        self.held.clear();
        self.skipping = false;
    }
}
