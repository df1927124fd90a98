use serde_json::json;

use super::*;
use crate::commands::CommandName;

const NOW_MS: i64 = 1_800_000_000_000;

fn now() -> Stamp {
    Stamp { wall_us: NOW_MS * 1000, mono_us: 0, state: ClockState::Sync }
}

fn adapters(kinds: &[(&str, &str)]) -> BTreeMap<String, AdapterConfig> {
    let table = |kind: &str| match kind {
        "mqtt" => "type = \"mqtt\"\nlisten = \"127.0.0.1:1883\"",
        "modbus" => {
            "type = \"modbus-tcp\"\nurl = \"tcp://h\"\n[unit.1]\ndevice = \"boiler\"\nstream = \"s\"\n\
             [[unit.1.points]]\nname = \"setpoint\"\ntable = \"holding\"\naddress = 0\ntype = \"i16\"\n\
             write = { min = 30, max = 80 }\n\
             [[unit.1.points]]\nname = \"temp\"\ntable = \"input\"\naddress = 0\ntype = \"i16\""
        }
        _ => {
            "type = \"serial\"\nport = \"/dev/ttyS0\"\ndevice = \"d\"\nstream = \"s\"\n\
             framing = { kind = \"line\", ending = \"lf\", max = 100 }\ndecode = { as = \"text\" }"
        }
    };
    kinds.iter().map(|(name, kind)| ((*name).to_owned(), toml::from_str(table(kind)).unwrap())).collect()
}

const SETPOINT: &str = r#"
    allow = ["@ops"]
    args = { value = { type = "f64", min = 30, max = 80 } }
    do = { publish = { topic = "boiler/set", payload = '{"setpoint":{value}}' } }
    expires = "2m"
    signed = false
"#;

fn rule(table: &str) -> Result<Rule, RuleError> {
    let config: CommandConfig = toml::from_str(table).unwrap();
    Rule::new(&config, &adapters(&[("shop", "mqtt"), ("scale1", "serial")]))
}

fn call(args: Value) -> Call {
    let Value::Object(args) = args else { panic!("not an object") };
    Call { command: "setpoint".into(), args, issued: NOW_MS - 1000, expires: NOW_MS + 60_000, key: None }
}

#[test]
fn an_allowed_call_in_range_becomes_an_order() {
    let rule = rule(SETPOINT).unwrap();
    assert_eq!(rule.adapter, "shop");
    assert!(rule.allows(&"@ops".parse().unwrap()) && !rule.allows(&"@eve".parse().unwrap()));
    for (value, text) in [(json!(62), "62"), (json!(62.5), "62.5"), (json!(30), "30"), (json!(80.0), "80")] {
        let order = rule.decide(&call(json!({"value": value})), now()).unwrap();
        let payload = format!(r#"{{"setpoint":{text}}}"#).into_bytes();
        assert_eq!(order, Order::Publish { topic: "boiler/set".into(), payload });
    }
}

#[test]
fn arguments_must_be_those_declared() {
    let rule = rule(SETPOINT).unwrap();
    let refused = |args| rule.decide(&call(args), now()).unwrap_err();
    assert_eq!(refused(json!({})), Rejection::MissingArgument("value".into()));
    assert_eq!(refused(json!({"value": 62, "more": 1})), Rejection::UnknownArgument("more".into()));
    for value in [json!(29.9), json!(80.1), json!("62"), json!(true), json!(null), json!([62])] {
        assert!(matches!(refused(json!({"value": value})), Rejection::Argument { .. }), "{value}");
    }
}

#[test]
fn points_are_written_by_the_adapter_that_has_them() {
    let adapters = adapters(&[("shop", "mqtt"), ("plc", "modbus"), ("scale1", "serial")]);
    let of = |point: &str| {
        let effect = format!("write = {{ point = \"{point}\", value = \"{{value}}\" }}");
        let publish = r#"publish = { topic = "boiler/set", payload = '{"setpoint":{value}}' }"#;
        let config = toml::from_str(&SETPOINT.replace(publish, &effect)).unwrap();
        Rule::new(&config, &adapters)
    };
    let rule = of("boiler.setpoint").unwrap();
    assert_eq!(rule.adapter, "plc");
    let order = rule.decide(&call(json!({"value": 62.5})), now()).unwrap();
    let (device, point) = ("boiler".parse().unwrap(), "setpoint".parse().unwrap());
    assert_eq!(order, Order::Write { device, point, value: "62.5".into(), verify: None });
    for nothing in ["boiler.temp", "boiler.colour", "oven.setpoint"] {
        assert_eq!(of(nothing).unwrap_err().setting, "do", "{nothing}");
    }
}

#[test]
fn what_is_written_may_be_read_back() {
    let adapters = adapters(&[("shop", "mqtt"), ("plc", "modbus")]);
    let publish = r#"do = { publish = { topic = "boiler/set", payload = '{"setpoint":{value}}' } }"#;
    let write = r#"do = { write = { point = "boiler.setpoint", value = "{value}" } }"#;
    let of = |effect: &str, read: &str, within: &str| {
        let verify = format!("verify = {{ read = \"{read}\", within = \"{within}\" }}");
        let config = toml::from_str(&(SETPOINT.replace(publish, effect) + &verify)).unwrap();
        Rule::new(&config, &adapters)
    };
    let rule = of(write, "boiler.temp", "5s").unwrap();
    let order = rule.decide(&call(json!({"value": 62.5})), now()).unwrap();
    let Order::Write { verify: Some(verify), .. } = order else { panic!("{order:?}") };
    let within = StdDuration::from_secs(5);
    let (device, point) = ("boiler".parse().unwrap(), "temp".parse().unwrap());
    assert_eq!(verify, Verify { device, point, within });
    let refused = |effect, read, within| of(effect, read, within).unwrap_err().setting;
    assert_eq!(refused(publish, "boiler.temp", "5s"), "verify");
    assert_eq!(refused(write, "boiler.colour", "5s"), "verify.read");
    assert_eq!(refused(write, "boiler.temp", "26s"), "verify.within");
    assert_eq!(refused(write, "boiler.temp", "0s"), "verify.within");
}

#[test]
fn text_cannot_leave_its_place() {
    let table = r#"
        allow = ["@ops"]
        args = { mode = { type = "string", one_of = ["eco", "boost"] }, note = { type = "string", max = 5 } }
        do = { send = "M {mode} {note}\r\n" }
        expires = "2m"
        signed = false
    "#;
    let rule = rule(table).unwrap();
    assert_eq!(rule.adapter, "scale1");
    let decide = |mode: &str, note: &str| rule.decide(&call(json!({"mode": mode, "note": note})), now());
    assert_eq!(decide("eco", "a-1").unwrap(), Order::Send { bytes: b"M eco a-1\r\n".to_vec() });
    assert!(decide("off", "a").is_err());
    for note in ["a\r\nX", "a\"", "{x}", "a/b", "toolong", "ä"] {
        assert!(decide("eco", note).is_err(), "{note:?}");
    }
}

#[test]
fn a_call_lives_no_longer_than_its_rule_allows() {
    let rule = rule(SETPOINT).unwrap();
    let decide = |issued, expires, now| {
        let times = Call {
            issued: NOW_MS.saturating_add(issued),
            expires: NOW_MS.saturating_add(expires),
            ..call(json!({"value": 62}))
        };
        rule.decide(&times, now)
    };
    assert!(decide(-60_000, 60_000, now()).is_ok());
    assert_eq!(decide(-60_000, 0, now()), Err(Rejection::Expired));
    assert!(matches!(decide(-60_000, 60_001, now()), Err(Rejection::TooLong(_))));
    assert!(decide(60_000, 180_000, now()).is_ok(), "the caller's clock is a minute ahead");
    assert!(
        matches!(decide(60_001, 180_001, now()), Err(Rejection::TooLong(_))),
        "not issued for the future"
    );
    assert!(matches!(decide(i64::MAX, i64::MIN, now()), Err(Rejection::Expired)));
    assert!(matches!(decide(i64::MIN, i64::MAX, now()), Err(Rejection::TooLong(_))));
    let free = Stamp { state: ClockState::Free, ..now() };
    assert_eq!(decide(-1000, 60_000, free), Err(Rejection::ClockNotSet));
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    let refused = |from: &str, to: &str| {
        assert!(SETPOINT.contains(from), "{from}");
        rule(&SETPOINT.replace(from, to)).unwrap_err()
    };
    assert_eq!(refused("signed = false", "signed = true").what, "signed commands are not available yet");
    assert_eq!(refused("signed = false", "signed = \"tofu\"").setting, "signed");
    assert_eq!(refused("[\"@ops\"]", "[]").setting, "allow");
    assert_eq!(refused("{value}", "{valve}").what, "there is no argument `valve`");
    assert_eq!(refused("min = 30", "min = 90").setting, "args.value");
    assert_eq!(refused("signed = false", "signed = false\nonce = \"1m\"").setting, "once");
    assert_eq!(refused("signed = false", "signed = false\nadapter = \"nope\"").setting, "adapter");
    assert_eq!(refused("signed = false", "signed = false\nadapter = \"scale1\"").setting, "adapter");
    let config: CommandConfig = toml::from_str(SETPOINT).unwrap();
    let two = adapters(&[("a", "mqtt"), ("b", "mqtt")]);
    assert_eq!(Rule::new(&config, &two).unwrap_err().what, "several adapters can do this");
    assert_eq!(Rule::new(&config, &adapters(&[("a", "serial")])).unwrap_err().what, "no adapter can do this");
    assert!(
        toml::from_str::<CommandConfig>(&SETPOINT.replace("signed = false", "")).is_err(),
        "it must be said"
    );
}

#[test]
fn names_are_device_and_command() {
    let name: CommandName = "boiler-7.set_point".parse().unwrap();
    assert_eq!((name.device.as_str(), name.command.as_str()), ("boiler-7", "set_point"));
    for bad in ["setpoint", "boiler.", ".setpoint", "boiler.a.b", "Boiler.set", "boiler.Set"] {
        assert!(bad.parse::<CommandName>().is_err(), "{bad}");
    }
}
