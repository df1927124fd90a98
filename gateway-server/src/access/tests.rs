use std::sync::Arc;

use super::*;
use crate::enrollment::MANAGE;

fn enrolled(namespaces: &[(&str, Right)], state: State) -> Principal {
    let mut enrollment = Enrollment::asked("_s", "a".into(), "d".into(), "k".into());
    enrollment.namespaces = namespaces.iter().map(|(name, right)| ((*name).to_owned(), *right)).collect();
    enrollment.approval.state = state;
    Principal::Enrolled(Arc::new(Enrolled { id: "e1".to_owned(), enrollment, expires: None }))
}

/// Who is asked about, in the order of the columns below.
fn principals() -> [Principal; 8] {
    let approved = State::Approved;
    [
        Principal::Anonymous,
        Principal::Peer("@bob".parse().unwrap()),
        Principal::Activation,
        Principal::Owner,
        enrolled(&[(ALL, Right::Write), (MANAGE, Right::Write)], approved),
        enrolled(&[("wavi", Right::Write)], approved),
        enrolled(&[("wavi", Right::Read)], approved),
        enrolled(&[("wavi", Right::Write)], State::Revoked),
    ]
}

/// `y` where a line is allowed, `-` where it is not.
fn row(line: &str) -> String {
    let verb: Verb = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
    let alice = "@alice".parse().unwrap();
    principals().iter().map(|who| if may(who, &alice, &verb).is_ok() { 'y' } else { '-' }).collect()
}

#[test]
fn each_may_what_it_may_and_nothing_else() {
    // anybody, @bob's server, cram, pkam, * and __manage, wavi:rw, wavi:r, wavi:rw but revoked
    for (line, expected) in [
        ("info", "yyyyyyyy"),
        ("noop:0", "yyyyyyyy"),
        ("scan", "yyyyyyy-"),
        ("scan:@carol", "--yyyyy-"),
        ("scan:cl", "--yyyyy-"),
        ("update:meta:phone.wavi@alice:ttl:1", "--yyyy--"),
        ("delete:nc:force:phone.wavi@alice", "--yyyy--"),
        ("lookup:phone.wavi@alice", "yyyyyyy-"),
        ("lookup:phone.buzz@alice", "yyyyy---"),
        ("lookup:phone.wavi@bob", "yyyyyyy-"),
        ("lookup:shared_key@bob", "yyyyyyy-"),
        ("plookup:publickey@bob", "--yyyyy-"),
        ("llookup:phone.wavi@alice", "--yyyyy-"),
        ("llookup:public:phone.buzz@alice", "--yyyyy-"),
        ("llookup:cached:@alice:phone.buzz@bob", "--yyy---"),
        ("llookup:phone@alice", "--yyy---"),
        ("update:phone.wavi@alice v", "--yyyy--"),
        ("update:phone.sub.wavi@alice v", "--yyyy--"),
        ("update:phone.buzz@alice v", "--yyy---"),
        ("update:public:phone.wavi@alice v", "--yyyy--"),
        ("update:@bob:shared_key@alice v", "--yyyy--"),
        ("update:public:publickey@alice v", "--yyy---"),
        ("llookup:1.events.__atserver@alice", "--yyyyy-"),
        ("update:1.events.__atserver@alice v", "--yy----"),
        ("update:x.e1.a.__e@alice v", "--yyyyy-"),
        ("llookup:x.e2.a.__e@alice", "--yy----"),
        ("llookup:xe1.a.__e@alice", "--yy----"),
        ("llookup:x.__manage@alice", "--yy----"),
        ("otp:get", "--yyy---"),
        ("otp:put:abc123", "--yyy---"),
        ("keys:get:self", "--yyyyy-"),
        ("enroll:list", "yyyyyyyy"),
        ("update:privatekey:at_pkam_publickey v", "--yyy---"),
        ("delete:phone.wavi@alice", "--yyyy--"),
        ("delete:privatekey:at_secret", "--yyy---"),
        ("notify:@bob:phone.wavi@alice:v", "--yyyy--"),
        ("notify:@bob:phone.buzz@alice:v", "--yyy---"),
        ("notify:messageType:text:@bob:hello.wavi", "--yyy---"),
        ("notify:@alice:phone.wavi@bob:v", "-y------"),
        ("notify:@carol:phone.wavi@bob:v", "--------"),
        ("notify:@alice:phone.wavi@carol:v", "--------"),
        ("notify:all:@bob,@carol:phone.wavi@alice:v", "--yyyy--"),
        ("notify:all:@bob:phone.buzz@alice:v", "--yyy---"),
        ("notify:all:messageType:text:@bob:hello.wavi", "--yyy---"),
        ("notify:all:@alice:phone.wavi@bob:v", "--------"),
        ("to:@alice", "yyyyyyyy"),
        ("config:block:add:@bob", "--yyy---"),
        ("config:block:remove:@bob", "--yyy---"),
        ("config:block:show", "--yyyyy-"),
        ("config:set:autoNotify=false", "--yyy---"),
        ("config:reset:autoNotify", "--yyy---"),
        ("config:print:autoNotify", "--yyyyy-"),
        ("batch:[]", "--yyyyy-"),
        ("stream:init@carol namespace:wavi 1 f 1", "--yyyy--"),
        ("stream:init@carol 1 f 1", "--yyy---"),
        ("stream:init@alice 1 f 1", "-yyyy---"),
        ("stream:resume@carol startByte:1 1", "--yyy---"),
        ("stream:receive 1", "yyyyyyyy"),
        ("stream:done 1", "yyyyyyyy"),
        ("notify:list", "--yyyyy-"),
        ("monitor", "--yyyyy-"),
        ("stats:3", "--yyyyy-"),
        ("sync:from:-1", "--yyyyy-"),
        // Nobody sees or plants what is the server's own.
        ("llookup:privatekey:at_secret", "--------"),
        ("llookup:@alice:signing_privatekey@alice", "--------"),
        ("lookup:signing_privatekey@alice", "--------"),
        ("update:privatekey:at_secret v", "--------"),
        ("update:@alice:signing_privatekey@alice v", "--------"),
        ("update:public:signing_publickey@alice v", "--------"),
        ("update:1.new.enrollments.__manage@alice v", "--------"),
        ("delete:1.new.enrollments.__manage@alice", "--------"),
        ("update:1.default_enc_private_key.__manage@alice v", "--------"),
        ("delete:1.default_self_enc_key.__manage@alice", "--------"),
    ] {
        assert_eq!(row(line), expected, "{line}");
    }
}

#[test]
fn lists_and_streams_show_what_may_be_read() {
    let key = |text: &str| text.parse::<AtKey>().unwrap();
    let [anybody, bob, .., owner, all, wavi, _, revoked] = principals();
    let wavi_key = key("@bob:phone.wavi@alice");
    let (buzz, bare, shared) = (key("phone.buzz@alice"), key("phone@alice"), key("@alice:shared_key@bob"));
    for who in [&owner, &all] {
        assert!(who.may_list(&buzz) && who.may_sync(&bare) && who.may_watch(Some(&buzz)));
        assert!(who.may_watch(None));
    }
    assert!(wavi.may_list(&wavi_key) && wavi.may_sync(&wavi_key) && wavi.may_watch(Some(&wavi_key)));
    assert!(!wavi.may_list(&buzz) && !wavi.may_list(&bare) && wavi.may_list(&key("public:x@alice")));
    assert!(!wavi.may_sync(&buzz) && wavi.may_sync(&bare));
    assert!(!wavi.may_watch(Some(&buzz)) && !wavi.may_watch(Some(&bare)) && !wavi.may_watch(None));
    assert!(wavi.may_watch(Some(&shared)), "without the pair key it could open nothing");
    for who in [&anybody, &bob, &revoked] {
        assert!(!who.may_watch(Some(&wavi_key)) && !who.may_manage(Some(&wavi_key)));
    }
}
