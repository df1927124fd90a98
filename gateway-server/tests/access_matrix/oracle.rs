//! What must be allowed, in words of the atProtocol wire reference (§4.0, §4.23, §5.3), from the text of
//! keys alone: nothing here asks the server.
//!
//! Where this server is stricter than the reference on purpose, a rule says "stricter".

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who {
    Nobody,
    /// `@bob`, proved by his server.
    Peer,
    /// The owner, by the activation secret or by the first key.
    Owner,
    /// An application, by the namespaces that it was granted.
    App(&'static [(&'static str, Right)]),
    /// An application whose enrollment is pending, denied, revoked or expired.
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Right {
    R,
    RW,
}
pub(crate) use Right::{R, RW};

/// What a line wants, as the reference's tables know it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Want<'a> {
    /// Needs no authentication (§4.0, table).
    Nothing,
    /// Needs the owner and names no record: no check of namespaces (§4.0, point 5).
    Owner,
    /// `llookup` of this key.
    Read(&'a str),
    /// `update` of this key.
    Write(&'a str),
    /// `delete` of this key.
    Delete(&'a str),
    /// `lookup` of `name@owner`, which is `@alice:name@owner` to the owner (§4.9).
    Lookup(&'a str),
    /// `notify` to an atSign of `name@owner`.
    Notify {
        to: &'a str,
        key: &'a str,
    },
    /// `notify:all`, which no peer says.
    NotifyAll {
        key: &'a str,
    },
    /// `notify` of a text, which has no namespace.
    NotifyText {
        to: &'a str,
    },
    /// What changes the settings of the whole atSign. Stricter: needs `*:rw`.
    Settings,
    /// `stream:init`, `stream:resume` to an atSign, in a namespace (§4.22).
    Stream {
        to: &'a str,
        namespace: Option<&'a str>,
    },
    /// Passcodes: `__manage` (§4.24).
    Passcode,
    /// `scan`, which shows everybody something else (§4.11).
    Scan,
    /// `scan` of another atSign.
    ForeignScan,
    /// `scan` or `sync` shows this key to the owner's connection.
    Listed(&'a str),
    Synced(&'a str),
    /// A notification with this key comes down a monitor, is listed, fetched, asked for. `None`: a text.
    Watched(Option<&'a str>),
    /// `notify:remove` of such a notification.
    Removed(Option<&'a str>),
}

pub(crate) const TENANT: &str = "@alice";
const PEER: &str = "@bob";
const SIGNING_KEY: &str = "@alice:signing_privatekey@alice";
/// The id of the application that asks.
pub(crate) const ID: &str = "e1";

/// A key in its parts.
#[derive(Debug, Clone, Copy)]
struct Key<'a> {
    cached: bool,
    /// `public`, `private`, `privatekey`, `@with`, or empty for an own record.
    scope: &'a str,
    name: &'a str,
    owner: &'a str,
}

fn split(text: &str) -> Key<'_> {
    let (cached, rest) = match text.strip_prefix("cached:") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (scope, rest) = rest.split_once(':').unwrap_or(("", rest));
    let (name, owner) = match rest.rfind('@') {
        Some(place) => (&rest[..place], &rest[place..]),
        None => (rest, ""),
    };
    Key { cached, scope, name, owner }
}

/// Whether `who` may have what it wants.
pub(crate) fn allows(who: Who, want: Want<'_>) -> bool {
    let owner = match who {
        Who::Nobody | Who::Peer => false,
        Who::Owner | Who::App(_) => true,
        // §4.0, point 3, and §4.23: stricter, such a connection has nothing that nobody has.
        Who::Stopped => return matches!(want, Want::Nothing),
    };
    match want {
        Want::Nothing | Want::Scan => true,
        Want::Owner | Want::ForeignScan => owner,
        Want::Read(key) => owner && !is_secret(key) && reaches(who, key, R),
        Want::Write(key) => owner && is_writable(key) && reaches(who, key, RW),
        // Activation ends with the secret's deletion (§3.4).
        Want::Delete(key) => {
            owner && (is_writable(key) || key == "privatekey:at_secret") && reaches(who, key, RW)
        }
        // Nobody is asked about `public:`, a peer about `@bob:`; both read what is meant for them.
        Want::Lookup(key) => {
            let resolved = format!("{TENANT}:{key}");
            !is_secret(&resolved) && (!owner || reaches(who, &resolved, R))
        }
        Want::Notify { to, key } => match who {
            Who::Peer => to == TENANT && split(key).owner == PEER,
            _ => owner && split(key).owner == TENANT && reaches(who, &format!("{to}:{key}"), RW),
        },
        Want::NotifyAll { key } => {
            owner && split(key).owner == TENANT && reaches(who, &format!("{PEER}:{key}"), RW)
        }
        Want::NotifyText { to } => match who {
            Who::Peer => to == TENANT,
            _ => owner && everything(who, RW),
        },
        Want::Settings => owner && everything(who, RW),
        Want::Stream { to, namespace } => match who {
            Who::Peer => to == TENANT,
            _ => {
                let name = namespace.map_or("stream_id".to_owned(), |space| format!("stream_id.{space}"));
                owner && reaches(who, &format!("{to}:{name}{TENANT}"), RW)
            }
        },
        Want::Passcode => match who {
            Who::App(grants) => grants.contains(&("__manage", RW)),
            _ => owner,
        },
        // What is everybody's is listed, and `*` sees all (§4.11).
        Want::Listed(key) => owner && (key.starts_with("public:") || sees(who, key)),
        // Keys without a namespace pass (§7.4). A commit brings the value along.
        Want::Synced(key) => {
            owner && key != SIGNING_KEY && (!split(key).name.contains('.') || sees(who, key))
        }
        Want::Watched(key) => owner && watches(who, key, R),
        Want::Removed(key) => owner && watches(who, key, RW),
    }
}

/// `*` filters nothing; others see what they may read by their namespaces, and what is reserved (§5.3).
fn sees(who: Who, key: &str) -> bool {
    let Who::App(grants) = who else { return true };
    everything(who, R) || is_reserved(key) || granted(grants, split(key).name) >= Some(R)
}

fn watches(who: Who, key: Option<&str>, needed: Right) -> bool {
    let Who::App(grants) = who else { return true };
    match key {
        // Requests for enrollment are shown to those who decide about them (§8.6), and that is all.
        Some(key) if split(key).name.ends_with(".__manage") => {
            needed == R && grants.iter().any(|(space, _)| *space == "__manage")
        }
        Some(key) => reaches(who, key, needed),
        None => everything(who, needed),
    }
}

fn everything(who: Who, needed: Right) -> bool {
    let Who::App(grants) = who else { return true };
    grants.iter().any(|(space, right)| *space == "*" && *right >= needed)
}

/// §4.0, APKAM authorisation, points 1 to 5.
fn reaches(who: Who, text: &str, needed: Right) -> bool {
    let Who::App(grants) = who else { return true };
    let key = split(text);
    // Stricter: the first key's place is no application's to take, and what others encrypt to is only
    // for one with everything to write. Pair keys are for whoever writes at all.
    if key.scope == "privatekey" {
        return everything(who, RW);
    }
    if is_reserved(text) {
        return match (needed, key.scope) {
            (R, _) => true,
            (RW, "public") => everything(who, RW),
            (RW, _) => grants.iter().any(|(_, right)| *right == RW),
        };
    }
    // §4.8: `public:` is exempt; a cached copy is read by its namespace.
    let is_public = key.scope == "public" && !key.cached;
    (is_public && needed == R) || granted(grants, key.name) >= Some(needed)
}

/// Which grant governs a name (§4.0, point 4), with the later rules of the same section.
fn granted(grants: &[(&str, Right)], name: &str) -> Option<Right> {
    let is_in = |space: &str| name.ends_with(&format!(".{space}"));
    if is_in("__atserver") {
        return Some(R);
    }
    if is_in(&format!("{ID}.a.__e")) {
        return Some(RW);
    }
    if ["__manage", "__otp", "__e"].into_iter().any(is_in) {
        return None;
    }
    let last = name.rsplit_once('.').map(|(_, last)| last);
    let exact = grants.iter().find(|(space, _)| Some(*space) == last);
    let within = grants.iter().filter(|(space, _)| is_in(space)).max_by_key(|(space, _)| space.len());
    let all = grants.iter().find(|(space, _)| *space == "*");
    exact.or(within).or(all).map(|(_, right)| *right)
}

/// §5.3, and the copies that the owner keeps of others'.
fn is_reserved(text: &str) -> bool {
    let key = split(text);
    match key.scope {
        "public" => key.name == "publickey" || (key.name == "signing_publickey" && !key.cached),
        "" => key.name.starts_with("shared_key."),
        with => with.starts_with('@') && key.name == "shared_key",
    }
}

/// Stricter: what only the server reads, whoever asks (the holes that were found in others' servers).
fn is_secret(text: &str) -> bool {
    let key = split(text);
    match key.scope {
        "private" => true,
        "privatekey" => ["at_secret", "at_secret_deleted", "signing_keypair_generated"].contains(&key.name),
        _ => text == SIGNING_KEY,
    }
}

/// Stricter: what everybody may read and only the server writes.
fn is_writable(text: &str) -> bool {
    let key = split(text);
    let is_enrollment = [".new.enrollments", ".default_enc_private_key", ".default_self_enc_key"]
        .iter()
        .any(|what| key.scope.is_empty() && key.name.ends_with(&format!("{what}.__manage")));
    let is_signing = key.scope == "public" && key.name == "signing_publickey" && !key.cached;
    !is_secret(text) && !is_enrollment && !is_signing
}

/// What nobody deletes (§4.7).
pub(crate) fn is_protected(key: &str) -> bool {
    ["public:publickey@alice", "public:signing_publickey@alice", SIGNING_KEY].contains(&key)
}
