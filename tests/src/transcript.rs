//! Transcripts: what a client says and what the server must answer, as text files.
//!
//! | line | meaning |
//! |---|---|
//! | `# …` | for readers |
//! | `given: activated` | @alice has her keys; the connection is fresh |
//! | `given: owner` | and the connection is authenticated by the first key |
//! | `given: enrolled wavi:rw,buzz:r` | by an enrollment with these namespaces, `{enrollment}` |
//! | `given: peer @bob` | the connection is authenticated by `pol` as @bob |
//! | `C: …` | the client says this, and a line end |
//! | `R: …` | the client writes exactly this; `\r` and `\n` are escapes |
//! | `S: …` | the server answers exactly this |
//! | `S*: …` | the same, where neighbours marked so may come in any order |
//! | `closed` | the server closes |
//!
//! Within answers `{any}`, `{uuid}`, `{number}`, `{session}` and `{time}` stand for what varies;
//! `{number=first}` remembers it, and `{first}` and `{first+1}` are what was remembered. Within requests
//! `{digest}`, `{sign}` and `{sign512}` answer the last challenge; `{app-sign}` and `{ecc-sign}` do so with the
//! keys of applications, whose public halves are `{app-public}` and `{ecc-public}`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};
use regex::Regex;

/// In which state the connection is when the transcript begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// Neither keys nor authentication.
    Fresh,
    /// Keys, no authentication.
    Activated,
    /// Authenticated by the first key.
    Owner,
    /// Authenticated by an application's key, with these namespaces and rights.
    Enrolled(Vec<(String, String)>),
    /// Authenticated as another atSign's server.
    Peer,
}

/// One line of a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The client writes this.
    Say(String),
    /// The server writes this.
    Expect(String),
    /// The server writes this, before or after its neighbours of the kind.
    ExpectLoosely(String),
    /// The server closes the connection.
    Closed,
}

impl Step {
    /// What is said or answered.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Say(text) | Self::Expect(text) | Self::ExpectLoosely(text) => text,
            Self::Closed => "",
        }
    }
}

/// A whole transcript.
#[derive(Debug, Clone)]
pub struct Transcript {
    /// Its file's name without ending.
    pub name: String,
    /// Where it begins.
    pub given: Given,
    /// What happens.
    pub steps: Vec<Step>,
}

impl Transcript {
    /// Reads a transcript; `alice`, which is `alice` and perhaps more, takes the place of `alice` wherever
    /// and however it is spelled, so that many can be replayed against one server.
    ///
    /// # Errors
    /// A line that is none of the documented ones.
    pub fn parse(name: &str, text: &str, alice: &str) -> Result<Self> {
        let mut transcript = Self { name: name.to_owned(), given: Given::Fresh, steps: Vec::new() };
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let line = line.replace("lice", &alice[1..]);
            let step = match line.split_once(": ") {
                Some(("given", "activated")) => {
                    transcript.given = Given::Activated;
                    continue;
                }
                Some(("given", "owner")) => {
                    transcript.given = Given::Owner;
                    continue;
                }
                Some(("given", enrolled)) if enrolled.starts_with("enrolled ") => {
                    let grants = enrolled["enrolled ".len()..].split(',');
                    let grants = grants.map(|grant| {
                        let (name, right) = grant.split_once(':').context("a namespace and its right")?;
                        Ok((name.to_owned(), right.to_owned()))
                    });
                    transcript.given = Given::Enrolled(grants.collect::<Result<_>>()?);
                    continue;
                }
                Some(("given", "peer @bob")) => {
                    transcript.given = Given::Peer;
                    continue;
                }
                Some(("C", said)) => Step::Say(format!("{said}\n")),
                Some(("R", said)) => Step::Say(unescape(said)),
                Some(("S", answer)) => Step::Expect(unescape(answer)),
                Some(("S*", answer)) => Step::ExpectLoosely(unescape(answer)),
                None if line == "closed" => Step::Closed,
                _ => bail!("{name}: not a line of a transcript: {line}"),
            };
            transcript.steps.push(step);
        }
        Ok(transcript)
    }

    /// All transcripts of this crate, for an atSign each that `atsign` names by transcript.
    ///
    /// # Errors
    /// A file cannot be read or understood.
    pub fn all(atsign: impl Fn(&str) -> String) -> Result<Vec<Self>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/transcripts");
        let mut paths: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        paths.sort_by_key(std::fs::DirEntry::file_name);
        let mut all = Vec::new();
        for entry in paths {
            let path = entry.path();
            let name =
                path.file_stem().and_then(|stem| stem.to_str()).context("a plain file name")?.to_owned();
            let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            all.push(Self::parse(&name, &text, &atsign(&name))?);
        }
        Ok(all)
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\r", "\r").replace("\\n", "\n")
}

/// What a replay has seen so far.
#[derive(Debug, Default)]
pub struct Memory {
    named: BTreeMap<String, String>,
    /// The last challenge, as an owner signs it.
    pub challenge: String,
}

impl Memory {
    /// The regular expression of an expected answer, with what is remembered filled in.
    fn pattern(&self, template: &str) -> Result<String> {
        let hole = Regex::new(r"\{([a-z][a-z0-9-]*)(?:=([a-z]+)|\+(\d+))?\}")?;
        let mut pattern = String::new();
        let mut end = 0;
        for found in hole.captures_iter(template) {
            let whole = found.get(0).context("the whole match")?;
            pattern += &regex::escape(&template[end..whole.start()]);
            end = whole.end();
            let kind = &found[1];
            let part = match kind {
                "any" => "[^\n]*?".to_owned(),
                "uuid" => "[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}".to_owned(),
                "session" => "_[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}".to_owned(),
                "number" => r"-?\d+".to_owned(),
                "time" => r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z".to_owned(),
                name => {
                    let known =
                        self.named.get(name).with_context(|| format!("nothing is remembered as {name}"))?;
                    match found.get(3) {
                        Some(more) => (known.parse::<i64>()? + more.as_str().parse::<i64>()?).to_string(),
                        None => regex::escape(known),
                    }
                }
            };
            match found.get(2) {
                Some(name) => pattern += &format!("(?P<{}>{part})", name.as_str()),
                None => pattern += &part,
            }
        }
        pattern += &regex::escape(&template[end..]);
        Ok(pattern)
    }

    /// Whether `text` is, whole, what the steps expect one after the other; and remembers what they name.
    ///
    /// # Errors
    /// A step names what is not remembered.
    pub fn matches(&mut self, steps: &[Step], text: &str) -> Result<bool> {
        let mut strict = String::from("(?s)^");
        let mut at = 0;
        while at < steps.len() {
            let loose: Vec<String> = steps[at..]
                .iter()
                .map_while(|step| match step {
                    Step::ExpectLoosely(template) => Some(self.pattern(template)),
                    Step::Say(_) | Step::Expect(_) | Step::Closed => None,
                })
                .collect::<Result<_>>()?;
            if loose.is_empty() {
                let Step::Expect(template) = &steps[at] else { bail!("only answers can be matched") };
                strict += &self.pattern(template)?;
                at += 1;
            } else {
                at += loose.len();
                strict += &format!("(?:{})", permutations(&loose).join("|"));
            }
        }
        strict.push('$');
        let regex = Regex::new(&strict)?;
        let Some(found) = regex.captures(text) else { return Ok(false) };
        for name in regex.capture_names().flatten() {
            self.named.insert(name.to_owned(), found[name].to_owned());
        }
        if let Some(challenge) = text.strip_prefix("data:_").and_then(|rest| rest.split('\n').next()) {
            self.challenge = format!("_{challenge}");
        }
        Ok(true)
    }

    /// Remembers what was not seen in an answer.
    pub fn remember(&mut self, name: &str, value: &str) {
        self.named.insert(name.to_owned(), value.to_owned());
    }

    /// A request with its holes filled by `proofs`.
    ///
    /// # Errors
    /// A hole is neither a proof nor remembered.
    pub fn fill(&self, said: &str, proofs: &dyn Proofs) -> Result<String> {
        let mut text = said.to_owned();
        for (hole, value) in [
            ("{digest}", proofs.digest(&self.challenge)),
            ("{sign}", proofs.sign(&self.challenge)),
            ("{sign512}", proofs.sign512(&self.challenge)),
            ("{pkam-public}", proofs.public_key()),
            ("{app-sign}", proofs.app_sign(&self.challenge)),
            ("{app-public}", proofs.app_public_key()),
            ("{ecc-sign}", proofs.ecc_sign(&self.challenge)),
            ("{ecc-public}", proofs.ecc_public_key()),
        ] {
            text = text.replace(hole, &value);
        }
        for found in Regex::new(r"\{([a-z]+)(?:\+(\d+))?\}")?.captures_iter(&text.clone()) {
            let known =
                self.named.get(&found[1]).ok_or_else(|| anyhow!("nothing is remembered as {}", &found[1]))?;
            let value = match found.get(2) {
                Some(more) => (known.parse::<i64>()? + more.as_str().parse::<i64>()?).to_string(),
                None => known.clone(),
            };
            text = text.replace(&found[0], &value);
        }
        Ok(text)
    }
}

/// How a replay answers challenges.
pub trait Proofs {
    /// The answer with the activation secret.
    fn digest(&self, challenge: &str) -> String;
    /// The answer with the first key and SHA-256.
    fn sign(&self, challenge: &str) -> String;
    /// The answer with the first key and SHA-512.
    fn sign512(&self, challenge: &str) -> String;
    /// The first key's public half.
    fn public_key(&self) -> String;
    /// The answer with an application's key.
    fn app_sign(&self, challenge: &str) -> String;
    /// That key's public half.
    fn app_public_key(&self) -> String;
    /// The answer with a key of a secure element.
    fn ecc_sign(&self, challenge: &str) -> String;
    /// That key's public half, in hex.
    fn ecc_public_key(&self) -> String;
}

fn permutations(parts: &[String]) -> Vec<String> {
    if parts.is_empty() {
        return vec![String::new()];
    }
    let mut all = Vec::new();
    for (place, first) in parts.iter().enumerate() {
        let mut rest = parts.to_vec();
        rest.remove(place);
        all.extend(permutations(&rest).into_iter().map(|tail| format!("{first}{tail}")));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(template: &str) -> Step {
        Step::Expect(unescape(template))
    }

    #[test]
    fn holes_match_are_remembered_and_counted_on() {
        let mut memory = Memory::default();
        assert!(memory.matches(&[expect(r"data:{number=first}\n@")], "data:5\n@").unwrap());
        assert!(memory.matches(&[expect(r"data:{first+1}\n@")], "data:6\n@").unwrap());
        assert!(!memory.matches(&[expect(r"data:{first+1}\n@")], "data:7\n@").unwrap());
        assert!(!memory.matches(&[expect(r"data:{any}\n@")], "data:7\n@x").unwrap());
        assert!(memory.matches(&[expect("{second}")], "x").is_err());
    }

    #[test]
    fn loose_answers_come_in_any_order_and_all() {
        let mut memory = Memory::default();
        let steps = [Step::ExpectLoosely("a\n".into()), Step::ExpectLoosely("b\n".into())];
        assert!(memory.matches(&steps, "a\nb\n").unwrap() && memory.matches(&steps, "b\na\n").unwrap());
        assert!(!memory.matches(&steps, "a\na\n").unwrap() && !memory.matches(&steps, "a\n").unwrap());
    }

    #[test]
    fn every_committed_transcript_can_be_read() {
        let all = Transcript::all(|_| "alice".to_owned()).unwrap();
        assert!(all.len() >= 20);
        for transcript in all {
            assert!(transcript.steps.iter().any(|step| matches!(step, Step::Say(_))), "{}", transcript.name);
        }
        assert!(Transcript::parse("x", "Q: what", "alice").is_err());
    }
}
