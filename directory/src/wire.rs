//! One client's conversation with the directory, without sockets or clocks: bytes in, answers out.
//!
//! The classic dialect is the atProtocol wire reference's, §1.1, with all numbers. Who asks for
//! `atdirectory/1` in the TLS handshake has the extended one, which knows signed records too.

use std::borrow::Cow;
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::directory::{LONGEST_EXTENDED, SignedRecord};
use at_protocol::line::{Line, LineSplitter};

/// What every client waits for before it asks, and after every answer.
pub const PROMPT: &str = "@";
/// The answer for names that are served nowhere.
pub const NULL: &str = "null\r\n@";
/// The longest classic line, in bytes; a longer one ends the connection without a reply.
pub const LONGEST_LINE: usize = 255;
/// How long the answer is held back to who has asked in vain too often.
pub const MISS_DELAY: Duration = Duration::from_secs(3);
/// The miss that is a classic connection's last.
const LAST_MISS: u16 = 3;
/// Misses of an extended connection that cost nothing: a server asks for all its names over one connection before
/// it registers them.
const FREE_MISSES: u16 = 1024;
/// How long the answer to each further one is held back: servers can wait, and whoever guesses names may as well
/// open another connection, which costs both sides more.
const EXTENDED_MISS_DELAY: Duration = Duration::from_millis(10);
/// Records of an extended connection that may be refused unpunished.
const FREE_REFUSALS: u16 = 32;
/// Ends the conversation; clients may leave out the line end.
const EXIT: &str = "@exit";
/// The answer while the directory stops.
pub const STOPPING: &str = "Stop in progress. Can't accept new requests.";

/// What a client may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Names, one per line.
    Classic,
    /// `record:` and `register:` as well.
    Extended,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It is served, and where was written.
    Here,
    /// It is not served, and nobody else is to be asked.
    Nowhere,
    /// Another directory may know.
    Elsewhere(AtSign),
}

/// What the driver does next.
///
/// Answers are appended to the buffer that [`Conversation::next`] is given, prompt included. However many go
/// out in one write, none may be torn: clients take answer and prompt from the same TLS record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Send what was answered, and read on.
    Read,
    /// Something was answered; there may be more to do.
    Answered,
    /// Send what was answered, wait, and answer [`NULL`]; then go on, or close.
    Hold {
        /// How long to wait.
        delay: Duration,
        /// Whether that is the end.
        is_last: bool,
    },
    /// Ask the other directory and hand what it says to [`Conversation::heard`].
    Ask(AtSign),
    /// Find the signed record and hand it to [`Conversation::heard`], or say [`Conversation::not_so`].
    Record(AtSign),
    /// Check and keep a signed record, and say what became of it by [`registered`].
    Register(Box<SignedRecord>),
    /// Send what was answered, and close.
    Close,
}

/// One connection: what it has sent so far, and how often it asked in vain.
#[derive(Debug)]
pub struct Conversation {
    lines: LineSplitter,
    dialect: Dialect,
    misses: u16,
    refusals: u16,
}

impl Conversation {
    /// A conversation that begins.
    pub fn new(dialect: Dialect) -> Self {
        let longest = match dialect {
            Dialect::Classic => LONGEST_LINE,
            Dialect::Extended => LONGEST_EXTENDED,
        };
        Self { lines: LineSplitter::new(longest), dialect, misses: 0, refusals: 0 }
    }

    /// Takes in one read. Drain [`Conversation::next`] before the next one.
    pub fn read(&mut self, bytes: &[u8]) {
        self.lines.feed(bytes);
    }

    /// The next thing to do. `find` writes where a name is served to the buffer it is given.
    pub fn next(&mut self, find: impl FnOnce(&str, &mut Vec<u8>) -> Known, out: &mut Vec<u8>) -> Step {
        let text = match self.lines.next_line() {
            Ok(Some(Line::Text(text))) => text,
            // The C client sends one right after the greeting and waits for an answer; it asks nothing,
            // so it counts as no miss.
            Ok(Some(Line::Blank)) => {
                out.extend_from_slice(NULL.as_bytes());
                return Step::Answered;
            }
            Ok(Some(Line::NotText)) => return self.miss(out),
            Ok(None) => {
                let is_over = self.lines.pending().trim_ascii() == EXIT.as_bytes();
                return if is_over { Step::Close } else { Step::Read };
            }
            Err(_too_long) => return Step::Close,
        };
        if text == EXIT {
            return Step::Close;
        }
        if self.dialect == Dialect::Extended {
            if let Some(name) = text.strip_prefix("record:") {
                return name.parse().map_or_else(|_| self.miss(out), Step::Record);
            }
            if let Some(json) = text.strip_prefix("register:") {
                return match json.parse() {
                    Ok(record) => Step::Register(Box::new(record)),
                    Err(error) => {
                        registered(&Err(error.to_string()), out);
                        Step::Answered
                    }
                };
            }
        }
        let name = lower_case(&text);
        match find(name.strip_prefix('@').unwrap_or(&name), out) {
            Known::Here => {
                out.extend_from_slice(b"\r\n@");
                Step::Answered
            }
            Known::Nowhere => self.miss(out),
            Known::Elsewhere(atsign) => Step::Ask(atsign),
        }
    }

    /// Answers with what was asked for elsewhere, an address or a record; `None` where there is none.
    pub fn heard(&mut self, answer: Option<&str>, out: &mut Vec<u8>) -> Step {
        let Some(answer) = answer else { return self.miss(out) };
        out.extend_from_slice(answer.as_bytes());
        out.extend_from_slice(b"\r\n@");
        Step::Answered
    }

    /// A question about a name that is served, but not in the way asked for.
    pub fn not_so(&mut self, out: &mut Vec<u8>) -> Step {
        out.extend_from_slice(NULL.as_bytes());
        Step::Answered
    }

    /// Takes note of a record that was not believed.
    pub fn suspicious(&mut self) {
        self.refusals = self.refusals.saturating_add(1);
    }

    /// Takes note of a record that was: it is a node that asks.
    pub fn trusted(&mut self) {
        (self.misses, self.refusals) = (0, 0);
    }

    /// How long whoever guesses has to wait before a record is checked, which costs more than a name.
    pub fn patience(&self) -> Duration {
        if self.refusals > FREE_REFUSALS { MISS_DELAY } else { Duration::ZERO }
    }

    /// Guessing names gets slow, and ends where nothing else is done.
    fn miss(&mut self, out: &mut Vec<u8>) -> Step {
        self.misses = self.misses.saturating_add(1);
        match self.dialect {
            Dialect::Classic if self.misses > 1 => {
                Step::Hold { delay: MISS_DELAY, is_last: self.misses >= LAST_MISS }
            }
            Dialect::Extended if self.misses > FREE_MISSES => {
                Step::Hold { delay: EXTENDED_MISS_DELAY, is_last: false }
            }
            Dialect::Classic | Dialect::Extended => self.not_so(out),
        }
    }
}

/// Answers what became of a registration.
pub fn registered(result: &Result<u64, String>, out: &mut Vec<u8>) {
    let answer = match result {
        Ok(seq) => format!("ok seq={seq}"),
        // What it quotes may hold anything.
        Err(why) => format!("error:{}", why.replace(|c: char| c.is_control(), " ")),
    };
    out.extend_from_slice(answer.as_bytes());
    out.extend_from_slice(b"\r\n@");
}

/// Most names come as they are kept.
fn lower_case(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: &str = "host.example:6464\r\n@";

    fn find(name: &str, out: &mut Vec<u8>) -> Known {
        match name {
            "alice" => {
                out.extend_from_slice(b"host.example:6464");
                Known::Here
            }
            "foreign" => Known::Elsewhere("@foreign".parse().unwrap()),
            _ => Known::Nowhere,
        }
    }

    /// What is answered to these reads, and each step that is not simply an answer.
    fn talk(dialect: Dialect, reads: &[&[u8]]) -> (String, Vec<Step>) {
        let mut conversation = Conversation::new(dialect);
        let (mut steps, mut out) = (Vec::new(), Vec::new());
        for read in reads {
            conversation.read(read);
            loop {
                let step = conversation.next(find, &mut out);
                if step == Step::Read {
                    break;
                } else if step == Step::Answered {
                    continue;
                }
                let is_over = matches!(step, Step::Close | Step::Hold { is_last: true, .. });
                steps.push(step);
                if is_over {
                    return (String::from_utf8(out).unwrap(), steps);
                }
            }
        }
        (String::from_utf8(out).unwrap(), steps)
    }

    fn classic(reads: &[&[u8]]) -> (String, Vec<Step>) {
        talk(Dialect::Classic, reads)
    }

    fn held(is_last: bool) -> Step {
        Step::Hold { delay: MISS_DELAY, is_last }
    }

    #[test]
    fn names_are_found_however_they_are_written() {
        for dialect in [Dialect::Classic, Dialect::Extended] {
            for read in ["alice\n", "alice\r\n", "@alice\n", " ALICE \r\n", "\nalice\n\n"] {
                assert_eq!(talk(dialect, &[read.as_bytes()]), (FOUND.to_owned(), vec![]), "{read:?}");
            }
        }
        assert_eq!(classic(&[b"al", b"ice", b"\r", b"\n"]).0, FOUND);
    }

    #[test]
    fn found_names_are_never_slowed() {
        let many = "alice\n".repeat(1000);
        assert_eq!(classic(&[many.as_bytes()]), (FOUND.repeat(1000), vec![]));
    }

    #[test]
    fn misses_get_slow_and_the_third_is_the_last() {
        let (text, steps) = classic(&[b"bob\n", b"alice\n", b"a.lice\n", b"\xff\xfe\n", b"alice\n"]);
        assert_eq!((text, steps), (format!("{NULL}{FOUND}"), vec![held(false), held(true)]));
    }

    #[test]
    fn a_blank_line_is_answered_and_is_no_miss() {
        let blank: &[u8] = b"\r\n";
        let (text, steps) = classic(&[blank, b"bob\r\n", blank, b"bob\r\n"]);
        assert_eq!((text, steps), (NULL.repeat(3), vec![held(false)]));
    }

    #[test]
    fn exit_needs_no_line_end() {
        assert_eq!(classic(&[b"alice\n", b"@exit"]), (FOUND.to_owned(), vec![Step::Close]));
        assert_eq!(classic(&[b"@ex", b"it\r\n", b"alice\n"]), (String::new(), vec![Step::Close]));
        assert_eq!(classic(&[b"@exi"]), (String::new(), vec![]));
    }

    #[test]
    fn a_line_may_have_255_bytes_and_no_more() {
        let name = "x".repeat(LONGEST_LINE);
        assert_eq!(classic(&[name.as_bytes(), b"\n"]), (NULL.to_owned(), vec![]));
        let long = "x".repeat(LONGEST_LINE + 1);
        assert_eq!(classic(&[long.as_bytes()]), (String::new(), vec![Step::Close]));
        let ended = format!("{long}\n");
        assert_eq!(classic(&[ended.as_bytes()]), (String::new(), vec![Step::Close]));
    }

    #[test]
    fn what_another_directory_may_know_is_asked_for() {
        let mut conversation = Conversation::new(Dialect::Classic);
        let mut out = Vec::new();
        conversation.read(b"foreign\n");
        assert_eq!(conversation.next(find, &mut out), Step::Ask("@foreign".parse().unwrap()));
        assert_eq!(conversation.heard(Some("far.example:1"), &mut out), Step::Answered);
        assert_eq!(conversation.heard(None, &mut out), Step::Answered);
        assert_eq!(String::from_utf8(out).unwrap(), format!("far.example:1\r\n@{NULL}"));
        assert_eq!(conversation.heard(None, &mut Vec::new()), held(false));
    }

    #[test]
    fn records_are_an_extension_and_verbs_are_not_folded() {
        let alice = Step::Record("@alice".parse().unwrap());
        assert_eq!(talk(Dialect::Extended, &[b"record:@Alice\n"]), (String::new(), vec![alice]));
        for (dialect, line) in [
            (Dialect::Classic, "record:@alice\n"),
            (Dialect::Classic, "register:{}\n"),
            (Dialect::Extended, "RECORD:@alice\n"),
            (Dialect::Extended, "record:\n"),
        ] {
            assert_eq!(talk(dialect, &[line.as_bytes()]), (NULL.to_owned(), vec![]), "{line:?}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused_in_one_line() {
        let (text, steps) = talk(Dialect::Extended, &[b"register:{\"a\\u000ab\":1}\n"]);
        assert!(text.starts_with("error:not a signed record: "), "{text:?}");
        assert_eq!((text.matches('\n').count(), text.ends_with("\r\n@"), steps), (1, true, vec![]));
    }

    #[test]
    fn extended_lines_are_longer_and_their_misses_get_slow_without_end() {
        let long = "x".repeat(LONGEST_EXTENDED);
        let (text, steps) = talk(Dialect::Extended, &[format!("{long}\n").as_bytes()]);
        assert_eq!((text, steps), (NULL.to_owned(), vec![]));
        assert_eq!(talk(Dialect::Extended, &[format!("x{long}\n").as_bytes()]).1, [Step::Close]);
        let misses = usize::from(FREE_MISSES) + 2;
        let (text, steps) = talk(Dialect::Extended, &["bob\n".repeat(misses).as_bytes()]);
        let held = Step::Hold { delay: EXTENDED_MISS_DELAY, is_last: false };
        assert_eq!((text, steps), (NULL.repeat(misses - 2), vec![held; 2]));
    }

    #[test]
    fn who_sends_records_that_are_not_believed_waits_until_one_is() {
        let mut conversation = Conversation::new(Dialect::Extended);
        for _ in 0..=FREE_REFUSALS {
            assert_eq!(conversation.patience(), Duration::ZERO);
            conversation.suspicious();
        }
        assert_eq!(conversation.patience(), MISS_DELAY);
        conversation.trusted();
        assert_eq!(conversation.patience(), Duration::ZERO);
    }
}
