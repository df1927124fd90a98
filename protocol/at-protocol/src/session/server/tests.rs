use super::*;

struct Alice;

impl Hosts for Alice {
    fn hosts(&self, atsign: &AtSign) -> bool {
        atsign.as_str() == "alice"
    }

    fn blocks(&self, _: &AtSign, caller: &AtSign) -> bool {
        caller.as_str() == "mallory"
    }
}

struct At {
    session: ServerSession,
    now: Instant,
}

impl At {
    fn new() -> Self {
        let now = Instant::now_for_tests();
        Self { session: ServerSession::new("_s".into(), None, now), now }
    }

    fn say(&mut self, line: &str) -> Action {
        self.session.on_line(Line::Text(line.into()), "p", &Alice, self.now)
    }

    fn authenticate(&mut self) {
        assert_eq!(self.say("from:@alice"), Action::Send("data:_s@alice:p\n@".into()));
        assert!(matches!(self.say("pkam:x"), Action::Verify { challenge: Some(_), .. }));
        let verdict = self.session.on_verdict(Ok(Identity::Owner(OwnerAuth::PkamLegacy)));
        assert_eq!(verdict, Action::Send("data:success\n@alice@".into()));
    }
}

/// Reads a clock, which the protocol itself never does.
trait TestClock {
    fn now_for_tests() -> Instant;
}

impl TestClock for Instant {
    #[expect(clippy::disallowed_methods, reason = "any instant does as the beginning of a test")]
    fn now_for_tests() -> Instant {
        Instant::now()
    }
}

#[test]
fn a_challenge_is_used_once_and_within_a_minute() {
    let mut at = At::new();
    at.authenticate();
    assert!(matches!(at.say("pkam:x"), Action::Verify { challenge: None, .. }));
    assert_eq!(at.say("from:@alice"), Action::Send("data:_s@alice:p\n@alice@".into()));
    at.now += CHALLENGE_LIFETIME + Duration::from_secs(1);
    assert!(matches!(at.say("cram:x"), Action::Verify { challenge: None, .. }));
}

#[test]
fn a_failed_proof_takes_authentication_away() {
    let mut at = At::new();
    at.authenticate();
    let failure = Failure::new(ErrorCode::NotAuthenticated, "pkam authentication failed");
    let action = at.session.on_verdict(Err(Response::Error(failure)));
    assert_eq!(action, Action::Send("error:AT0401-Exception: pkam authentication failed\n@".into()));
    assert_eq!(at.session.who(), &Identity::Anonymous);
}

#[test]
fn nobody_in_particular_may_not_do_what_wants_the_owner() {
    let mut at = At::new();
    assert!(
        matches!(at.say("scan"), Action::Send(text) if text.starts_with("error:AT0003-Exception: say from"))
    );
    assert_eq!(
        at.say("from:@bob"),
        Action::SendAndClose("error:AT0011-Exception: @bob is not hosted here\n@".into())
    );
    let mut at = At::new();
    at.say_ok("from:@alice");
    assert_eq!(
        at.say("update:x@alice 1"),
        Action::Send("error:AT0401-Exception: Command cannot be executed without auth\n@".into())
    );
    assert!(matches!(at.say("scan"), Action::Apply { who: Identity::Anonymous, .. }));
}

impl At {
    fn say_ok(&mut self, line: &str) {
        assert!(matches!(self.say(line), Action::Send(text) if text.starts_with("data:")));
    }
}

#[test]
fn a_peer_is_greeted_by_its_bare_prompt() {
    let mut at = At::new();
    at.session.tenant = Some("@alice".parse().unwrap());
    assert_eq!(at.say("from:@bob"), Action::Send("data:proof:_s@bob:p\n@".into()));
    assert!(matches!(at.say("pol"), Action::Verify { proof: Proof::Pol, .. }));
    let bob: AtSign = "@bob".parse().unwrap();
    assert_eq!(at.session.on_verdict(Ok(Identity::Peer(bob))), Action::Send("@bob@".into()));
    assert!(
        matches!(at.say("update:x@alice 1"), Action::Send(text) if text.starts_with("error:AT0401") && text.ends_with("\n@"))
    );
    assert!(matches!(at.say("notify:@alice:x@bob:1"), Action::Apply { .. }));
    assert!(matches!(At::new().say("pol"), Action::Send(_)));
}

#[test]
fn a_call_back_selects_its_tenant_by_the_record_it_looks_up() {
    let mut at = At::new();
    assert!(matches!(at.say("lookup:_s@alice"), Action::Apply { .. }));
    assert!(matches!(At::new().say("lookup:_s@bob"), Action::Send(_)));
}

#[test]
fn to_selects_a_tenant_and_never_another() {
    let mut at = At::new();
    let refused = "error:AT0007-Exception: @bob is not hosted here\n@";
    assert_eq!(at.say("to:@bob"), Action::Send(refused.into()));
    assert!(matches!(at.say("to:@alice"), Action::Apply { tenant, .. } if tenant.as_str() == "alice"));
    assert!(matches!(at.say("to:@alice"), Action::Apply { .. }));
    assert_eq!(at.say("to:@bob"), Action::Send(refused.into()));
    assert_eq!(at.say("from:@bob"), Action::Send("data:proof:_s@bob:p\n@".into()));
}

#[test]
fn json_that_is_none_ends_the_connection() {
    let mut at = At::new();
    assert_eq!(
        at.say("from:@alice:clientConfig:{"),
        Action::SendAndClose("error:AT0011-Exception: invalid JSON\n@".into())
    );
}

#[test]
fn newer_clients_read_errors_as_json() {
    for (version, json) in
        [("3.0.37", false), ("3.0.38", true), ("3.1.0", true), ("2.9.99", false), ("x", false)]
    {
        assert_eq!(takes_json(version), json, "{version}");
    }
}

#[test]
fn a_monitor_has_no_prompts() {
    let mut at = At::new();
    at.authenticate();
    at.session.start_monitoring();
    assert_eq!(at.session.answer(&Response::Data("ok".into())), Action::Send("data:ok\n".into()));
}

#[test]
fn silence_ends_by_who_is_silent() {
    let mut at = At::new();
    assert_eq!(at.session.deadline(0), at.now + IDLE_ANONYMOUS.0);
    assert_eq!(at.session.deadline(500), at.now + Duration::from_millis(302_500));
    assert_eq!(at.session.deadline(1000), at.now + IDLE_ANONYMOUS.1);
    at.authenticate();
    assert_eq!(at.session.deadline(0), at.now + IDLE_AUTHENTICATED.0);
    at.now += Duration::from_secs(5);
    at.say_ok("from:@alice");
    assert_eq!(at.session.deadline(0), at.now + IDLE_AUTHENTICATED.0);
}

#[test]
fn blocked_callers_and_impossible_names_are_sent_away() {
    let mut at = At::new();
    at.session.tenant = Some("@alice".parse().unwrap());
    assert_eq!(
        at.say("from:@mallory"),
        Action::SendAndClose("error:AT0013-Exception: Unable to connect\n@".into())
    );
    assert!(matches!(At::new().say("from:@a@b"), Action::SendAndClose(_)));
    assert_eq!(At::new().say("@exit"), Action::Close);
}
