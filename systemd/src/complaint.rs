//! An error as one line.

use std::error::Error;
use std::fmt;

/// Shows an error and its causes on one line, each once: an error that already tells its cause is not
/// followed by it again.
pub struct OneLine<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !told.contains(&text) {
                told = format!("{told}: {text}");
            }
            cause = error.source();
        }
        f.write_str(&told.replace('\n', " "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("disk full")]
    struct Disk;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write: {source}")]
    struct Telling {
        source: Disk,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write")]
    struct Silent {
        source: Disk,
    }

    #[test]
    fn a_cause_is_told_once() {
        assert_eq!(OneLine(&Telling { source: Disk }).to_string(), "cannot write: disk full");
        assert_eq!(OneLine(&Silent { source: Disk }).to_string(), "cannot write: disk full");
    }
}
