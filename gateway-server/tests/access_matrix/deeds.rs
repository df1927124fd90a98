//! What is asked for: every verb, with every kind of key.

use crate::oracle::{Want, is_protected};

/// Kinds of keys.
pub(crate) const KEYS: &[&str] = &[
    // Public, hidden public, of other namespaces and of none.
    "public:phone.wavi@alice",
    "public:phone.buzz@alice",
    "public:phone.sub.wavi@alice",
    "public:phone@alice",
    "public:_hidden.wavi@alice",
    "public:__deep.wavi@alice",
    "public:__deep.buzz@alice",
    // Own: in a namespace, another, one within, none, and what only looks alike.
    "phone.wavi@alice",
    "phone.buzz@alice",
    "phone.sub.wavi@alice",
    "phone.other.wavi@alice",
    "phone.wavi.buzz@alice",
    "phone.xwavi@alice",
    "phone.subwavi@alice",
    "phone@alice",
    "wavi@alice",
    "phone.null@alice",
    "null@alice",
    "_hidden.wavi@alice",
    "_hidden@alice",
    // Shared with another, and with oneself.
    "@bob:phone.wavi@alice",
    "@bob:phone.buzz@alice",
    "@bob:phone.sub.wavi@alice",
    "@bob:phone.null@alice",
    "@bob:phone@alice",
    "@carol:phone.wavi@alice",
    "@alice:phone.wavi@alice",
    "@alice:phone@alice",
    // Copies of others'.
    "cached:@alice:phone.wavi@bob",
    "cached:@alice:phone.buzz@bob",
    "cached:@alice:shared_key@bob",
    "cached:public:phone.wavi@bob",
    "cached:public:phone.buzz@bob",
    "cached:public:publickey@bob",
    // Reserved.
    "public:publickey@alice",
    "public:signing_publickey@alice",
    "@alice:signing_privatekey@alice",
    "@bob:shared_key@alice",
    "shared_key.bob@alice",
    "@bob:shared_key.wavi@alice",
    "privatekey:at_secret",
    "privatekey:at_secret_deleted",
    "privatekey:at_pkam_publickey",
    "privatekey:signing_keypair_generated",
    "privatekey:self_encryption_key",
    "private:blocklist@alice",
    "private:spp.__otp@alice",
    // The server's namespaces.
    "e1.new.enrollments.__manage@alice",
    "e2.new.enrollments.__manage@alice",
    "e1.default_enc_private_key.__manage@alice",
    "e1.default_self_enc_key.__manage@alice",
    "phone.__manage@alice",
    "phone.__otp@alice",
    "1700000000.events.__atserver@alice",
    "public:1700000000.events.__atserver@alice",
    "phone.e1.a.__e@alice",
    "phone.e2.a.__e@alice",
    "@bob:phone.e1.a.__e@alice",
    // Kept keys of applications.
    "public:k.__public_keys.__global@alice",
    "public:app.device.pkam.__pkams.__public_keys@alice",
    "private:app.device.k.__private_keys.wavi@alice",
    "app.device.k.__self_keys.wavi@alice",
    "app.device.k.__self_keys.__global@alice",
    // Somebody else's, as if they were own.
    "phone.wavi@bob",
    "public:phone.wavi@bob",
    "@alice:phone.wavi@bob",
];

/// Forms of lines about a record of the owner's, with the key for `{}`.
const READS: &[&str] = &["llookup:{}", "llookup:meta:{}", "llookup:all:{}"];
const WRITES: &[&str] = &[
    "update:{} v",
    "update:ttl:1000:ttb:5:isEncrypted:true:{} v",
    "update:nc:{} v",
    "update:meta:{}:ttl:1000",
];
const DELETES: &[&str] =
    &["delete:{}", "delete:priority:high:{}", "delete:nc:force:{}", "delete:dAt:2024-01-01T00:00:00.000Z:{}"];
/// Forms with `name@owner` for `{}`.
const LOOKUPS: &[&str] = &[
    "lookup:{}",
    "lookup:meta:{}",
    "lookup:all:{}",
    "lookup:bypassCache:true:{}",
    "lookup:bypassCache:true:all:{}",
];
const PUBLIC_LOOKUPS: &[&str] = &["plookup:{}", "plookup:meta:{}", "plookup:bypassCache:true:all:{}"];
/// Forms with the recipient for `<>`, and `name@owner` for `{}`.
const NOTIFIES: &[&str] = &[
    "notify:<>:{}:v",
    "notify:update:<>:{}:v",
    "notify:delete:<>:{}",
    "notify:id:n1:update:messageType:key:strategy:latest:latestN:2:notifier:n:ttln:1000:ttr:-1:<>:{}:v",
];
const NOTIFY_ALLS: &[&str] = &["notify:all:@bob:{}:v", "notify:all:delete:messageType:key:@bob:{}"];

/// Lines that name no record.
const OTHERS: &[(&str, Want<'static>)] = &[
    ("from:@alice", Want::Nothing),
    ("from:@bob", Want::Nothing),
    ("to:@alice", Want::Nothing),
    ("cram:ab", Want::Nothing),
    ("pkam:ab", Want::Nothing),
    ("pkam:enrollmentId:e1:ab", Want::Nothing),
    ("pol", Want::Nothing),
    ("info", Want::Nothing),
    ("info:brief", Want::Nothing),
    ("noop:0", Want::Nothing),
    ("scan", Want::Scan),
    ("scan:showhidden:true .wavi", Want::Scan),
    ("scan:cl", Want::Owner),
    ("scan:cl .wavi", Want::Owner),
    ("scan:@carol", Want::ForeignScan),
    (
        r#"update:json:{"atKey":"phone.wavi","value":"v","sharedBy":"@alice"}"#,
        Want::Write("phone.wavi@alice"),
    ),
    (
        r#"update:json:{"atKey":"phone.buzz","value":"v","sharedBy":"@alice","sharedWith":"@bob"}"#,
        Want::Write("@bob:phone.buzz@alice"),
    ),
    (
        r#"update:json:{"atKey":"signing_publickey","value":"v","sharedBy":"@alice","metadata":{"isPublic":true}}"#,
        Want::Write("public:signing_publickey@alice"),
    ),
    (
        r#"update:json:{"atKey":"e2.new.enrollments.__manage","value":"v","sharedBy":"@alice"}"#,
        Want::Write("e2.new.enrollments.__manage@alice"),
    ),
    (
        r#"update:json:{"atKey":"signing_privatekey","value":"v","sharedBy":"@alice","sharedWith":"@alice"}"#,
        Want::Write("@alice:signing_privatekey@alice"),
    ),
    // Each operation of `enroll` checks by itself.
    (r#"enroll:request:{"appName":"a","deviceName":"d","apkamPublicKey":"k"}"#, Want::Nothing),
    (r#"enroll:update:{"enrollmentId":"e1","apkamPublicKey":"k"}"#, Want::Nothing),
    (r#"enroll:approve:{"enrollmentId":"e2"}"#, Want::Nothing),
    (r#"enroll:deny:{"enrollmentId":"e2"}"#, Want::Nothing),
    (r#"enroll:revoke:{"enrollmentId":"e2"}"#, Want::Nothing),
    (r#"enroll:revoke:force:{"enrollmentId":"e1"}"#, Want::Nothing),
    (r#"enroll:unrevoke:{"enrollmentId":"e2"}"#, Want::Nothing),
    (r#"enroll:delete:{"enrollmentId":"e2"}"#, Want::Nothing),
    (r#"enroll:fetch:{"enrollmentId":"e2"}"#, Want::Nothing),
    ("enroll:list", Want::Nothing),
    ("enroll:listns:wavi", Want::Nothing),
    ("enroll:infons:wavi", Want::Nothing),
    ("otp:get", Want::Passcode),
    ("otp:get:ttl:1000", Want::Passcode),
    ("otp:put:abc123", Want::Passcode),
    // Bounded by the enrollment itself; who has none is told so.
    ("keys:get:self", Want::Owner),
    ("keys:get:private", Want::Owner),
    ("keys:get:public", Want::Owner),
    ("keys:get:keyName:e2.default_self_enc_key.__manage@alice", Want::Owner),
    ("keys:put:self:namespace:wavi:appName:app:deviceName:device:keyType:aes:keyName:k v", Want::Owner),
    ("keys:delete:keyName:app.device.k.__self_keys.wavi@alice", Want::Owner),
    ("stream:receive 1", Want::Nothing),
    ("stream:done 1", Want::Nothing),
    ("stream:init@alice 1 f 1", Want::Stream { to: "@alice", namespace: None }),
    ("stream:init@bob 1 f 1", Want::Stream { to: "@bob", namespace: None }),
    ("stream:init@bob namespace:wavi 1 f 1", Want::Stream { to: "@bob", namespace: Some("wavi") }),
    ("stream:init@bob namespace:buzz 1 f 1", Want::Stream { to: "@bob", namespace: Some("buzz") }),
    ("stream:init@bob namespace:null 1 f 1", Want::Stream { to: "@bob", namespace: Some("null") }),
    ("stream:init@bob namespace:__manage 1 f 1", Want::Stream { to: "@bob", namespace: Some("__manage") }),
    ("stream:resume@bob startByte:1 1", Want::Stream { to: "@bob", namespace: None }),
    ("stream:resume@alice startByte:1 1", Want::Stream { to: "@alice", namespace: None }),
    ("stats", Want::Owner),
    ("stats:3", Want::Owner),
    ("stats:3:.wavi", Want::Owner),
    ("stats:1,15", Want::Owner),
    ("sync:from:-1", Want::Owner),
    ("sync:from:-1:limit:5:.wavi", Want::Owner),
    ("monitor", Want::Owner),
    ("monitor:strict:selfNotifications:5 .wavi", Want::Owner),
    ("notify:list", Want::Owner),
    ("notify:list:2024-01-01:2024-01-31:.wavi", Want::Owner),
    ("notify:status:n1", Want::Owner),
    ("notify:fetch:n1", Want::Owner),
    ("notify:remove:n1", Want::Owner),
    ("config:block:show", Want::Owner),
    ("config:print:autoNotify", Want::Owner),
    ("config:block:add:@bob", Want::Settings),
    ("config:block:remove:@bob", Want::Settings),
    ("config:set:autoNotify=false", Want::Settings),
    ("config:reset:autoNotify", Want::Settings),
    ("batch:[]", Want::Owner),
    ("notify:messageType:text:@bob:hello.wavi", Want::NotifyText { to: "@bob" }),
    ("notify:messageType:text:@alice:hello.wavi", Want::NotifyText { to: "@alice" }),
];

/// Visits every line with what it wants. A line comes several times where kinds of keys differ only in
/// what it does not say.
pub(crate) fn each(mut visit: impl FnMut(&str, Want<'_>)) {
    for (line, want) in OTHERS {
        visit(line, *want);
    }
    for key in KEYS {
        let fill = |form: &str| form.replacen("{}", key, 1);
        READS.iter().for_each(|form| visit(&fill(form), Want::Read(key)));
        WRITES.iter().for_each(|form| visit(&fill(form), Want::Write(key)));
        // What nobody may delete is refused by the verb itself.
        if !is_protected(key) {
            DELETES.iter().for_each(|form| visit(&fill(form), Want::Delete(key)));
        }
        // The name and the owner of `[scope:]name@owner`.
        let bare = key.rsplit(':').next().unwrap_or(key);
        if !bare.contains('@') {
            continue;
        }
        let fill = |form: &str| form.replacen("{}", bare, 1);
        LOOKUPS.iter().for_each(|form| visit(&fill(form), Want::Lookup(bare)));
        PUBLIC_LOOKUPS.iter().for_each(|form| visit(&fill(form), Want::Owner));
        NOTIFY_ALLS.iter().for_each(|form| visit(&fill(form), Want::NotifyAll { key: bare }));
        for to in ["@alice", "@bob", "@carol"] {
            for form in NOTIFIES {
                visit(&fill(form).replacen("<>", to, 1), Want::Notify { to, key: bare });
            }
        }
    }
}
