//! What may happen: who says what, and how time goes on. Drawn by a seed.

use serde_json::{Map, Value, json};

use crate::model::Note;

/// Somebody with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Actor {
    Owner(&'static str),
    /// An application that was granted `wavi`.
    App {
        tenant: &'static str,
        writes: bool,
    },
    /// The server of `peer`.
    Peer {
        tenant: &'static str,
        peer: &'static str,
    },
    Nobody(&'static str),
}

/// How much of a record is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Value,
    Meta,
    All,
}

/// A request. Keys are whole, `of` is `name@owner`, patterns are plain text.
#[derive(Clone)]
pub(crate) enum Op {
    Noop,
    Update {
        key: String,
        set: Map<String, Value>,
        value: String,
        nc: bool,
    },
    /// `update:meta`.
    Describe {
        key: String,
        set: Map<String, Value>,
        nc: bool,
    },
    Delete {
        key: String,
        nc: bool,
        force: bool,
    },
    LLookup {
        shape: Shape,
        key: String,
    },
    Lookup {
        shape: Shape,
        bypass: bool,
        of: String,
    },
    PLookup {
        shape: Shape,
        bypass: bool,
        of: String,
    },
    Scan {
        of: Option<String>,
        hidden: bool,
        pattern: &'static str,
    },
    Sync {
        from: i64,
        limit: Option<usize>,
        pattern: &'static str,
        skip: Option<i64>,
    },
    LastCommit {
        pattern: &'static str,
    },
    /// `scan:cl`.
    CommitLog {
        pattern: &'static str,
    },
    Notify(Note),
    /// `notify:all`; the key of the note is `name@owner`.
    NotifyAll {
        to: Vec<&'static str>,
        note: Note,
    },
    /// `config:block`: takes up, or lets go.
    Block {
        blocks: bool,
        names: Vec<&'static str>,
    },
    Blocked,
    Batch(Vec<Op>),
    List {
        pattern: &'static str,
    },
    Status {
        id: String,
    },
    Fetch {
        id: String,
    },
    Remove {
        id: String,
    },
}

#[derive(Clone)]
pub(crate) enum Step {
    /// The actor at this place of [`ACTORS`] says something.
    Say(usize, Box<Op>),
    /// So many milliseconds pass.
    Pass(u64),
    /// The server removes what has expired.
    Sweep,
}

/// The tenants: three with owners, and one whose server speaks as a peer.
pub(crate) const TENANTS: [&str; 4] = ["@alice", "@bob", "@carol", "@dave"];

pub(crate) const ACTORS: [Actor; 8] = [
    Actor::Owner("@alice"),
    Actor::Owner("@bob"),
    Actor::Owner("@carol"),
    Actor::App { tenant: "@alice", writes: true },
    Actor::App { tenant: "@alice", writes: false },
    Actor::Peer { tenant: "@alice", peer: "@dave" },
    Actor::Nobody("@alice"),
    Actor::Nobody("@bob"),
];

/// Names, in the enrolled namespace, another and none, hidden, and shared by all applications.
const NAMES: [&str; 8] =
    ["a.wavi", "b.wavi", "c.sub.wavi", "d.buzz", "e", "_f.wavi", "__g.wavi", "shared_key"];
const PATTERNS: [&str; 8] = ["", "", "", "wavi", "buzz", "@bob", "^public", "^@bob"];

impl Actor {
    /// Whose server it speaks to.
    pub(crate) fn tenant(&self) -> &'static str {
        match self {
            Self::Owner(tenant)
            | Self::App { tenant, .. }
            | Self::Peer { tenant, .. }
            | Self::Nobody(tenant) => tenant,
        }
    }

    /// As whom it sends.
    pub(crate) fn speaks_as(&self) -> &'static str {
        match self {
            Self::Peer { peer, .. } => peer,
            _ => self.tenant(),
        }
    }
}

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        let place = self.below(choices.len() as u64);
        choices[usize::try_from(place).unwrap()]
    }

    /// A history of so many steps.
    pub(crate) fn history(&mut self, length: usize) -> Vec<Step> {
        let mut steps = Vec::with_capacity(length);
        while steps.len() < length {
            match self.below(100) {
                0..4 => {
                    let most = self.of(&[10, 1000, 20_000, 200_000]);
                    steps.push(Step::Pass(1 + self.below(most)));
                }
                4 => steps.push(Step::Sweep),
                _ => {
                    // Who speaks goes on for a while, and the owner speaks most.
                    let actor = self.of(&[0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7]);
                    for _ in 0..=self.below(6) {
                        steps.push(Step::Say(actor, Box::new(self.op(&ACTORS[actor]))));
                    }
                }
            }
        }
        steps
    }

    fn op(&mut self, who: &Actor) -> Op {
        let me = who.tenant();
        match self.below(35) {
            0..6 => {
                let value = if self.one_in(12) {
                    format!("atsign://{}", self.named())
                } else {
                    format!("v{}", self.below(1_000_000))
                };
                Op::Update { key: self.own_key(me), set: self.set(), value, nc: self.one_in(12) }
            }
            6 => Op::Describe { key: self.own_key(me), set: self.set(), nc: self.one_in(12) },
            7..10 => Op::Delete { key: self.own_key(me), nc: self.one_in(12), force: self.one_in(4) },
            10..14 => Op::LLookup { shape: self.shape(), key: self.any_key(me) },
            14..17 => Op::Lookup { shape: self.shape(), bypass: self.one_in(4), of: self.named() },
            17..19 => Op::PLookup { shape: self.shape(), bypass: self.one_in(4), of: self.named() },
            19..21 => {
                let of = self.one_in(3).then(|| self.of(&TENANTS[..3]).to_owned()).filter(|of| of != me);
                Op::Scan { of, hidden: self.one_in(2), pattern: self.of(&PATTERNS) }
            }
            21 => Op::Sync {
                from: i64::try_from(self.below(60)).unwrap() - 1,
                limit: self.one_in(2).then(|| 1 + usize::try_from(self.below(20)).unwrap()),
                pattern: self.of(&PATTERNS),
                skip: self.one_in(3).then(|| i64::try_from(self.below(80)).unwrap()),
            },
            22 => Op::LastCommit { pattern: self.of(&PATTERNS) },
            23 => Op::CommitLog { pattern: self.of(&PATTERNS) },
            24..27 => Op::Notify(self.note(who)),
            27 => Op::List { pattern: self.of(&PATTERNS) },
            28 => Op::Status { id: self.id() },
            29 => Op::Fetch { id: self.id() },
            30 => Op::Remove { id: self.id() },
            31 => Op::NotifyAll {
                to: self.some(&["@alice", "@bob", "@carol", "@zoe"]),
                note: self.plain_note(me),
            },
            32 if self.one_in(3) => Op::Blocked,
            32 => Op::Block { blocks: self.one_in(2), names: self.some(&["@eve", "@mallory", "@zoe"]) },
            33 => Op::Batch((0..1 + self.below(4)).map(|_| self.batched(who)).collect()),
            _ => Op::Noop,
        }
    }

    fn batched(&mut self, who: &Actor) -> Op {
        loop {
            match self.op(who) {
                Op::Noop | Op::Batch(_) => {}
                op => return op,
            }
        }
    }

    /// One or more of these, in their order.
    fn some(&mut self, names: &[&'static str]) -> Vec<&'static str> {
        let first = self.of(names);
        names.iter().copied().filter(|name| *name == first || self.one_in(3)).collect()
    }

    fn plain_note(&mut self, me: &str) -> Note {
        let owner = if self.one_in(20) { self.of(&TENANTS) } else { me };
        let value = (!self.one_in(4)).then(|| format!("v{}", self.below(1_000_000)));
        let mut note = Note::new("?", "", &format!("{}{owner}", self.of(&NAMES)), value);
        note.deletes = self.one_in(3);
        if self.one_in(2) {
            note.set.insert("ttr".to_owned(), json!(self.of(&[-1, 5, 300])));
        }
        note
    }

    fn shape(&mut self) -> Shape {
        self.of(&[Shape::Value, Shape::Value, Shape::Meta, Shape::All])
    }

    fn id(&mut self) -> String {
        format!("n{}", self.below(24))
    }

    fn named(&mut self) -> String {
        format!("{}{}", self.of(&NAMES), self.of(&TENANTS[..3]))
    }

    fn own_key(&mut self, me: &str) -> String {
        if self.one_in(40) {
            return format!("public:publickey{me}");
        }
        let scope = self.of(&["", "public:", "@alice:", "@bob:", "@carol:", "@dave:", "@zoe:"]);
        let owner = if self.one_in(30) { self.of(&TENANTS) } else { me };
        format!("{scope}{}{owner}", self.of(&NAMES))
    }

    fn any_key(&mut self, me: &str) -> String {
        if self.one_in(3) {
            let scope = self.of(&["public:".to_owned(), format!("{me}:")].each_ref()).clone();
            return format!("cached:{scope}{}", self.named());
        }
        self.own_key(me)
    }

    fn set(&mut self) -> Map<String, Value> {
        let mut set = Map::new();
        for name in ["ttl", "ttb", "ttr", "ccd", "isBinary", "isEncrypted", "ivNonce", "sharedKeyEnc"] {
            if !self.one_in(5) {
                continue;
            }
            let value = match name {
                // Almost all different, so that no two records expire in the same moment.
                "ttl" => json!(if self.one_in(4) { 0 } else { self.below(300_000) }),
                "ttb" => json!(if self.one_in(2) { 0 } else { self.below(2_000) }),
                "ttr" => json!(self.of(&[-1, 0, 5, 300])),
                "ivNonce" | "sharedKeyEnc" => json!(self.of(&["null", "abc=", "def="])),
                _ => json!(self.one_in(2)),
            };
            set.insert(name.to_owned(), value);
        }
        if self.one_in(40) {
            set.insert("immutable".to_owned(), json!(true));
        }
        set
    }

    fn note(&mut self, who: &Actor) -> Note {
        let me = who.speaks_as();
        let to = self.of(&["@alice", "@alice", "@bob", "@carol", "@zoe"]);
        let value = (!self.one_in(4)).then(|| format!("v{}", self.below(1_000_000)));
        let owner = if self.one_in(20) { self.of(&TENANTS) } else { me };
        let key = format!("{to}:{}{owner}", self.of(&NAMES));
        let mut note = Note::new(&self.id(), to, &key, value);
        match self.below(5) {
            0 => note.deletes = true,
            1 => (note.text, note.value, note.key) = (true, None, format!("{to}:hello wavi")),
            2 => {
                note.latest =
                    Some((self.of(&["n", "m"]).to_owned(), usize::try_from(1 + self.below(3)).unwrap()))
            }
            _ => {}
        }
        if self.one_in(3) {
            note.ttln = i64::try_from(1 + self.below(100_000)).unwrap();
        }
        for (name, value) in [("ttr", json!(self.of(&[-1, 5, 300]))), ("ccd", json!(true))] {
            if self.one_in(2) {
                note.set.insert(name.to_owned(), value);
            }
        }
        if self.one_in(4) {
            note.set.insert("isEncrypted".to_owned(), json!(self.one_in(2)));
        }
        note
    }
}

/// The names of metadata in the order of the wire (§4.0).
fn fragment(set: &Map<String, Value>) -> String {
    let order =
        ["ttl", "ttb", "ttr", "ccd", "isBinary", "isEncrypted", "sharedKeyEnc", "ivNonce", "immutable"];
    let part = |name: &&str| {
        let value = set.get(*name)?;
        Some(format!(":{name}:{}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
    };
    order.iter().filter_map(part).collect()
}

fn prefix(shape: Shape) -> &'static str {
    match shape {
        Shape::Value => "",
        Shape::Meta => "meta:",
        Shape::All => "all:",
    }
}

impl Op {
    /// The line of this request.
    pub(crate) fn line(&self) -> String {
        let after = |separator: &str, pattern: &str| {
            if pattern.is_empty() { String::new() } else { format!("{separator}{pattern}") }
        };
        let flag = |name: &str, is_set: bool| if is_set { format!(":{name}") } else { String::new() };
        let bypassing = |bypass: &bool| if *bypass { "bypassCache:true:" } else { "" };
        match self {
            Self::Noop => "noop:0".to_owned(),
            Self::Update { key, set, value, nc } => {
                format!("update{}{}:{key} {value}", flag("nc", *nc), fragment(set))
            }
            Self::Describe { key, set, nc } => {
                format!("update:meta{}:{key}{}", flag("nc", *nc), fragment(set))
            }
            Self::Delete { key, nc, force } => {
                format!("delete{}{}:{key}", flag("nc", *nc), flag("force", *force))
            }
            Self::LLookup { shape, key } => format!("llookup:{}{key}", prefix(*shape)),
            Self::Lookup { shape, bypass, of } => {
                format!("lookup:{}{}{of}", bypassing(bypass), prefix(*shape))
            }
            Self::PLookup { shape, bypass, of } => {
                format!("plookup:{}{}{of}", bypassing(bypass), prefix(*shape))
            }
            Self::Scan { of, hidden, pattern } => {
                let hidden = if *hidden { ":showhidden:true" } else { "" };
                let of = of.as_ref().map_or(String::new(), |of| format!(":{of}"));
                format!("scan{hidden}{of}{}", after(" ", pattern))
            }
            Self::Sync { from, limit, pattern, skip } => {
                let limit = limit.map_or(String::new(), |limit| format!(":limit:{limit}"));
                let skip = skip.map_or(String::new(), |skip| format!(":skipDeletesUntil:{skip}"));
                format!("sync:from:{from}{limit}{skip}{}", after(":", pattern))
            }
            Self::LastCommit { pattern } => format!("stats:3{}", after(":", pattern)),
            Self::CommitLog { pattern } => format!("scan:cl{}", after(" ", pattern)),
            Self::Notify(note) => note.line(),
            Self::NotifyAll { to, note } => {
                let operation = if note.deletes { "delete" } else { "update" };
                let value = note.value.as_ref().map_or(String::new(), |value| format!(":{value}"));
                let (set, to, key) = (fragment(&note.set), to.join(","), &note.key);
                format!("notify:all:{operation}:messageType:key{set}:{to}:{key}{value}")
            }
            Self::Block { blocks, names } => {
                format!("config:block:{}:{}", if *blocks { "add" } else { "remove" }, names.join(" "))
            }
            Self::Blocked => "config:block:show".to_owned(),
            Self::Batch(ops) => {
                let commands = ops.iter().enumerate();
                let commands = commands.map(|(id, op)| json!({ "id": id, "command": op.line() }));
                format!("batch:{}", commands.collect::<Value>())
            }
            Self::List { pattern } => format!("notify:list{}", after(":", pattern)),
            Self::Status { id } => format!("notify:status:{id}"),
            Self::Fetch { id } => format!("notify:fetch:{id}"),
            Self::Remove { id } => format!("notify:remove:{id}"),
        }
    }

    /// Whether a successful answer is JSON.
    pub(crate) fn is_json(&self) -> bool {
        match self {
            Self::LLookup { shape, .. } | Self::Lookup { shape, .. } | Self::PLookup { shape, .. } => {
                *shape != Shape::Value
            }
            Self::Scan { .. }
            | Self::Sync { .. }
            | Self::LastCommit { .. }
            | Self::CommitLog { .. }
            | Self::Fetch { .. }
            | Self::NotifyAll { .. }
            | Self::Blocked
            | Self::Batch(_)
            | Self::List { .. } => true,
            _ => false,
        }
    }
}

impl Note {
    fn line(&self) -> String {
        let operation = if self.deletes { "delete" } else { "update" };
        let kind = if self.text { "text" } else { "key" };
        let latest = self.latest.as_ref().map_or(String::new(), |(notifier, most)| {
            format!(":strategy:latest:latestN:{most}:notifier:{notifier}")
        });
        let value = self.value.as_ref().map_or(String::new(), |value| format!(":{value}"));
        let (id, ttln, set, key) = (&self.id, self.ttln, fragment(&self.set), &self.key);
        format!("notify:id:{id}:{operation}:messageType:{kind}{latest}:ttln:{ttln}{set}:{key}{value}")
    }
}
